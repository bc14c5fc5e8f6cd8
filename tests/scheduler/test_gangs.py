"""Workers that are granted at once or not at all."""

from __future__ import annotations

import pytest

from distpool.scheduler.events import ToAgent
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.resources import Shape
from tests.scheduler.harness import ONE, Scheduler, granted, started, stopped, told

FOUR = Shape(gang=4)
PACKED = Shape(pack=True, gang=4)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    for name in ("a", "b"):
        scheduler.node(name, 4)
    scheduler.driver()
    scheduler.open(slots=100)
    return scheduler


def nodes_of(scheduler: Scheduler) -> list[str]:
    return [effect.node for effect in scheduler.effects if isinstance(effect, ToAgent)]


def test_a_gang_is_started_together_and_announced_when_all_are_up(scheduler: Scheduler) -> None:
    leases = started(scheduler.want(4, shape=FOUR))
    assert nodes_of(scheduler) == ["a", "a", "b", "b"]
    for lease, node in zip(leases[:3], "aab", strict=True):
        assert granted(scheduler.ready(lease, node)) == []
    grants = told(scheduler.ready(leases[3], "b"), to_driver.LeaseGranted)
    assert [grant.lease for grant in grants] == leases
    seats = [grant.seat for grant in grants]
    assert [seat.rank for seat in seats] == [0, 1, 2, 3]
    assert {(seat.gang, seat.hosts) for seat in seats} == {(leases[0], ("a", "a", "b", "b"))}


def test_a_packed_gang_is_on_one_node_if_one_has_room(scheduler: Scheduler) -> None:
    scheduler.want(1)
    assert nodes_of(scheduler) == ["a"]
    scheduler.want(4, shape=PACKED)
    assert nodes_of(scheduler) == ["b"] * 4
    assert started(scheduler.want(8, shape=PACKED)) == []


def test_without_room_for_all_nothing_is_started(scheduler: Scheduler) -> None:
    scheduler.want(5)
    leases = scheduler.ready_all()
    assert started(scheduler.want(4, shape=FOUR)) == []
    scheduler.want(0)
    for lease in leases[:1]:
        scheduler.say(from_driver.ReturnLease(lease, 0.0))
        effects = scheduler.exited(lease, scheduler.core.book.leases[lease].node.name)
    assert len(started(effects)) == 4


def test_two_who_want_all_of_it_never_hold_half_each(scheduler: Scheduler) -> None:
    eight = Shape(gang=8)
    scheduler.driver("d2")
    scheduler.open("p2", 100, "d2")
    scheduler.want(5)
    blockers = scheduler.ready_all()
    scheduler.want(8, shape=eight)
    scheduler.want(8, "p2", "d2", eight)
    scheduler.want(0)
    for lease in blockers:
        effects = scheduler.exited(lease, scheduler.core.book.leases[lease].node.name)
    first = started(effects)
    assert len(first) == 8
    assert len({scheduler.core.book.leases[lease].driver for lease in first}) == 1
    [driver] = {scheduler.core.book.leases[lease].driver for lease in first}
    pool = "p" if driver == "d" else "p2"
    scheduler.want(0, pool, driver, eight)
    for lease in first:
        scheduler.ready(lease, scheduler.core.book.leases[lease].node.name)
        scheduler.say(from_driver.ReturnLease(lease, 0.0), driver)
    for lease in first:
        effects = scheduler.exited(lease, scheduler.core.book.leases[lease].node.name)
    assert len(started(effects)) == 8
    assert {lease.driver for lease in scheduler.core.book.leases.values()} == {"d", "d2"} - {driver}


def test_when_one_does_not_come_up_the_others_end_and_all_are_tried_again(scheduler: Scheduler) -> None:
    leases = started(scheduler.want(4, shape=FOUR))
    scheduler.ready(leases[0], "a")
    effects = scheduler.exited(leases[1], "a", 1, "no memory")
    assert stopped(effects) == [leases[0], *leases[2:]]
    assert granted(effects) == []
    for lease, node in ((leases[0], "a"), (leases[2], "b"), (leases[3], "b")):
        scheduler.exited(lease, node)
    assert len(scheduler.until_started()) == 4


def test_when_one_ends_all_end(scheduler: Scheduler) -> None:
    scheduler.want(4, shape=FOUR)
    leases = scheduler.ready_all()
    assert stopped(scheduler.exited(leases[2], "b", -9)) == [*leases[:2], leases[3]]
    for lease, node in ((leases[0], "a"), (leases[1], "a"), (leases[3], "b")):
        effects = scheduler.exited(lease, node)
    # Before all of it is gone there is room for a second one, and it is wanted.
    assert len(scheduler.core.book.leases) == 4
    assert not set(scheduler.core.book.leases) & set(leases)
    assert effects


def test_a_lost_node_takes_the_whole_gang(scheduler: Scheduler) -> None:
    scheduler.want(4, shape=FOUR)
    leases = scheduler.ready_all()
    effects = scheduler.lose_node("a")
    assert stopped(effects)[-2:] == leases[2:]
    for lease in leases[2:]:
        scheduler.exited(lease, "b")
    assert len(scheduler.core.book.leases) == 4


@pytest.mark.parametrize("gang", [9, 100])
def test_a_gang_for_which_the_cluster_is_too_small(scheduler: Scheduler, gang: int) -> None:
    [refused] = told(scheduler.want(gang, shape=Shape(gang=gang)), to_driver.DemandInfeasible)
    assert f"{gang} workers at once with 1 CPU each" in refused.reason
    assert "2 nodes with 4 CPUs" in refused.reason


def test_a_gang_that_exceeds_its_pool(scheduler: Scheduler) -> None:
    scheduler.open("small", 2)
    [refused] = told(scheduler.want(4, "small", shape=FOUR), to_driver.DemandInfeasible)
    assert "2 CPUs at a time, 4 were asked for" in refused.reason


def test_gangs_on_gpus_have_them_for_themselves() -> None:
    scheduler = Scheduler()
    scheduler.node("a", 8, num_gpus=2.0)
    scheduler.node("b", 8, num_gpus=2.0)
    scheduler.driver()
    scheduler.open(slots=100)
    scheduler.want(4, shape=Shape(1.0, 1.0, gang=4))
    leases = scheduler.core.book.leases.values()
    assert sorted((lease.node.name, lease.gpus) for lease in leases) == [
        ("a", ("0",)),
        ("a", ("1",)),
        ("b", ("0",)),
        ("b", ("1",)),
    ]


def test_single_workers_go_on_while_a_gang_waits(scheduler: Scheduler) -> None:
    scheduler.want(5)
    scheduler.ready_all()
    scheduler.want(4, shape=FOUR)
    assert len(started(scheduler.want(7, shape=ONE))) == 2
