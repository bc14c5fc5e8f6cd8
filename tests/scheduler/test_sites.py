"""Where a site is, and who may have copies of what one had that is gone."""

from __future__ import annotations

from distpool.scheduler.events import AgentSaid, OperatorSaid, ToAgent, ToDriver, ToOperator
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.operator_to_scheduler import DrainNode
from distpool.wire.scheduler_to_operator import DrainAnswer
from tests.scheduler.harness import ONE, Scheduler

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
    assert ToOperator("o", DrainAnswer("a", 0, last=True)) in effects
    hello = from_agent.AgentHello(
        codec.PROTOCOL, codec.PYTHON, __version__, "b", "b", ONE, elastic_cpus=False, site_endpoint="tcp://b:1"
    )
    assert ToAgent("a", to_agent.Retire("b", "tcp://b:1")) in scheduler.handle(AgentSaid("b", hello))
