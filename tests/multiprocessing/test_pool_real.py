"""``Pool`` on real workers."""

from __future__ import annotations

import gc
import itertools
import multiprocessing as standard
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from pathlib import Path
from typing import Any

import pytest

import distpool.multiprocessing as multiprocessing
from distpool.errors import InitializerError, SerializationError, WorkerDiedError

STATE = "unset"


def square(x):
    return x * x


def product(x, y=1):
    return x * y


def fail(x):
    raise KeyError(x)


def fail_at_three(x):
    if x == 3:
        raise ValueError("three")
    return x


def identity_of_process(_):
    process = standard.current_process()
    return process.name, process._identity, process.daemon, process.pid == os.getpid()


def parent_pid(_):
    return standard.parent_process().pid


def pid(_=None):
    return os.getpid()


def set_state(value):
    global STATE
    STATE = value


def get_state(_=None):
    return STATE


def fail_to_start():
    raise ValueError("not today")


def say_and_wait(gate):
    """Say that the task runs, and wait until the test opens the gate."""
    Path(f"{gate}.reached").touch()
    with open(gate):
        return os.getpid()


def die_once(marker):
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return "survived"
    return os.kill(os.getpid(), signal.SIGKILL)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def nested(x):
    with multiprocessing.Pool(2) as pool:
        return sum(pool.map(square, range(x)))


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("I stay here")


class FailsToLoad:
    def __reduce__(self):
        return int, ("not a number",)


class UnpicklableError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()

    def __reduce__(self):
        raise RuntimeError("nor do I")


def return_unpicklable(_):
    return Unpicklable()


def raise_unpicklable(_):
    raise UnpicklableError("the message")


def has_come(path: str) -> bool:
    """Whether the task that makes this file has got as far, within a generous time."""
    deadline = time.monotonic() + 20
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def pool() -> Iterator[Any]:
    with multiprocessing.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


# -- calls -------------------------------------------------------------------------------------------------------------


def test_all_eight_call_styles(pool: Any) -> None:
    squares = [x * x for x in range(50)]
    assert pool.apply(product, (3,), {"y": 4}) == 12
    assert pool.apply_async(product, (3,), {"y": 4}).get(30) == 12
    assert pool.map(square, range(50)) == squares
    assert pool.map_async(square, range(50), chunksize=7).get(30) == squares
    assert pool.starmap(product, [(x, x) for x in range(50)]) == squares
    assert pool.starmap_async(product, ((x, x) for x in range(50)), 3).get(30) == squares
    assert list(pool.imap(square, range(50))) == squares
    assert list(pool.imap(square, iter(range(50)), chunksize=8)) == squares
    assert sorted(pool.imap_unordered(square, range(50))) == squares
    assert sorted(pool.imap_unordered(square, range(50), chunksize=8)) == squares


def test_what_has_no_name_or_no_items(pool: Any) -> None:
    offset = 5
    assert pool.map(lambda x: x + offset, range(5)) == [5, 6, 7, 8, 9]
    assert pool.map(square, []) == []
    assert list(pool.imap(square, [])) == []
    # The standard pool refuses what such a task returns.
    assert pool.apply(lambda: lambda: 42)() == 42


@pytest.mark.parametrize("method", ["map", "starmap", "imap", "imap_unordered"])
def test_an_exception_of_a_task_arrives_with_its_traceback(pool: Any, method: str) -> None:
    with pytest.raises(KeyError) as caught:
        list(getattr(pool, method)(fail, [(1,)]))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert pool.apply(square, (2,)) == 4


def test_imap_goes_on_behind_an_exception(pool: Any) -> None:
    results = pool.imap(fail_at_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert list(results) == [4, 5]


def test_imap_of_an_endless_iterable(pool: Any) -> None:
    drawn = itertools.count()
    results = pool.imap(square, (next(drawn) for _ in itertools.count()))
    assert list(itertools.islice(results, 100)) == [x * x for x in range(100)]
    del results
    gc.collect()


def test_callbacks(pool: Any) -> None:
    called: list[Any] = []
    results = [
        pool.apply_async(square, (3,), callback=called.append),
        pool.map_async(square, [1, 2], callback=called.append),
        pool.apply_async(fail, (1,), error_callback=called.append),
    ]
    for result in results:
        result.wait(30)
    assert [result.successful() for result in results] == [True, True, False]
    assert 9 in called
    assert [1, 4] in called
    assert any(isinstance(value, KeyError) for value in called)


def test_a_result_that_is_not_there_yet(pool: Any, gate: str) -> None:
    result = pool.apply_async(say_and_wait, (gate,))
    assert not result.ready()
    with pytest.raises(MultiprocessingTimeoutError):
        result.get(0.01)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with open(gate, "w"):
        pass
    assert result.get(30) in {process.pid for process in pool._pool}


def test_nested_pools(pool: Any) -> None:
    assert pool.map(nested, [3, 4, 5], chunksize=1) == [5, 14, 30]


# -- workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver", "distpool"])
def test_what_a_worker_is_called(method: str | None) -> None:
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert len(pool._pool) == pool._processes == 2
        assert all(process.is_alive() for process in pool._pool)
        for name, identity, daemon, same in pool.map(identity_of_process, range(8), chunksize=1):
            assert identity in ((1,), (2,))
            assert name.endswith(f"PoolWorker-{identity[0]}")
            assert daemon
            assert same
        assert set(pool.map(parent_pid, range(2))) == {os.getpid()}
        assert os.getpid() not in pool.map(pid, range(8), chunksize=1)


def test_the_standard_library_finds_our_context() -> None:
    with standard.get_context("distpool").Pool(2) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]


