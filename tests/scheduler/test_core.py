"""The scheduler core, scenario by scenario."""

from __future__ import annotations

import pytest

from distpool.scheduler.events import DriverSaid, ToAgent, ToDriver
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.resources import Shape
from tests.scheduler.harness import ONE, TWO, Scheduler, granted, live, started, stopped, told


@pytest.fixture
def scheduler() -> Scheduler:
    """One private node, one driver, one pool of four slots."""
    scheduler = Scheduler()
    scheduler.node(elastic=True)
    scheduler.driver()
    scheduler.open()
    return scheduler


def test_a_lease_from_demand_to_end(scheduler: Scheduler) -> None:
    assert scheduler.want(1) == [ToAgent("n", to_agent.StartWorker("k-1", "p", "d", ONE, 1))]
    grant = to_driver.LeaseGranted("k-1", "p", ONE, "n", "w-k-1", "ipc://k-1", 7, 1, host="n")
    assert scheduler.ready("k-1") == [ToDriver("d", grant)]
    scheduler.want(0)
    assert scheduler.say(from_driver.ReturnLease("k-1", 1.0)) == [ToAgent("n", to_agent.StopWorker("k-1", 1.0))]
    assert scheduler.exited("k-1") == [ToDriver("d", to_driver.LeaseEnded("k-1", "p", ONE, 7, 0))]
    assert not scheduler.core.book.leases


def test_the_welcome_names_the_capacity() -> None:
    scheduler = Scheduler()
    scheduler.node("a", 4)
    scheduler.node("b", 8, num_gpus=2.0)
    [welcome] = told(scheduler.driver(), to_driver.SchedulerWelcome)
    assert (welcome.nodes, welcome.capacity) == (2, Shape(12.0, 2.0))


def test_a_pool_stays_within_its_slots(scheduler: Scheduler) -> None:
    assert len(started(scheduler.want(10))) == 4


def test_a_dead_worker_is_replaced_under_a_new_ordinal(scheduler: Scheduler) -> None:
    scheduler.want(1)
    scheduler.ready_all()
    effects = scheduler.exited("k-1", code=-11, reason="segmentation fault")
    [ended] = told(effects, to_driver.LeaseEnded)
    assert (ended.exit_code, ended.reason) == (-11, "segmentation fault")
    assert ToAgent("n", to_agent.StartWorker("k-2", "p", "d", ONE, 2)) in effects


def test_a_returned_lease_makes_room_before_its_worker_has_ended(scheduler: Scheduler) -> None:
    scheduler.want(10)
    leases = scheduler.ready_all()
    assert len(started(scheduler.say(from_driver.ReturnLease(leases[0], 5.0)))) == 1


def test_a_blocked_lease_lends_its_slot_and_takes_it_back(scheduler: Scheduler) -> None:
    scheduler.want(4)
    leases = scheduler.ready_all()
    scheduler.driver("d2", parent=leases[0])
    scheduler.say(from_driver.JoinPool("p"), "d2")
    assert started(scheduler.want(1, driver="d2")) == []
    assert len(started(scheduler.agent_says(from_agent.LeaseBlocked(leases[0])))) == 1
    assert granted(scheduler.ready("k-5"), "d2") == ["k-5"]
    scheduler.agent_says(from_agent.LeaseUnblocked(leases[0]))
    assert scheduler.core.book.pools["p"].used_cpus == 5
    # Over budget: what ends is not replaced until the pool is within its budget again.
    scheduler.want(5)
    assert started(scheduler.exited(leases[1])) == []


def test_the_drivers_in_a_worker_end_with_it(scheduler: Scheduler) -> None:
    scheduler.want(2)
    leases = scheduler.ready_all()
    scheduler.driver("d2", parent=leases[0])
    scheduler.say(from_driver.JoinPool("p"), "d2")
    scheduler.want(2, driver="d2")
    nested = scheduler.ready_all()
    scheduler.want(0)
    assert stopped(scheduler.exited(leases[0])) == nested
    assert "d2" not in scheduler.core.book.drivers


