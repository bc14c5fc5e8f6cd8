"""The driver's thread: there while there are pools."""

from __future__ import annotations

import concurrent.futures
import gc
import math
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import IO, Any

import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.current import current_session
from distpool.driver.future import DistFuture
from distpool.driver.loop import Loop
from distpool.multiprocessing import Pool


class Given:
    """An argument of an initializer."""


class Contended:
    """A lock that another thread always gets first: ``meanwhile`` is what that does under it."""

    def __init__(self) -> None:
        self.meanwhile = lambda: None
        self.held = False

    def __enter__(self) -> None:
        self.meanwhile()
        self.held = True

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.held = False


class Waits:
    """A channel on which nothing arrives; keeps for how long it was waited on."""

    link_events = ()

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def wait(self, timeout_s: float | None, bell: object) -> tuple[int, ...]:
        self.timeouts.append(timeout_s)
        return ()


def session_of(shell: SimpleNamespace) -> Any:
    """What the loop sees of a session in a worker, with one pool."""
    return SimpleNamespace(
        node=None,
        worker=SimpleNamespace(),
        lock=Contended(),
        channel=Waits(),
        pools={"pool": SimpleNamespace(shell=shell)},
        finalized=SimpleNamespace(attend=lambda: None),
        busy=lambda: shell.busy,
        has_callbacks=lambda: False,
        run_callbacks=lambda: None,
    )


@pytest.fixture
def shell() -> SimpleNamespace:
    return SimpleNamespace(starving=False, busy=True, next_deadline=lambda: None)


@pytest.fixture
def loop(shell: SimpleNamespace) -> Iterator[Loop]:
    loop = Loop(session_of(shell))
    yield loop
    loop.stop()


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


def driver_thread() -> threading.Thread | None:
    return next((thread for thread in threading.enumerate() if thread.name == "distpool-driver"), None)


@pytest.mark.fresh_session
def test_it_ends_with_the_last_pool_and_begins_with_the_next() -> None:
    for number in range(3):
        with DistExecutor(1) as executor:
            assert executor.submit(abs, -number).result() == number
            thread = driver_thread()
        assert thread is not None
        thread.join()
        assert driver_thread() is None


@pytest.mark.fresh_session
def test_threads_handle_messages_in_the_order_in_which_they_received_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker was granted before the scheduler's welcome was heard, which another thread had received before."""
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        session = current_session()
        receive, within = session.channel.drain, []

        def drain(*ready: object) -> object:
            within.append(session.lock.locked())
            return receive(*ready)

        monkeypatch.setattr(session.channel, "drain", drain)
        for number in range(100):
            assert executor.submit(abs, -number).result() == number
        session.assist()
        monkeypatch.undo()
    assert within
    assert all(within)


@pytest.mark.fresh_session
def test_it_stays_while_another_pool_is_open() -> None:
    with DistExecutor(1) as first:
        assert first.submit(abs, -1).result() == 1
        thread = driver_thread()
        for _ in range(3):
            with DistExecutor(1) as second:
                assert second.submit(abs, -2).result() == 2
        assert driver_thread() is thread
        assert first.submit(abs, -1).result() == 1


@pytest.mark.fresh_session
def test_callbacks_run_however_soon_the_pool_ends() -> None:
    for number in range(20):
        called = threading.Event()
        executor = DistExecutor(1)
        executor.submit(abs, -number).add_done_callback(lambda _, called=called: called.set())
        executor.shutdown()
        called.wait()


@pytest.mark.fresh_session
def test_pools_are_opened_and_closed_by_several_threads_at_once() -> None:
    results: list[int] = []

    def use() -> None:
        for number in range(5):
            with DistExecutor(1) as executor:
                results.append(executor.submit(abs, -number).result())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(5)) * 4)


@pytest.mark.fresh_session
def test_a_closed_session_keeps_nothing_that_its_pools_were_given() -> None:
    given = Given()
    kept = weakref.ref(given)
    with DistExecutor(1, initializer=id, initargs=(given,)) as executor:
        assert executor.submit(abs, -1).result() == 1
    session = current_session()
    del given, executor
    distpool.shutdown()
    gc.collect()
    assert kept() is None
    assert session.closed


