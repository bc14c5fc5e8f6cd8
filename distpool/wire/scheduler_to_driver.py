"""Scheduler → driver: leases granted, ended, impossible, wanted back."""

from __future__ import annotations

import msgspec

from distpool.wire.resources import GangSeat, Shape


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class SchedulerWelcome(_Message, frozen=True):
    """Answer to the ``DriverHello`` of that ``number``.  ``capacity`` is the sum over all nodes."""

    cluster: str
    nodes: int
    capacity: Shape
    number: int = 0


class Refused(_Message, frozen=True):
    """The driver cannot take part (protocol or Python version differs, ...); ``reason`` is for people.

    ``ended``: it lives in a worker whose lease has ended, which is to end without another word.
    """

    reason: str
    ended: bool = False


class LeaseGranted(_Message, frozen=True):
    """A worker is up and now belongs to the driver, which dials ``endpoint`` and calls it ``worker`` (its routing id).

    ``ordinal`` is the 1-based number of the worker within the pool over the pool's whole life
    (``multiprocessing``'s ``_identity``).  ``gpus`` is what the worker must find in ``CUDA_VISIBLE_DEVICES``: the names
    of its GPUs, separated by commas; None: what the driver has there itself (a private node, and none asked for).
    ``seat``: it is one of a gang, of which all are announced one right after the other; when one ends, all end.
    ``host`` names the node's machine, for people.
    """

    lease: str
    pool: str
    shape: Shape
    node: str
    worker: str
    endpoint: str
    pid: int
    ordinal: int
    gpus: str | None = None
    seat: GangSeat | None = None
    host: str = ""


class LeaseEnded(_Message, frozen=True):
    """A leased worker is gone, for whatever reason; also when it never came up.

    ``exit_code`` follows ``multiprocessing.Process.exitcode``: negative is a signal.  ``reason`` is the agent's
    finding in words (``""`` when it was the driver's own wish), ``stderr_tail`` the last lines it wrote.  ``lost`` says
    that nobody saw the worker end: its node, or the way there, is gone.  ``shortage``: it ended for want of memory,
    that of its ``node``, or because its ``task`` used more than its ``memory_bytes``.
    """

    lease: str
    pool: str
    shape: Shape
    pid: int
    exit_code: int
    reason: str = ""
    stderr_tail: str = ""
    peak_rss_bytes: int = 0
    lost: bool = False
    shortage: str = ""


class WorkerLeft(_Message, frozen=True):
    """A worker is gone whose driver ran in a worker of yours and died before it had put things in order: what it made
    and you have not been given is nobody's."""

    worker: str
    node: str


class DemandInfeasible(_Message, frozen=True):
    """No node of the cluster, even if empty, could run a worker of this shape."""

    pool: str
    shape: Shape
    reason: str


class SiteAt(_Message, frozen=True):
    """Answer to ``SiteWanted`` (see ``scheduler_to_agent.SiteAt``); also unasked, when a node wants something of the
    driver, which cannot be dialled: then ``summoned`` is set, and the driver dials."""

    site: str
    at: str
    endpoint: str
    summoned: bool = False


class CopiesWanted(_Message, frozen=True):
    """The site is gone: if you have copies of its objects, tell ``seeker``, a site, by ``CopiesHere``."""

    site: str
    seeker: str


class ReclaimIdle(_Message, frozen=True):
    """Others wait for workers: give back those of this pool that have had nothing to do for a moment.

    ``lasting``: they have waited for a while, so the same holds for those that come to have nothing to do. Then, or
    when somebody has lent a slot and got none, ``excess`` of the busy ones are more than the driver's fair share and
    should come back when their current task ends (the rest of their work goes to the others), but none of ``parents``,
    whose tasks submit nested work.
    """

    pool: str
    excess: int = 0
    parents: tuple[str, ...] = ()
    lasting: bool = False


class LeaseWanted(_Message, frozen=True):
    """Give this worker back when the task that it runs has ended: its node is to leave.  Another one comes for it."""

    lease: str
    pool: str


class HelloWanted(_Message, frozen=True):
    """Answer to the heartbeat of a driver that the scheduler does not know (it was restarted, or gave the driver up):
    say hello anew.  Other messages of such a driver are ignored."""


class Ping(_Message, frozen=True):
    """Every few seconds, to drivers on other machines.  Not answered: that it could be sent says that the connection
    is alive, which the driver's ZeroMQ threads see to even while the interpreter is busy for long."""


class NodeStatus(msgspec.Struct, frozen=True, array_like=True):
    """A node, as people want to see it; ``used`` is what its leases use of ``capacity``."""

    node: str
    host: str
    capacity: Shape
    used: Shape
    workers: int


class DriverStatus(msgspec.Struct, frozen=True, array_like=True):
    """A driver, as people want to see it: what its pools are called, how many workers it has and how many it still
    waits for.  ``parent`` is the lease in whose worker it runs, or empty."""

    driver: str
    host: str
    pid: int
    parent: str
    pools: tuple[str, ...]
    workers: int
    unmet: int


class ClusterStatus(_Message, frozen=True):
    """Answer to ``StatusWanted``."""

    request: int
    cluster: str
    nodes: tuple[NodeStatus, ...]
    drivers: tuple[DriverStatus, ...]


Message = (
    SchedulerWelcome
    | Refused
    | LeaseGranted
    | LeaseEnded
    | WorkerLeft
    | DemandInfeasible
    | SiteAt
    | CopiesWanted
    | ReclaimIdle
    | LeaseWanted
    | HelloWanted
    | Ping
    | ClusterStatus
)