def test_an_unmet_demand_asks_for_idle_workers_of_others(scheduler: Scheduler) -> None:
    scheduler.want(4)
    leases = scheduler.ready_all()
    scheduler.driver("d2", parent=leases[0])
    scheduler.say(from_driver.JoinPool("p"), "d2")
    effects = scheduler.want(1, driver="d2")
    assert told(effects, to_driver.ReclaimIdle) == [to_driver.ReclaimIdle("p")]
    assert told(effects, to_driver.ReclaimIdle, "d2") == []
    # It is asked for again, ever more rarely, until somebody gives one back.
    deadline = scheduler.core.next_deadline()
    assert deadline is not None
    assert told(scheduler.time(deadline), to_driver.ReclaimIdle)
    second = scheduler.core.next_deadline()
    assert second is not None
    assert second > deadline
    scheduler.want(3)
    assert len(started(scheduler.say(from_driver.ReturnLease(leases[1], 0.0)))) == 1
    assert scheduler.core.next_deadline() is None


def test_busy_workers_are_asked_for_when_members_of_a_pool_have_waited_but_not_the_parents_of_nested_work(
    scheduler: Scheduler,
) -> None:
    scheduler.want(4)
    leases = scheduler.ready_all()
    scheduler.driver("d2", parent=leases[0])
    scheduler.say(from_driver.JoinPool("p"), "d2")
    # Whoever submits nested work is about to lend its own slot.
    asked = told(scheduler.want(1, driver="d2"), to_driver.ReclaimIdle)
    while not asked[-1].excess:
        deadline = scheduler.core.next_deadline()
        assert deadline is not None
        assert deadline < 1.0
        asked += told(scheduler.time(deadline), to_driver.ReclaimIdle)
    # Four of four slots, where two drivers want them: three would be d's fair share.
    assert asked[-1] == to_driver.ReclaimIdle("p", 1, parents=(leases[0],), lasting=True)
    assert scheduler.now > 0.09


def _two_that_submit(scheduler: Scheduler) -> list[str]:
    """Drivers d2 and d3 in two workers, of which d2 wants four of its own; the leases of the two."""
    scheduler.want(2)
    parents = scheduler.ready_all()
    for driver, parent in zip(("d2", "d3"), parents, strict=True):
        scheduler.driver(driver, parent=parent)
        scheduler.say(from_driver.JoinPool("p"), driver)
    scheduler.want(4, driver="d2")
    scheduler.ready_all()
    return parents


def _leases_of(scheduler: Scheduler, driver: str) -> int:
    return sum(lease.driver == driver for lease in scheduler.core.book.leases.values())


def test_a_slot_is_lent_when_it_is_known_what_its_task_waits_for(scheduler: Scheduler) -> None:
    """Word of that comes by another way, and may be slower: then the slot went to others, who kept it."""
    parents = _two_that_submit(scheduler)
    scheduler.agent_says(from_agent.LeaseBlocked(parents[0]))
    scheduler.agent_says(from_agent.LeaseBlocked(parents[1]))
    assert _leases_of(scheduler, "d2") == 3
    scheduler.want(4, driver="d3")
    assert _leases_of(scheduler, "d3") == 1


def test_who_takes_its_slot_back_before_it_was_lent_has_it(scheduler: Scheduler) -> None:
    _, parent = _two_that_submit(scheduler)
    scheduler.agent_says(from_agent.LeaseBlocked(parent))
    scheduler.agent_says(from_agent.LeaseUnblocked(parent))
    scheduler.want(4, driver="d3")
    scheduler.time(1.0)
    assert (_leases_of(scheduler, "d2"), _leases_of(scheduler, "d3")) == (2, 0)


def test_who_has_lent_its_slot_and_got_nothing_for_it_need_not_be_patient(scheduler: Scheduler) -> None:
    for parent in _two_that_submit(scheduler):  # word of d3's demand is very much slower than that it waits
        scheduler.agent_says(from_agent.LeaseBlocked(parent))
        scheduler.time(scheduler.now + 0.006)
        scheduler.ready_all()
    assert _leases_of(scheduler, "d2") == 4
    asked = told(scheduler.want(4, driver="d3"), to_driver.ReclaimIdle, "d2")
    while not asked:
        deadline = scheduler.core.next_deadline()
        assert deadline is not None
        asked = told(scheduler.time(deadline), to_driver.ReclaimIdle, "d2")
    # Its fair share is half of what it has.
    assert asked == [to_driver.ReclaimIdle("p", 2)]
    assert scheduler.now < 0.06


