"""Drains, nodes on offer, and what the scheduler says about demand and idle nodes."""

from __future__ import annotations

from typing import Any

import pytest

from distpool.scheduler.events import OperatorSaid, ToAgent, ToOperator
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import operator_to_scheduler as from_operator
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire import scheduler_to_operator as to_operator
from distpool.wire.resources import NodeOffer, Shape
from tests.scheduler.harness import ONE, TWO, Scheduler, live, started, told

GPU = Shape(1.0, 1.0)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.node("a", 2)
    scheduler.node("b", 2)
    scheduler.driver()
    scheduler.open(slots=100)
    return scheduler


def operate(scheduler: Scheduler, message: Any, operator: str = "o") -> Any:
    [answer] = [
        effect.message
        for effect in scheduler.handle(OperatorSaid(operator, message))
        if isinstance(effect, ToOperator) and effect.operator == operator
    ]
    return answer


def drain(scheduler: Scheduler, node: str) -> to_operator.DrainAnswer:
    """The node is told, and says that it knows."""
    effects = scheduler.handle(OperatorSaid("o", from_operator.DrainNode(codec.PROTOCOL, node)))
    if ToAgent(node, to_agent.Drain()) in effects:
        assert not answers(effects)
        effects = effects + scheduler.agent_says(from_agent.Draining(), node)
    scheduler.effects = effects
    [answer] = answers(effects)
    return answer


def answers(effects: list[Any]) -> list[to_operator.DrainAnswer]:
    return [effect.message for effect in effects if isinstance(effect, ToOperator) and effect.operator == "o"]


def load(scheduler: Scheduler, *offers: NodeOffer, operator: str = "o") -> to_operator.ClusterLoad:
    answer = operate(scheduler, from_operator.LoadWanted(codec.PROTOCOL, offers), operator)
    assert isinstance(answer, to_operator.ClusterLoad)
    return answer


def pass_time(scheduler: Scheduler, seconds: float) -> list[to_driver.DemandInfeasible]:
    """Nodes a and b go on living; what is refused meanwhile."""
    refused = []
    for _ in range(int(seconds)):
        scheduler.now += 1.0
        for name in ("a", "b"):
            refused += told(scheduler.agent_says(from_agent.AgentHeartbeat(0), name), to_driver.DemandInfeasible)
    return refused


def retired(effects: list[Any]) -> list[str]:
    return [e.node for e in effects if isinstance(e, ToAgent) and isinstance(e.message, to_agent.Retire)]


def test_a_drained_node_gets_nothing_more_and_leaves_after_its_last_worker(scheduler: Scheduler) -> None:
    scheduler.want(4)
    scheduler.ready_all()
    on_a = list(scheduler.core.book.nodes["a"].leases)
    assert drain(scheduler, "a") == to_operator.DrainAnswer("a", 2)
    assert ToAgent("a", to_agent.Drain()) in scheduler.effects
    assert [wanted.lease for wanted in told(scheduler.effects, to_driver.LeaseWanted)] == on_a
    scheduler.say(from_driver.ReturnLease(on_a[0], 1.0))
    assert started(scheduler.exited(on_a[0], "a")) == []
    assert not retired(scheduler.effects)
    scheduler.say(from_driver.ReturnLease(on_a[1], 1.0))
    assert retired(scheduler.exited(on_a[1], "a")) == ["a"]
    scheduler.agent_says(from_agent.AgentGoodbye(), "a")
    assert list(scheduler.core.book.nodes) == ["b"]
    assert len(scheduler.core.book.unmet) == 1


def test_an_idle_node_is_drained_at_once(scheduler: Scheduler) -> None:
    assert drain(scheduler, "a").workers == 0
    assert retired(scheduler.effects) == ["a"]
    # The answer may be lost: it can be said again.
    drain(scheduler, "a")
    assert retired(scheduler.effects) == ["a"]


