"""Driver → scheduler: who I am, how many workers I want, which I give back.  Never a task."""

from __future__ import annotations

import msgspec

from distpool.wire.resources import Shape


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class HeldLease(msgspec.Struct, frozen=True, array_like=True):
    """A lease that a driver which says hello again believes to hold."""

    lease: str
    pool: str
    shape: Shape


class DriverHello(_Message, frozen=True):
    """First message of a driver, and again after the scheduler was lost: everything it must know anew.

    ``parent_lease`` is the lease on which this driver runs when it lives in a worker that submits nested work,
    otherwise ``""``.  ``leases`` are those that it holds: what became of them meanwhile is the answer
    (``LeaseGranted`` again, or ``LeaseEnded``).  ``host`` is for people; ``machine`` is the same for processes that can
    watch each other (``distpool.node.machine.process_space``).  ``number`` counts the driver's hellos: what the
    scheduler grants before it answers the last of them may have ended meanwhile, without a word to a driver that did
    not name it.
    """

    protocol: int
    python: str
    distpool: str
    host: str
    pid: int
    parent_lease: str = ""
    leases: tuple[HeldLease, ...] = ()
    machine: str = ""
    number: int = 0


class OpenPool(_Message, frozen=True):
    """A driver makes a pool: a budget of ``slots`` CPUs that its leases may use at one time.

    ``label`` is for people (``distpool status``).
    """

    pool: str
    slots: float
    label: str = ""


class JoinPool(_Message, frozen=True):
    """A driver inside a worker uses its parent's pool for nested work: same budget, own leases."""

    pool: str


class Demand(_Message, frozen=True):
    """How many workers of one shape the driver wants in a pool, in all (held and still to come).

    ``near`` are the nodes that hold large arguments of the tasks that wait, those that hold most first: where there is
    room on them, the workers come from there.
    """

    pool: str
    shape: Shape
    workers: int
    near: tuple[str, ...] = ()


class ReturnLease(_Message, frozen=True):
    """The driver is done with a worker.  ``grace_s`` is how long it may take to end by itself before SIGKILL;
    0 kills at once.  SIGTERM is sent at once when ``terminate``."""

    lease: str
    grace_s: float
    terminate: bool = False


class ClosePool(_Message, frozen=True):
    """No more demand from this driver for this pool.  When its owner closes it, every lease of the pool ends."""

    pool: str
    grace_s: float


class DriverHeartbeat(_Message, frozen=True):
    """Every few seconds, from drivers that the scheduler cannot watch through the kernel."""


class StatusWanted(_Message, frozen=True):
    """What is there and who uses it?  Answered by ``ClusterStatus``, to anybody, also without a hello."""

    request: int


class SiteWanted(_Message, frozen=True):
    """Where is this node, from which objects are to be fetched?  Answered by ``SiteAt``.

    With ``copies``: it is gone; who has copies of its objects?  Others are told by ``CopiesWanted`` and answer
    the driver itself.
    """

    site: str
    copies: bool = False


class DriverGoodbye(_Message, frozen=True):
    """The driver ends: all its leases and pools with it."""


Message = (
    DriverHello
    | OpenPool
    | JoinPool
    | Demand
    | ReturnLease
    | ClosePool
    | DriverHeartbeat
    | StatusWanted
    | SiteWanted
    | DriverGoodbye
)
