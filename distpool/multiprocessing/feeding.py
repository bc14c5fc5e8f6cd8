"""Feeding a pool from an iterable without swallowing it: bounded in flight, for ``imap`` and for very long maps.

::

    user's iterable ──► Feed (its own thread) ──submit──► pool ──► futures ──► consumer
                          ▲                                                       │
                          └────────── room, as the consumer takes results ◄───────┘

The iterable is consumed in a thread of its own, as in the standard library, so that one that waits (on a queue, or on
earlier results) keeps nobody else waiting.  How far it is consumed ahead of what has been *taken* starts at a few
chunks for each worker and grows while they turn out to be short.  ``close()`` lifts that bound, because a program may
call ``close``, ``join`` and look at the results only then; then only tasks that are not done yet count.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from distpool.errors import WorkerDiedError
from distpool.multiprocessing.failures import failed
from distpool.multiprocessing.results import FedMapResult, outcome
from distpool.ordered_map import kill_calls

if TYPE_CHECKING:

    class Source(Protocol):
        """Whatever submits tasks to a pool little by little: a ``Feed``, or a map that cuts its chunks as it goes."""

        def start(self, when_over: Callable[[Any], None]) -> None:
            """Begin in a new thread, which at last calls ``when_over``."""

        def lift(self) -> None:
            """Submit everything, whether results are taken or not."""

        def stop(self) -> None:
            """Submit no more."""

        def join(self) -> None:
            """Wait until it is over, unless this is its own thread."""


T = TypeVar("T")

_CHUNKS_PER_WORKER = 4
_LEAST = 16
_MOST = 1024
#: As long as a whole window's worth of chunks turns over in less time than this, the window is doubled.
_SHORT_S = 0.02


class Feed:
    """One iterable on its way into a pool.

    :param iterable: the chunks or items, consumed in ``run``; may raise, which counts as one last failed task.
    :param submit: makes a task of one of them; does not raise.
    :param workers: number of workers of the pool.
    :param in_order: ``take`` gives results in the order of the iterable, otherwise as they complete.
    """

    def __init__(
        self, iterable: Iterable[Any], submit: Callable[[Any], Future[Any]], workers: int, *, in_order: bool
    ) -> None:
        self._iterable: Iterable[Any] | None = iterable
        self._submit = submit
        self._in_order = in_order
        self._limit = max(_LEAST, _CHUNKS_PER_WORKER * workers)
        self._changed = threading.Condition(threading.Lock())
        self._items: deque[Future[Any]] = deque()
        # Between ``head`` and ``taken``.
        self._offered: Future[Any] | None = None
        # Submitted and not taken.
        self._ahead = 0
        self._submitted = 0
        self._window_began = 0.0
        self._window_end = 0
        self._exhausted = False
        self._lifted = False
        self._abandoned = False
        self._stopped = False
        self._killed = False
        # Submitted since the bound was lifted, oldest first.
        self._flying: deque[Future[Any]] = deque()
        self.thread: threading.Thread | None = None

    # -- feeding ------------------------------------------------------------------------------------------------

    def start(self, when_over: Callable[[Feed], None]) -> None:
        """Begin to consume the iterable in a new thread, which at last calls ``when_over``."""
        self.thread = threading.Thread(target=self._run, args=(when_over,), name="distpool-feed", daemon=True)
        self.thread.start()

    def _run(self, when_over: Callable[[Feed], None]) -> None:
        try:
            self._consume()
        finally:
            with self._changed:
                self._exhausted = True
                self._iterable = None
                self._changed.notify_all()
            when_over(self)

    def _consume(self) -> None:
        iterator: Iterator[Any] | None = None
        while self._wait_for_room():
            try:
                if iterator is None:
                    assert self._iterable is not None
                    iterator = iter(self._iterable)
                item = next(iterator)
            except StopIteration:
                return
            except BaseException as error:
                self._add(failed(error))
                return
            if self._stopped:
                break
            self._add(self._submit(item))
            item = None
        self._add(failed(WorkerDiedError("the pool was ended before the rest of the iterable was consumed")))

    def _wait_for_room(self) -> bool:
        """False when the pool was terminated."""
        while True:
            with self._changed:
                if self._stopped:
                    return False
                if not self._lifted:
                    if self._ahead < self._limit:
                        return True
                    self._changed.wait()
                    continue
                while self._flying and self._flying[0].done():
                    self._flying.popleft()
                if len(self._flying) < self._limit:
                    return True
                oldest = self._flying[0]
            try:
                oldest.exception()
            except CancelledError:
                pass

    def _add(self, future: Future[Any]) -> None:
        self._submitted += 1
        if self._submitted >= self._window_end:
            self._begin_window()
        with self._changed:
            if self._lifted:
                self._flying.append(future)
            if self._abandoned:
                return
            self._ahead += 1
            if self._in_order:
                self._items.append(future)
                self._changed.notify_all()
                if not self._killed:
                    return
        if self._killed:  # while this one was being submitted
            kill_calls((future,))
            return
        future.add_done_callback(self._completed)

    def _begin_window(self) -> None:
        now = time.monotonic()
        if self._window_end and now - self._window_began < _SHORT_S and self._limit < _MOST:
            self._limit *= 2
        self._window_began = now
        self._window_end = self._submitted + self._limit

    def _completed(self, future: Future[Any]) -> None:
        with self._changed:
            if not self._abandoned:
                self._items.append(future)
                self._changed.notify_all()

    # -- taking -------------------------------------------------------------------------------------------------

    def head(self, timeout: float | None) -> Future[Any] | None:
        """The next result's future (done, unless ``in_order``), or None after the last.  Follow up with ``taken`` or
        ``put_back``.

        :raises TimeoutError: when nothing arrives within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or (self._exhausted and not self._ahead), timeout):
                raise TimeoutError
            self._offered = self._items.popleft() if self._items else None
            return self._offered

    def taken(self) -> None:
        """What ``head`` gave has been delivered: there is room for another."""
        with self._changed:
            self._offered = None
            self._ahead -= 1
            # The feeder waits for room only at the limit; others only for the end.
            if self._ahead == self._limit - 1 or not self._ahead:
                self._changed.notify_all()

    def put_back(self, future: Future[Any]) -> None:
        """What ``head`` gave was not done in time."""
        with self._changed:
            self._offered = None
            self._items.appendleft(future)
            self._changed.notify_all()

    # -- endings ------------------------------------------------------------------------------------------------

    def lift(self) -> None:
        """Consume the whole iterable, whether results are taken or not."""
        with self._changed:
            self._lifted = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody will take results any more: let the tasks run, and drop what comes."""
        with self._changed:
            self._abandon()

    def abandon_unattended(self) -> None:
        """The same from a finalizer, which runs at any moment, also in a thread that holds the lock."""
        if not self._changed.acquire(blocking=False):
            _thread.start_new_thread(self.abandon, ())
            return
        try:
            self._abandon()
        finally:
            self._changed.release()

    def _abandon(self) -> None:
        self._abandoned = self._lifted = True
        self._items.clear()
        self._changed.notify_all()

    def join(self) -> None:
        """Wait until the iterable has been consumed, unless this is the thread that does it."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def stop(self) -> None:
        """Submit no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def kill(self) -> None:
        """Submit no more, and end what was submitted (only if ``in_order``)."""
        self.stop()
        with self._changed:
            self._killed = True
            futures = [*self._items] if self._offered is None else [self._offered, *self._items]
        kill_calls(futures)


S = TypeVar("S", bound="Source")


class Feeds:
    """The feeds of one pool; tells when the pool may be shut down."""

    def __init__(self, shut_down: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._feeds: set[Source] = set()
        self._shut_down = shut_down
        self._closing = False

    def start(self, feed: Source) -> None:
        """Run ``feed`` in a thread of its own.

        :raises RuntimeError: when the system lets no thread be started.
        """
        self._add(feed)
        try:
            feed.start(self._over)
        except BaseException:
            self._over(feed)
            raise

    def run(self, feed: S, run: Callable[[S], T]) -> T:
        """The same in this thread, by ``run``, whose result is returned."""
        self._add(feed)
        try:
            return run(feed)
        finally:
            self._over(feed)

    def _add(self, feed: Source) -> None:
        with self._lock:
            self._feeds.add(feed)
            closing = self._closing
        if closing:  # by another thread, while the call was being made
            feed.lift()

    def close(self) -> None:
        """No more will be started; shut the pool down as soon as the last is over."""
        with self._lock:
            self._closing = True
            feeds = list(self._feeds)
        for feed in feeds:
            feed.lift()
        if not feeds:
            self._shut_down()

    def stop(self) -> None:
        """Submit nothing more."""
        with self._lock:
            feeds = list(self._feeds)
        for feed in feeds:
            feed.stop()

    def join(self) -> None:
        """Wait until all are over."""
        with self._lock:
            feeds = list(self._feeds)
        for feed in feeds:
            feed.join()

    def __len__(self) -> int:
        return len(self._feeds)

    def _over(self, feed: Source) -> None:
        with self._lock:
            self._feeds.discard(feed)
            last = self._closing and not self._feeds
        if last:
            self._shut_down()


def collect(feed: Feed, result: FedMapResult) -> None:
    """Take all that a map's feed gives, in a thread of its own, and conclude ``result`` with it."""
    values: list[Any] = []
    failure: BaseException | None = None
    while (future := feed.head(None)) is not None:
        success, value = outcome(future)
        feed.taken()
        if not success:
            failure = failure or value
        elif failure is None:
            values += value if result.chunked else (value,)
        del future, value
    result.conclude(failure is None, values if failure is None else failure)
