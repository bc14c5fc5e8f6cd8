"""What finalizers leave to be done.  They run at any moment, perhaps under the session's lock, so they take a note."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from distpool.wire.driver_to_worker import ReleaseObjects

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session


class Finalized:
    """One per session.

    :ivar calls: what ends calls whose results nobody will take.
    :ivar pools: those that nobody holds any more.
    :ivar objects: results that are no longer needed, with the workers that made them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: deque[Callable[[], object]] = deque()
        self.pools: deque[WorkerPool] = deque()
        self.objects: deque[tuple[str, list[str]]] = deque()

    def leave(self, end: Callable[[], object]) -> None:
        """Have ``end`` called, which ends calls whose results nobody will take (called from finalizers)."""
        self.calls.append(end)
        self._session.loop.wake()

    def abandon(self, pool: WorkerPool) -> None:
        """A pool that nobody holds any more (called from finalizers)."""
        self.pools.append(pool)
        self._session.loop.wake()

    def release(self, maker: str, object_ids: list[str]) -> None:
        """Results that a worker made are no longer needed (called from finalizers)."""
        if self._session.pools:  # the makers end with their pools
            self.objects.append((maker, object_ids))
            self._session.loop.wake()

    @property
    def has_notes(self) -> bool:
        """Whether ``attend`` has something to do."""
        return bool(self.calls or self.pools or self.objects or self._session.recovery.has_notes)

    def attend(self) -> None:
        """Do what notes were taken of (in the loop's thread)."""
        session = self._session
        self.end_calls()
        while self.pools:
            self.pools.popleft().shutdown(wait=False)
        if session.recovery.has_notes:
            session.recovery.attend()
        while self.objects:
            maker, object_ids = self.objects.popleft()
            session.send(maker.encode(), ReleaseObjects(object_ids))

    def end_calls(self) -> None:
        """Do this part in any thread, without the session's lock: a pool that is shut down waits for no such calls."""
        while self.calls:
            try:
                end = self.calls.popleft()
            except IndexError:  # another thread was faster
                return
            end()