@pytest.mark.fresh_session
def test_a_node_that_is_killed_while_nobody_watches_is_replaced() -> None:
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        thread = driver_thread()
    assert thread is not None
    thread.join()
    node = current_session().node
    assert node is not None
    os.kill(node.pid, signal.SIGKILL)
    while node.alive():
        os.sched_yield()
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -2).result() == 2


def test_nested_work_that_begins_to_starve_while_the_thread_is_about_to_sleep_wakes_it(
    loop: Loop, shell: SimpleNamespace
) -> None:
    """The thread had seen that nothing starved, waited for the lock, and then slept for ever: a task that waited for
    nested work through ``as_completed`` never lent its slot."""
    session: Any = loop._session

    def submit() -> None:
        shell.starving = True
        loop.note_deadline(0.0)

    session.lock.meanwhile = submit
    loop._turn()
    (timeout_s,) = session.channel.timeouts
    assert timeout_s is not None or loop._bell.wait(0.0)


def test_what_another_thread_changes_is_looked_at_under_the_lock(loop: Loop) -> None:
    session: Any = loop._session
    held = []

    class Shell:
        @property
        def starving(self) -> bool:
            held.append(session.lock.held)
            return False

    session.pools["pool"].shell = Shell()
    loop._lending.attend(0.0)
    with session.lock:
        loop._lending.deadline()
    assert held == [True, True]


def test_the_end_of_nested_work_for_which_the_slot_was_lent_wakes_the_thread(
    loop: Loop, shell: SimpleNamespace
) -> None:
    loop._lending.lent = True
    loop.note_deadline(None)
    assert not loop._bell.wait(0.0)
    shell.busy = False
    loop.note_deadline(None)
    assert loop._bell.wait(0.0)


def test_a_connection_that_is_to_be_closed_wakes_the_thread(loop: Loop) -> None:
    loop._sleeps_until = math.inf
    loop.hang_up_later(b"w-1")
    assert loop._bell.wait(0.0)


def test_callbacks_that_are_due_when_the_thread_is_stopped_are_called(loop: Loop) -> None:
    called = []
    session: Any = loop._session
    session.run_callbacks = lambda: called.append(True)
    loop._stopping = True
    thread = threading.Thread(target=loop._run)
    thread.start()
    thread.join()
    assert called == [True]


@pytest.mark.fresh_session
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


@pytest.mark.fresh_session
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


def interrupting(action: Callable[[], None]) -> threading.Thread:
    """Have the main thread do ``action`` in a signal handler as soon as it waits for a result."""

    state = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")

    def send() -> None:
        until_somebody_leads()
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, lambda *_: action())
    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.fresh_session
def test_a_signal_handler_waits_in_the_thread_that_waits(gate: str) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        opened = open(gate, "w")  # the handler closes it

        def go_on() -> None:
            assert executor.submit(abs, -2).result() == 2
            opened.close()

        thread = interrupting(go_on)
        slow.result()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.fresh_session
@pytest.mark.parametrize("wait_for", [DistFuture.result, lambda future: concurrent.futures.wait([future])])
def test_what_the_thread_waits_for_ends_while_a_signal_handler_waits(gate: str, wait_for: Any) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        opened = open(gate, "w")  # the handler closes it

        def wait_for_both() -> None:
            opened.close()
            wait_for(slow)
            wait_for(executor.submit(abs, -2))

        thread = interrupting(wait_for_both)
        slow.result()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.fresh_session
@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_a_signal_handler_ends_what_the_thread_waits_for(gate: str, end: str) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        slow = executor.submit(wait_at, gate)
        with open(gate, "w"):
            waits = executor.submit(abs, -2)
            thread = interrupting(lambda: getattr(waits, end)())
            with pytest.raises(CancelledError):
                waits.result()
        slow.result()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.fresh_session
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


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.fresh_session
def test_a_signal_handler_ends_the_pool_for_which_the_thread_waits(gate: str) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    ended = []
    pool = Pool(1)
    assert pool.apply(abs, (-1,)) == 1

    def end() -> None:
        pool.terminate()
        pool.join()
        ended.append(True)

    thread = interrupting(end)
    with pytest.raises(distpool.WorkerDiedError):
        pool.apply(wait_at, (gate,))
    thread.join()
    signal.signal(signal.SIGUSR1, before)
    assert ended
