"""Waits that meet: threads, done-callbacks and signal handlers that wait for results while another of them leads."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO, Any

import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.current import current_session
from distpool.driver.future import DistFuture
from distpool.multiprocessing import Pool

pytestmark = pytest.mark.fresh_session
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
Interrupting = Callable[[Callable[[], None]], None]


def wait_at(gate: str) -> None:
    """Until the test, which opens the gate when the task runs, closes it."""
    with open(gate) as opened:
        opened.read()


def until_somebody_leads() -> None:
    loop = current_session().loop
    while not loop._leader:
        os.sched_yield()


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


@pytest.fixture
def interrupting() -> Iterator[Interrupting]:
    """Have the main thread do something in a signal handler as soon as it waits for a result."""
    before = signal.getsignal(signal.SIGUSR1)
    main = threading.main_thread()
    state = Path(f"/proc/self/task/{main.native_id}/stat")
    threads: list[threading.Thread] = []

    def send() -> None:
        until_somebody_leads()
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
        signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    def begin(action: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: action())
        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGUSR1, before)


def test_a_future_is_cancelled_for_which_a_thread_waits(gate: str) -> None:
    with DistExecutor(1) as executor:
        running = executor.submit(wait_at, gate)
        waits = executor.submit(abs, -1)
        errors = []

        def wait() -> None:
            with pytest.raises(CancelledError) as caught:
                waits.result()
            errors.append(caught.value)

        waiter = threading.Thread(target=wait)
        with open(gate, "w"):
            waiter.start()
            until_somebody_leads()
            assert waits.cancel()
            waiter.join()
        assert errors
        running.result()


def test_a_callback_waits_while_another_thread_waits_for_what_comes_after_it(gate: str) -> None:
    with DistExecutor(2) as executor:
        for _ in range(10):
            slow = executor.submit(wait_at, gate)
            waiter = threading.Thread(target=slow.result)
            opened = open(gate, "w")  # the callback closes it
            waiter.start()
            until_somebody_leads()

            def go_on(_: object, opened: IO[str] = opened) -> None:
                assert executor.submit(abs, -2).result() == 2
                opened.close()

            executor.submit(abs, -1).add_done_callback(go_on)
            waiter.join()


@on_linux
def test_a_signal_handler_waits_in_the_thread_that_waits(gate: str, interrupting: Interrupting) -> None:
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        opened = open(gate, "w")  # the handler closes it

        def go_on() -> None:
            assert executor.submit(abs, -2).result() == 2
            opened.close()

        interrupting(go_on)
        slow.result()


@on_linux
@pytest.mark.parametrize("wait_for", [DistFuture.result, lambda future: concurrent.futures.wait([future])])
def test_what_the_thread_waits_for_ends_while_a_signal_handler_waits(
    gate: str, wait_for: Any, interrupting: Interrupting
) -> None:
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        opened = open(gate, "w")  # the handler closes it

        def wait_for_both() -> None:
            opened.close()
            wait_for(slow)
            wait_for(executor.submit(abs, -2))

        interrupting(wait_for_both)
        slow.result()


@on_linux
@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_a_signal_handler_ends_what_the_thread_waits_for(gate: str, end: str, interrupting: Interrupting) -> None:
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        with open(gate, "w"):
            waits = executor.submit(abs, -2)
            interrupting(lambda: getattr(waits, end)())
            with pytest.raises(CancelledError):
                waits.result()
        slow.result()


def test_a_callback_waits_for_what_another_thread_brings() -> None:
    values: list[object] = []
    called = threading.Event()
    with DistExecutor(2) as executor, Pool(2) as pool:

        def go_on(_: object) -> None:
            for _ in range(10):
                values.append(pool.map_async(abs, range(-100, 0)).get())
            called.set()

        executor.submit(abs, -1).add_done_callback(go_on)
        called.wait()
    assert values == [[*range(100, 0, -1)]] * 10


@on_linux
def test_a_signal_handler_ends_the_pool_for_which_the_thread_waits(gate: str, interrupting: Interrupting) -> None:
    ended = []
    pool = Pool(1)
    assert pool.apply(abs, (-1,)) == 1

    def end() -> None:
        pool.terminate()
        pool.join()
        ended.append(True)

    interrupting(end)
    with pytest.raises(distpool.WorkerDiedError):
        pool.apply(wait_at, (gate,))
    assert ended
