"""What only some interleavings of threads show, each of them brought about."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import pytest

from distpool.multiprocessing.balanced import BalancedMap
from distpool.multiprocessing.callbacks import CallbackThread
from distpool.multiprocessing.feeding import Feed, Feeds
from distpool.multiprocessing.results import FedMapResult, MapResult
from tests.multiprocessing.fake_workers import FakePool
from tests.multiprocessing.tasks import square


@pytest.fixture
def pool() -> Iterator[FakePool]:
    with FakePool(2) as pool:
        yield pool
    pool.join()


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class LookedAt(MapResult):
    """``meanwhile`` happens when somebody has just seen that nobody has collected the results."""

    meanwhile: Callable[[], None] | None = None

    @property
    def _collected(self) -> bool:
        seen: bool = self.__dict__["collected"]
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        return seen

    @_collected.setter
    def _collected(self, collected: bool) -> None:
        self.__dict__["collected"] = collected


def test_a_map_whose_results_two_threads_take_at_once(pool: FakePool) -> None:
    result = LookedAt(pool, chunked=False)
    result.start([done(1), done(2)])
    result.meanwhile = lambda: result._collect(None)
    result._collect(None)
    assert result.get() == [1, 2]


class Called:
    """Stands for a result in the callback thread."""

    def __init__(self) -> None:
        self.finished = threading.Event()

    def finish(self, quiet: bool) -> None:
        self.finished.set()


def test_a_callback_of_a_call_that_was_being_made_when_the_pool_was_closed() -> None:
    callbacks = CallbackThread()
    for _ in range(2):
        result = Called()
        callbacks.expect()
        callbacks.put(result)  # type: ignore[arg-type]
        result.finished.wait()
        callbacks.close()
        callbacks.join()


def test_an_iterator_is_dropped_in_a_thread_that_holds_its_feeds_lock(pool: FakePool) -> None:
    results = pool.imap(square, range(1000))
    assert next(results) == 0
    feed = results._feed
    cycle = [results]
    cycle.append(cycle)
    with feed._changed:
        del results, cycle
        gc.collect()
    feed.join()
    assert feed._abandoned


def test_a_feed_that_is_started_when_the_pool_has_just_been_closed_waits_for_nobody() -> None:
    shut_down: list[bool] = []
    feeds = Feeds(lambda: shut_down.append(True))
    feeds.close()
    feed = Feed(range(100), done, 1, in_order=True)
    feeds.start(feed)
    feed.join()
    assert len(feeds) == 0
    assert shut_down == [True, True]


def no_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_a_feed_for_which_there_is_no_thread(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(BalancedMap, "start", lambda self, when_over: no_thread(when_over))
        with pytest.raises(RuntimeError, match="can't start"):
            pool.map_async(square, range(1000))
    # Otherwise these would wait for it.
    pool.close()
    pool.join()


def test_there_is_no_thread_for_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = CallbackThread()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            callbacks.expect()
    callbacks.close()
    callbacks.join()


class Stopped:
    """A feed's condition: the pool is terminated just before somebody gets it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __enter__(self) -> None:
        self._feed._stopped = True

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    def wait(self) -> None:
        raise AssertionError("nobody would wake it")


def test_the_pool_is_terminated_while_a_feed_is_about_to_wait_for_room() -> None:
    feed = Feed((), done, 1, in_order=True)
    feed._ahead = feed._limit
    feed._changed = Stopped(feed)  # type: ignore[assignment]
    assert not feed._wait_for_room()


def test_a_chunk_that_is_being_submitted_when_its_map_is_killed() -> None:
    sent: list[Future[Any]] = []

    def submit(chunk: Any) -> Future[Any]:
        if not sent:
            balanced.kill()
        sent.append(Future())
        return sent[-1]

    balanced = BalancedMap(range(1000), 1000, 2, submit, lambda event, timeout: event.wait(timeout))
    success, _ = balanced.run()
    assert not success
    assert all(future.cancelled() for future in sent)


def test_a_map_that_does_not_begin_is_not_waited_for(pool: FakePool) -> None:
    result = FedMapResult(pool, True)
    with pytest.raises(RuntimeError, match="can't start"):
        result.begin(lambda: no_thread(None))
    pool.close()
    pool.join()
