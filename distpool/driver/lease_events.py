"""What becomes of a pool's leases: each report, from the scheduler or of a connection, as the core is told of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from distpool.driver.core import PoolCore
from distpool.driver.state import Effects, Failure, WorkerExit
from distpool.driver.workforce import Workforce
from distpool.wire import scheduler_to_driver

if TYPE_CHECKING:
    from distpool.driver.session import Session


class LeaseEvents:
    """One per pool, called under the session's lock.

    :ivar setup: what makes a worker look like this program; None when the pool has ended.
    """

    def __init__(self, session: Session, core: PoolCore, workforce: Workforce, setup: Any) -> None:
        self._session = session
        self._core = core
        self._workforce = workforce
        self.setup = setup

    def on_granted(self, grant: scheduler_to_driver.LeaseGranted, now: float, effects: Effects) -> None:
        """A lease was granted: dial the worker and make it look like this program."""
        if self._workforce.has_given_up(grant.lease):
            # The scheduler confirmed it before it heard that; whether it has heard by now, nobody knows.
            self._session.decline(grant)
            return
        worker = self._workforce.admit(grant, self.setup)
        if worker is not None:
            self._core.on_granted(worker, now, effects)

    def on_ended(self, ended: scheduler_to_driver.LeaseEnded, now: float, effects: Effects) -> None:
        """A lease ended, or never began."""
        worker = self._core.workers.get(ended.lease)
        exit = WorkerExit(
            ended.pid,
            ended.exit_code,
            ended.reason,
            ended.stderr_tail,
            ended.peak_rss_bytes,
            worker.host if worker is not None else "",
            ended.lost,
            ended.shortage,
        )
        if self._workforce.was_given_up(ended.lease) or self._workforce.dismiss(ended.lease, ended.exit_code):
            self._core.on_ended(ended.lease, exit, now, effects)
        else:
            self._core.on_start_failed(ended.shape, exit, now, effects)

    def on_link_lost(self, lease: str, reason: str, now: float, effects: Effects) -> None:
        """A worker is out of reach for this process, wherever it is: what it does must not be heard any more."""
        worker = self._core.workers.get(lease)
        if worker is None or worker.exit is not None:
            return
        reason = f"the worker on {worker.host} was given up: {reason}"
        exit = WorkerExit(worker.pid, -signal.SIGKILL, reason, node=worker.host, presumed=True)
        self._workforce.dismiss(lease, exit.exit_code)
        self._workforce.give_up(lease)
        self._core.on_ended(lease, exit, now, effects)

    def on_infeasible(self, message: scheduler_to_driver.DemandInfeasible, now: float, effects: Effects) -> None:
        """No node can run a worker of this shape."""
        self._core.on_infeasible(message.shape, message.reason, now, effects)

    def on_node_lost(self, failure: Failure, now: float, effects: Effects) -> None:
        """The node ended, and with it every worker."""
        self._core.on_broken(failure, now, effects)
        for lease, pid in self._workforce.leases():
            exit = WorkerExit(pid, -signal.SIGKILL, "its node ended")
            self._workforce.dismiss(lease, exit.exit_code)
            self._core.on_ended(lease, exit, now, effects)

    def on_reclaim(self, message: scheduler_to_driver.ReclaimIdle, now: float, effects: Effects) -> None:
        """Somebody else needs workers."""
        self._core.on_reclaim(now, effects, message.excess, message.parents, message.lasting)

    def on_lease_wanted(self, message: scheduler_to_driver.LeaseWanted, now: float, effects: Effects) -> None:
        """A worker's node is to leave."""
        self._core.on_lease_wanted(message.lease, now, effects)
