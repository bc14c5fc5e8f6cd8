"""What a pool becomes in a child that the user forked: its workers, its socket and its locks are the parent's.

Nothing here touches any of these.  An executor that the child inherited says so when it is used; leaving a ``with``
block or dropping it is fine, and new pools are the child's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distpool.driver.future import DistFuture
from distpool.driver.pool import WorkerPool
from distpool.driver.processes import WorkerProcess

_REASON = "this pool belongs to the process from which this one was forked; make a new executor or pool here"


class InheritedPool(WorkerPool):
    """See the module's description.  Made by ``inherit`` only."""

    _closed_because = _REASON

    @property
    def outstanding(self) -> int:
        return 0

    def withdraw(self, future: DistFuture[Any]) -> bool:
        return False

    def kill_task(self, future: DistFuture[Any]) -> bool:
        return False

    def leave(self, end: Callable[[], object]) -> None:
        pass

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        pass

    def abandon(self) -> None:
        pass

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def join(self, timeout_s: float | None = None) -> bool:
        return True

    def processes(self) -> dict[int, WorkerProcess]:
        return {}

    def wait_for(self, future: DistFuture[Any], timeout: float | None) -> None:
        raise RuntimeError(f"the result goes to another process: {_REASON}")


def inherit(pool: WorkerPool) -> None:
    """Turn the parent's pool into one that leaves the parent's things alone (in the child, right after the fork)."""
    pool.shell.closing = True
    pool.__class__ = InheritedPool