def test_nothing_is_asked_of_the_only_one_who_could_give(scheduler: Scheduler) -> None:
    scheduler.want(10)
    scheduler.ready_all()
    assert told(scheduler.time(100.0), to_driver.ReclaimIdle) == []


def test_pools_share_a_full_cluster_evenly() -> None:
    scheduler = Scheduler()
    scheduler.node("a", 4)
    scheduler.node("b", 4)
    for driver in ("d1", "d2"):
        scheduler.driver(driver)
        scheduler.open(f"p-{driver}", 100, driver)
    leases = started(scheduler.want(100, "p-d1", "d1"))
    assert len(leases) == 8
    scheduler.ready_all()
    scheduler.now = 1.0
    effects = scheduler.want(100, "p-d2", "d2")
    assert told(effects, to_driver.ReclaimIdle, "d1") == [to_driver.ReclaimIdle("p-d1", 4, lasting=True)]
    book = scheduler.core.book
    for _ in range(8):
        lease = next(lease for lease in book.leases.values() if lease.pool.name == "p-d1")
        if book.pools["p-d1"].used_cpus > book.pools["p-d2"].used_cpus:
            scheduler.exited(lease.name, lease.node.name)
    assert [book.pools[name].used_cpus for name in ("p-d1", "p-d2")] == [4, 4]


def test_leases_are_spread_over_the_nodes() -> None:
    scheduler = Scheduler()
    for name in ("a", "b", "c"):
        scheduler.node(name, 4)
    scheduler.driver()
    scheduler.open(slots=6)
    scheduler.want(6)
    assert [len(node.leases) for node in scheduler.core.book.nodes.values()] == [2, 2, 2]


def test_special_resources_choose_the_node() -> None:
    scheduler = Scheduler()
    scheduler.node("plain", 64)
    scheduler.node("gpu", 4, num_gpus=1.0, custom=(("license", 1.0),))
    scheduler.driver()
    scheduler.open(slots=64)
    shape = Shape(1.0, 1.0, 0, (("license", 1.0),))
    assert [effect.node for effect in scheduler.want(2, shape=shape) if isinstance(effect, ToAgent)] == ["gpu"]
    scheduler.ready("k-1", "gpu")
    # The second waits for the first one's GPU, and others do not wait for it.
    assert len(started(scheduler.want(2))) == 2
    assert len(started(scheduler.exited("k-1", "gpu"))) == 1


def test_what_can_never_be_had_is_refused_at_once(scheduler: Scheduler) -> None:
    [too_wide] = told(scheduler.want(1, shape=Shape(5.0)), to_driver.DemandInfeasible)
    assert "4 CPUs at a time" in too_wide.reason
    [no_gpu] = told(scheduler.want(1, shape=Shape(1.0, 1.0)), to_driver.DemandInfeasible)
    assert "1 GPU" in no_gpu.reason
    [closed] = told(scheduler.want(1, pool="other"), to_driver.DemandInfeasible)
    assert "closed" in closed.reason
    assert scheduler.core.next_deadline() is None


def test_a_wide_shape_waits_for_room_while_narrow_ones_run(scheduler: Scheduler) -> None:
    scheduler.want(3)
    leases = scheduler.ready_all()
    assert started(scheduler.want(1, shape=TWO)) == []
    assert len(started(scheduler.want(4))) == 1
    scheduler.want(0)
    for lease in [*leases[:1], "k-4"]:
        scheduler.say(from_driver.ReturnLease(lease, 0.0))
    assert [lease.shape for lease in scheduler.core.book.leases.values()].count(TWO) == 1


