"""What the other threads of a worker do at awkward moments of its main thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from distpool.wire import codec
from distpool.wire.channel import EVERYTHING
from distpool.wire.driver_to_worker import Function, Leave, RunTasks, Setup, Task
from distpool.wire.worker_to_driver import Output, SetupFailed
from distpool.worker import setup
from distpool.worker.mailbox import Mailbox
from distpool.worker.main import WorkerStart
from distpool.worker.runner import Runner
from distpool.worker.watch import Watch

_SETUP = Setup("d-1", "l", "p", {}, b"/", [], [], "", b"", [], "worker", (1,), True, 1, b"", (), b"")


class _Channel:
    """Delivers what the test puts into ``arriving``."""

    def __init__(self) -> None:
        self.arriving: deque[tuple[bytes, list[bytes]]] = deque()
        self.sent: list[Any] = []
        self.on_send: Callable[[], object] = lambda: None
        self.on_wait: Callable[[], object] = lambda: None

    def say(self, message: Any) -> None:
        self.arriving.append((b"d-1", [codec.encode(message)]))

    def wait(self) -> Any:
        self.on_wait()
        return EVERYTHING

    def drain(self, ready: Any = ()) -> list[tuple[bytes, list[bytes]]]:
        return [self.arriving.popleft() for _ in range(len(self.arriving))]

    def send(self, peer: bytes, frames: Any) -> None:
        if peer == b"d-1":
            self.sent.append(codec.decode_from_worker_at_driver(frames[0]))
        self.on_send()

    def wake(self) -> None: ...


class _Worker:
    """Its parts; the test's main thread is that of the worker, and there is no watch thread."""

    def __init__(self) -> None:
        self.channel = _Channel()
        self.mailbox = Mailbox(self.channel, b"a-n")  # type: ignore[arg-type]
        self.runner = Runner(self.mailbox, WorkerStart("l", "n", "", "", "", ""))
        self.channel.say(_SETUP)
        self.mailbox.drain()
        self.mailbox.pending.clear()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Worker]:
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    for name in ("start", "keep_signal"):
        monkeypatch.setattr(Watch, name, lambda self: None)
    made = _Worker()
    yield made
    if made.runner._delays._fd >= 0:
        os.close(made.runner._delays._fd)


def test_what_a_thread_prints_just_before_the_worker_waits_goes_out(
    worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, channel = worker.runner, worker.channel
    seen_by_waiting: list[Any] = []

    def print_in_thread() -> None:
        thread = threading.Thread(target=runner._forwarder.write, args=(1, "left by a task\n"))
        thread.start()
        thread.join()

    def wait() -> None:
        seen_by_waiting.extend(channel.sent)
        channel.say(Leave())

    # After the main thread has flushed, and while it is busy still.
    monkeypatch.setattr(runner.imports, "report", print_in_thread)
    channel.on_wait = wait
    runner.busy = True
    runner.serve()
    assert seen_by_waiting == [Output(1, "left by a task\n")]


class _Lock:
    """Tells when the main thread asks for it."""

    def __init__(self, on_main_asks: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._on_main_asks = on_main_asks

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._on_main_asks()
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._lock.release()


def test_tasks_that_are_taken_in_while_the_set_up_fails_do_not_run(
    worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, channel = worker.mailbox, worker.channel
    taking, main_went_on = threading.Event(), threading.Event()

    class Functions(dict[int, Function]):
        """Taking in stops here: tasks are not refused, and are not there yet."""

        def __setitem__(self, number: int, function: Function) -> None:
            taking.set()
            main_went_on.wait()
            super().__setitem__(number, function)

    def fail(*_: Any) -> None:
        thread.start()
        taking.wait()
        raise ValueError("no such program")

    mailbox.functions = Functions()
    mailbox._intake = _Lock(main_went_on.set)  # type: ignore[assignment]
    channel.on_send = main_went_on.set
    channel.say(RunTasks([Task(2, 1, b"")], [Function(1, b"")]))
    mailbox.pending[1] = Task(1, 1, b"")
    thread = threading.Thread(target=mailbox.drain)
    monkeypatch.setattr(setup, "enter_program", fail)
    worker.runner._set_up(_SETUP)
    thread.join()
    assert isinstance(channel.sent[-1], SetupFailed)
    assert not mailbox.pending
