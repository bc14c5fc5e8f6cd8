"""Leased workers in the shape of ``multiprocessing.Process`` objects, for programs that look at a pool's processes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from distpool.wire import driver_to_scheduler

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.driver.state import Worker


class WorkerProcess:
    """One worker.  ``terminate`` and ``kill`` hit it as a stranger's signal would: what it runs is charged to it.

    :ivar pid: process id on its node.
    :ivar name: as tasks see it on ``multiprocessing.current_process()``.
    :ivar exitcode: None while it lives, then as in ``multiprocessing``.
    """

    def __init__(self, session: Session, worker: Worker, name: str, daemon: bool) -> None:
        self.pid = worker.pid
        self.name = name
        self.daemon = daemon
        self.exitcode: int | None = None
        self._identity = (worker.ordinal,)
        self._worker = worker
        self._session = session
        self._ended = threading.Event()

    @property
    def ident(self) -> int:
        """The process id."""
        return self.pid

    @property
    def leaving(self) -> bool:
        """Whether its pool has told it to go."""
        return self._worker.leaving

    def is_alive(self) -> bool:
        """Whether its end has not been reported yet."""
        return not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        self._session.wait_for_event(self._ended, timeout)

    def terminate(self) -> None:
        """SIGTERM."""
        self._session.tell_scheduler(driver_to_scheduler.ReturnLease(self._worker.lease, 5.0, True))

    def kill(self) -> None:
        """SIGKILL."""
        self._session.tell_scheduler(driver_to_scheduler.ReturnLease(self._worker.lease, 0.0))

    def note_exit(self, exit_code: int) -> None:
        """Its end was reported."""
        self.exitcode = exit_code
        self._ended.set()

    def __repr__(self) -> str:
        state = "started" if self.exitcode is None else f"stopped[{self.exitcode}]"
        return f"<WorkerProcess name={self.name!r} pid={self.pid} {state}{' daemon' if self.daemon else ''}>"
