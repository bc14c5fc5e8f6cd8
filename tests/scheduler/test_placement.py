"""Which node a lease goes to, and which of its GPUs it gets."""

from __future__ import annotations

from typing import Any

import pytest

from distpool.scheduler.capacity import how_many
from distpool.scheduler.events import ToAgent
from distpool.scheduler.placement import Placement
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.resources import Shape
from tests.scheduler.harness import ONE, Scheduler, told

GPU = Shape(1.0, 1.0)
HALF = Shape(0.5, 0.5)


def starts(effects: list[Any]) -> list[to_agent.StartWorker]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, ToAgent) and isinstance(effect.message, to_agent.StartWorker)
    ]


def nodes_of(effects: list[Any]) -> list[str]:
    return [
        effect.node
        for effect in effects
        if isinstance(effect, ToAgent) and isinstance(effect.message, to_agent.StartWorker)
    ]


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.driver()
    scheduler.open(slots=100)
    return scheduler


def test_gpus_are_disjoint_and_come_back(scheduler: Scheduler) -> None:
    scheduler.node("n", 8, num_gpus=3.0)
    assert [start.gpus for start in starts(scheduler.want(5, shape=GPU))] == [("0",), ("1",), ("2",)]
    scheduler.ready_all()
    assert [start.gpus for start in starts(scheduler.exited("k-2"))] == [("1",)]
    two = Shape(1.0, 2.0)
    scheduler.want(0, shape=GPU)
    scheduler.exited("k-1")
    scheduler.want(1, shape=two)
    assert [start.gpus for start in starts(scheduler.exited("k-3"))] == [("0", "2")]


def test_fractions_share_a_gpu_and_leave_whole_ones_whole(scheduler: Scheduler) -> None:
    scheduler.node("n", 8, num_gpus=2.0)
    assert [start.gpus for start in starts(scheduler.want(2, shape=HALF))] == [("0",), ("0",)]
    assert [start.gpus for start in starts(scheduler.want(1, shape=GPU))] == [("1",)]
    # 0.6 and 0.6 are not 1.2 of two halves: a lease is on one GPU.
    scheduler.node("m", 8, num_gpus=2.0)
    assert len(starts(scheduler.want(9, shape=Shape(0.5, 0.6)))) == 2


def test_thirds_fill_a_gpu(scheduler: Scheduler) -> None:
    scheduler.node("n", 8, num_gpus=1.0)
    assert len(starts(scheduler.want(9, shape=Shape(0.1, 1 / 3)))) == 3


def test_gpus_go_by_the_names_of_the_node(scheduler: Scheduler) -> None:
    scheduler.agent_says(
        from_agent.AgentHello(
            codec.PROTOCOL, codec.PYTHON, __version__, "n", "n", Shape(4.0, 2.0), False, gpus=("GPU-a", "MIG-b")
        )
    )
    [start] = starts(scheduler.want(1, shape=Shape(1.0, 2.0)))
    assert start.gpus == ("GPU-a", "MIG-b")
    [grant] = told(scheduler.ready("k-1"), to_driver.LeaseGranted)
    assert grant.gpus == "GPU-a,MIG-b"


@pytest.mark.parametrize(
    ("elastic", "shape", "visible"),
    [(True, ONE, None), (True, GPU, "0"), (False, ONE, ""), (False, GPU, "0")],
)
def test_who_asks_for_no_gpu_sees_none_but_on_a_node_of_its_own(
    scheduler: Scheduler, elastic: bool, shape: Shape, visible: str | None
) -> None:
    scheduler.node("n", 4, num_gpus=1.0, elastic=elastic)
    scheduler.want(1, shape=shape)
    [grant] = told(scheduler.ready("k-1"), to_driver.LeaseGranted)
    assert grant.gpus == visible


def test_a_restarted_scheduler_knows_which_gpus_are_taken() -> None:
    scheduler = Scheduler("new")
    lease = from_agent.LiveLease("old-1", "p", "d", GPU, 1, "w-old-1", "ipc://x", 7, False, ("0",))
    scheduler.node("n", 4, num_gpus=2.0, leases=(lease,))
    scheduler.driver(leases=["old-1"])
    scheduler.open()
    assert [start.gpus for start in starts(scheduler.want(9, shape=GPU))] == [("1",)]


