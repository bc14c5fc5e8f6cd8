"""What the other threads of a worker do at awkward moments of its main thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distpool.wire import codec
from distpool.wire.channel import EVERYTHING
from distpool.wire.driver_to_worker import Leave, Setup
from distpool.wire.worker_to_driver import Output
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
