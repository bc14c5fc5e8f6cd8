"""Whoever needs much at once gets it, although others take whatever becomes free."""

from __future__ import annotations

from distpool.scheduler.events import OperatorSaid
from distpool.scheduler.reservation import KEEP_S, PATIENCE_S, PAUSE_S
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.operator_to_scheduler import LoadWanted
from distpool.wire.resources import NodeOffer, Shape
from tests.scheduler.harness import Scheduler, started, told

FOUR = Shape(gang=4)


def busy_cluster(nodes: int = 2) -> Scheduler:
    """One driver holds all of it, and wants more."""
    scheduler = Scheduler()
    for number in range(nodes):
        scheduler.node(f"n{number}", 4)
    scheduler.driver("narrow")
    scheduler.open("narrow", 100, "narrow")
    scheduler.want(100, "narrow", "narrow")
    scheduler.ready_all()
    scheduler.driver("wide")
    scheduler.open("wide", 100, "wide")
    return scheduler


def pass_time(scheduler: Scheduler, seconds: float) -> list[str]:
    """All nodes go on living; the leases that are wanted back."""
    wanted = []
    end = scheduler.now + seconds
    while scheduler.now < end:
        scheduler.now = min(end, scheduler.now + 1.0)
        for name in list(scheduler.core.book.nodes):
            effects = scheduler.agent_says(from_agent.AgentHeartbeat(0), name)
            wanted += [message.lease for message in told(effects, to_driver.LeaseWanted, "narrow")]
    return wanted


def end(scheduler: Scheduler, lease: str) -> list[str]:
    """A lease ends; which are started because of that."""
    node = scheduler.core.book.leases[lease].node.name
    begun = started(scheduler.say(from_driver.ReturnLease(lease, 0.0), "narrow"))
    return begun + started(scheduler.exited(lease, node))


def drivers(scheduler: Scheduler, leases: list[str]) -> set[str]:
    return {scheduler.core.book.leases[lease].driver for lease in leases}


def test_a_gang_gets_a_node_kept_free_although_another_takes_what_becomes_free() -> None:
    scheduler = busy_cluster()
    scheduler.want(4, "wide", "wide", FOUR)
    # At first what ends goes to whoever wants one.
    first = next(iter(scheduler.core.book.leases))
    assert drivers(scheduler, end(scheduler, first)) == {"narrow"}
    scheduler.ready_all()
    wanted = pass_time(scheduler, PATIENCE_S + 1)
    assert len(wanted) == 4
    assert len({scheduler.core.book.leases[lease].node for lease in wanted}) == 1
    for lease in wanted[:3]:
        assert end(scheduler, lease) == []
    begun = end(scheduler, wanted[3])
    assert drivers(scheduler, begun) == {"wide"}
    assert len(begun) == 4
    # Nothing is kept any longer.
    assert all(node.reserved_for is None for node in scheduler.core.book.nodes.values())


def test_a_lease_of_many_cpus_gets_its_node_too() -> None:
    scheduler = busy_cluster()
    scheduler.want(1, "wide", "wide", Shape(3.0))
    wanted = pass_time(scheduler, PATIENCE_S + 1)
    begun = [new for lease in wanted for new in end(scheduler, lease)]
    assert "wide" in drivers(scheduler, begun)


def test_room_is_kept_on_several_nodes_if_one_is_not_enough() -> None:
    scheduler = busy_cluster()
    scheduler.want(6, "wide", "wide", Shape(gang=6))
    wanted = pass_time(scheduler, PATIENCE_S + 1)
    begun = [new for lease in wanted for new in end(scheduler, lease)]
    assert sum(scheduler.core.book.leases[lease].driver == "wide" for lease in begun) == 6


def test_whoever_holds_most_waits_like_everybody() -> None:
    scheduler = busy_cluster()
    scheduler.want(1, "wide", "wide")
    end(scheduler, next(iter(scheduler.core.book.leases)))
    scheduler.ready_all()
    scheduler.want(4, "narrow", "narrow", FOUR)
    assert pass_time(scheduler, 10 * PATIENCE_S) == []


def test_room_is_not_kept_for_ever() -> None:
    """A worker that is asked back may wait for nested work, which needs the room."""
    scheduler = busy_cluster(1)
    parent, _, *others = scheduler.core.book.leases
    scheduler.agent_says(from_agent.LeaseBlocked(parent), "n0")
    scheduler.want(4, "wide", "wide", FOUR)
    pass_time(scheduler, PATIENCE_S + 1)
    scheduler.driver("nested", parent=parent)
    scheduler.say(from_driver.JoinPool("narrow"), "nested")
    scheduler.want(2, "narrow", "narrow")
    for lease in others:
        assert end(scheduler, lease) == []
    assert started(scheduler.want(1, "narrow", "nested")) == []
    pass_time(scheduler, KEEP_S)
    assert "nested" in drivers(scheduler, list(scheduler.core.book.leases))
    # And after a pause it is tried again.
    pass_time(scheduler, PAUSE_S + 1)
    assert any(node.reserved_for == FOUR for node in scheduler.core.book.nodes.values())


def test_what_is_not_wanted_any_more_keeps_nothing() -> None:
    scheduler = busy_cluster()
    scheduler.want(4, "wide", "wide", FOUR)
    wanted = pass_time(scheduler, PATIENCE_S + 1)
    assert end(scheduler, wanted[0]) == []
    scheduler.want(0, "wide", "wide", FOUR)
    assert len(started(scheduler.effects)) == 1


def test_a_kept_node_that_is_lost_is_replaced_by_another() -> None:
    scheduler = busy_cluster()
    scheduler.want(4, "wide", "wide", FOUR)
    pass_time(scheduler, PATIENCE_S + 1)
    [kept] = [node.name for node in scheduler.core.book.nodes.values() if node.reserved_for]
    scheduler.lose_node(kept)
    [other] = scheduler.core.book.nodes.values()
    assert other.reserved_for == FOUR


def test_who_waits_for_nodes_to_come_keeps_nobody_else_from_the_room_that_there_is() -> None:
    scheduler = busy_cluster()
    offers = (NodeOffer(Shape(16.0), 1),)
    scheduler.handle(OperatorSaid("o", LoadWanted(codec.PROTOCOL, offers)))
    scheduler.want(1, "wide", "wide", Shape(16.0))
    scheduler.driver("other")
    scheduler.open("other", 100, "other")
    scheduler.want(4, "other", "other", FOUR)
    pass_time(scheduler, PATIENCE_S + 1)
    assert [node.reserved_for for node in scheduler.core.book.nodes.values()].count(FOUR) == 1
    # As soon as the node is there, it is its turn.
    scheduler.want(0, "other", "other", FOUR)
    scheduler.node("large", 16)
    assert "wide" in {lease.driver for lease in scheduler.core.book.leases.values()}
