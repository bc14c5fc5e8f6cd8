"""What the driver's and the node's side of the scheduler core share: the books, time, the effects, and how leases,
pools and drivers begin and end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from distpool.scheduler.book import Book
from distpool.scheduler.capacity import EPSILON, Node
from distpool.scheduler.events import Effect, ToAgent, ToDriver, ToOperator
from distpool.scheduler.reclaim import Reclaim
from distpool.scheduler.state import HELD, Demand, Driver, Gang, Lease, LeaseState, Pool
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.driver_to_scheduler import HeldLease
from distpool.wire.resources import NodeOffer
from distpool.wire.scheduler_to_operator import DrainAnswer

#: The exit code that is reported for workers of which nothing is known but that they are gone.
UNKNOWN_EXIT_CODE = -9
#: After workers of a pool failed to start: seconds until the next try, doubled each time.
_START_RETRY_S, _START_RETRY_MAX_S = 0.1, 5.0
#: What only a lost node could serve waits so long for it to come back.
_RETURN_S = 60.0
#: Stands for the nodes of an earlier scheduler, which nobody has named yet.
_ALL_NODES = ""
#: How long what is left of a gang may take to end.
_GANG_GRACE_S = 1.0
#: After memory ran short on a node: seconds until one CPU more is used there.
_CAUTION_S = 30.0
_UNHEARD = "it ended while its driver was out of reach"


class Desk:
    """See the module's description; the parameters are those of ``SchedulerCore``."""

    def __init__(self, cluster: str, lease_prefix: str, python: str, silence_s: float) -> None:
        self.cluster = cluster
        self.prefix = lease_prefix + "-"
        self.python = python
        self.silence_s = silence_s
        self.book = Book()
        self.reclaim = Reclaim(self.book)
        #: names of leases of an earlier scheduler that have ended under this one
        self.ended_foreign: set[str] = set()
        #: (deadline, kind, name): when to look whether a driver or node is silent, or to try a pool again
        self.timers: list[tuple[float, str, str]] = []
        self.armed: set[tuple[str, str]] = set()
        #: leases that their drivers believe to hold and no node has reported yet
        self.doubtful: dict[str, tuple[str, HeldLease]] = {}
        #: lost nodes -> until when what only they could serve waits for them
        self.expected_until: dict[str, float] = {}
        self.now = 0.0
        self.effects: list[Effect] = []
        self._last_lease = 0
        self._has_predecessor = False
        #: when it was first told anything
        self.began = math.inf
        #: nodes that have left -> who has their objects
        self.successors: dict[str, str] = {}

    def site_at(self, site: str) -> tuple[str, str] | None:
        """The node that serves what was made at ``site``, and where; empty when there is none, None when that is not
        known yet."""
        seen = set()
        while site not in self.book.nodes and site in self.successors and site not in seen:
            seen.add(site)
            site = self.successors[site]
        node = self.book.nodes.get(site)
        if node is not None:
            return node.name, node.site_endpoint
        return ("", "") if self.knows_all() else None

    def knows_all(self) -> bool:
        """Whether everybody has had the time to say hello to this scheduler."""
        return self.now >= self.began + self.silence_s

    def successor_of(self, node: Node) -> Node | None:
        """Who takes over the objects of a node that leaves: the one with most memory."""
        others = [other for other in self.book.nodes.values() if other is not node and not other.draining]
        able = [other for other in others if other.site_endpoint and other.name not in node.refused_by]
        return max(able, key=lambda other: (other.capacity.memory_bytes, -other.sequence), default=None)

    def lend(self, lease: str) -> None:
        """What a lease's task waits for is known now, or is not said: others may have its CPUs, if it still waits."""
        known = self.book.leases.get(lease)
        if known is not None and known.lends_soon:
            known.lends_soon = False
            if known.state is LeaseState.ACTIVE:
                self.book.set_state(known, LeaseState.BLOCKED)

    def arm(self, kind: str, name: str, heard_at: float) -> None:
        if (kind, name) not in self.armed:
            self.armed.add((kind, name))
            heapq.heappush(self.timers, (heard_at + self.silence_s, kind, name))

    def heard_from_driver(self, driver: Driver) -> None:
        driver.heard_at = self.now
        if not driver.watched:
            self.arm("driver", driver.name, self.now)

    def tell(self, name: str, message: to_driver.Message) -> None:
        driver = self.book.drivers.get(name)
        if driver is not None and driver.greeted:
            self.effects.append(ToDriver(name, message))

    def tell_anyone(self, name: str, message: to_driver.Message) -> None:
        self.effects.append(ToDriver(name, message))

    def start(self, demand: Demand, nodes: list[Node]) -> None:
        """Start what ``demand`` asks for: a worker, or on these nodes all of a gang."""
        leases = [self._start_one(demand, node) for node in nodes]
        if demand.shape.gang:
            gang = Gang(leases[0].name, leases)
            for rank, lease in enumerate(leases):
                lease.gang, lease.rank = gang, rank

    def _start_one(self, demand: Demand, node: Node) -> Lease:
        self._last_lease += 1
        lease = self.book.add_lease(f"{self.prefix}{self._last_lease}", demand, node)
        self.effects.append(
            ToAgent(
                node.name,
                to_agent.StartWorker(lease.name, lease.pool.name, lease.driver, lease.shape, lease.ordinal, lease.gpus),
            )
        )
        return lease

    def start_failed(self, pool: Pool) -> None:
        if pool.parked:
            return  # several that were started together failed together
        pause_s = min(_START_RETRY_MAX_S, _START_RETRY_S * 2 ** min(pool.start_failures, 10))
        pool.start_failures += 1
        self.book.park(pool)
        heapq.heappush(self.timers, (self.now + pause_s, "pool", pool.name))

    def is_own(self, lease: str) -> bool:
        """Whether this scheduler granted it, and not one before it."""
        return lease.startswith(self.prefix)

    def doubt(self, driver: str, held: HeldLease) -> None:
        """A driver believes to hold a lease that is not in the books."""
        if self.is_own(held.lease) or held.lease in self.ended_foreign:
            ended = to_driver.LeaseEnded(held.lease, held.pool, held.shape, 0, UNKNOWN_EXIT_CODE, _UNHEARD, lost=True)
            self.tell(driver, ended)
        else:
            # Granted by an earlier scheduler: its node may still come and say hello.
            self.doubtful[held.lease] = (driver, held)
            heapq.heappush(self.timers, (self.now + self.silence_s, "lease", held.lease))

    def settle_doubt(self, lease: str, only_of: str = "") -> None:
        """The node of a lease of an earlier scheduler had its time, or its driver (``only_of``) gives it back."""
        driver, held = self.doubtful.get(lease, ("", None))
        if held is None or only_of not in ("", driver):
            return
        del self.doubtful[lease]
        if lease not in self.book.leases:
            self.ended_foreign.add(lease)
            self.doubt(driver, held)

    def drain(self, node: Node) -> None:
        """No more leases on ``node``; those that it has are wanted back, and then it may leave."""
        if not node.draining:
            self.book.placement.drain(node)
        if not node.knows_of_drain:
            self.effects.append(ToAgent(node.name, to_agent.Drain()))
        for lease in node.leases.values():
            if lease.state in (LeaseState.ACTIVE, LeaseState.BLOCKED):
                self.tell(lease.driver, to_driver.LeaseWanted(lease.name, lease.pool.name))
        self.retire_if_drained(node)
        self.refuse_infeasible()

    def tell_drained(self, node: Node, problem: str = "") -> None:
        """Answer the operators who want ``node`` drained: it knows, so every later scheduler will; or it is gone."""
        for operator in sorted(node.drained_by):
            self.effects.append(ToOperator(operator, DrainAnswer(node.name, len(node.leases), problem)))
        node.drained_by.clear()

    def retire_if_drained(self, node: Node) -> None:
        if node.draining and not node.leases:
            successor = self.successor_of(node)
            if successor is None:
                node.refused_by.clear()  # who had no room may have some when it asks again
            where = ("", "") if successor is None else (successor.name, successor.site_endpoint)
            self.effects.append(ToAgent(node.name, to_agent.Retire(*where)))

    def grow_careful(self, node: Node) -> None:
        """Memory ran short on ``node`` and a worker had to go: nobody, of whichever pool, takes its place for now."""
        if node.most_cpus is None:
            node.busy_cpus = node.used_cpus + 1
        node.most_cpus = max(1.0, node.used_cpus)
        self._arm_caution(node)

    def grow_bolder(self, name: str) -> None:
        """Memory has not run short there for a while: one CPU more, and in the end as many as there are."""
        node = self.book.nodes.get(name)
        if node is None or node.most_cpus is None or node.cautious_until > self.now:
            return
        node.most_cpus += 1
        if node.most_cpus > node.busy_cpus - EPSILON:
            node.most_cpus = None
        else:
            self._arm_caution(node)
        self.book.has_room(node)

    def _arm_caution(self, node: Node) -> None:
        node.cautious_until = self.now + _CAUTION_S
        heapq.heappush(self.timers, (node.cautious_until, "memory", node.name))

    def expect_back(self, node: Node) -> None:
        """A node was lost or stopped: for a while it counts among those that may come."""
        self.book.placement.set_offers(node.name, (NodeOffer(node.capacity, 1),))
        self.expected_until[node.name] = self.now + _RETURN_S
        heapq.heappush(self.timers, (self.now + _RETURN_S, "return", node.name))

    def give_up_on(self, node: str) -> None:
        """A node that was lost has had its time to come back, unless it came and was lost again meanwhile."""
        if self.expected_until.get(node, self.now) > self.now:
            return
        self.expected_until.pop(node, None)
        self.book.placement.set_offers(node, ())
        self.refuse_infeasible()

    def note_predecessor(self) -> None:
        """Somebody has dealt with a scheduler before this one: its nodes are about to say hello."""
        if not self._has_predecessor:
            self._has_predecessor = True
            self.expect_nodes(_RETURN_S)

    def expect_nodes(self, for_s: float) -> None:
        """Nodes of which nothing is known yet may come: what could be met by one of them waits so long."""
        self.expected_until[_ALL_NODES] = self.now + for_s
        heapq.heappush(self.timers, (self.now + for_s, "return", _ALL_NODES))

    def refuse_infeasible(self, only: Iterable[Demand] | None = None) -> None:
        """Answer demands that can never be met."""
        any_node = _ALL_NODES in self.expected_until
        for demand in list(self.book.unmet if only is None else only):
            pool, shape, driver = demand.member.pool, demand.shape, demand.member.driver
            reason = self.book.infeasible(pool, shape, any_node=any_node) if demand.wanted else ""
            if reason:
                self.book.set_wanted(demand.member, shape, 0)
                self.tell(driver, to_driver.DemandInfeasible(pool.name, shape, reason))

    def came_up(self, lease: Lease) -> None:
        """A worker is up: its driver may have it; of a gang, when all are."""
        for member in [lease] if lease.gang is None else lease.gang.leases:
            self.announce(member)

    def announce(self, lease: Lease) -> None:
        """Tell the driver of a worker that is up."""
        if lease.gang is not None and not lease.gang.complete:
            return
        self.tell(
            lease.driver,
            to_driver.LeaseGranted(
                lease.name,
                lease.pool.name,
                lease.shape,
                lease.node.name,
                lease.worker,
                lease.endpoint,
                lease.pid,
                lease.ordinal,
                # On a machine of its own a program that asks for no GPU finds what it would find without us.
                None if lease.node.elastic_cpus and not lease.shape.num_gpus else ",".join(lease.gpus),
                None if lease.gang is None else lease.gang.seat(lease.rank),
                lease.node.host,
            ),
        )
        node = lease.node
        if node.draining or node.reserved_for not in (None, lease.shape):  # since its worker was asked for
            self.tell(lease.driver, to_driver.LeaseWanted(lease.name, lease.pool.name))

    def stop(self, lease: Lease, grace_s: float, terminate: bool = False) -> None:
        # Said again to a worker that is already ending, since the grace may be shorter now.
        if lease.state in HELD:
            self.book.set_state(lease, LeaseState.STOPPING)
        self.effects.append(ToAgent(lease.node.name, to_agent.StopWorker(lease.name, grace_s, terminate)))

    def lease_lost(self, lease: Lease, reason: str) -> None:
        """Nobody saw its worker end, and nobody can tell whether it has."""
        self.lease_ended(lease, UNKNOWN_EXIT_CODE, reason, lost=True)

    def lease_ended(
        self,
        lease: Lease,
        exit_code: int,
        reason: str,
        stderr_tail: str = "",
        peak_rss_bytes: int = 0,
        *,
        lost: bool = False,
        shortage: str = "",
    ) -> None:
        if not self.is_own(lease.name):
            self.ended_foreign.add(lease.name)
        self.book.set_state(lease, LeaseState.ENDED)
        self.tell(
            lease.driver,
            to_driver.LeaseEnded(
                lease.name,
                lease.pool.name,
                lease.shape,
                lease.pid,
                exit_code,
                reason,
                stderr_tail,
                peak_rss_bytes,
                lost,
                shortage,
            ),
        )
        if not lost:  # what may live on, out of reach, has left nothing yet
            self._leave_all(lease)
        for child in list(lease.children):
            self.driver_lost(child, kill=True)
        for other in lease.gang.leases if lease.gang is not None else ():
            if other.state in HELD:
                self.stop(other, _GANG_GRACE_S, terminate=True)
        self.retire_if_drained(lease.node)

    def _leave_all(self, lease: Lease) -> None:
        """Its worker is gone, and with it the drivers that ran there: see to what they and their own workers leave."""
        heirs = self.book.heirs(lease)
        self._leave(lease.worker, lease.node.name, heirs, told=bool(lease.heirs))
        for child in lease.children:
            nested = self.book.drivers[child]
            for worker, node in nested.ended:
                self._leave(worker, node, heirs, told=True)
            for pool in nested.pools.values():
                for left in pool.members[child].leases.values():
                    left.heirs = heirs

    def _leave(self, worker: str, node: str, heirs: tuple[str, ...], *, told: bool) -> None:
        """A worker is gone; the nearest of ``heirs`` that lives sees to what it made, and is ``told`` if it is not the
        worker's own driver."""
        heir = next((self.book.drivers[name] for name in heirs if name in self.book.drivers), None)
        if heir is None or not worker:
            return
        if heir.parent_lease:
            heir.ended.append((worker, node))
        if told:
            self.tell(heir.name, to_driver.WorkerLeft(worker, node))

    def driver_lost(self, name: str, *, kill: bool) -> None:
        driver = self.book.drivers.get(name)
        if driver is None:
            return
        for pool in list(driver.pools.values()):
            # One that said goodbye has given those workers that are already ending the time that it meant to give.
            if pool.owner == name:
                self.close_pool(pool, 0.0, shorten=kill)
            else:
                self.leave_pool(pool, driver, 0.0, shorten=kill)
        self.book.remove_driver(driver)

    def close_pool(self, pool: Pool, grace_s: float, *, shorten: bool = True) -> None:
        pool.closed = True
        for name in list(pool.members):
            driver = self.book.drivers.get(name)
            if driver is not None:
                self.leave_pool(pool, driver, grace_s, shorten=shorten)
        self.book.drop_pool_if_done(pool)

    def leave_pool(self, pool: Pool, driver: Driver, grace_s: float, *, shorten: bool = True) -> None:
        for lease in list(pool.members[driver.name].leases.values()):
            if shorten or lease.state is not LeaseState.STOPPING:
                self.stop(lease, grace_s)
        self.book.leave(pool, driver)