def test_workers_that_do_not_come_up_are_tried_again_ever_more_rarely(scheduler: Scheduler) -> None:
    scheduler.want(2)
    effects = scheduler.exited("k-1", code=1, reason="no memory")
    assert told(effects, to_driver.LeaseEnded)[0].reason == "no memory"
    assert started(effects) == []
    scheduler.exited("k-2", code=1)
    assert scheduler.until_started() == ["k-3", "k-4"]
    first_s = scheduler.now
    for lease in ("k-3", "k-4"):
        scheduler.exited(lease, code=1)
    assert scheduler.until_started() == ["k-5", "k-6"]
    assert scheduler.now - first_s == pytest.approx(2 * first_s)


def test_closing_a_pool_ends_all_its_leases_also_those_of_nested_drivers(scheduler: Scheduler) -> None:
    scheduler.want(2)
    leases = scheduler.ready_all()
    scheduler.driver("d2", parent=leases[0])
    scheduler.say(from_driver.JoinPool("p"), "d2")
    scheduler.want(1, driver="d2")
    leases += scheduler.ready_all()
    assert sorted(stopped(scheduler.say(from_driver.ClosePool("p", 1.0)))) == sorted(leases)
    for lease in leases:
        assert started(scheduler.exited(lease)) == []
    assert not scheduler.core.book.pools


def test_a_lost_driver_loses_everything(scheduler: Scheduler) -> None:
    scheduler.want(2)
    [lease, _] = scheduler.ready_all()
    scheduler.say(from_driver.ReturnLease(lease, 60.0))
    effects = scheduler.lose_driver()
    # Also the one that had been given a minute.
    assert sorted(stopped(effects)) == sorted(scheduler.core.book.leases)
    for name in list(scheduler.core.book.leases):
        assert scheduler.exited(name) == []
    assert not scheduler.core.book.pools
    assert not scheduler.core.book.drivers


def test_a_goodbye_leaves_ending_workers_their_time(scheduler: Scheduler) -> None:
    scheduler.want(1)
    [lease] = scheduler.ready_all()
    scheduler.say(from_driver.ClosePool("p", 60.0))
    assert stopped(scheduler.say(from_driver.DriverGoodbye())) == []
    assert scheduler.core.book.leases[lease]


def test_a_silent_driver_is_lost_and_a_watched_one_is_not() -> None:
    scheduler = Scheduler()
    scheduler.node(elastic=True)
    scheduler.driver("far", watched=False)
    scheduler.driver("near", watched=True)
    scheduler.now = 9.0
    scheduler.say(from_driver.DriverHeartbeat(), "far")
    assert scheduler.core.next_deadline() == 10.0
    scheduler.time(10.0)
    assert set(scheduler.core.book.drivers) == {"far", "near"}
    scheduler.time(19.0)
    assert set(scheduler.core.book.drivers) == {"near"}
    assert told(scheduler.say(from_driver.DriverHeartbeat(), "far"), to_driver.HelloWanted, "far")


def test_a_silent_node_is_lost_and_fenced_when_it_comes_back() -> None:
    scheduler = Scheduler()
    scheduler.node("n", 1)
    scheduler.driver()
    scheduler.open()
    scheduler.want(1)
    scheduler.ready_all()
    [ended] = told(scheduler.time(10.0), to_driver.LeaseEnded)
    assert "nothing was heard" in ended.reason
    assert scheduler.agent_says(from_agent.AgentHeartbeat(0)) == [ToAgent("n", to_agent.HelloWanted())]
    # Its worker still runs; the driver was told that it is gone.
    effects = scheduler.node("n", 1, leases=(live("k-1"),))
    assert stopped(effects) == ["k-1"]
    assert started(effects) == ["k-2"]
    assert stopped(scheduler.ready("k-1")) == ["k-1"]


