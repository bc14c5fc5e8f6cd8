"""Room for those who need much at once.

What ends makes room for one worker here and one there, and others take it before there is enough in one piece: a gang,
or a lease of many CPUs, could wait for ever.  So whoever has waited for a while, and holds less than others do, has
nodes kept free: nothing else is granted on them, and their leases are asked back as their tasks end.

One at a time, so that no two ever wait for each other; and not for long, since a worker that is asked back may itself
wait for nested work that needs the room.
"""

from __future__ import annotations

from distpool.scheduler.capacity import EPSILON, Node
from distpool.scheduler.desk import Desk
from distpool.scheduler.state import Demand, LeaseState
from distpool.wire.scheduler_to_driver import LeaseWanted

#: Seconds that a demand waits before room is kept for it; that it is kept; and before the next has its turn after that
#: was in vain.
PATIENCE_S, KEEP_S, PAUSE_S = 2.0, 30.0, 30.0


class Reservation:
    """See the module's description."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._holder: Demand | None = None
        self._held = 0
        self._nodes: list[Node] = []
        self._until = 0.0
        self._not_before = 0.0
        #: when ``update`` must be called
        self.deadline: float | None = None

    def update(self, now: float) -> bool:
        """Look whether room is to be kept, or no longer; whether something can be granted because of that."""
        if self._holder is not None and not self._still_needed(now):
            self._lift()
            self._find_next(now)
            return True
        if self._holder is None:
            self._find_next(now)
        return False

    def _still_needed(self, now: float) -> bool:
        holder, book = self._holder, self._desk.book
        assert holder is not None
        if holder not in book.unmet or holder.held > self._held:
            return False  # it was served, or wants nothing any more
        if any(node.draining or book.nodes.get(node.name) is not node for node in self._nodes):
            return False
        if now >= self._until:
            self._not_before = now + PAUSE_S
            return False
        return True

    def _lift(self) -> None:
        for node in self._nodes:
            node.reserved_for = None
            if self._desk.book.nodes.get(node.name) is node:
                self._desk.book.has_room(node)
        self._holder, self._nodes, self.deadline = None, [], None

    def _find_next(self, now: float) -> None:
        self.deadline = None
        waiting = [demand for demand in self._desk.book.wide if self._has_a_claim(demand)]
        waiting.sort(key=lambda demand: (demand.member.pool.root.used_cpus, demand.sequence))
        for demand in waiting:
            due = max((demand.unmet_since or 0.0) + PATIENCE_S, self._not_before)
            if now < due:
                self.deadline = due
                return
            # None: it waits for nodes that have yet to come, and needs nothing kept.
            if nodes := self._desk.book.placement.nodes_to_clear(demand.shape):
                self._keep(nodes, demand, now)
                return

    def _keep(self, nodes: list[Node], demand: Demand, now: float) -> None:
        self._holder, self._held, self._nodes = demand, demand.held, nodes
        self._until = self.deadline = now + KEEP_S
        for node in nodes:
            node.reserved_for = demand.shape
            for lease in node.leases.values():
                if lease.shape != demand.shape and lease.state in (LeaseState.ACTIVE, LeaseState.BLOCKED):
                    self._desk.tell(lease.driver, LeaseWanted(lease.name, lease.pool.name))

    def _has_a_claim(self, demand: Demand) -> bool:
        """Whether nothing but room is missing, and others hold more than whoever asks (or nobody else holds any)."""
        book, pool = self._desk.book, demand.member.pool
        if demand.shape not in book.full or pool.parked or pool.slots - pool.used_cpus + EPSILON < demand.at_once:
            return False
        others = [other.root.used_cpus for other in book.pools.values() if other.root is not pool.root]
        most = max(others, default=0.0)
        return most < EPSILON or most > pool.root.used_cpus + EPSILON
