"""The scheduler core under any order of events: the books always balance, and demand that can be met is met."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distpool.scheduler.capacity import EPSILON
from distpool.scheduler.state import LeaseState
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire.resources import Shape
from tests.scheduler.harness import Scheduler

_NODES = st.sampled_from(["n1", "n2", "n3"])
_DRIVERS = st.sampled_from(["d1", "d2", "d3", "d4"])
_POOLS = st.sampled_from(["p1", "p2"])
_SHAPES = st.sampled_from([Shape(), Shape(2.0), Shape(0.5), Shape(1.0, 1.0)])


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()

    @rule(name=_NODES, cpus=st.integers(1, 4), gpus=st.integers(0, 1), elastic=st.booleans())
    def node(self, name: str, cpus: int, gpus: int, elastic: bool) -> None:
        self.scheduler.node(name, cpus, elastic=elastic, num_gpus=float(gpus))

    @rule(name=_NODES)
    def lose_node(self, name: str) -> None:
        self.scheduler.lose_node(name)

    @rule(name=_DRIVERS, data=st.data(), watched=st.booleans())
    def driver(self, name: str, data: st.DataObject, watched: bool) -> None:
        leases = [""] + [
            lease.name for lease in self.scheduler.core.book.leases.values() if lease.state is not LeaseState.STARTING
        ]
        known = self.scheduler.core.book.drivers.get(name)
        parent = known.parent_lease if known else data.draw(st.sampled_from(leases))
        self.scheduler.driver(name, parent=parent, watched=watched)

    @rule(name=_DRIVERS)
    def lose_driver(self, name: str) -> None:
        self.scheduler.lose_driver(name)

    @rule(name=_DRIVERS)
    def goodbye(self, name: str) -> None:
        self.scheduler.say(from_driver.DriverGoodbye(), name)

    @rule(name=_DRIVERS, pool=_POOLS, slots=st.integers(1, 6))
    def open_pool(self, name: str, pool: str, slots: int) -> None:
        # An owner does not shrink its pool; opening again says the same again.
        known = self.scheduler.core.book.pools.get(pool)
        self.scheduler.open(pool, known.slots if known and known.owner else slots, name)

    @rule(name=_DRIVERS, pool=_POOLS)
    def join_pool(self, name: str, pool: str) -> None:
        self.scheduler.say(from_driver.JoinPool(pool), name)

    @rule(name=_DRIVERS, pool=_POOLS, grace_s=st.sampled_from([0.0, 1.0]))
    def close_pool(self, name: str, pool: str, grace_s: float) -> None:
        self.scheduler.say(from_driver.ClosePool(pool, grace_s), name)

    @rule(name=_DRIVERS, pool=_POOLS, shape=_SHAPES, workers=st.integers(0, 8))
    def demand(self, name: str, pool: str, shape: Shape, workers: int) -> None:
        self.scheduler.want(workers, pool, name, shape)

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
            if pool.parked or pool.used_cpus + demand.shape.num_cpus > pool.slots + EPSILON:
                continue
            nodes = self.scheduler.core.book.nodes.values()
            assert not any(node.fits(demand.shape) for node in nodes), f"{demand.shape} waits although there is room"


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
