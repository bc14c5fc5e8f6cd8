"""How chunks are sized whose size is left to the pool: decided by ``ChunkCore``, acted out by ``BalancedMap``."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from distpool.errors import WorkerDiedError
from distpool.multiprocessing.balanced import BalancedMap
from distpool.multiprocessing.chunk_core import AHEAD, TURN_S, ChunkCore, usual_size

#: Seconds for a chunk's way to a worker and back.
HANDLING_S = 0.0002


def play(lengths_s: list[float], workers: int = 2) -> tuple[float, list[int]]:
    """When the last of these items is done, if chunks are run in order by as many workers; and the chunks' sizes."""
    core = ChunkCore(len(lengths_s), workers)
    free = [0.0] * workers
    ends: list[tuple[float, int, float]] = []
    sizes: list[int] = []
    now, begin = 0.0, 0
    while True:
        while begin < len(lengths_s) and (size := core.next_size()):
            chunk = lengths_s[begin : begin + size]
            begin += len(chunk)
            core.on_sent(len(chunk))
            sizes.append(len(chunk))
            done = max(now, heapq.heappop(free)) + HANDLING_S + sum(chunk)
            heapq.heappush(free, done)
            heapq.heappush(ends, (done, len(chunk), now))
        if not ends:
            return now, sizes
        now, size, sent = heapq.heappop(ends)
        core.on_answered(size, now - sent)


def test_nothing_waits_behind_a_long_item() -> None:
    took_s, sizes = play([2.0] + [0.02] * 63)
    assert took_s < 2.001
    assert set(sizes) == {1}


@pytest.mark.parametrize("place", [0, 1, 5, 40, 62])
def test_a_long_item_anywhere_costs_little_more_than_it_must(place: int) -> None:
    lengths_s = [0.02] * 63
    lengths_s.insert(place, 1.0)
    took_s, _ = play(lengths_s)
    earliest_s = max(sum(lengths_s) / 2, 1.0 + 0.02 * (place // 2))
    assert took_s < earliest_s + 0.05


@pytest.mark.parametrize("each_s", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_handling_does_not_count_and_all_end_together(each_s: float, workers: int) -> None:
    count = min(int(2.0 * workers / each_s), 2_000_000)
    took_s, sizes = play([each_s] * count, workers)
    assert sum(sizes) == count
    share_s = each_s * count / workers
    assert took_s < share_s * 1.05 + 0.01
    assert max(sizes) * each_s < max(2 * TURN_S, each_s * 1.5)
    assert max(sizes) <= usual_size(count, workers)


def test_little_is_left_in_few_chunks() -> None:
    _, sizes = play([1e-6] * 1000)
    assert len(sizes) < 20


def test_no_chunk_is_larger_than_the_standard_librarys() -> None:
    core = ChunkCore(100, 2)
    core.on_sent(1)
    core.on_answered(1, 0.0)
    assert core.next_size() == usual_size(100, 2) == 13


def test_so_many_are_under_way_and_no_more() -> None:
    core = ChunkCore(1000, 3)
    for _ in range(3 * AHEAD):
        assert core.next_size() == 1
        core.on_sent(1)
    assert core.next_size() == 0
    core.on_answered(1, 1.0)
    assert core.next_size() == 1


def test_an_iterable_longer_than_it_said_goes_on() -> None:
    core = ChunkCore(1, 1)
    for _ in range(10):
        assert core.next_size() == 1
        core.on_sent(1)
        core.on_answered(1, 0.001)


# -- acted out ----------------------------------------------------------------------------------------------------


class Rig:
    """A pool whose chunks end when the test says so, each in the thread that says it."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[Any], Future[list[Any]]]] = []
        self.on_wait: Callable[[], None] = self.answer_last

    def submit(self, chunk: Any) -> Future[list[Any]]:
        future: Future[list[Any]] = Future()
        self.sent.append((list(chunk), future))
        return future

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        self.on_wait()
        return event.wait(timeout)

    def answer_last(self) -> None:
        """The one that was sent last ends first."""
        waiting = [(chunk, future) for chunk, future in self.sent if not future.done()]
        if waiting:
            chunk, future = waiting[-1]
            future.set_result([-item for item in chunk])

    def map(self, items: Any, length: int | None = None) -> BalancedMap:
        return BalancedMap(items, len(items) if length is None else length, 2, self.submit, self.wait)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 100, 1000])
def test_results_are_in_order_whatever_ends_first(rig: Rig, count: int) -> None:
    assert rig.map(range(count)).run() == (True, [-item for item in range(count)])


def test_the_first_failure_counts_and_all_chunks_have_run(rig: Rig) -> None:
    def fail_odd() -> None:
        for chunk, future in rig.sent:
            if not future.done():
                odd = [item for item in chunk if item % 2]
                future.set_exception(ValueError(odd[0])) if odd else future.set_result(chunk)

    rig.on_wait = fail_odd
    success, error = rig.map(range(40)).run()
    assert not success
    assert error.args == (1,)
    assert sum(len(chunk) for chunk, _ in rig.sent) == 40


def test_an_iterable_that_raises_fails_the_map_when_the_rest_is_over(rig: Rig) -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise LookupError("here")

    success, error = rig.map(items(), 50).run()
    assert not success
    assert type(error) is LookupError
    assert all(future.done() for _, future in rig.sent)


def test_one_that_is_stopped_submits_no_more(rig: Rig) -> None:
    balanced = rig.map(range(100))

    def stop() -> None:
        balanced.stop()
        rig.answer_last()

    rig.on_wait = stop
    success, error = balanced.run()
    assert not success
    assert type(error) is WorkerDiedError
    assert len(rig.sent) == 4


def test_ctrl_c_ends_what_was_submitted(rig: Rig) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    rig.on_wait = interrupt
    with pytest.raises(KeyboardInterrupt):
        rig.map(range(100)).run()
    assert rig.sent
    assert all(future.cancelled() for _, future in rig.sent)


def test_in_a_thread_of_its_own_it_tells_the_outcome(rig: Rig) -> None:
    balanced = rig.map(range(20))
    story: list[Any] = []
    balanced.conclude = lambda success, value: story.append((success, value))
    balanced.start(lambda over: story.append(over))
    balanced.join()
    assert story == [balanced, (True, [-item for item in range(20)])]
