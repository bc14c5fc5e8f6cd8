"""The results of a pool's calls: subclasses of the standard library's, backed by futures.

Without callbacks nothing happens when a task ends but that its future is resolved: whoever asks for the value waits on
the future itself and unpickles it in its own thread, which saves the standard pool's hop through a handler thread.
Callbacks run in the pool's one callback thread, before ``ready()`` becomes true, as in the standard library.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import count
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from typing import TYPE_CHECKING, Any, ClassVar

from distpool.multiprocessing.failures import as_pool_error
from distpool.multiprocessing.standard_pool import StandardApplyResult, StandardMapResult
from distpool.ordered_map import kill_calls

if TYPE_CHECKING:
    from distpool.multiprocessing.pool import Pool

Callback = Callable[[Any], object]

_job_numbers = count()


class ApplyResult(StandardApplyResult):  # type: ignore[type-arg]
    """The result of ``apply_async``.  ``AsyncResult`` is another name of this class."""

    def __init__(self, pool: Pool, callback: Callback | None = None, error_callback: Callback | None = None) -> None:
        # Deliberately not the base's, which enters the job in a table that a handler thread reads.
        self._pool: Pool | None = pool
        self._job = next(_job_numbers)
        self._callback = callback
        self._error_callback = error_callback
        self._futures: Sequence[Future[Any]] = ()
        self._success = True
        self._value: Any = None
        self._collected = False
        # Set when the callbacks have run; without callbacks, the futures tell.
        self._event: threading.Event | None = None

    # -- the pool's side ----------------------------------------------------------------------------------------

    def start(self, futures: Sequence[Future[Any]]) -> None:
        """The tasks have been submitted."""
        self._futures = futures
        if self._callback is None and self._error_callback is None:
            return
        assert self._pool is not None
        self._event = threading.Event()
        self._pool.callbacks.expect()
        countdown = count(len(futures) - 1, -1)

        def one_less(_: Any) -> None:
            # ``next`` of a ``count`` is atomic.
            if next(countdown) == 0:
                callbacks.put(self)

        callbacks = self._pool.callbacks
        for future in futures:
            future.add_done_callback(one_less)

    def finish(self, quiet: bool) -> None:
        """Run the callbacks and become ready; called in the pool's callback thread, when all futures are done.

        :param quiet: the pool was terminated, so nobody wants to be called any more.
        """
        try:
            self._collect(None)
            callback = self._callback if self._success else self._error_callback
            if callback is not None and not quiet:
                callback(self._value)
        finally:
            assert self._event is not None
            self._event.set()
            self._pool = None

    def kill(self) -> None:
        """End the tasks, also those that run."""
        kill_calls(self._futures)

    # -- standard interface -------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the call has completed (and its callbacks have run)."""
        if self._event is not None:
            return self._event.is_set()
        return self._collected or all(future.done() for future in self._futures)

    def successful(self) -> bool:
        """Whether the call completed without raising.

        :raises ValueError: when it has not completed.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._collect(None)
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has completed, up to ``timeout`` seconds."""
        try:
            self._wait(timeout)
        except MultiprocessingTimeoutError:
            pass

    def get(self, timeout: float | None = None) -> Any:
        """The call's value; raises what the call raised.

        :raises multiprocessing.TimeoutError: when it does not arrive within ``timeout`` seconds.
        """
        self._wait(timeout)
        if self._success:
            return self._value
        try:
            raise self._value
        finally:
            # The traceback of the exception refers to this frame, and this frame to the exception.
            del self

    def _wait(self, timeout: float | None) -> None:
        if self._collected and self._event is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._event is None:
            self._collect(deadline)
            self._pool = None
        elif not self._event.is_set():
            pool = self._pool
            # The pool's own way to wait, if it is still there, lends this worker's slot to what we wait for.
            done = self._event.wait(timeout) if pool is None else pool.wait_for_event(self._event, timeout)
            if not done:
                raise MultiprocessingTimeoutError

    def _collect(self, deadline: float | None) -> None:
        """Take the outcome from the futures, waiting for them until ``deadline``."""
        if self._collected:
            return
        futures = self._futures
        if not futures:
            return
        success, value = outcome(futures[0], deadline)
        self._conclude(success, value)

    def _conclude(self, success: bool, value: Any) -> None:
        # In this order: another thread may be looking.
        self._value = value
        self._success = success
        self._collected = True
        self._futures = ()

    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)


AsyncResult = ApplyResult


class MapResult(ApplyResult, StandardMapResult):  # type: ignore[type-arg]
    """The result of ``map_async`` and ``starmap_async``: of several tasks.

    :param chunked: each of them gives a list of results, and not one.
    """

    def __init__(
        self, pool: Pool, chunked: bool, callback: Callback | None = None, error_callback: Callback | None = None
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self.chunked = chunked

    def start(self, futures: Sequence[Future[Any]]) -> None:
        """The tasks have been submitted (none, for an empty iterable: ready at once, and no callback)."""
        if futures:
            super().start(futures)
        else:
            self._conclude(True, [])

    def _collect(self, deadline: float | None) -> None:
        # Before the look whether another thread has collected them: that takes them away last.
        futures = self._futures
        if self._collected:
            return
        # Chunk by chunk, so that unpickling the first ones overlaps with running the later ones.
        chunked = self.chunked
        values: list[Any] = []
        failure: BaseException | None = None
        for future in futures:
            success, value = outcome(future, deadline)
            if not success:
                # The first one counts, but the call is only over when all of its tasks are.
                failure = failure or value
            elif failure is None:
                if chunked:
                    values += value
                else:
                    values.append(value)
        if failure is None:
            self._conclude(True, values)
        else:
            self._conclude(False, failure)


class FedMapResult(MapResult):
    """The result of a map of so many chunks that a thread feeds them to the pool as earlier ones complete."""

    def __init__(
        self, pool: Pool, chunked: bool, callback: Callback | None = None, error_callback: Callback | None = None
    ) -> None:
        super().__init__(pool, chunked, callback, error_callback)
        self._event = threading.Event()
        self._callbacks = pool.callbacks
        #: Ends the feed and its tasks.
        self.kill_feed: Callable[[], None] = _nothing

    def begin(self, start: Callable[[], None]) -> None:
        """Call ``start``, which sees to it that the result is concluded, unless it raises."""
        self._callbacks.expect()
        try:
            start()
        except BaseException:
            self._callbacks.expect_no_more()
            raise

    def kill(self) -> None:
        """End the tasks, also those that run, and submit no more."""
        self.kill_feed()

    def conclude(self, success: bool, value: Any) -> None:
        """All tasks are over; ``value`` is the list of results, or the first exception."""
        self._conclude(success, value)
        self._callbacks.put(self)


def _nothing() -> None:
    """There is no feed yet."""


def outcome(future: Future[Any], deadline: float | None = None) -> tuple[bool, Any]:
    """Wait for a future: ``(True, value)`` or ``(False, exception)``.

    :raises multiprocessing.TimeoutError: when it is not done by ``deadline``.
    """
    try:
        if deadline is None:
            return True, future.result()
        return True, future.result(max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError as error:
        if not future.done():
            raise MultiprocessingTimeoutError from None
        # Either the task raised it, or it ended just now.
        failed = future.exception()
        return (True, future.result()) if failed is None else (False, as_pool_error(failed or error))
    except CancelledError as error:
        return False, as_pool_error(error)
    except BaseException as error:
        if not future.done() or future.exception() is not error:
            raise  # an interruption of this thread, not the task's
        return False, as_pool_error(error)
