"""What a worker's mailbox makes of messages that come twice, too late, or from somebody else."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distpool.wire import codec
from distpool.wire.driver_to_worker import (
    Definitions,
    Interrupt,
    Leave,
    ModuleSource,
    ReleaseObjects,
    Retract,
    RunTasks,
    Setup,
    Task,
)
from distpool.wire.streams import StreamBytes, StreamEnded, StreamOpened, StreamTaken
from distpool.worker.mailbox import Mailbox

_SETUP = Setup("d-1", "l", "p", {}, b"/", [], [], "", b"", [], "worker", (1,), True, 1, b"", (), b"")


class _Channel:
    """Delivers what the test puts into ``arriving``."""

    def __init__(self) -> None:
        self.arriving: deque[tuple[bytes, list[bytes]]] = deque()
        self.sent = 0

    def drain(self, ready: Any = ()) -> list[tuple[bytes, list[bytes]]]:
        return [self.arriving.popleft() for _ in range(len(self.arriving))]

    def send(self, peer: bytes, frames: Any) -> None:
        self.sent += 1

    def wake(self) -> None:
        pass


class _Worker:
    def __init__(self) -> None:
        self.channel = _Channel()
        self.mailbox = Mailbox(self.channel, b"a-n")  # type: ignore[arg-type]
        self.began: Counter[int] = Counter()
        self.controls: list[Any] = []
        #: attempts that were taken back before they began
        self.returned: set[int] = set()

    def hear(self, message: Any, peer: bytes = b"d-1") -> None:
        self.channel.arriving.append((peer, [codec.encode(message)]))
        self.mailbox.drain()

    def begin_next(self) -> None:
        if self.mailbox.pending:
            attempt, message = self.mailbox.pending.popitem(last=False)
            if attempt > 0:
                self.began[attempt] += 1
            else:
                self.controls.append(message)


@pytest.fixture
def worker() -> _Worker:
    worker = _Worker()
    worker.hear(_SETUP)
    worker.begin_next()
    return worker


def test_what_has_been_said_is_not_done_twice(worker: _Worker) -> None:
    for _ in range(2):
        worker.hear(_SETUP)
        worker.hear(RunTasks([Task(1, 1, b""), Task(2, 1, b"")]))
        for _ in range(3):
            worker.begin_next()
    assert worker.began == {1: 1, 2: 1}
    assert worker.controls == [_SETUP]


def test_what_was_taken_back_stays_so(worker: _Worker) -> None:
    worker.hear(RunTasks([Task(1, 1, b"")]))
    worker.hear(Retract([1]))
    worker.hear(RunTasks([Task(1, 1, b"")]))
    assert not worker.mailbox.pending


def test_nobody_else_is_heard(worker: _Worker) -> None:
    for peer in (b"d-2", b"a-n", b"s", b"w-other"):
        for message in (_SETUP, RunTasks([Task(9, 1, b"")]), Leave()):
            worker.hear(message, peer)
    assert not worker.mailbox.pending


def _said(draw: Any) -> list[Any]:
    """What a driver says in order."""
    said: list[Any] = [_SETUP]
    attempt = 0
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, 8))
        if kind < 4:
            count = draw(st.integers(1, 4))
            said.append(RunTasks([Task(attempt + number, 1, b"") for number in range(1, count + 1)]))
            attempt += count
        elif kind == 4:
            said.append(Retract(draw(st.lists(st.integers(-3, 20), max_size=4))))
        elif kind == 5:
            said.append(Interrupt(draw(st.integers(0, 20))))
        elif kind == 6:
            said.append(ReleaseObjects(["w-l.1"]))
        elif kind == 7:
            number = draw(st.integers(1, 9))
            answers = (StreamOpened(number), StreamBytes(number, b"x"), StreamTaken(number, 1), StreamEnded(number))
            said.append(draw(st.sampled_from(answers)))
        else:
            number = draw(st.integers(0, 9))
            said.append(draw(st.sampled_from((ModuleSource(number, "m", False), Definitions(number, "m", [], [], [])))))
    return said


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_order_any_number_of_times(data: st.DataObject) -> None:
    said = _said(data.draw)
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    heard = [*said, *rng.choices(said, k=len(said))]
    rng.shuffle(heard)
    worker = _Worker()
    for message in heard:
        worker.hear(message)
        if rng.random() < 0.5:
            worker.begin_next()
    while worker.mailbox.pending:
        worker.begin_next()
    assert all(count == 1 for count in worker.began.values()), worker.began
    assert worker.controls.count(_SETUP) <= 1
    assert not worker.mailbox._replies
    answers = sum(isinstance(message, Retract) for message in heard)
    assert worker.channel.sent <= answers, "nothing but answers to what was taken back"
