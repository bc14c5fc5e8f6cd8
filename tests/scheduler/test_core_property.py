"""The scheduler core under any order of events: the books always balance, and demand that can be met is met."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distpool.scheduler.capacity import EPSILON
from distpool.scheduler.events import OperatorSaid
from distpool.scheduler.state import LeaseState
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import operator_to_scheduler as from_operator
from distpool.wire.resources import Shape
from tests.scheduler.harness import Scheduler

_NODES = st.sampled_from(["n1", "n2", "n3"])
_DRIVERS = st.sampled_from(["d1", "d2", "d3", "d4"])
_POOLS = st.sampled_from(["p1", "p2"])
_SHAPES = st.sampled_from([Shape(), Shape(2.0), Shape(0.5), Shape(1.0, 0.5), Shape(pack=True)])


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        for name in ("n1", "n2"):
            self.scheduler.node(name, 4, num_gpus=1.0)
        for driver, pool in (("d1", "p1"), ("d2", "p2")):
            self.scheduler.driver(driver)
            self.scheduler.open(pool, 6, driver)

    @rule(name=_NODES, cpus=st.integers(1, 4), gpus=st.integers(0, 1), elastic=st.booleans())
    def node(self, name: str, cpus: int, gpus: int, elastic: bool) -> None:
        self.scheduler.node(name, cpus, elastic=elastic, num_gpus=float(gpus))

    @rule(what=st.sampled_from(["drain", "lose node", "lose driver", "goodbye", "close"]), data=st.data())
    def part(self, what: str, data: st.DataObject) -> None:
        """Somebody leaves; one rule for all, or nothing would live long enough for anything to happen."""
        if what == "drain":
            drain = from_operator.DrainNode(codec.PROTOCOL, data.draw(_NODES))
            self.scheduler.handle(OperatorSaid("o", drain))
        elif what == "lose node":
            self.scheduler.lose_node(data.draw(_NODES))
        elif what == "lose driver":
            self.scheduler.lose_driver(data.draw(_DRIVERS))
        elif what == "goodbye":
            self.scheduler.say(from_driver.DriverGoodbye(), data.draw(_DRIVERS))
        else:
            grace_s = data.draw(st.sampled_from([0.0, 1.0]))
            self.scheduler.say(from_driver.ClosePool(data.draw(_POOLS), grace_s), data.draw(_DRIVERS))

    @rule(name=_DRIVERS, data=st.data(), watched=st.booleans())
    def driver(self, name: str, data: st.DataObject, watched: bool) -> None:
        leases = [""] + [
            lease.name for lease in self.scheduler.core.book.leases.values() if lease.state is not LeaseState.STARTING
        ]
        known = self.scheduler.core.book.drivers.get(name)
        parent = known.parent_lease if known else data.draw(st.sampled_from(leases))
        self.scheduler.driver(name, parent=parent, watched=watched)

    @rule(name=_DRIVERS, pool=_POOLS, slots=st.integers(1, 6))
    def open_pool(self, name: str, pool: str, slots: int) -> None:
        # An owner does not shrink its pool; opening again says the same again.
        known = self.scheduler.core.book.pools.get(pool)
        self.scheduler.open(pool, known.slots if known and known.owner else slots, name)

    @rule(name=_DRIVERS, pool=_POOLS)
    def join_pool(self, name: str, pool: str) -> None:
        self.scheduler.say(from_driver.JoinPool(pool), name)

    @rule(data=st.data(), shape=_SHAPES, workers=st.integers(0, 8))
    def demand(self, data: st.DataObject, shape: Shape, workers: int) -> None:
        self._want(data, shape, workers)

    @rule(data=st.data(), gangs=st.integers(0, 2), size=st.integers(2, 3), pack=st.booleans())
    def gang(self, data: st.DataObject, gangs: int, size: int, pack: bool) -> None:
        self._want(data, Shape(pack=pack, gang=size), gangs * size)

    def _want(self, data: st.DataObject, shape: Shape, workers: int) -> None:
        pools = self.scheduler.core.book.pools.values()
        members = sorted((name, pool.name) for pool in pools for name in pool.members)
        name, pool = data.draw(st.sampled_from(members or [("d1", "p1")]))
        self.scheduler.want(workers, pool, name, shape)

    @precondition(lambda self: self.scheduler.core.book.leases)
    @rule()
    def all_ready(self) -> None:
        for lease in list(self.scheduler.core.book.leases.values()):
            self.scheduler.ready(lease.name, lease.node.name)

    @precondition(lambda self: self.scheduler.core.book.leases)
    @rule(data=st.data(), what=st.sampled_from(["ready", "exited", "blocked", "unblocked", "return"]))
    def lease(self, data: st.DataObject, what: str) -> None:
        lease = self.scheduler.core.book.leases[data.draw(st.sampled_from(sorted(self.scheduler.core.book.leases)))]
        name, node = lease.name, lease.node.name
        if what == "ready":
            self.scheduler.ready(name, node)
        elif what == "exited":
            self.scheduler.exited(name, node, -9)
        elif what == "blocked":
            self.scheduler.agent_says(from_agent.LeaseBlocked(name), node)
        elif what == "unblocked":
            self.scheduler.agent_says(from_agent.LeaseUnblocked(name), node)
        else:
            self.scheduler.say(from_driver.ReturnLease(name, 0.0), lease.driver)

    @rule(passed_s=st.sampled_from([0.01, 0.5, 20.0]))
    def time(self, passed_s: float) -> None:
        self.scheduler.time(self.scheduler.now + passed_s)

    @invariant()
    def demand_that_can_be_met_is_met(self) -> None:
        for demand in self.scheduler.core.book.unmet:
            pool = demand.member.pool
            if pool.parked or pool.used_cpus + demand.at_once > pool.slots + EPSILON:
                continue
            book = self.scheduler.core.book
            if demand.shape.gang:
                assert book.placement.find_gang(demand.shape) is None, f"{demand.shape} waits although there is room"
            fits = any(node.fits(demand.shape) for node in book.nodes.values())
            assert demand.shape.gang or not fits, f"{demand.shape} waits although there is room"


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
