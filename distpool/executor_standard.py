"""What programs and libraries read of ``concurrent.futures.ProcessPoolExecutor`` beside its documented methods.

The base of every executor on a worker pool: an instance of the original as far as ``isinstance`` goes, because
libraries ask that way whether calls run in processes and how many there are.  Nothing of the original's code runs, so
it becomes the base when its module is imported: nobody can ask before, and few programs do (it takes as long to import
as ``distpool.executor``, twice over).
"""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from distpool.on_import import wait_for

if TYPE_CHECKING:
    from types import ModuleType

    from distpool.driver.pool import WorkerPool
    from distpool.executor import PoolSlot

_STANDARD_MODULE = "concurrent.futures.process"


class StandardExecutor(Executor):
    """See the module's description."""

    _slot: PoolSlot
    _max_workers: int

    @property
    def _processes(self) -> dict[int, Any] | None:
        """Process id → handle of the workers; ``None`` after ``shutdown``, as other libraries expect."""
        if self._slot.closed:
            return None
        pool = self._slot.pool
        return {} if pool is None else pool.processes()

    @property
    def _broken(self) -> str | bool:
        pool = self._slot.pool
        return str(pool.broken) if pool is not None and pool.broken is not None else False

    @property
    def _shutdown_thread(self) -> bool:
        return self._slot.closed

    @property
    def _executor_manager_thread(self) -> PoolEnd | None:
        pool = self._slot.pool
        return None if pool is None or self._slot.closed else PoolEnd(pool)

    @property
    def _call_queue(self) -> PoolEnd | None:
        return self._executor_manager_thread


class PoolEnd:
    """Stands in for the manager thread and the call queue of the original: both can be waited for."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def join(self, timeout: float | None = None) -> None:
        """Wait until the executor was shut down or dropped, and its workers ended."""
        self._pool.join(timeout)

    def join_thread(self) -> None:
        """As ``join``; the queue's name for it."""
        self._pool.join()

    def is_alive(self) -> bool:
        """Whether workers may still run."""
        return not self._pool.join(0)


def _derive(process: ModuleType) -> None:
    StandardExecutor.__bases__ = (process.ProcessPoolExecutor,)


if _STANDARD_MODULE in sys.modules:
    import concurrent.futures.process

    _derive(concurrent.futures.process)
else:
    wait_for(_STANDARD_MODULE, _derive)