def test_a_scheduler_that_did_not_look_for_long_takes_nobody_for_silent() -> None:
    scheduler = Scheduler()
    scheduler.node("n", 1)
    scheduler.node("gone", 1)
    scheduler.driver("far", watched=False)
    # Stopped, or asleep: it was to look at 10.
    scheduler.time(15.0)
    assert set(scheduler.core.book.drivers) == {"far"}
    assert set(scheduler.core.book.nodes) == {"n", "gone"}
    # What had come meanwhile is read now.
    scheduler.agent_says(from_agent.AgentHeartbeat(0))
    scheduler.say(from_driver.DriverHeartbeat(), "far")
    assert scheduler.core.next_deadline() == 18.0
    scheduler.time(18.0)
    assert set(scheduler.core.book.drivers) == {"far"}
    assert set(scheduler.core.book.nodes) == {"n"}


def test_a_hello_again_settles_what_was_lost_on_the_way() -> None:
    scheduler = Scheduler()
    scheduler.node("n", 3)
    scheduler.driver()
    scheduler.open()
    scheduler.want(3)
    scheduler.ready("k-1")
    # k-1 ended, k-2 came up and blocked, k-3 never reached the node: none of the reports arrived.
    effects = scheduler.node("n", 3, leases=(live("k-2", blocked=True),))
    assert {message.lease for message in told(effects, to_driver.LeaseEnded)} == {"k-1", "k-3"}
    assert granted(effects) == ["k-2"]
    assert len(started(effects)) == 2
    # A driver that says hello again is told of all its leases.
    assert granted(scheduler.driver()) == ["k-2"]


def test_a_restarted_scheduler_learns_its_leases_from_the_nodes() -> None:
    scheduler = Scheduler("new")
    leases = (live("old-1", ordinal=3), live("old-2", ordinal=5, blocked=True))
    scheduler.node("n", 4, leases=leases)
    assert scheduler.want(1) == []
    assert scheduler.say(from_driver.DriverHeartbeat()) == [ToDriver("d", to_driver.HelloWanted())]
    effects = scheduler.driver(watched=False, leases=["old-1", "old-2"])
    assert granted(effects) == ["old-1", "old-2"]
    scheduler.open(slots=2)
    effects = scheduler.want(3)
    assert effects == [ToAgent("n", to_agent.StartWorker("new-1", "p", "d", ONE, 6))]
    # Ended under this scheduler: not adopted a second time.
    scheduler.exited("old-1")
    assert stopped(scheduler.node("n", 4, leases=leases[:1])) == ["old-1"]


def test_after_a_restart_nothing_is_impossible_until_the_nodes_have_had_time_to_come() -> None:
    scheduler = Scheduler("k2")
    scheduler.node("head", cpus=0)
    scheduler.driver("d", leases=["k1-1"])
    scheduler.open()
    wanted = scheduler.want(2)
    scheduler.driver("new")
    scheduler.open("q", slots=64, driver="new")
    wanted += scheduler.want(1, pool="q", driver="new", shape=Shape(64.0))
    assert not [effect for effect in wanted if isinstance(effect.message, to_driver.DemandInfeasible)]
    scheduler.now = 5.0
    assert len(started(scheduler.node("other", cpus=2))) == 2
    refused = [effect for effect in scheduler.time(61.0) if isinstance(effect.message, to_driver.DemandInfeasible)]
    assert [effect.driver for effect in refused] == ["new"]


def test_a_program_that_is_new_waits_for_the_nodes_of_a_scheduler_that_just_began() -> None:
    """Nobody has told this scheduler that there was one before it: the nodes may be on their way all the same."""
    scheduler = Scheduler("k2", gathers=True)
    scheduler.node("head", cpus=0)
    scheduler.driver("new")
    scheduler.open(slots=64, driver="new")
    gpu = Shape(1.0, 1.0)
    assert told(scheduler.want(1, driver="new", shape=gpu), to_driver.DemandInfeasible, "new") == []
    assert told(scheduler.want(1, driver="new", shape=Shape(64.0)), to_driver.DemandInfeasible, "new") == []
    # What its own pool rules out needs no node to be refused.
    assert told(scheduler.want(1, driver="new", shape=Shape(65.0)), to_driver.DemandInfeasible, "new")
    scheduler.now = 5.0
    assert len(started(scheduler.node("back", cpus=2, num_gpus=1.0))) == 1
    scheduler.now = 9.0
    scheduler.agent_says(from_agent.AgentHeartbeat(0), "back")
    scheduler.agent_says(from_agent.AgentHeartbeat(0), "head")
    [refused] = told(scheduler.time(10.0), to_driver.DemandInfeasible, "new")
    assert refused.shape == Shape(64.0)
    [refused] = told(scheduler.want(2, driver="new", shape=Shape(1.0, 2.0)), to_driver.DemandInfeasible, "new")
    assert refused.reason.startswith("no node has 1 CPU, 2 GPUs")


