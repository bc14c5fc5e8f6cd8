"""What the store promises to programs, each as a program: writable arguments, one copy per constant, values as they
were when they were given, and memory that is never used again too early."""

from __future__ import annotations

import pytest

PRELUDE = """
import concurrent.futures, functools, gc, sys, time
import numpy as np
import distpool
from distpool import futures
from distpool.store import current

SIZE = 1_000_000  # of 8 bytes

def stored_copies():
    "How often SIZE numbers lie in memory that the program wrote."
    return current.store_of_this_process().backed_bytes / (8 * SIZE)
"""

MUTATE = """
def mutate(array):
    before = float(array[3])
    array[3] += 1
    return before, float(array[3])

def refuse(array):
    return array.flags.writeable

with distpool.DistExecutor(1) as executor:
    array = np.zeros(SIZE)
    for _ in range(3):
        assert executor.submit(mutate, array).result() == (0.0, 1.0)
    assert array[3] == 0
    array[3] = 5  # by value when it is submitted
    future = executor.submit(mutate, array)
    array[3] = 9
    assert future.result() == (5.0, 6.0)
    assert executor.submit(mutate, array).result() == (9.0, 10.0)
    with distpool.options(readonly=True):
        read_only = executor.submit(refuse, array)
    assert read_only.result() is False
    assert executor.submit(refuse, array).result() is True
    with distpool.options(readonly=True):
        refused = executor.submit(mutate, array)
    try:
        refused.result()
    except ValueError as error:
        assert "read-only" in str(error)
        print("right")
"""

BROADCAST = """
def look(array, number=0):
    return float(array[number])

constant = None

def keep(array):
    global constant
    constant = array

def look_at_constant(number):
    return float(constant[number])

def closure_over(array):
    return lambda number: float(array[number])

array = np.arange(SIZE, dtype=float)
ways = {
    "partial": lambda executor: [executor.submit(functools.partial(look, array), number=i) for i in range(50)],
    "closure": lambda executor: [executor.submit(closure_over(array), i) for i in range(50)],
    "argument": lambda executor: [executor.submit(look, array, i) for i in range(50)],
    "keyword": lambda executor: [executor.submit(look, number=i, array=array) for i in range(50)],
}
with distpool.DistExecutor(2) as executor:
    for way, submit in ways.items():
        assert [future.result() for future in submit(executor)] == list(range(50)), way
        assert stored_copies() < 1.2, (way, stored_copies())
    doubled = array * 2  # another constant: one more copy
    assert list(executor.map(functools.partial(look, doubled), range(50))) == [2 * i for i in range(50)]
    assert stored_copies() < 2.2, stored_copies()
distpool.shutdown()
array = np.arange(SIZE, dtype=float)
with futures.ProcessPoolExecutor(2, initializer=keep, initargs=(array,)) as executor:
    assert list(executor.map(look_at_constant, range(50))) == list(range(50))
    assert stored_copies() < 1.2, stored_copies()
print("right")
"""

HIDDEN = """
hidden = []

def hide(array):
    # A view of a view, an exported buffer, and a reshaped one.
    hidden.append((array[10:][5:20], memoryview(array)[100:110], array.reshape(10, -1)[9]))

def hidden_ones():
    return [(float(a[0]), float(b[0]), float(c[-1])) for a, b, c in hidden]

with distpool.DistExecutor(1) as executor:
    for number in range(6):
        executor.submit(hide, np.full(SIZE, float(number))).result()
        for other in range(100, 103):
            executor.submit(len, np.full(SIZE, float(other))).result()
    assert executor.submit(hidden_ones).result() == [(float(i),) * 3 for i in range(6)]
    executor.submit(hidden.clear).result()
    # The same here, of results.
    kept = []
    for number in range(6):
        result = executor.submit(np.full, SIZE, float(number)).result()
        kept.append((result[10:][5:20], memoryview(result)[100:110]))
        del result
        executor.submit(np.full, SIZE, -1.0).result()
    assert [(float(a[0]), float(b[0])) for a, b in kept] == [(float(i),) * 2 for i in range(6)]
    print("right")
"""

PROMPT = """
def used():
    return sum(found.size_bytes for found in distpool.memory().objects)

first = distpool.put(np.ones(SIZE))
second = distpool.put(np.zeros(SIZE))
assert used() == 16 * SIZE
ready, waiting = distpool.wait([first, second], num_returns=1, timeout_s=0)
assert len(ready) == 1 and len(waiting) == 1
assert [array[0] for array in distpool.get([first, second], timeout_s=5)] == [1, 0]
del first, ready, waiting
gc.collect()
assert used() == 8 * SIZE
view = distpool.get(second)
del second
assert used() == 8 * SIZE  # something looks at it
del view
assert used() == 0
with distpool.DistExecutor(1) as executor:
    blocked = executor.submit(time.sleep, 1.0)
    try:
        distpool.get(blocked, timeout_s=0.01)
    except concurrent.futures.TimeoutError:  # the builtin one, from Python 3.11 on
        print("right")
"""


@pytest.mark.parametrize(
    "program", [MUTATE, BROADCAST, HIDDEN, PROMPT], ids=["mutate", "broadcast", "hidden", "prompt"]
)
def test_a_promise(program: str, run_script) -> None:
    with_errors = "import os; os.dup2(1, 2)\n"  # a warning of the resource tracker, say, is shown as well
    assert run_script(with_errors + PRELUDE + program).split() == ["right"]
