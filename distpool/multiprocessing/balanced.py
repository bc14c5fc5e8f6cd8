"""A map whose chunks are cut while it runs, sized by ``ChunkCore``: in the calling thread, or in one of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from distpool.errors import WorkerDiedError
from distpool.multiprocessing.chunk_core import ChunkCore
from distpool.multiprocessing.failures import failed
from distpool.multiprocessing.maps import Submit
from distpool.multiprocessing.results import outcome
from distpool.ordered_map import cutter, kill_calls


class BalancedMap:
    """One map.  It does not hold the pool.

    :param iterable: the items; may raise, which counts as one last failed chunk.
    :param length: how many there seem to be.
    :param workers: number of workers of the pool.
    :param submit: makes a task of a chunk; does not raise.
    :param wait: waits for an event that the pool's tasks bring about, up to some seconds.
    """

    def __init__(
        self,
        iterable: Iterable[Any],
        length: int,
        workers: int,
        submit: Submit,
        wait: Callable[[threading.Event, float | None], bool],
    ) -> None:
        self._iterable: Iterable[Any] | None = iterable
        self._cut: Callable[[int], Sequence[Any]] | None = None
        self._core = ChunkCore(length, workers)
        self._submit = submit
        self._wait = wait
        #: Submitted and not taken, in the order of the items.
        self._futures: deque[Future[Any]] = deque()
        #: Sizes of chunks that have been answered, and how long they were under way.
        self._answered: deque[tuple[int, float]] = deque()
        self._news = threading.Event()
        self._over = threading.Event()
        self._exhausted = False
        self._stopped = False
        self._killed = False
        self._runs_in = 0
        self._thread: threading.Thread | None = None
        #: Told the outcome, if the map runs in a thread of its own.
        self.conclude: Callable[[bool, Any], None] = _nothing

    # -- as one of the pool's feeds -----------------------------------------------------------------------------

    def start(self, when_over: Callable[[BalancedMap], None]) -> None:
        """Run in a new thread, which at last calls ``when_over`` and ``conclude``."""
        self._thread = threading.Thread(target=self._run_in_thread, args=(when_over,), name="distpool-map", daemon=True)
        self._thread.start()

    def lift(self) -> None:
        """Nothing is held back: results are taken as they come."""

    def stop(self) -> None:
        """Submit no more."""
        self._stopped = True
        self._news.set()

    def kill(self) -> None:
        """Submit no more, and end what was submitted."""
        self._killed = True
        self.stop()
        kill_calls(list(self._futures))

    def join(self) -> None:
        """Wait for the end, unless this is the thread in which it runs."""
        if threading.get_ident() != self._runs_in:
            self._over.wait()
            if self._thread is not None:
                self._thread.join()

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> tuple[bool, Any]:
        """``(True, all results)``, or ``(False, the first exception)`` once all chunks are over."""
        self._runs_in = threading.get_ident()
        values: list[Any] = []
        failure: BaseException | None = None
        futures, answered = self._futures, self._answered
        try:
            while True:
                self._news.clear()
                while answered:
                    self._core.on_answered(*answered.popleft())
                self._feed()
                if futures and futures[0].done():
                    success, value = outcome(futures[0])
                    futures.popleft()
                    if not success:
                        failure = failure or value
                    elif failure is None:
                        values += value
                    del value
                elif futures or not self._exhausted:
                    self._wait(self._news, None)
                else:
                    return failure is None, values if failure is None else failure
        except KeyboardInterrupt:
            self.kill()
            raise
        finally:
            self._iterable = self._cut = None
            self._over.set()
            # The traceback of an exception that is raised from here holds this frame.
            del failure

    def _run_in_thread(self, when_over: Callable[[BalancedMap], None]) -> None:
        success, value = False, None
        try:
            success, value = self.run()
        except BaseException as error:
            value = error
        when_over(self)
        self.conclude(success, value)
        self.conclude = _nothing  # which may refer to this

    def _feed(self) -> None:
        while not self._exhausted and (size := self._core.next_size()):
            try:
                if self._cut is None:
                    assert self._iterable is not None
                    self._cut = cutter(self._iterable)
                chunk = self._cut(size)
            except Exception as error:
                self._exhausted = True
                self._futures.append(failed(error))
                return
            if not chunk:
                self._exhausted = True
                return
            if self._stopped:
                self._exhausted = True
                ended = "the pool was ended before the rest of the iterable was consumed"
                self._futures.append(failed(WorkerDiedError(ended)))
                return
            self._send(chunk)

    def _send(self, chunk: Sequence[Any]) -> None:
        size, sent = len(chunk), time.monotonic()
        self._core.on_sent(size)
        future = self._submit(chunk)
        self._futures.append(future)

        def note(_: Future[Any]) -> None:
            self._answered.append((size, time.monotonic() - sent))
            self._news.set()

        future.add_done_callback(note)
        if self._killed:  # while this one was being submitted
            kill_calls((future,))


def _nothing(success: bool, value: Any) -> None:
    """The map runs in its caller's thread."""