def test_what_nested_work_wanted_before_the_owner_of_its_pool_came_back_is_granted_then() -> None:
    scheduler = Scheduler("k2")
    scheduler.node()
    scheduler.driver("nested")
    scheduler.say(from_driver.JoinPool("p"), "nested")
    scheduler.want(1, driver="nested")
    assert len(started(scheduler.want(1, driver="nested", shape=Shape(0.0)))) == 1
    scheduler.driver()
    assert len(started(scheduler.open())) == 1


def test_what_the_driver_does_not_claim_after_a_restart_ends() -> None:
    scheduler = Scheduler("new")
    scheduler.node("a", 4, leases=(live("old-1"), live("old-2")))
    effects = scheduler.driver(leases=["old-1", "old-3", "old-4"])
    assert (granted(effects), stopped(effects)) == (["old-1"], ["old-2"])
    # The nodes of the others come later, or never.
    assert stopped(scheduler.node("b", 4, leases=(live("old-3"), live("old-5")))) == ["old-5"]
    assert set(scheduler.core.book.leases) == {"old-1", "old-2", "old-3"}
    scheduler.agent_says(from_agent.AgentHeartbeat(0), "a")
    scheduler.now = 9.0
    for node in ("a", "b"):
        scheduler.agent_says(from_agent.AgentHeartbeat(0), node)
    [ended] = told(scheduler.time(10.0), to_driver.LeaseEnded)
    assert ended.lease == "old-4"
    assert stopped(scheduler.node("c", 4, leases=(live("old-4"),))) == ["old-4"]


def test_a_claim_may_be_given_back_before_its_node_is_heard_of() -> None:
    scheduler = Scheduler("new")
    scheduler.driver(leases=["old-1", "old-2"])
    scheduler.open()
    assert told(scheduler.say(from_driver.ReturnLease("old-1", 0.0)), to_driver.LeaseEnded)
    assert told(scheduler.say(from_driver.ClosePool("p", 0.0)), to_driver.LeaseEnded)
    effects = scheduler.node("n", 4, leases=(live("old-1"), live("old-2")))
    assert stopped(effects) == ["old-1", "old-2"]


def test_adopted_leases_of_a_driver_that_does_not_come_back_end() -> None:
    scheduler = Scheduler("new")
    scheduler.node("n", 4, leases=(live("old-1"),))
    scheduler.now = 9.0
    scheduler.agent_says(from_agent.AgentHeartbeat(0))
    assert stopped(scheduler.time(10.0)) == ["old-1"]


def test_other_versions_are_refused() -> None:
    scheduler = Scheduler()
    old = from_driver.DriverHello(codec.PROTOCOL + 1, codec.PYTHON, "9", "h", 1)
    assert "protocol" in told(scheduler.handle(DriverSaid("d", old)), to_driver.Refused)[0].reason
    other = from_driver.DriverHello(codec.PROTOCOL, "2.7", __version__, "h", 1)
    assert "Python 2.7" in told(scheduler.handle(DriverSaid("d", other)), to_driver.Refused)[0].reason
    [effect] = scheduler.agent_says(
        from_agent.AgentHello(codec.PROTOCOL, "2.7", __version__, "n", "h", Shape(), elastic_cpus=False)
    )
    assert isinstance(effect.message, to_agent.AgentRefused)


