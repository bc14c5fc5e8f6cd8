"""The driver's thread: there while there are pools, and awake when there is something to do."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.current import current_session
from distpool.driver.loop import Loop


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
