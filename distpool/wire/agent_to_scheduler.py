"""Agent → scheduler: the node's capacity and the life of its workers."""

from __future__ import annotations

import msgspec

from distpool.wire.resources import Shape


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class LiveLease(msgspec.Struct, frozen=True, array_like=True):
    """A worker that runs on the node; sent in ``AgentHello`` so that a restarted scheduler learns its state anew."""

    lease: str
    pool: str
    driver: str
    shape: Shape
    ordinal: int
    worker: str
    endpoint: str
    pid: int
    blocked: bool
    gpus: tuple[str, ...] = ()


class AgentHello(_Message, frozen=True):
    """First message of an agent, and again after the scheduler was lost.

    ``elastic_cpus`` marks the private node of one program: its CPU count limits nothing (the operating system
    shares the cores, as it does for ``multiprocessing``), only pools' own budgets do.  ``gpus`` are the names of its
    GPUs as ``CUDA_VISIBLE_DEVICES`` takes them; without any they are called by their numbers.  ``draining``: it was
    told to leave.  ``site_endpoint`` is where other sites fetch objects (see ``site_to_site``).  ``head``: the
    scheduler is in its process.  ``stands_for``: nodes that have left, whose objects it has
    taken over; a scheduler that was restarted knows of them from nobody else.
    """

    protocol: int
    python: str
    distpool: str
    node: str
    host: str
    capacity: Shape
    elastic_cpus: bool
    leases: tuple[LiveLease, ...] = ()
    gpus: tuple[str, ...] = ()
    draining: bool = False
    site_endpoint: str = ""
    head: bool = False
    stands_for: tuple[str, ...] = ()


class WorkerReady(_Message, frozen=True):
    """The worker of a lease listens at ``endpoint`` under the routing id ``worker``."""

    lease: str
    worker: str
    endpoint: str
    pid: int


class WorkerExited(_Message, frozen=True):
    """The worker of a lease is gone (see ``scheduler_to_driver.LeaseEnded`` for the fields)."""

    lease: str
    pid: int
    exit_code: int
    reason: str = ""
    stderr_tail: str = ""
    peak_rss_bytes: int = 0
    shortage: str = ""


class LeaseBlocked(_Message, frozen=True):
    """The worker waits for nested work: its slot may be lent."""

    lease: str


class LeaseUnblocked(_Message, frozen=True):
    """The worker goes on; its slot counts again (over budget for a moment, if it was lent)."""

    lease: str


class AgentHeartbeat(_Message, frozen=True):
    """Every few seconds: the node lives."""

    free_memory_bytes: int


class SiteWanted(_Message, frozen=True):
    """Where is this site?  Answered by ``SiteAt``; a driver, which cannot be dialled, is asked to dial instead.

    With ``copies``: it is gone; who has copies of its objects?  Others are told by ``CopiesWanted`` and answer the node
    itself.
    """

    site: str
    copies: bool = False


class Draining(_Message, frozen=True):
    """Answer to ``Drain``: the node knows that it is to leave, and says so to a scheduler that was restarted."""


class SuccessorFailed(_Message, frozen=True):
    """Answer to ``Retire``: the node named there could not take over what this one has; name another.  Also said by one
    that stays for want of any, now and then: there may be room by now."""

    successor: str


class AgentGoodbye(_Message, frozen=True):
    """The node leaves; its workers have ended.  ``successor`` has the objects that it had."""

    successor: str = ""


Message = (
    AgentHello
    | WorkerReady
    | WorkerExited
    | LeaseBlocked
    | LeaseUnblocked
    | AgentHeartbeat
    | SiteWanted
    | Draining
    | SuccessorFailed
    | AgentGoodbye
)
