"""The scheduler's books: every change to drivers, pools, demand and leases goes through here and keeps the sums right.

Called by ``core`` only; decides nothing but who is next.  A demand that is not met is in exactly one place: the queue
of its pool, or set aside (there until the budget or a node has room again).  A pool stands in its root's queue, and a
root in the queue of roots, unless there is nothing to try.
"""

from __future__ import annotations

from typing import TypeVar

from distpool.scheduler.capacity import EPSILON, Node, gpu_names
from distpool.scheduler.fairness import FairQueue
from distpool.scheduler.placement import Placement
from distpool.scheduler.state import (
    HELD,
    TRANSITIONS,
    USES_BUDGET,
    Demand,
    Driver,
    Lease,
    LeaseState,
    Member,
    Pool,
    Root,
    root_key,
)
from distpool.wire.agent_to_scheduler import AgentHello, LiveLease
from distpool.wire.resources import Shape, words

K = TypeVar("K")


class Book:
    """See the module's description."""

    def __init__(self) -> None:
        self.drivers: dict[str, Driver] = {}
        self.pools: dict[str, Pool] = {}
        self.leases: dict[str, Lease] = {}
        self.placement = Placement()
        #: when the event that is being handled happened
        self.now = 0.0
        #: demands that are not met, in no order
        self.unmet: dict[Demand, None] = {}
        #: of these, the ones that what a single worker leaves behind may not be enough for
        self.wide: dict[Demand, None] = {}
        #: shapes for which no node has room
        self.full: set[Shape] = set()
        self._sequence = 0
        self._roots: FairQueue[Root] = FairQueue(root_key)
        #: how many demands of a shape stand in their pools' queues
        self._queued: dict[Shape, int] = {}
        #: demands set aside because no node has room
        self._no_room: dict[Shape, list[Demand]] = {}

    @property
    def nodes(self) -> dict[str, Node]:
        return self.placement.nodes

    # -- drivers and pools --------------------------------------------------------------------------------------

    def add_driver(self, name: str, parent: Lease | None) -> Driver:
        """A driver; one that lives in a worker counts as part of the driver for which that worker runs."""
        root = parent.pool.root if parent is not None else Root(name, self._next())
        driver = self.drivers[name] = Driver(name, root)
        if parent is not None:
            self.set_parent(driver, parent)
        return driver

    def set_parent(self, driver: Driver, parent: Lease) -> None:
        """``driver`` runs in the worker of ``parent``."""
        driver.parent_lease = parent.name
        parent.children.add(driver.name)
        driver.root = parent.pool.root
        for pool in driver.pools.values():
            if pool.owner == driver.name:
                self._move(pool, driver.root)

    def remove_driver(self, driver: Driver) -> None:
        """Forget a driver that has left its pools; leases that are still ending are its last trace."""
        assert not driver.pools
        parent = self.leases.get(driver.parent_lease)
        if parent is not None:
            parent.children.discard(driver.name)
        del self.drivers[driver.name]

    def open_pool(self, name: str, owner: Driver, slots: float, label: str) -> Pool | None:
        """A pool; opening it again (after one side lost the other) changes nothing.  None: the name is taken."""
        pool = self.pools.get(name)
        if pool is None:
            pool = self._add_pool(name, owner.root)
        if pool.owner not in ("", owner.name):
            return None
        pool.closed = False  # it was closed when its owner had been silent for too long
        pool.owner, pool.slots, pool.label = owner.name, slots, label
        self._move(pool, owner.root)
        self.join(pool, owner)
        self._try_set_aside(pool)
        self._offer(pool)
        return pool

    def join(self, pool: Pool, driver: Driver) -> Member:
        """``driver`` may have leases in ``pool``."""
        member = pool.members.get(driver.name)
        if member is None:
            member = pool.members[driver.name] = Member(driver.name, pool)
        driver.pools[pool.name] = pool
        return member

    def join_unknown(self, name: str, driver: Driver) -> Pool:
        """A pool whose owner has yet to open it (again)."""
        pool = self._add_pool(name, driver.root)
        self.join(pool, driver)
        return pool

    def leave(self, pool: Pool, driver: Driver) -> None:
        """``driver`` wants nothing more from ``pool``; its leases are ending."""
        member = pool.members[driver.name]
        for shape in list(member.demands):
            self.set_wanted(member, shape, 0)
        driver.pools.pop(pool.name, None)
        self._drop_member_if_done(member)

    def drop_pool_if_done(self, pool: Pool) -> None:
        """Forget a pool that nobody uses any more."""
        if not pool.members and (pool.closed or not pool.owner):
            pool.root.queue.discard(pool)
            self.pools.pop(pool.name, None)

    def park(self, pool: Pool) -> None:
        """Start no worker in ``pool`` for now."""
        pool.parked = True
        pool.root.queue.discard(pool)

    def unpark(self, pool: Pool) -> None:
        pool.parked = False
        self._offer(pool)

    def infeasible(self, pool: Pool, shape: Shape, *, any_node: bool = False) -> str:
        """Why a lease of ``shape`` can never be had in ``pool``, or ``""``.

        :param any_node: nodes of any kind may still come.
        """
        if not (shape.num_cpus >= 0 and shape.num_gpus >= 0 and shape.memory_bytes >= 0):
            return "less than nothing cannot be had"
        if shape.num_gpus > 1 and shape.num_gpus != round(shape.num_gpus):
            return f"{shape.num_gpus:g} GPUs cannot be had: a fraction of one, or whole ones"
        at_once = shape.num_cpus * max(1, shape.gang)
        if pool.owner and at_once > pool.slots + EPSILON:
            return f"the workers of this pool may use {pool.slots:g} CPUs at a time, {at_once:g} were asked for"
        if self.placement.nodes and not any_node and not self.placement.feasible(shape):
            wanted = f"{shape.gang} workers at once with {words(shape)} each" if shape.gang else words(shape)
            return f"no node has {wanted}, even when idle; the cluster has {self.placement.describe()}"
        return ""

    def heirs(self, lease: Lease) -> tuple[str, ...]:
        """Who sees to what the worker of ``lease`` leaves: its driver, the one in whose worker that runs, and so on;
        of a dead driver, those after it."""
        found: dict[str, None] = {}
        current: Lease | None = lease
        # Where a driver runs is its own word: it may be anything, also a circle.
        while current is not None and current.driver not in found:
            driver = self.drivers.get(current.driver)
            if driver is None:
                return (*found, *current.heirs)
            found[driver.name] = None
            current = self.leases.get(driver.parent_lease)
        return tuple(found)

    # -- nodes --------------------------------------------------------------------------------------------------

    def add_node(self, name: str, hello: AgentHello) -> Node:
        node = Node(name, hello.host, hello.capacity, hello.elastic_cpus, self._next(), idle_since=self.now)
        node.free_gpus = gpu_names(hello.gpus, hello.capacity.num_gpus)
        self.placement.add(node)
        self.has_room(node)
        return node

    def remove_node(self, node: Node) -> None:
        assert not node.leases
        self.placement.remove(node)

    # -- demand -------------------------------------------------------------------------------------------------

    def set_wanted(self, member: Member, shape: Shape, workers: int, near: tuple[str, ...] = ()) -> None:
        """How many leases of ``shape`` a member wants in all, and on which nodes rather than others."""
        demand = self._demand(member, shape)
        demand.wanted = workers
        demand.near = near
        self._reconsider(demand)

    def next_to_serve(self) -> tuple[Demand, list[Node]] | None:
        """The demand that comes next in fairness and can be met, and the node on which; of a gang, one for each."""
        while self._queued.keys() - self.full:
            root = self._roots.best()
            if root is None:
                return None
            pool = root.queue.best()
            if pool is None:
                self._roots.discard(root)
                continue
            demand = pool.queue.best()
            free_cpus = pool.slots - pool.used_cpus + EPSILON
            if demand is None or free_cpus < min(pool.queued_cpus):
                root.queue.discard(pool)
            elif free_cpus < demand.at_once:
                self._dequeue(demand)
                pool.set_aside.append(demand)
            elif not (nodes := self._find(demand)):
                self.full.add(demand.shape)
                self._dequeue(demand)
                self._no_room.setdefault(demand.shape, []).append(demand)
            else:
                return demand, nodes
        return None

    def _find(self, demand: Demand) -> list[Node] | None:
        if demand.shape.gang:
            return self.placement.find_gang(demand.shape, demand.near)
        node = self.placement.find(demand.shape, demand.near)
        return None if node is None else [node]

    # -- leases -------------------------------------------------------------------------------------------------

    def add_lease(self, name: str, demand: Demand, node: Node) -> Lease:
        """A new lease, starting, for ``demand``."""
        pool = demand.member.pool
        pool.last_ordinal += 1
        lease = Lease(name, pool, demand.member.driver, demand.shape, pool.last_ordinal, node, LeaseState.STARTING)
        self._enter(lease)
        return lease

    def adopt(self, node: Node, live: LiveLease, driver: Driver) -> Lease:
        """A lease that an earlier scheduler granted and whose worker still runs."""
        pool = self.pools.get(live.pool) or self._add_pool(live.pool, driver.root)
        self.join(pool, driver)
        pool.last_ordinal = max(pool.last_ordinal, live.ordinal)
        state = LeaseState.BLOCKED if live.blocked else LeaseState.ACTIVE
        lease = Lease(live.lease, pool, driver.name, live.shape, live.ordinal, node, state)
        lease.worker, lease.endpoint, lease.pid = live.worker, live.endpoint, live.pid
        lease.exempt = True
        lease.on_cpu = not live.blocked
        lease.gpus = live.gpus
        self._enter(lease)
        for nested in self.drivers.values():
            if nested.claimed_parent == lease.name:
                self.set_parent(nested, lease)
        return lease

    def _enter(self, lease: Lease) -> None:
        self.leases[lease.name] = lease
        member = lease.pool.members[lease.driver]
        member.leases[lease.name] = lease
        lease.node.take(lease)
        self.placement.taken(lease.node)
        if lease.state in USES_BUDGET:
            self._charge(lease, lease.shape.num_cpus)
        demand = self._demand(member, lease.shape)
        demand.held += 1
        self._reconsider(demand)

    def set_state(self, lease: Lease, new: LeaseState) -> None:
        """Move a lease along ``TRANSITIONS``."""
        old = lease.state
        if new not in TRANSITIONS[old]:
            raise AssertionError(f"lease {lease.name} cannot go from {old.value} to {new.value}")
        lease.state = new
        member = lease.pool.members[lease.driver]
        if (old in USES_BUDGET) != (new in USES_BUDGET):
            self._charge(lease, lease.shape.num_cpus if new in USES_BUDGET else -lease.shape.num_cpus)
        if old in HELD and new not in HELD:
            demand = self._demand(member, lease.shape)
            demand.held -= 1
            self._reconsider(demand)
        if new is LeaseState.BLOCKED:
            lease.on_cpu = False
            lease.node.used_cpus -= lease.shape.num_cpus
            self.has_room(lease.node)
        elif old is LeaseState.BLOCKED and new is LeaseState.ACTIVE:
            lease.exempt = lease.on_cpu = True
            lease.node.used_cpus += lease.shape.num_cpus
            self.placement.taken(lease.node)
        elif new is LeaseState.ENDED:
            del self.leases[lease.name]
            del member.leases[lease.name]
            lease.node.give_back(lease, self.now)
            self.has_room(lease.node)
            self._drop_member_if_done(member)

    # -- within -------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _add_pool(self, name: str, root: Root) -> Pool:
        pool = self.pools[name] = Pool(name, self._next(), root)
        return pool

    def _move(self, pool: Pool, root: Root) -> None:
        if pool.root is not root:
            pool.root.queue.discard(pool)
            pool.root.used_cpus -= pool.used_cpus
            self._roots.touch(pool.root)
            pool.root = root
            root.used_cpus += pool.used_cpus
            self._offer(pool)

    def _demand(self, member: Member, shape: Shape) -> Demand:
        demand = member.demands.get(shape)
        if demand is None:
            demand = member.demands[shape] = Demand(member, shape, self._next())
        return demand

    def _charge(self, lease: Lease, cpus: float) -> None:
        pool = lease.pool
        member = pool.members[lease.driver]
        member.used_cpus += cpus
        pool.used_cpus += cpus
        pool.root.used_cpus += cpus
        if cpus < 0:
            # Keys that grow are noticed by the queues themselves, keys that fall are not.
            for demand in member.demands.values():
                pool.queue.touch(demand)
            self._try_set_aside(pool)
            pool.root.queue.touch(pool)
            self._roots.touch(pool.root)
            self._offer(pool)

    def _try_set_aside(self, pool: Pool) -> None:
        """The budget has room again, or has grown."""
        for demand in pool.set_aside:
            demand.aside = False
            self._reconsider(demand)
        pool.set_aside.clear()

    def has_room(self, node: Node) -> None:
        """Something of ``node`` became free: what was set aside for want of it is tried again."""
        self.placement.freed(node)
        for shape in [shape for shape in self.full if node.fits(shape)]:
            self.full.discard(shape)
            for demand in self._no_room.pop(shape, ()):
                demand.aside = False
                self._reconsider(demand)

    def _reconsider(self, demand: Demand) -> None:
        """What a demand wants or holds has changed, or the reason to set it aside has gone."""
        member = demand.member
        if demand.short:
            if demand.unmet_since is None:
                demand.unmet_since = self.now
                self.unmet[demand] = None
                if demand.shape.gang or demand.shape.num_cpus > 1 or demand.shape.num_gpus > 1:
                    self.wide[demand] = None
            if not demand.aside and demand not in member.pool.queue:
                pool = member.pool
                pool.queue.add(demand)
                cpus = demand.at_once
                pool.queued_cpus[cpus] = pool.queued_cpus.get(cpus, 0) + 1
                self._queued[demand.shape] = self._queued.get(demand.shape, 0) + 1
                self._offer(pool)
            return
        demand.unmet_since = None
        self.unmet.pop(demand, None)
        self.wide.pop(demand, None)
        if demand in member.pool.queue:
            self._dequeue(demand)
            demand.aside = False
        if not demand.wanted and not demand.held and not demand.aside:
            member.demands.pop(demand.shape, None)

    def _dequeue(self, demand: Demand) -> None:
        pool = demand.member.pool
        pool.queue.discard(demand)
        demand.aside = True
        _decrement(pool.queued_cpus, demand.at_once)
        _decrement(self._queued, demand.shape)

    def _offer(self, pool: Pool) -> None:
        if pool.queue and not pool.parked:
            pool.root.queue.add(pool)
            self._roots.add(pool.root)

    def _drop_member_if_done(self, member: Member) -> None:
        driver = self.drivers.get(member.driver)
        pool = member.pool
        if not member.leases and (driver is None or pool.name not in driver.pools):
            pool.members.pop(member.driver, None)
            self.drop_pool_if_done(pool)


def _decrement(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
