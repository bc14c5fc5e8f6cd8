"""Ctrl-C in the main thread, at any moment, and a program that catches it and goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from distpool.driver.interrupts import Shield


@pytest.fixture
def shield() -> Iterator[Shield]:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Shield()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_takes_effect_at_the_end_of_the_outermost_block(shield: Shield) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), shield:
        with shield:
            press()
            reached.append("inner")
        reached.append("outer")
    assert reached == ["inner", "outer"]
    with shield:
        pass


def test_once_pressed_is_once_raised(shield: Shield) -> None:
    with pytest.raises(KeyboardInterrupt), shield:
        press()
        press()
    with shield:
        pass


@pytest.mark.parametrize("before", [True, False])
def test_where_the_shield_is_lifted_it_takes_effect_at_once(shield: Shield, before: bool) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), shield:
        if before:
            press()
        lifted = shield.lift()
        try:
            press()
            reached.append("not this")
        finally:
            shield.lower(lifted)
    assert reached == []


def test_a_block_within_a_lifted_part_is_shielded(shield: Shield) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), shield:
        lifted = shield.lift()
        with shield:
            press()
            reached.append("this")
        reached.append("not this")
        shield.lower(lifted)
    assert reached == ["this"]


def test_a_handler_that_returns_is_called_each_time(shield: Shield) -> None:
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with shield:
        press()
        assert calls == []
        lifted = shield.lift()
        assert len(calls) == 1
        press()
        press()
        assert len(calls) == 3
        shield.lower(lifted)
        press()
        assert len(calls) == 3
    assert len(calls) == 4
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_elsewhere_nothing_happens(shield: Shield) -> None:
    def enter() -> None:
        with shield:
            lifted = shield.lift()
            shield.lower(lifted)
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with shield:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        press()
    signal.signal(signal.SIGINT, signal.default_int_handler)


PROGRAM = """
import os, signal, threading
from distpool import DistExecutor

def same(x):
    return x

def press():
    for yields in range(0, 4000, 100):
        armed.wait()
        armed.clear()
        for _ in range(yields):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

executor = DistExecutor(2)
armed = threading.Event()
threading.Thread(target=press, daemon=True).start()
futures = []
for turn in range(40):
    try:
        armed.set()
        while True:
            if turn % 2:
                futures = [executor.submit(same, i) for i in range(1000)]
                for future in futures:
                    future.result()
            else:
                executor.submit(same, turn).result()
    except KeyboardInterrupt:
        pass
    for future in futures:
        assert future.cancelled() or future.result() in range(1000)
    assert list(executor.map(same, range(10))) == list(range(10))
executor.shutdown()
print("all is well")
"""


def test_a_program_that_was_interrupted_again_and_again_loses_no_result(run_script) -> None:
    assert run_script(PROGRAM) == "all is well\n"


INTERRUPTED_IMPORT = """
import os, signal, sys
from distpool import DistExecutor

class Press:
    def find_spec(self, name, path, target=None):
        if name == "distpool.driver.loop":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
executor = DistExecutor(1)
try:
    executor.submit(abs, -1)
except KeyboardInterrupt:
    assert "distpool.driver.loop" in sys.modules
    assert executor.submit(abs, -2).result() == 2
    print("all is well")
executor.shutdown()
"""


def test_ctrl_c_leaves_no_module_half_imported(run_script) -> None:
    assert run_script(INTERRUPTED_IMPORT) == "all is well\n"


INTERRUPTED_MAP = """
import os, signal, sys, threading, time, traceback
from distpool import DistExecutor
import distpool.multiprocessing as multiprocessing

main = threading.main_thread().ident

def block(started, x=0):
    open(started, "w").close()
    time.sleep(600)

def press(started):
    # Once a task runs and the main thread waits for it.
    while not os.path.exists(started):
        time.sleep(0.01)
    while "wait_for" not in "".join(traceback.format_stack(sys._current_frames()[main])):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

executor = DistExecutor(1)
pool = multiprocessing.Pool(1)
for number, wait in enumerate((
    lambda name: list(executor.map(block, [name] * 3)),
    lambda name: list(executor.map(block, [name] * 6, chunksize=2)),
    lambda name: list(executor.map(block, iter([name] * 10), buffersize=2)),
    lambda name: pool.map(block, [name] * 3),
    lambda name: pool.map(block, [name] * 100_000, chunksize=1),
    lambda name: pool.starmap(block, [(name, 1), (name, 2)]),
    lambda name: pool.apply(block, (name,)),
)):
    threading.Thread(target=press, args=(f"started-{number}",)).start()
    try:
        wait(f"started-{number}")
    except KeyboardInterrupt:
        print(executor.submit(abs, -1).result(), pool.apply(abs, (-2,)))
executor.shutdown()
pool.terminate()
"""


def test_ctrl_c_ends_a_map_and_what_of_it_runs(run_script) -> None:
    assert run_script(INTERRUPTED_MAP) == "1 2\n" * 7
