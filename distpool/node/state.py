"""What the agent knows of a worker, and which states one may pass through."""

from __future__ import annotations

import enum

import msgspec

from distpool.wire import scheduler_to_agent, worker_to_agent
from distpool.wire.agent_to_scheduler import LiveLease


class WorkerState(enum.Enum):
    """Where a worker process is in its life."""

    FORKING = "forking"
    BOOTING = "booting"
    LISTENING = "listening"
    BLOCKED = "blocked"
    STOPPING = "stopping"
    GONE = "gone"


#: Legal transitions; anything else is a bug.
TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.FORKING: frozenset({WorkerState.BOOTING, WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.BOOTING: frozenset({WorkerState.LISTENING, WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.LISTENING: frozenset({WorkerState.BLOCKED, WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.BLOCKED: frozenset({WorkerState.LISTENING, WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.STOPPING: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset(),
}


class Worker(msgspec.Struct, eq=False):
    """A process that was forked or is about to be."""

    name: str
    generation: int
    state: WorkerState = WorkerState.FORKING
    #: what it runs; None: it is a spare
    lease: scheduler_to_agent.StartWorker | None = None
    pid: int = 0
    #: what it said of itself
    started: worker_to_agent.WorkerStarted | None = None
    endpoint: str = ""
    #: SIGKILL is due
    kill_at: float | None = None
    #: SIGTERM is wanted as soon as there is a process
    terminate: bool = False
    #: SIGKILL was sent
    killed: bool = False
    #: why it ends, if that was the agent's own decision
    finding: str = ""
    #: and what was short, if that was the reason
    shortage: str = ""

    @property
    def routing_id(self) -> str:
        """How it is called on the wire."""
        return f"w-{self.name}"

    def live_lease(self, lease: scheduler_to_agent.StartWorker) -> LiveLease:
        """It, for a scheduler that does not know it; ``lease`` is what it runs."""
        return LiveLease(
            lease.lease,
            lease.pool,
            lease.driver,
            lease.shape,
            lease.ordinal,
            self.routing_id,
            self.endpoint,
            self.pid,
            self.state is WorkerState.BLOCKED,
            lease.gpus,
        )