def test_an_initializer_with_globals() -> None:
    with multiprocessing.Pool(2, set_state, ("set",)) as pool:
        assert set(pool.map(get_state, range(10), chunksize=1)) == {"set"}
    # The next pool's workers know nothing of it.
    with multiprocessing.Pool(1) as pool:
        assert pool.apply(get_state) == "unset"
    assert STATE == "unset"


def test_an_initializer_of_a_pool_without_tasks(tmp_path: Path) -> None:
    pool = multiprocessing.Pool(1, Path.touch, (tmp_path / "was here",))
    pool.close()
    pool.join()
    assert (tmp_path / "was here").exists()


def test_an_initializer_that_fails() -> None:
    with multiprocessing.Pool(2, fail_to_start) as pool, pytest.raises(InitializerError, match="not today"):
        pool.map(square, range(10))


def test_maxtasksperchild() -> None:
    with multiprocessing.Pool(2, maxtasksperchild=2) as pool:
        pids = pool.map(pid, range(12), chunksize=1)
        assert max(pids.count(each) for each in set(pids)) <= 2
        results = [pool.apply_async(square, (x,)) for x in range(9)]
        pool.close()
        pool.join()
        assert [result.get() for result in results] == [x * x for x in range(9)]


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_maxtasksperchild_must_be_a_positive_integer(value: Any) -> None:
    with pytest.raises(ValueError, match="maxtasksperchild"):
        multiprocessing.Pool(1, maxtasksperchild=value)


# -- endings -----------------------------------------------------------------------------------------------------------


def test_close_finishes_what_was_asked_for() -> None:
    pool = multiprocessing.Pool(2)
    result = pool.map_async(square, range(1000), chunksize=1)
    lazy = pool.imap(square, range(200))
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(square, (1,))
    pool.join()
    assert result.get() == [x * x for x in range(1000)]
    assert list(lazy) == [x * x for x in range(200)]


def test_join_wants_a_pool_that_is_closed(pool: Any) -> None:
    with pytest.raises(ValueError, match="still running"):
        pool.join()


def test_terminate_ends_what_runs(gate: str) -> None:
    pool = multiprocessing.Pool(2)
    processes = pool._pool
    results = [pool.apply_async(say_and_wait, (gate,)) for _ in range(5)]
    assert has_come(f"{gate}.reached")
    pool.terminate()
    pool.join()
    for result in results:
        with pytest.raises(WorkerDiedError):
            result.get(30)
    assert not any(process.is_alive() for process in processes)


def test_a_pool_that_is_dropped_ends_with_a_warning() -> None:
    pool = multiprocessing.Pool(1)
    (process,) = pool._pool
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    assert any(issubclass(each.category, ResourceWarning) for each in caught)
    caught.clear()  # a warning holds on to what it is about
    process.join(30)
    assert process.exitcode is not None


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_task_whose_worker_is_killed_runs_again(pool: Any, tmp_path: Path) -> None:
    assert pool.apply(die_once, (str(tmp_path / "died"),)) == "survived"
    assert pool.map(square, range(10)) == [x * x for x in range(10)]


def test_a_worker_that_is_killed_from_outside_is_replaced(pool: Any, gate: str) -> None:
    first = pool.apply_async(say_and_wait, (gate,))
    assert has_come(f"{gate}.reached")
    killed = list(pool._pool)
    before = {process.pid for process in killed}
    for each in before:
        os.kill(each, signal.SIGKILL)
    for process in killed:
        process.join(30)  # until then the gate might open for one that goes through it no more
    with open(gate, "w"):
        assert first.get(30) not in before


def test_a_task_that_kills_every_worker_fails_alone(pool: Any) -> None:
    doomed = pool.apply_async(die, (0,))
    others = pool.map_async(square, range(100), chunksize=1)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        doomed.get(50)
    assert others.get(50) == [x * x for x in range(100)]


@pytest.mark.leaks("descriptors")  # the memory of a queue's locks is kept for the next ones
def test_an_argument_that_cannot_be_pickled(pool: Any) -> None:
    with pytest.raises(SerializationError, match="lock"):
        pool.apply(square, ({"a": [threading.Lock()]},))
    with pytest.raises(RuntimeError, match="I stay here"):
        pool.map(square, [1, Unpicklable()])
    with pytest.raises(RuntimeError, match="inheritance"):
        pool.map(square, [multiprocessing.Queue()])
    assert pool.apply(square, (2,)) == 4