def test_work_without_gpus_leaves_nodes_with_gpus_free(scheduler: Scheduler) -> None:
    scheduler.node("gpu", 64, num_gpus=8.0)
    scheduler.node("plain", 2)
    assert nodes_of(scheduler.want(3)) == ["plain", "plain", "gpu"]


def test_spread_and_pack(scheduler: Scheduler) -> None:
    for name in ("a", "b", "c"):
        scheduler.node(name, 2)
    assert sorted(nodes_of(scheduler.want(3))) == ["a", "b", "c"]
    scheduler.ready_all()
    scheduler.want(0)
    for number in (1, 2, 3):
        scheduler.say(from_driver.ReturnLease(f"k-{number}", 0.0))
        scheduler.exited(f"k-{number}", scheduler.core.book.leases[f"k-{number}"].node.name)
    first, second, third = nodes_of(scheduler.want(3, shape=Shape(pack=True)))
    assert first == second != third


def test_workers_go_to_the_node_that_holds_the_arguments_while_there_is_room(scheduler: Scheduler) -> None:
    for name in ("a", "b", "c"):
        scheduler.node(name, 2)
    effects = scheduler.say(from_driver.Demand("p", ONE, 5, ("c", "gone", "b")))
    assert nodes_of(effects) == ["c", "c", "b", "b", "a"]


def test_what_can_never_be_had_is_answered_with_what_there_is(scheduler: Scheduler) -> None:
    scheduler.node("a", 4, memory_bytes=8 << 30)
    scheduler.node("b", 4, memory_bytes=8 << 30)
    scheduler.node("c", 16, num_gpus=2.0, custom=(("license", 1.0),))
    [message] = told(scheduler.want(1, shape=Shape(1.0, 4.0)), to_driver.DemandInfeasible)
    assert message.reason == (
        "no node has 1 CPU, 4 GPUs, even when idle; the cluster has "
        "2 nodes with 4 CPUs, 8.0 GiB of memory; 1 node with 16 CPUs, 2 GPUs, 1 license"
    )
    for shape in (Shape(17.0), Shape(1.0, 0.0, 9 << 30), Shape(1.0, 0.0, 0, (("license", 2.0),)), Shape(1.0, 1.5)):
        assert told(scheduler.want(1, shape=shape), to_driver.DemandInfeasible), shape
    assert not scheduler.core.book.unmet


def test_what_can_be_had_later_waits(scheduler: Scheduler) -> None:
    scheduler.node("a", 4, num_gpus=1.0)
    scheduler.now = 3.0
    assert told(scheduler.want(2, shape=GPU), to_driver.DemandInfeasible) == []
    [demand] = scheduler.core.book.unmet
    assert (demand.unmet, demand.unmet_since) == (1, 3.0)
    scheduler.now = 4.0
    assert len(starts(scheduler.node("b", 4, num_gpus=1.0))) == 1
    assert not scheduler.core.book.unmet


def test_before_any_node_has_come_everything_waits(scheduler: Scheduler) -> None:
    assert told(scheduler.want(1, shape=GPU), to_driver.DemandInfeasible) == []
    assert len(starts(scheduler.node("a", 4, num_gpus=1.0))) == 1


def test_many_shapes_find_their_nodes(scheduler: Scheduler) -> None:
    """More than have an order of their own."""
    scheduler.node("a", 100)
    scheduler.node("b", 100)
    for number in range(150):
        scheduler.want(1, shape=Shape(0.25 + number / 1000))
    assert len(scheduler.core.book.leases) == 150
    assert not scheduler.core.book.unmet


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (ONE, 8),
        (Shape(0.5), 16),
        (Shape(0.1), 80),
        (GPU, 4),
        (Shape(1.0, 3.0), 1),
        (Shape(0.1, 0.3), 12),
        (Shape(1.0, 0.0, 3), 3),
        (Shape(0.0, 0.0, 0, (("license", 0.5),)), 4),
        (Shape(1.0, 0.0, 0, (("other", 1.0),)), 0),
    ],
)
def test_how_many_an_empty_node_has_room_for(shape: Shape, count: int) -> None:
    assert how_many(Shape(8.0, 4.0, 10, (("license", 2.0),)), shape) == count


def test_an_empty_cluster_is_described() -> None:
    assert Placement().describe() == "no nodes"
