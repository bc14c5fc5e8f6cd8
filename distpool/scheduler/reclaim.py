"""Whom to ask to give workers back while others wait.

The scheduler does not see tasks, so it cannot know which workers are idle: it asks, at growing intervals, everybody
who holds some of what is short.  It also says by how many leases each is above its fair share, and which of them are
not to be among those: in whose workers nested work is submitted lends its slot whenever it waits for that, and what it
has begun ends with it.
"""

from __future__ import annotations

from distpool.scheduler.book import Book
from distpool.scheduler.capacity import EPSILON
from distpool.scheduler.fairness import fair_shares
from distpool.scheduler.state import Demand, LeaseState, Member, Pool, Root
from distpool.wire.scheduler_to_driver import ReclaimIdle

#: Seconds between two rounds of asking: the first and the longest pause.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0
#: Members of a pool that have waited for each other for so long will go on to.  Before, only workers are asked for that
#: have been idle for a while: who submits nested work is about to wait for it, and to lend a slot.
_PATIENCE_S = 0.1


class Reclaim:
    """See the module's description."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._pause_s = _FIRST_PAUSE_S
        self._asked_at = float("-inf")
        #: when ``due`` must be called
        self.deadline: float | None = None

    def hurry(self) -> None:
        """Demand has changed: ask soon."""
        self._pause_s = _FIRST_PAUSE_S
        if self.deadline is not None:
            self.deadline = min(self.deadline, self._asked_at + _FIRST_PAUSE_S)

    def due(self, now: float) -> list[tuple[str, ReclaimIdle]]:
        """Whom to ask now, and for what."""
        if not self._book.unmet:
            self.deadline = None
            return []
        if self.deadline is None:
            self.deadline = max(now, self._asked_at + _FIRST_PAUSE_S)
        if now < self.deadline:
            return []
        self._asked_at = now
        self.deadline = now + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)
        return self._targets(now)

    def _targets(self, now: float) -> list[tuple[str, ReclaimIdle]]:
        short_pools: dict[Pool, list[Demand]] = {}
        short_nodes: list[Demand] = []
        for demand in self._book.unmet:
            pool = demand.member.pool
            if pool.slots - pool.used_cpus + EPSILON < demand.at_once:
                short_pools.setdefault(pool, []).append(demand)
            elif demand.shape in self._book.full:
                short_nodes.append(demand)
        asked: dict[Member, ReclaimIdle] = {}
        for pool, demands in short_pools.items():
            self._within_pool(pool, demands, now, asked)
        if short_nodes:
            self._between_roots(short_nodes, asked)
        return [(member.driver, message) for member, message in asked.items()]

    def _within_pool(self, pool: Pool, demands: list[Demand], now: float, asked: dict[Member, ReclaimIdle]) -> None:
        wants = {member: member.used_cpus + _unmet_cpus(member) for member in pool.members.values()}
        shares = fair_shares(pool.slots, wants)
        pressing = [demand for demand in demands if now - (demand.unmet_since or 0.0) >= _PATIENCE_S]
        owed = [demand for demand in demands if self._is_owed(demand.member)]
        for member in pool.members.values():
            if _helps(member, pressing):
                asked[member] = _question(member, _leases_above(member, shares[member]))
            elif _helps(member, demands):
                excess = _leases_above(member, shares[member]) if _helps(member, owed) else 0
                asked[member] = _question(member, excess, lasting=False)

    def _is_owed(self, member: Member) -> bool:
        """Whether it has lent the slot of its own worker, and others have got that and it nothing: what it waits for
        does not come by patience, as it does to one that is about to lend."""
        parent = self._book.leases.get(self._book.drivers[member.driver].parent_lease)
        return not member.leases and parent is not None and parent.state is LeaseState.BLOCKED

    def _between_roots(self, demands: list[Demand], asked: dict[Member, ReclaimIdle]) -> None:
        wants: dict[Root, float] = {}
        for pool in self._book.pools.values():
            unmet = sum(_unmet_cpus(member) for member in pool.members.values())
            wants[pool.root] = wants.get(pool.root, 0.0) + pool.used_cpus + unmet
        shares = fair_shares(self._book.placement.capacity().num_cpus, wants)
        for pool in self._book.pools.values():
            for member in pool.members.values():
                if _helps(member, demands):
                    # What a root holds too much is asked of its pools in proportion.
                    root = pool.root
                    part = shares[root] * member.used_cpus / root.used_cpus if root.used_cpus > EPSILON else 0.0
                    within = asked[member].excess if member in asked else 0
                    asked[member] = _question(member, max(within, _leases_above(member, part)))


def _unmet_cpus(member: Member) -> float:
    return sum(max(0, demand.unmet) * demand.shape.num_cpus for demand in member.demands.values())


def _helps(member: Member, demands: list[Demand]) -> bool:
    """Whether a lease of ``member``, given back, would serve somebody else, or another shape of its own."""
    shapes = {shape for shape, demand in member.demands.items() if demand.held}
    return any(demand.member is not member or shapes - {demand.shape} for demand in demands) and bool(shapes)


def _question(member: Member, excess: int, *, lasting: bool = True) -> ReclaimIdle:
    parents = [lease.name for lease in member.leases.values() if lease.children] if excess else []
    return ReclaimIdle(member.pool.name, excess, tuple(parents), lasting)


def _leases_above(member: Member, share: float) -> int:
    count = sum(demand.held for demand in member.demands.values())
    if not count or member.used_cpus <= share + EPSILON:
        return 0
    return int((member.used_cpus - share) / (member.used_cpus / count) + EPSILON)
