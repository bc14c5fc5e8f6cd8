"""What the scheduler knows: drivers, pools, demand, leases; and which states a lease may pass through."""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from distpool.scheduler.capacity import Node
from distpool.scheduler.fairness import FairQueue
from distpool.wire.resources import GangSeat, Shape


class LeaseState(str, enum.Enum):
    """Where a lease is in its life.  (Strings, since their hashes cost nothing: states are looked up in every step.)"""

    #: the agent was told to start the worker
    STARTING = "starting"
    #: the worker belongs to its driver
    ACTIVE = "active"
    #: the worker waits for nested work and lends its slot
    BLOCKED = "blocked"
    #: the agent was told to end the worker
    STOPPING = "stopping"
    #: the worker is gone
    ENDED = "ended"


#: Legal transitions; anything else is a bug.
TRANSITIONS: dict[LeaseState, frozenset[LeaseState]] = {
    LeaseState.STARTING: frozenset({LeaseState.ACTIVE, LeaseState.STOPPING, LeaseState.ENDED}),
    LeaseState.ACTIVE: frozenset({LeaseState.BLOCKED, LeaseState.STOPPING, LeaseState.ENDED}),
    LeaseState.BLOCKED: frozenset({LeaseState.ACTIVE, LeaseState.STOPPING, LeaseState.ENDED}),
    LeaseState.STOPPING: frozenset({LeaseState.ENDED}),
    LeaseState.ENDED: frozenset(),
}

#: States in which a lease uses its slots of the pool's budget.
USES_BUDGET = frozenset({LeaseState.STARTING, LeaseState.ACTIVE})
#: States in which a lease satisfies demand.
HELD = frozenset({LeaseState.STARTING, LeaseState.ACTIVE, LeaseState.BLOCKED})


_REMEMBERED = 100


class Lease(msgspec.Struct, eq=False):
    """A worker on a node, for one driver."""

    name: str
    pool: Pool
    driver: str
    shape: Shape
    ordinal: int
    node: Node
    state: LeaseState
    worker: str = ""
    endpoint: str = ""
    pid: int = 0
    #: names of the GPUs that are its own; of the one that it has a share of
    gpus: tuple[str, ...] = ()
    #: it was blocked once, or adopted from an earlier scheduler: it may exceed the pool's budget
    exempt: bool = False
    #: its CPUs count on the node (not while it lends them)
    on_cpu: bool = True
    #: its task waits, and what for has not been said yet: it lends its CPUs when that is, or soon
    lends_soon: bool = False
    #: drivers that live in its worker
    children: set[str] = msgspec.field(default_factory=set)
    #: its driver has died, with the worker in which that ran; these, the nearest first, see to what its own one leaves
    heirs: tuple[str, ...] = ()
    #: those it was granted together with, and its place among them
    gang: Gang | None = None
    rank: int = 0


class Gang(msgspec.Struct, eq=False):
    """Leases that were granted at once, by rank.  They are announced when all have come up, and end together."""

    name: str
    leases: list[Lease] = msgspec.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every worker is up."""
        return all(lease.state in (LeaseState.ACTIVE, LeaseState.BLOCKED) for lease in self.leases)

    def seat(self, rank: int) -> GangSeat:
        """What the driver is told about one of them."""
        return GangSeat(self.name, rank, tuple(lease.node.host for lease in self.leases))


class Demand(msgspec.Struct, eq=False):
    """How many workers of one shape a driver wants in a pool, and how many it has."""

    member: Member
    shape: Shape
    sequence: int
    wanted: int = 0
    held: int = 0
    #: nodes to be preferred
    near: tuple[str, ...] = ()
    #: since when it has not been met; None: it is
    unmet_since: float | None = None
    #: it is not in its pool's queue although it is not met: there is no room for it at present
    aside: bool = False

    @property
    def unmet(self) -> int:
        return self.wanted - self.held

    @property
    def short(self) -> bool:
        """Whether something is to be granted: of a gang, all of it."""
        return self.wanted - self.held >= max(1, self.shape.gang)

    @property
    def at_once(self) -> float:
        """What is granted together uses so many CPUs."""
        return self.shape.num_cpus * max(1, self.shape.gang)


class Member(msgspec.Struct, eq=False):
    """A driver in a pool: its owner, or one in a worker that uses its parent's pool."""

    driver: str
    pool: Pool
    used_cpus: float = 0.0
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)
    demands: dict[Shape, Demand] = msgspec.field(default_factory=dict)


class Pool(msgspec.Struct, eq=False):
    """A budget of slots that the leases of its members share."""

    name: str
    sequence: int
    root: Root
    #: ``""`` as long as a pool is only known from leases that an agent reported (the scheduler was restarted)
    owner: str = ""
    slots: float = 0.0
    label: str = ""
    closed: bool = False
    used_cpus: float = 0.0
    last_ordinal: int = 0
    start_failures: int = 0
    #: no worker is started for now, because the last ones did not come up
    parked: bool = False
    members: dict[str, Member] = msgspec.field(default_factory=dict)
    #: demands that are not met and may be tried
    queue: FairQueue[Demand] = msgspec.field(default_factory=lambda: FairQueue(demand_key))
    #: how many of those want so many CPUs
    queued_cpus: dict[float, int] = msgspec.field(default_factory=dict)
    #: demands that exceed what is left of the budget, while a smaller one may still fit
    set_aside: list[Demand] = msgspec.field(default_factory=list)


class Root(msgspec.Struct, eq=False):
    """A top-level driver with all that is done in its name, nested drivers included: the unit of fairness."""

    driver: str
    sequence: int
    used_cpus: float = 0.0
    queue: FairQueue[Pool] = msgspec.field(default_factory=lambda: FairQueue(pool_key))


class Driver(msgspec.Struct, eq=False):
    """A program, or a worker that submits nested work."""

    name: str
    root: Root
    #: it said hello to *this* scheduler (otherwise it is only known from leases that an agent reported)
    greeted: bool = False
    #: its death is learned from the kernel or from its worker's end, so it need not send heartbeats
    watched: bool = False
    heard_at: float = 0.0
    host: str = ""
    pid: int = 0
    parent_lease: str = ""
    #: the lease in whose worker it runs, by its own word; not known here after a restart, until the node says hello
    claimed_parent: str = ""
    pools: dict[str, Pool] = msgspec.field(default_factory=dict)
    #: of a nested driver: workers of its own or left to it that have ended, the latest; it may not have heard of it
    #: yet, or may keep some of what they made
    ended: deque[tuple[str, str]] = msgspec.field(default_factory=lambda: deque(maxlen=_REMEMBERED))


def demand_key(demand: Demand) -> tuple[float, int]:
    return demand.member.used_cpus, demand.sequence


def pool_key(pool: Pool) -> tuple[float, int]:
    return pool.used_cpus, pool.sequence


def root_key(root: Root) -> tuple[float, int]:
    return root.used_cpus, root.sequence