def test_a_drain_is_no_more_than_begun_until_the_node_knows(scheduler: Scheduler) -> None:
    order = OperatorSaid("o", from_operator.DrainNode(codec.PROTOCOL, "a"))
    for _ in range(2):  # the first may have been lost on its way
        effects = scheduler.handle(order)
        assert ToAgent("a", to_agent.Drain()) in effects
        assert not answers(effects)
    effects = scheduler.node("a", 2)  # so it was: the node says hello again, and knows nothing
    assert ToAgent("a", to_agent.Drain()) in effects
    assert not answers(effects)
    effects = scheduler.node("a", 2, draining=True)  # now its answer was lost
    assert ToAgent("a", to_agent.Drain()) not in effects
    assert answers(effects) == [to_operator.DrainAnswer("a", 0)]
    scheduler.handle(OperatorSaid("o", from_operator.DrainNode(codec.PROTOCOL, "b")))
    assert "it is gone" in answers(scheduler.lose_node("b"))[0].problem


def test_a_worker_that_comes_up_on_a_draining_node_is_wanted_back(scheduler: Scheduler) -> None:
    scheduler.want(1)
    [lease] = started(scheduler.effects)
    drain(scheduler, "a")
    assert [wanted.lease for wanted in told(scheduler.ready(lease, "a"), to_driver.LeaseWanted)] == [lease]


def test_what_cannot_be_drained(scheduler: Scheduler) -> None:
    assert "the cluster's nodes are: a, b" in drain(scheduler, "c").problem
    scheduler.node("private", elastic=True)
    assert "private node" in drain(scheduler, "private").problem
    scheduler.node("head", head=True)
    assert "distpool stop" in drain(scheduler, "head").problem
    assert not scheduler.core.book.nodes["head"].draining


def test_a_restarted_scheduler_learns_of_a_drain_from_the_node() -> None:
    scheduler = Scheduler("new")
    leases = (live("old-1"),)
    hello = from_agent.AgentHello(
        codec.PROTOCOL,
        codec.PYTHON,
        __version__,
        "a",
        "a",
        Shape(2.0),
        elastic_cpus=False,
        leases=leases,
        draining=True,
    )
    scheduler.agent_says(hello, "a")
    effects = scheduler.driver(leases=["old-1"])
    assert told(effects, to_driver.LeaseWanted) == [to_driver.LeaseWanted("old-1", "p")]
    scheduler.open()
    assert started(scheduler.want(2)) == []


def test_what_only_a_draining_node_could_serve_is_refused(scheduler: Scheduler) -> None:
    scheduler.node("gpu", 2, num_gpus=1.0)
    scheduler.want(2, shape=GPU)
    drain(scheduler, "gpu")
    [refused] = told(scheduler.effects, to_driver.DemandInfeasible)
    assert "2 nodes with 2 CPUs" in refused.reason


def test_a_lost_node_is_waited_for_a_while(scheduler: Scheduler) -> None:
    scheduler.node("gpu", 2, num_gpus=1.0)
    scheduler.want(1, shape=GPU)
    scheduler.ready_all()
    assert told(scheduler.lose_node("gpu"), to_driver.DemandInfeasible) == []
    assert told(scheduler.want(2, shape=GPU), to_driver.DemandInfeasible) == []
    assert pass_time(scheduler, 30.0) == []
    assert len(started(scheduler.node("gpu", 2, num_gpus=1.0))) == 1
    scheduler.lose_node("gpu")
    assert pass_time(scheduler, 55.0) == []
    assert len(pass_time(scheduler, 10.0)) == 1
    assert not scheduler.core.book.unmet


def test_a_node_that_was_stopped_is_waited_for_like_one_that_was_lost(scheduler: Scheduler) -> None:
    scheduler.node("gpu", 2, num_gpus=1.0)
    scheduler.want(1, shape=GPU)
    scheduler.ready_all()
    scheduler.driver("other")
    scheduler.open("q", driver="other")
    scheduler.want(1, "q", "other", GPU)
    # It may be back in a moment: whoever restarts it wants nothing to fail for that.
    effects = scheduler.agent_says(from_agent.AgentGoodbye(), "gpu")
    assert not [effect for effect in effects if isinstance(effect.message, to_driver.DemandInfeasible)]
    assert len(pass_time(scheduler, 65.0)) == 1
    assert not scheduler.core.book.unmet


