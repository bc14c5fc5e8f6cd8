"""Where a site is, and who may have copies of what one had that is gone."""

from __future__ import annotations

from distpool.scheduler.events import OperatorSaid, ToAgent, ToDriver, ToOperator
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.operator_to_scheduler import DrainNode
from distpool.wire.scheduler_to_operator import DrainAnswer
from tests.scheduler.harness import Scheduler

_DRIVER, _OTHER = "d-0123456789ab", "d-ba9876543210"


def test_all_but_the_seeker_are_asked_for_copies() -> None:
    scheduler = Scheduler()
    for node in "abc":
        scheduler.node(node)
    for driver in (_DRIVER, _OTHER):
        scheduler.driver(driver)
    for seeker, effects in (
        ("b", scheduler.agent_says(from_agent.SiteWanted("gone", copies=True), "b")),
        (_DRIVER, scheduler.say(from_driver.SiteWanted("gone", copies=True), _DRIVER)),
    ):
        nodes = [ToAgent(name, to_agent.CopiesWanted("gone", seeker)) for name in "abc" if name != seeker]
        drivers = [
            ToDriver(name, to_driver.CopiesWanted("gone", seeker)) for name in (_DRIVER, _OTHER) if name != seeker
        ]
        assert effects == nodes + drivers


def test_a_site_that_is_gone_is_nowhere() -> None:
    scheduler = Scheduler()
    scheduler.node("a")
    scheduler.now = 60.0
    scheduler.node("a")
    gone = scheduler.agent_says(from_agent.SiteWanted("gone"), "a")
    assert gone == [ToAgent("a", to_agent.SiteAt("gone", "", ""))]


def test_who_joins_takes_over_what_a_drained_last_node_has() -> None:
    scheduler = Scheduler()
    scheduler.node("a")
    effects = scheduler.handle(OperatorSaid("o", DrainNode(codec.PROTOCOL, "a")))
    assert ToAgent("a", to_agent.Retire("", "")) in effects
    effects = scheduler.agent_says(from_agent.Draining(), "a")
    assert ToOperator("o", DrainAnswer("a", 0)) in effects
    assert ToAgent("a", to_agent.Retire("b", "tcp://b:1")) in scheduler.node("b", site_endpoint="tcp://b:1")


def test_who_cannot_take_over_is_asked_again_after_all_others() -> None:
    scheduler = Scheduler()
    scheduler.node("a", site_endpoint="tcp://a:1")
    for name, memory_bytes in (("b", 2), ("c", 3)):
        scheduler.node(name, site_endpoint=f"tcp://{name}:1", memory_bytes=memory_bytes)
    effects = scheduler.handle(OperatorSaid("o", DrainNode(codec.PROTOCOL, "a")))
    chosen = []
    for _ in range(5):
        [retire] = [
            effect.message for effect in effects if isinstance(getattr(effect, "message", None), to_agent.Retire)
        ]
        chosen.append(retire.successor)
        effects = scheduler.agent_says(from_agent.SuccessorFailed(retire.successor), "a")
    assert chosen == ["c", "b", "", "c", "b"]


def test_nodes_that_leave_hear_that_their_successor_is_lost_and_are_given_another() -> None:
    scheduler = Scheduler()
    for name, memory_bytes in (("a", 1), ("b", 2), ("c", 3)):
        scheduler.node(name, site_endpoint=f"tcp://{name}:1", memory_bytes=memory_bytes)
    effects = scheduler.handle(OperatorSaid("o", DrainNode(codec.PROTOCOL, "a")))
    assert ToAgent("a", to_agent.Retire("c", "tcp://c:1")) in effects
    assert scheduler.lose_node("c") == [ToAgent("a", to_agent.SiteAt("c", "", ""))]
    effects = scheduler.agent_says(from_agent.SuccessorFailed("c"), "a")
    assert effects == [ToAgent("a", to_agent.Retire("b", "tcp://b:1"))]


def test_a_restarted_scheduler_learns_who_stands_for_whom() -> None:
    scheduler = Scheduler("new")
    scheduler.node("b", site_endpoint="tcp://b:1", stands_for=("a", "z"))
    for gone in "az":
        assert scheduler.agent_says(from_agent.SiteWanted(gone), "b") == [
            ToAgent("b", to_agent.SiteAt(gone, "b", "tcp://b:1"))
        ]
    scheduler.node("a", site_endpoint="tcp://a:1")  # it is back, or another of its name
    assert scheduler.agent_says(from_agent.SiteWanted("a"), "b") == [
        ToAgent("b", to_agent.SiteAt("a", "a", "tcp://a:1"))
    ]


def test_what_does_not_drain_says_nothing_of_successors() -> None:
    scheduler = Scheduler()
    scheduler.node("a", site_endpoint="tcp://a:1")
    scheduler.node("b", site_endpoint="tcp://b:1")
    assert scheduler.agent_says(from_agent.SuccessorFailed("b"), "a") == []
    assert not scheduler.core.book.nodes["a"].refused_by
