"""The iterators that ``imap`` and ``imap_unordered`` return."""

from __future__ import annotations

import time
import types
import weakref
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from typing import TYPE_CHECKING, Any, ClassVar

from distpool.multiprocessing.results import outcome
from distpool.multiprocessing.standard_pool import StandardIMapIterator, StandardIMapUnorderedIterator

if TYPE_CHECKING:
    from distpool.multiprocessing.feeding import Feed
    from distpool.multiprocessing.pool import Pool


class IMapIterator(StandardIMapIterator):  # type: ignore[type-arg]
    """Results of single tasks; ``next(timeout)`` is the method that takes a time-out.  An exception of a task does not
    end the iteration."""

    def __init__(self, pool: Pool, feed: Feed) -> None:
        # Deliberately not the base's, which enters the job in a table that a handler thread reads.
        self._pool: Pool | None = pool
        self._feed = feed
        # One that is dropped before its end must not keep the feed waiting for somebody to take results.
        weakref.finalize(self, feed.abandon_unattended).atexit = False

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result; raises what its task raised.

        :raises multiprocessing.TimeoutError: when it does not arrive within ``timeout`` seconds.
        :raises StopIteration: after the last.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        feed = self._feed
        try:
            future = feed.head(timeout)
        except TimeoutError:
            raise MultiprocessingTimeoutError from None
        if future is None:
            self._pool = None
            raise StopIteration
        try:
            success, value = outcome(future, deadline)
        except BaseException:
            feed.put_back(future)
            raise
        feed.taken()
        if success:
            return value
        try:
            raise value
        finally:
            # The traceback of the exception refers to this frame, and this frame to the exception.
            value = None

    __next__ = next
    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)


class IMapUnorderedIterator(IMapIterator, StandardIMapUnorderedIterator):  # type: ignore[type-arg]
    """As ``IMapIterator``, in the order in which the tasks complete."""
