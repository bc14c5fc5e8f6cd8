"""What finalizers leave to be done.  They run at any moment, perhaps under the session's lock, so they take a note."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distpool.wire.driver_to_worker import ReleaseObjects

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session


class Finalized:
    """One per session.

    :ivar pools: those that nobody holds any more.
    :ivar objects: results that are no longer needed, with the workers that made them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.pools: deque[WorkerPool] = deque()
        self.objects: deque[tuple[str, list[str]]] = deque()

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
        return bool(self.pools or self.objects or self._session.recovery.has_notes)

    def attend(self) -> None:
        """Do what notes were taken of (in the loop's thread)."""
        session = self._session
        while self.pools:
            self.pools.popleft().shutdown(wait=False)
        if session.recovery.has_notes:
            session.recovery.attend()
        while self.objects:
            maker, object_ids = self.objects.popleft()
            session.send(maker.encode(), ReleaseObjects(object_ids))