def test_what_is_not_ones_own_cannot_be_touched(scheduler: Scheduler) -> None:
    scheduler.want(1)
    [lease] = scheduler.ready_all()
    scheduler.driver("other")
    assert scheduler.say(from_driver.ReturnLease(lease, 0.0), "other") == []
    assert scheduler.say(from_driver.ClosePool("p", 0.0), "other") == []
    assert scheduler.open("p", 99, "other") == []
    assert scheduler.core.book.pools["p"].slots == 4
    scheduler.node("elsewhere", 1)
    assert told(scheduler.exited(lease, "elsewhere"), to_driver.LeaseEnded) == []


def test_what_the_workers_of_a_nested_driver_leave_is_left_to_the_nearest_that_lives() -> None:
    scheduler = Scheduler()
    scheduler.node("n", cpus=8)
    scheduler.driver("d")
    scheduler.open(slots=8)
    scheduler.want(1)
    [outer] = scheduler.ready_all()
    scheduler.driver("middle", parent=outer)
    scheduler.say(from_driver.JoinPool("p"), "middle")
    scheduler.want(1, driver="middle")
    [between] = scheduler.ready_all()
    scheduler.driver("low", parent=between)
    scheduler.say(from_driver.JoinPool("p"), "low")
    scheduler.want(2, driver="low")
    early, late = scheduler.ready_all()
    # Its driver is told, and may die before it has heard it.
    assert told(scheduler.exited(early), to_driver.WorkerLeft, "middle") == []
    [left] = told(scheduler.exited(between, code=-9), to_driver.WorkerLeft, "middle")
    assert left.worker == f"w-{early}"
    # The next one dies too: whoever is left is told of all.
    left = told(scheduler.exited(outer, code=-9), to_driver.WorkerLeft)
    assert {message.worker for message in left} == {f"w-{early}", f"w-{between}"}
    [last] = told(scheduler.exited(late, code=-9), to_driver.WorkerLeft)
    assert last == to_driver.WorkerLeft(f"w-{late}", "n")


def _short_of_memory(scheduler: Scheduler, lease: str, node: str) -> list[str]:
    """The worker of a lease is stopped because memory ran short; returns the leases that are started then."""
    exited = from_agent.WorkerExited(lease, 7, -9, "it was stopped", shortage="node")
    return started(scheduler.agent_says(exited, node))


@pytest.mark.parametrize("elastic", [False, True])
def test_where_memory_ran_short_nobody_takes_the_place_until_later(elastic: bool) -> None:
    scheduler = Scheduler()
    scheduler.node("n", 4, elastic=elastic)
    for driver, pool, workers in (("d", "p", 2), ("e", "q", 4)):
        scheduler.driver(driver)
        scheduler.open(pool, 4, driver)
        scheduler.want(workers if not elastic else 2, pool=pool, driver=driver)
        scheduler.ready_all()
    assert len(scheduler.core.book.leases) == 4
    assert _short_of_memory(scheduler, "k-1", "n") == []
    assert _short_of_memory(scheduler, "k-2", "n") == [], "nor does another driver"
    assert _short_of_memory(scheduler, "k-3", "n") == []
    assert len(_short_of_memory(scheduler, "k-4", "n")) == 1, "one task at a time always runs"
    assert [len(started(scheduler.time(now))) for now in (29.0, 30.0, 60.0, 90.0)] == [0, 1, 1, 1]
    assert scheduler.core.book.nodes["n"].most_cpus is None


def test_the_death_of_a_worker_for_another_reason_limits_nothing() -> None:
    scheduler = Scheduler()
    scheduler.node("n", 2)
    scheduler.driver()
    scheduler.open()
    scheduler.want(2)
    scheduler.ready_all()
    assert len(started(scheduler.exited("k-1", code=-9, reason="killed"))) == 1


def test_drivers_that_say_that_each_runs_in_a_worker_of_the_other_are_none_the_worse() -> None:
    scheduler = Scheduler()
    scheduler.node("n", 2)
    for driver, pool in (("d", "p"), ("e", "q")):
        scheduler.driver(driver)
        scheduler.open(pool, 4, driver)
        scheduler.want(1, pool=pool, driver=driver)
        scheduler.ready_all()
    scheduler.driver("d", parent="k-2")
    scheduler.driver("e", parent="k-1")
    scheduler.exited("k-1")
    assert "k-1" not in scheduler.core.book.leases
