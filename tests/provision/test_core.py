"""When machines are started and ended, against a real scheduler core on a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from distpool.provision.core import AutoscalerCore, Drain, Looked, Refused, Release, Start
from distpool.provision.interface import Machine, NodeType, Phase
from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.events import AgentSaid, DriverSaid, OperatorSaid, ToAgent, ToOperator
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import operator_to_scheduler as from_operator
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire.resources import NodeOffer, Shape

ONE = Shape()
SMALL = NodeType("small", Shape(4.0), most=20, start_s=3.0, price=1.0)
BIG = NodeType("big", Shape(16.0, 2.0), most=2, start_s=10.0, price=5.0)


class World:
    """A scheduler, an autoscaler, machines that take as long to start as their types say, one driver."""

    def __init__(self, types: tuple[NodeType, ...] = (SMALL, BIG), **options: Any) -> None:
        self.now = 0.0
        self.scheduler = SchedulerCore("test", "k", silence_s=10.0)
        self.core = AutoscalerCore(types, "auto", **options)
        self.types = {kind.name: kind for kind in types}
        #: name → (type, when it joins)
        self.machines: dict[str, tuple[str, float]] = {}
        #: what the engine says of machines of which there is more to say than that they run
        self.phases: dict[str, Machine] = {}
        self.joined: set[str] = set()
        self.history: list[Any] = []
        #: types that are refused
        self.refused: set[str] = set()
        #: types that never come up
        self.broken: set[str] = set()
        self.tell(DriverSaid("d", from_driver.DriverHello(codec.PROTOCOL, codec.PYTHON, __version__, "h", 1), True))
        self.tell(DriverSaid("d", from_driver.OpenPool("p", 1000.0)))

    def tell(self, event: Any) -> list[Any]:
        effects = self.scheduler.handle(event, self.now)
        self.scheduler.check_invariants()
        for effect in effects:
            if isinstance(effect, ToAgent):
                self._agent(effect.node, effect.message)
        return effects

    def want(self, workers: int, shape: Shape = ONE) -> list[Any]:
        return self.tell(DriverSaid("d", from_driver.Demand("p", shape, workers)))

    def give_back_all(self) -> None:
        for lease in list(self.scheduler.book.leases):
            self.tell(DriverSaid("d", from_driver.ReturnLease(lease, 0.0)))

    def _agent(self, node: str, message: Any) -> None:
        if isinstance(message, to_agent.StartWorker):
            self.tell(AgentSaid(node, from_agent.WorkerReady(message.lease, "w", "e", 1)))
        elif isinstance(message, to_agent.StopWorker):
            self.tell(AgentSaid(node, from_agent.WorkerExited(message.lease, 1, 0)))
        elif isinstance(message, to_agent.Retire):
            self.tell(AgentSaid(node, from_agent.AgentGoodbye()))
            self.joined.discard(node)

    def step(self) -> list[Any]:
        """One second."""
        self.now += 1.0
        for node in sorted(self.joined):
            self.tell(AgentSaid(node, from_agent.AgentHeartbeat(0)))
        for node, (name, at) in list(self.machines.items()):
            if at <= self.now and node not in self.joined and name not in self.broken and at >= 0:
                self.machines[node] = (name, -1.0)
                self.joined.add(node)
                hello = from_agent.AgentHello(
                    codec.PROTOCOL, codec.PYTHON, __version__, node, node, self.types[name].capacity, elastic_cpus=False
                )
                self.tell(AgentSaid(node, hello))
        asked = from_operator.LoadWanted(codec.PROTOCOL, self.core.offers())
        [answer] = [e.message for e in self.tell(OperatorSaid("o", asked)) if isinstance(e, ToOperator)]
        seen = {node: self.phases.get(node, Machine(name)) for node, (name, _) in self.machines.items()}
        effects = self.core.handle(Looked(answer, seen), self.now)
        for effect in effects:
            if isinstance(effect, Start):
                if effect.node_type in self.refused:
                    self.core.handle(Refused(effect.node), self.now)
                else:
                    self.machines[effect.node] = (effect.node_type, self.now + self.types[effect.node_type].start_s)
            elif isinstance(effect, Drain):
                self.tell(OperatorSaid("o", from_operator.DrainNode(codec.PROTOCOL, effect.node)))
            else:
                assert isinstance(effect, Release)
                del self.machines[effect.node]
                if effect.node in self.joined:
                    self.joined.discard(effect.node)
        self.history += effects
        return effects

    def run(self, seconds: int) -> list[Any]:
        effects = []
        for _ in range(seconds):
            effects += self.step()
        return effects

    def kinds(self) -> list[str]:
        return sorted(name for name, _ in self.machines.values())


def test_demand_brings_as_many_machines_as_it_needs_and_no_more() -> None:
    world = World(most=10, idle_s=30.0)
    world.want(10)
    effects = world.run(20)
    assert [effect.node_type for effect in effects if isinstance(effect, Start)] == ["small"] * 3
    assert len(world.scheduler.book.leases) == 10


def test_a_short_need_starts_nothing() -> None:
    world = World(patience_s=5.0)
    world.want(3)
    world.run(3)
    world.want(0)
    assert world.run(10) == []


def test_idle_machines_are_drained_and_released_down_to_the_least() -> None:
    world = World(least=1, idle_s=30.0)
    world.want(12)
    world.run(10)
    assert len(world.joined) == 3
    world.want(0)
    world.give_back_all()
    assert [type(effect) for effect in world.run(28)] == []
    world.run(10)
    assert len(world.machines) == 1
    assert world.run(200) == []


def test_running_work_is_never_ended_by_fewer_nodes() -> None:
    world = World(idle_s=10.0)
    world.want(8)
    world.run(10)
    keep = next(iter(world.scheduler.book.leases))
    node = world.scheduler.book.leases[keep].node.name
    world.want(1)
    for lease in list(world.scheduler.book.leases):
        if lease != keep:
            world.tell(DriverSaid("d", from_driver.ReturnLease(lease, 0.0)))
    world.run(60)
    assert list(world.machines) == [node]
    assert keep in world.scheduler.book.leases


def test_need_that_comes_and_goes_quickly_does_not_make_machines_come_and_go() -> None:
    world = World(idle_s=30.0)
    for _ in range(20):
        world.want(8)
        world.run(10)
        world.want(0)
        world.give_back_all()
        world.run(10)
    assert [type(effect) for effect in world.history] == [Start, Start]


def test_never_more_than_the_most() -> None:
    world = World(most=3)
    world.want(1000)
    world.run(100)
    assert len(world.machines) == 3


def test_the_least_is_there_without_any_need() -> None:
    world = World(least=2)
    world.run(10)
    assert len(world.joined) == 2
    assert world.kinds() == ["small", "small"]


def test_what_only_a_dear_machine_has_brings_a_dear_machine() -> None:
    world = World()
    world.want(2, Shape(1.0, 1.0))
    world.want(3)
    world.run(30)
    # The three fit beside the two.
    assert world.kinds() == ["big"]
    assert len(world.scheduler.book.leases) == 5


def test_a_gang_brings_all_that_it_needs_or_nothing() -> None:
    world = World(most=4)
    world.want(16, Shape(gang=16))
    world.run(30)
    assert len(world.scheduler.book.leases) == 16
    too_wide = World((SMALL,), most=3)
    too_wide.want(16, Shape(gang=16))
    assert too_wide.run(30) == []


def test_what_no_machine_could_serve_brings_none() -> None:
    world = World()
    world.want(1, Shape(64.0))
    assert world.run(30) == []


def test_machines_that_are_refused_are_tried_ever_more_rarely_and_another_kind_takes_their_place() -> None:
    world = World()
    world.refused = {"small"}
    world.want(4)
    effects = world.run(100)
    assert world.kinds() == ["big"]
    assert [effect.node_type for effect in effects if isinstance(effect, Start)] == ["small", "big"]


def test_machines_that_do_not_come_are_released_and_no_longer_promised() -> None:
    world = World((SMALL,))
    world.broken = {"small"}
    world.want(4)
    world.run(400)
    starts = sum(1 for effect in world.history if isinstance(effect, Start))
    assert 3 <= starts <= 8
    assert starts - sum(1 for effect in world.history if isinstance(effect, Release)) <= 1
    assert world.core.offers() == ()


def test_a_machine_that_does_not_come_is_promised_again_while_it_is_released() -> None:
    only_one = replace(BIG, most=1)
    world = World((SMALL, only_one), least=1)
    world.broken = {"big"}
    world.run(10)
    world.want(1, Shape(1.0, 1.0))
    while not any(isinstance(effect, Release) for effect in world.history):
        world.step()
    assert NodeOffer(only_one.capacity, 1) in world.core.offers()
    world.step()
    assert len(world.scheduler.book.unmet) == 1


def test_a_machine_that_is_lost_is_replaced() -> None:
    world = World()
    world.want(4)
    world.run(10)
    [node] = world.joined
    world.joined.discard(node)
    world.run(100)
    assert node not in world.machines
    assert len(world.scheduler.book.leases) == 4


def test_a_machine_that_is_queued_is_not_late() -> None:
    world = World(types=(SMALL,), most=3)
    world.broken.add("small")
    world.want(4)
    world.run(3)
    [node] = world.machines
    world.phases[node] = Machine("small", Phase.QUEUED, "Resources")
    assert world.run(1000) == []
    assert world.core.wanted() == 1
    assert world.core.joined() == []
    del world.phases[node]
    assert Release(node) in world.run(60)


def test_what_has_failed_is_released_and_asked_for_again_unless_that_is_hopeless() -> None:
    world = World(types=(SMALL,), most=1)
    world.broken.add("small")
    world.want(4)
    world.run(3)
    [node] = world.machines
    world.phases[node] = Machine("small", Phase.FAILED, "it said no")
    assert world.run(1) == [Release(node)]
    assert not world.core.hopeless()
    world.run(10)
    [node] = world.machines
    world.phases[node] = Machine("small", Phase.FAILED, "no such account", hopeless=True)
    assert world.run(1) == [Release(node)]
    assert world.core.hopeless()
    assert world.core.offers() == ()


def test_a_capacity_that_is_not_known_is_learned_from_the_first_machine() -> None:
    world = World(types=(SMALL,), most=5, least=1)
    world.core = AutoscalerCore([NodeType("small", Shape(-1.0, -1.0, -1), most=5)], "auto", 1, 5)
    assert world.core.promised_cpus() == 5.0
    world.run(10)
    assert world.core.promised_cpus() == 20.0
    world.want(12)
    world.run(10)
    assert len(world.joined) == 3


def test_machines_of_an_earlier_run_are_taken_over() -> None:
    world = World(idle_s=10.0)
    world.machines["old-1"] = ("small", 0.0)
    world.run(2)
    assert world.joined == {"old-1"}
    world.run(30)
    assert not world.machines


class Life(RuleBasedStateMachine):
    """Whatever happens: never more than the most, and what can be served is served in the end."""

    @initialize(least=st.integers(0, 2), more=st.integers(0, 4))
    def begin(self, least: int, more: int) -> None:
        self.least = least
        self.world = World((SMALL, BIG), least=least, most=least + more, idle_s=20.0)

    @rule(workers=st.integers(0, 40), shape=st.sampled_from([ONE, Shape(2.0), Shape(1.0, 1.0), Shape(gang=6)]))
    def want(self, workers: int, shape: Shape) -> None:
        self.world.want(workers - workers % max(1, shape.gang), shape)

    @rule()
    def give_back(self) -> None:
        self.world.give_back_all()

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.world.run(seconds)

    @rule(pick=st.randoms(use_true_random=False))
    def lose(self, pick: Any) -> None:
        if self.world.joined:
            self.world.joined.discard(pick.choice(sorted(self.world.joined)))

    @rule(refused=st.sets(st.sampled_from(["small", "big"])))
    def refuse(self, refused: set[str]) -> None:
        self.world.refused = refused

    @invariant()
    def within_bounds(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.machines) <= self.world.core._most

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.refused = set()
        world.run(1500)
        assert len(world.joined) >= self.least
        for shape in (ONE, Shape(2.0), Shape(1.0, 1.0), Shape(gang=6)):
            world.want(0, shape)
        world.give_back_all()
        world.run(400)
        assert len(world.machines) == self.least, "idle machines are left"
        quiet = len(world.history)
        world.run(200)
        assert len(world.history) == quiet, "machines come and go without any need"


Life.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestLife = Life.TestCase


@pytest.mark.parametrize("looks", [0, 1])
def test_it_looks_every_second(looks: int) -> None:
    world = World()
    world.run(looks)
    assert world.core.next_deadline() == (2.0 if looks else None)