def test_a_result_that_cannot_be_pickled(pool: Any) -> None:
    for _ in range(5):
        with pytest.raises(MaybeEncodingError, match="I stay here"):
            pool.map(return_unpicklable, [1])
    with pytest.raises(MaybeEncodingError, match="the message"):
        pool.apply(raise_unpicklable, (1,))
    assert pool.apply(square, (2,)) == 4


def test_arguments_that_cannot_be_loaded(pool: Any) -> None:
    with pytest.raises(SerializationError, match="arguments of the task cannot be loaded in the worker: ValueError"):
        pool.map(square, [FailsToLoad()])
    assert pool.apply(square, (2,)) == 4


# -- whole programs ----------------------------------------------------------------------------------------------------

UNGUARDED = """
import distpool.multiprocessing as mp
print("the script runs")
lock, total, queue = mp.Lock(), mp.Value("i", 0), mp.Queue()
setting = "default"

class Point:
    def __init__(self, x):
        self.x = x

def work(x):
    with lock:
        total.value += x
    queue.put(x)
    return Point(x), setting

setting = "changed"
pool = mp.Pool(2)
points = pool.map(work, range(10))
print([point.x for point, _ in points], {kind for _, kind in points}, isinstance(points[0][0], Point))
print(total.value, sorted(queue.get(timeout=20) for _ in range(10)))
"""


def test_a_script_without_a_guard_whose_globals_are_shared(run_script: Any) -> None:
    printed = run_script(UNGUARDED).splitlines()
    numbers = list(range(10))
    assert printed == ["the script runs", f"{numbers} {{'changed'}} True", f"45 {numbers}"]


USES_WHAT_STAYED_BEHIND = """
import sqlite3
from distpool.multiprocessing import Pool

database = sqlite3.connect(":memory:")

def use(number):
    return database.execute("select ?", (number,))

with Pool(1) as pool:
    try:
        pool.map(use, [1])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_global_that_could_not_be_carried_is_no_result_that_could_not_be_sent(run_script: Any) -> None:
    printed = run_script(USES_WHAT_STAYED_BEHIND)
    assert printed.startswith("SerializationError sqlite3.Connection in 'database' of __main__ could not be carried")


def test_what_tasks_print_arrives_in_whole_lines(run_script: Any) -> None:
    source = """
import distpool.multiprocessing as mp

def say(x):
    print("line", x)

with mp.Pool(2) as pool:
    pool.map(say, range(20), chunksize=1)
print("the end")
"""
    lines = run_script(source).splitlines()
    assert lines[-1] == "the end"
    assert sorted(lines[:-1]) == sorted(f"line {x}" for x in range(20))


@pytest.mark.parametrize("ending", ["", "pool.close()", "pool.terminate()", "raise SystemExit(0)", "del pool"])
def test_a_program_ends_whatever_its_pool_does(run_script: Any, ending: str) -> None:
    source = f"""
import time, warnings
import distpool.multiprocessing as mp
warnings.simplefilter("ignore")
pool = mp.Pool(2)
result = pool.map_async(time.sleep, [1000] * 10)
assert pool.apply_async(abs, (-1,)) is not None
{ending}
"""
    assert run_script(source) == ""


def test_a_program_that_sets_the_start_method(run_script: Any) -> None:
    source = """
import distpool.multiprocessing as mp

def f(x):
    return mp.get_start_method(), x

if __name__ == "__main__":
    mp.set_start_method("spawn")
    mp.freeze_support()
    with mp.Pool(2) as pool:
        print(sorted(set(pool.map(f, range(3)))))
"""
    assert run_script(source).strip() == "[('spawn', 0), ('spawn', 1), ('spawn', 2)]"


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="needs named pipes and signals of Linux")


def test_threads_may_use_pools_until_they_end(run_script) -> None:
    printed = run_script(
        "import threading\n"
        "import distpool.multiprocessing as mp\n"
        "def main_has_ended():\n"
        "    threading.main_thread().join()\n"
        "def use(pool):\n"
        "    main_has_ended()\n"
        "    print(pool.map(abs, range(4)))\n"
        "    with mp.Pool(1) as another:\n"
        "        print(another.apply(abs, (-5,)))\n"
        "threading.Thread(target=use, args=(mp.Pool(2),)).start()\n"
    )
    assert printed.splitlines() == ["[0, 1, 2, 3]", "5"]


def test_a_daemon_thread_says_nothing_when_its_pool_ends_with_the_program(run_script) -> None:
    printed = run_script(
        "import sys, threading\n"
        "import distpool.multiprocessing as mp\n"
        "sys.stderr = sys.stdout\n"
        "pool, begun = mp.Pool(1), threading.Event()\n"
        "def use():\n"
        "    while True:\n"
        "        pool.map(abs, range(9))\n"
        "        begun.set()\n"
        "threading.Thread(target=use, daemon=True).start()\n"
        "begun.wait()\n"
    )
    assert printed == ""