def test_what_only_a_drained_node_was_serving_is_refused_when_that_has_left(scheduler: Scheduler) -> None:
    scheduler.node("gpu", 2, num_gpus=1.0)
    scheduler.want(1, shape=GPU)
    [lease] = scheduler.ready_all()
    drain(scheduler, "gpu")
    assert told(scheduler.effects, to_driver.DemandInfeasible) == []
    # Its driver gives the worker back, and wants one as before.
    scheduler.say(from_driver.ReturnLease(lease, 0.0))
    scheduler.exited(lease, "gpu")
    assert told(scheduler.agent_says(from_agent.AgentGoodbye("a"), "gpu"), to_driver.DemandInfeasible)
    assert not scheduler.core.book.unmet


def test_what_could_be_started_is_waited_for(scheduler: Scheduler) -> None:
    offer = NodeOffer(Shape(8.0, 1.0), 2)
    load(scheduler, offer)
    assert told(scheduler.want(2, shape=GPU), to_driver.DemandInfeasible) == []
    assert told(scheduler.want(1, shape=Shape(1.0, 2.0)), to_driver.DemandInfeasible)
    scheduler.now = 4.0
    assert load(scheduler, offer).demand == (to_operator.UnmetDemand(GPU, 2, 4.0),)
    # As long as whoever can start nodes is there.
    effects = scheduler.handle(OperatorSaid("o", from_operator.OperatorGoodbye()))
    assert told(effects, to_driver.DemandInfeasible)


def test_what_is_not_offered_any_more_is_refused(scheduler: Scheduler) -> None:
    load(scheduler, NodeOffer(Shape(8.0, 1.0), 1), NodeOffer(Shape(8.0), 2))
    scheduler.want(1, shape=GPU)
    scheduler.want(1, shape=Shape(4.0))
    load(scheduler, NodeOffer(Shape(8.0), 2))
    [refused] = told(scheduler.effects, to_driver.DemandInfeasible)
    assert refused.shape == GPU
    load(scheduler)
    [refused] = told(scheduler.effects, to_driver.DemandInfeasible)
    assert refused.shape == Shape(4.0)


def test_an_operator_that_falls_silent_offers_nothing_any_more(scheduler: Scheduler) -> None:
    load(scheduler, NodeOffer(Shape(8.0, 1.0), 1))
    scheduler.want(1, shape=GPU)
    pass_time(scheduler, 9.0)
    load(scheduler, NodeOffer(Shape(8.0, 1.0), 1))
    assert pass_time(scheduler, 9.0) == []
    assert len(pass_time(scheduler, 2.0)) == 1


def test_demand_that_more_nodes_would_not_help_is_not_published(scheduler: Scheduler) -> None:
    scheduler.driver("d2")
    scheduler.open("small", 1, "d2")
    scheduler.want(5, "small", "d2")
    assert load(scheduler).demand == ()
    scheduler.now = 1.0
    scheduler.want(8)
    scheduler.want(1, shape=TWO)
    scheduler.now = 3.0
    demand = {unmet.shape: unmet for unmet in load(scheduler).demand}
    assert demand[ONE] == to_operator.UnmetDemand(ONE, 5, 2.0)
    assert demand[TWO] == to_operator.UnmetDemand(TWO, 1, 2.0)


def test_idle_nodes_are_published(scheduler: Scheduler) -> None:
    scheduler.want(1)
    [lease] = scheduler.ready_all()
    scheduler.now = 7.0
    a, b = load(scheduler).nodes
    assert (a.workers, a.idle_s) == (1, 0.0)
    assert (b.workers, b.idle_s, b.capacity, b.draining) == (0, 7.0, Shape(2.0), False)
    scheduler.want(0)
    scheduler.say(from_driver.ReturnLease(lease, 0.0))
    scheduler.exited(lease, "a")
    scheduler.now = 9.0
    assert load(scheduler).nodes[0].idle_s == 2.0


def test_another_protocol_is_refused(scheduler: Scheduler) -> None:
    answer = operate(scheduler, from_operator.LoadWanted(codec.PROTOCOL + 1))
    assert isinstance(answer, to_operator.OperatorRefused)
    assert "protocol" in answer.reason
