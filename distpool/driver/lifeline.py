"""What a session cannot go on without - its private node, a cluster's scheduler, its own thread - and the end of all
that runs when it is gone.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, NoReturn

from distpool import errors
from distpool.driver.state import Failure, FailureKind
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session
    from distpool.driver.shell import Settled

_monotonic = time.monotonic


class Lifeline:
    """One per session.

    :ivar lost: nothing can run in this session any more; the next pool starts another one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.lost = False
        self._why: Failure | None = None

    def on_refused(self, reason: str, settled: Settled, ended: bool = False) -> None:
        """The scheduler will not serve this program: nothing can run (caller holds the lock).

        :param ended: since it lives in a worker whose lease has ended.
        """
        session = self._session
        if ended:
            self.end_worker(reason)
        if session.cluster is not None:
            reason = self._nodes_gone(reason)
        failure = Failure(FailureKind.BROKEN, error=errors.ConnectError(reason))
        for pool in list(session.pools.values()):
            settled += pool.shell.handle(functools.partial(pool.shell.on_broken, failure), _monotonic())

    def end_worker(self, reason: str) -> NoReturn:
        """This process is a worker whose lease has ended: nobody waits for it."""
        worker_context.end_process(reason)

    def on_node_lost(self) -> None:
        """The private node's process ended, and with it every worker."""
        self._give_up(
            "the process that keeps this program's workers (its private node) ended unexpectedly, perhaps killed from "
            "outside; make a new pool to go on"
        )

    def on_cluster_lost(self, reason: str) -> None:
        """Nobody looks after the nodes that an engine started any more (in a thread of the cluster's)."""
        if getattr(self._session, "loop", None) is not None:
            self._give_up(self._nodes_gone(reason))

    def on_failure(self, error: Exception) -> None:
        """The thread that serves the session failed."""
        self._give_up(f"distpool itself failed: {type(error).__name__}: {error}; make a new pool to go on")

    def is_cut(self) -> bool:
        """Whether nothing can run any more; without pools, nobody has watched the private node."""
        session = self._session
        return self.lost or (session.node is not None and not session.pools and not session.node.alive())

    def _nodes_gone(self, reason: str) -> str:
        return f"the nodes from {self._session.address} are gone: {reason}; make a new pool to go on"

    def _give_up(self, reason: str) -> None:
        session = self._session
        settled: Settled = []
        with session.lock:
            self.lost, self._why = True, Failure(FailureKind.BROKEN, reason=reason)
            for pool in list(session.pools.values()):
                self.break_if_lost(pool, settled)
        session.settle(settled)

    def break_if_lost(self, pool: WorkerPool, settled: Settled) -> None:
        """Also one that was being opened at that moment (caller holds the lock)."""
        if self._why is not None:
            settled += pool.shell.handle(functools.partial(pool.shell.leases.on_node_lost, self._why), _monotonic())
