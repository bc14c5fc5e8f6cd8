"""The pool core against a model: random histories of submits, grants, answers, deaths, kills, cancels and time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distpool.driver.core import PoolCore
from distpool.driver.functions import in_payload
from distpool.driver.losing import CAUSE_S, FAILED_STARTS, LAST_WORDS_S, MEMORY_CAUTION_S
from distpool.driver.retracting import RETRACT_AFTER_S
from distpool.driver.state import Effects, Failure, FailureKind, Worker, WorkerExit
from distpool.driver.stopping import INTERRUPT_GRACE_S
from distpool.driver.task import Task, home_of
from distpool.wire.driver_to_worker import Task as TaskMessage
from distpool.wire.objects import Location
from distpool.wire.resources import Shape
from distpool.wire.worker_to_driver import OK, Result


def make_task(name: str, retries: int = 3, timeout_s: float | None = None, cpus: float = 1.0) -> Task:
    message = TaskMessage(0, 0, b"x")
    alone = retries == 0 or timeout_s is not None
    return Task(name, message, in_payload(len), Shape(cpus), retries, timeout_s, alone)


def make_worker(lease: str, cpus: float = 1.0) -> Worker:
    return Worker(lease, lease.encode(), Shape(cpus), "n", 1, 1)


def answers(worker: Worker, count: int) -> list[Result]:
    return [Result(attempt, OK, b"") for attempt in list(worker.in_flight)[:count]]


def names_at(worker: Worker) -> list[Any]:
    return [task.future for task in worker.in_flight.values()]


def test_an_idle_worker_gets_the_task_at_once() -> None:
    core = PoolCore(2)
    effects = Effects()
    core.on_submitted([make_task("a")], 0.0, effects)
    assert effects.demand == [(Shape(), 1)]
    worker = make_worker("l1")
    effects = Effects()
    core.on_granted(worker, 0.1, effects)
    assert [(w.lease, [t.future for t in tasks]) for w, tasks in effects.send] == [("l1", ["a"])]


def test_while_the_duration_is_unknown_nothing_queues_behind_a_task() -> None:
    core = PoolCore(1)
    core.on_granted(make_worker("l1"), 0.0, Effects())
    effects = Effects()
    core.on_submitted([make_task(str(i)) for i in range(10)], 0.0, effects)
    assert [len(tasks) for _, tasks in effects.send] == [1]


def test_short_tasks_are_sent_in_batches() -> None:
    core = PoolCore(1)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task(str(i)) for i in range(1000)], 0.0, Effects())
    effects = Effects()
    core.on_results("l1", answers(worker, 1), 10e-6, 0.001, effects)
    assert len(effects.send) == 1
    assert len(effects.send[0][1]) > 100


def test_where_memory_ran_short_fewer_workers_go_on() -> None:
    core = PoolCore(4)
    workers = [make_worker(f"l{number}") for number in range(4)]
    core.on_submitted([make_task(str(i)) for i in range(10)], 0.0, Effects())
    for worker in workers:
        core.on_granted(worker, 0.0, Effects())
    effects = Effects()
    core.on_ended("l3", WorkerExit(1, -9, shortage="node"), 1.0, effects)
    # The scheduler is quicker with another than the driver with its wish for fewer.
    another = make_worker("another")
    core.on_granted(another, 1.0, effects)
    core.on_time(1.0 + LAST_WORDS_S, effects)
    assert another.in_flight
    core.on_results("l0", answers(workers[0], 1), 1.0, 1.05, effects)
    assert workers[0].leaving, "one goes as soon as it is done"
    assert core.demanded == 3
    effects = Effects()
    late = make_worker("late")
    core.on_granted(late, 1.1, effects)
    assert late.leaving
    assert not late.in_flight
    core.check_invariants()
    core.on_time(1.1 + MEMORY_CAUTION_S, Effects())
    assert core.demanded == 4, "after a while it is tried again"


@pytest.mark.parametrize("silent_first", [True, False])
def test_the_dead_are_not_waited_for_once_all_that_they_said_has_been_heard(silent_first: bool) -> None:
    core = PoolCore(1)
    core.on_submitted([make_task("a", retries=3)], 0.0, Effects())
    core.on_granted(make_worker("l1"), 0.0, Effects())
    effects = Effects()
    if silent_first:
        core.on_silent("l1", 1.0, effects)
        assert not effects.requeued
    core.on_ended("l1", WorkerExit(1, -9), 1.0, effects)
    if not silent_first:
        assert not effects.requeued
        core.on_silent("l1", 1.0, effects)
    assert [task.future for task in effects.requeued] == ["a"]
    assert core.next_deadline() is None
    core.check_invariants()


def test_what_may_have_killed_a_worker_is_tried_again_by_the_first_that_is_known_to_have_started() -> None:
    core = PoolCore(2)
    workers = [make_worker("l1"), make_worker("l2")]
    core.on_submitted([make_task(name, retries=20) for name in ("killer", "long", "a", "b")], 0.0, Effects())
    for worker in workers:
        core.on_granted(worker, 0.0, Effects())
        core.on_set_up(worker.lease, 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9), 1.0, Effects())
    core.on_silent("l1", 1.0, Effects())
    for number in range(2 * FAILED_STARTS):
        new = make_worker(f"new{number}")
        core.on_granted(new, 1.1, Effects())
        assert names_at(new) == [], "its end would count as a start that failed"
        core.check_invariants()
        core.on_set_up(new.lease, 1.1, Effects())
        assert names_at(new) == ["killer"]
        core.on_ended(new.lease, WorkerExit(1, -9), 1.2, Effects())
        core.on_silent(new.lease, 1.2, Effects())
        core.check_invariants()
    core.on_results("l2", answers(workers[1], 1), 1.0, 1.3, Effects())
    assert names_at(workers[1]) == ["killer"], "a worker that has nothing to do need not be a new one"
    assert core.state.broken is None


def test_why_a_worker_died_is_waited_for_however_silent_it_is() -> None:
    core = PoolCore(1)
    core.on_submitted([make_task("a", retries=3)], 0.0, Effects())
    core.on_granted(make_worker("l1"), 0.0, Effects())
    effects = Effects()
    core.on_ended("l1", WorkerExit(1, -9, presumed=True), 1.0, effects)
    core.on_silent("l1", 1.0, effects)
    assert not effects.requeued
    core.on_time(1.0 + CAUSE_S, effects)
    assert [task.future for task in effects.requeued] == ["a"]


def test_more_than_its_own_limit_is_final() -> None:
    core = PoolCore(1)
    core.on_submitted([make_task("a", retries=3)], 0.0, Effects())
    core.on_granted(make_worker("l1"), 0.0, Effects())
    effects = Effects()
    core.on_ended("l1", WorkerExit(1, -9, shortage="task"), 1.0, effects)
    core.on_time(1.0 + LAST_WORDS_S, effects)
    assert [(task.future, failure.kind) for task, failure in effects.failed] == [("a", FailureKind.OUT_OF_MEMORY)]


def test_what_the_task_before_used_is_not_final() -> None:
    """Its answer came between the look at the worker's memory and the worker's end."""
    core = PoolCore(1)
    core.on_submitted([make_task("a", retries=3), make_task("b", retries=3)], 0.0, Effects())
    core.on_granted(make_worker("l1"), 0.0, Effects())
    core.on_results("l1", [Result(1, OK, b"")], 0.95, 0.95, Effects())
    effects = Effects()
    core.on_ended("l1", WorkerExit(1, -9, shortage="task"), 1.0, effects)
    core.on_time(1.0 + LAST_WORDS_S, effects)
    assert (effects.failed, [task.future for task in effects.requeued]) == ([], ["b"])


def flowing_core() -> tuple[PoolCore, list[Worker]]:
    """Eight workers, tasks of 5 µs: two of the workers are busy, and an answer has just come from one of them."""
    core = PoolCore(8, eager=True)
    workers = [make_worker(f"l{number}") for number in range(8)]
    core.on_opened(0.0, Effects())
    for worker in workers:
        core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task(str(number)) for number in range(3)], 0.0, Effects())
    busy = [worker for worker in workers if worker.in_flight]
    core.on_results(busy[0].lease, answers(busy[0], 1), 5e-6, 0.001, Effects())
    return core, workers


def test_tasks_shorter_than_a_message_may_gather_while_answers_come() -> None:
    core, _ = flowing_core()
    assert not core.hungry
    effects = Effects()
    core.on_submitted([make_task(f"more{number}") for number in range(32)], 0.002, effects)
    assert sum(len(tasks) for _, tasks in effects.send) == 32
    assert len(effects.send) == 2, "each message is worth sending"


def test_tasks_do_not_gather_when_no_answers_come() -> None:
    core, _ = flowing_core()
    deadline = core.next_deadline()
    assert deadline is not None
    assert deadline <= 0.001 + RETRACT_AFTER_S
    core.on_time(deadline, Effects())
    assert core.hungry


def short_core(workers: int) -> PoolCore:
    """Its workers have nothing to do; one has just answered a task of 5 µs."""
    core = PoolCore(workers, eager=True)
    core.on_opened(0.0, Effects())
    for number in range(workers):
        core.on_granted(make_worker(f"l{number}"), 0.0, Effects())
    answer_single(core, core.on_single(make_task("first"), 0.0), 5e-6, 0.001)
    return core


def answer_single(core: PoolCore, worker: Worker | None, busy_s: float, now: float) -> None:
    assert worker is not None
    core.on_results(worker.lease, answers(worker, 1), busy_s, now, Effects())


def test_a_task_that_was_cancelled_before_it_came_is_given_to_nobody() -> None:
    core = short_core(1)
    cancelled, effects = make_task("cancelled"), Effects()
    cancelled.withdrawn = True
    assert core.on_single(cancelled, 0.001) is None
    core.on_submitted([cancelled], 0.001, effects)
    assert not effects.send
    assert core.outstanding == 0


def test_two_workers_let_tasks_gather_too_while_one_of_them_is_busy() -> None:
    core = short_core(2)
    first, second = (core.on_single(make_task(name), 0.001) for name in "ab")
    assert second is not None
    answer_single(core, first, 5e-6, 0.0011)
    assert not core.hungry, "an answer is on its way"
    answer_single(core, second, 5e-6, 0.0012)
    assert core.hungry, "nobody else would see to the next task"


@pytest.mark.parametrize("short_way", [True, False])
def test_tasks_begin_to_gather_while_answers_are_on_their_way(short_way: bool) -> None:
    """Otherwise the many idle workers of a large pool get one task each, for ever: whoever has one answers before the
    last of them has one."""
    core = short_core(64)

    def submit(name: str, now: float) -> None:
        if short_way:
            assert core.on_single(make_task(name), now) is not None
        else:
            core.on_submitted([make_task(name)], now, Effects())

    submit("a", 0.002)
    assert core.hungry, "one worker alone may be at a long task"
    submit("b", 0.002)
    assert not core.hungry
    deadline = core.next_deadline()
    assert deadline is not None
    assert deadline <= 0.001 + RETRACT_AFTER_S
    core.on_time(deadline, Effects())
    for number in range(8):
        assert core.hungry, "no answer has come for a while"
        submit(str(number), deadline)


def test_a_task_that_was_held_up_does_not_make_all_others_long() -> None:
    core = short_core(2)
    worker = core.on_single(make_task("held up"), 0.002)
    answer_single(core, worker, 0.01, 0.012)
    assert worker is not None
    core.on_submitted([make_task(str(number)) for number in range(64)], 0.012, Effects())
    while worker.in_flight:
        count = len(worker.in_flight)
        core.on_results(worker.lease, answers(worker, count), count * 2e-6, 0.013, Effects())
    effects = Effects()
    core.on_submitted([make_task(f"more{number}") for number in range(32)], 0.014, effects)
    assert [len(tasks) for _, tasks in effects.send] == [32]


def test_long_tasks_never_gather() -> None:
    core, workers = flowing_core()
    worker = next(worker for worker in workers if worker.in_flight)
    core.on_results(worker.lease, answers(worker, 1), 0.01, 0.002, Effects())
    assert core.hungry


def test_what_waits_behind_a_long_task_is_taken_back_when_another_worker_is_idle() -> None:
    core = PoolCore(2)
    slow, quick = make_worker("slow"), make_worker("quick")
    for worker in (slow, quick):
        core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task("a"), make_task("b")], 0.0, Effects())
    for worker in (slow, quick):
        core.on_results(worker.lease, answers(worker, 1), 1e-5, 0.001, Effects())
    core.on_submitted([make_task(str(i)) for i in range(20)], 0.002, Effects())
    assert slow.in_flight
    assert quick.in_flight
    while quick.in_flight:
        core.on_results("quick", answers(quick, len(quick.in_flight)), 1e-4, 0.003, Effects())
    effects = Effects()
    core.on_time(0.003 + RETRACT_AFTER_S, effects)
    (victim, attempts) = effects.retract[0]
    assert victim is slow
    assert attempts == list(slow.in_flight)[1:]
    effects = Effects()
    core.on_retracted("slow", attempts, 0.02, effects)
    assert {worker.lease for worker, _ in effects.send} == {"quick"}
    assert len(slow.in_flight) == 1


def test_a_late_answer_is_dropped() -> None:
    core = PoolCore(1)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task("a")], 0.0, Effects())
    late = answers(worker, 1)
    core.on_ended("l1", WorkerExit(1, -9), 1.0, Effects())
    core.on_time(1.0 + LAST_WORDS_S, Effects())
    second = make_worker("l2")
    core.on_granted(second, 2.0, Effects())
    effects = Effects()
    core.on_results("l2", late, 0.1, 2.1, effects)
    assert effects.finished == []
    assert core.outstanding == 1


def test_of_what_a_worker_died_may_be_known_later_than_that_it_did() -> None:
    core = PoolCore(1)
    core.on_granted(make_worker("l1"), 0.0, Effects())
    core.on_submitted([make_task("a", retries=3)], 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9, "its connection broke", presumed=True), 1.0, Effects())
    core.on_time(1.0 + LAST_WORDS_S, Effects())
    assert core.outstanding == 1
    assert core.next_deadline() == 1.0 + CAUSE_S
    effects = Effects()
    core.on_ended("l1", WorkerExit(1, -9, "too large", shortage="task"), 1.1, effects)
    assert [(task.future, failure.kind) for task, failure in effects.failed] == [("a", FailureKind.OUT_OF_MEMORY)]


def test_a_worker_of_whose_death_more_will_be_known_is_told_nothing() -> None:
    core = PoolCore(1)
    core.on_granted(make_worker("l1"), 0.0, Effects())
    task = make_task("a", retries=3)
    core.on_submitted([task], 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9, "its connection broke", presumed=True), 1.0, Effects())
    effects = Effects()
    core.on_killed(task, 1.1, effects)
    assert [failure.kind for _, failure in effects.failed] == [FailureKind.KILLED]
    assert not effects.retract
    assert not effects.interrupt
    core.on_time(1.0 + CAUSE_S, effects)
    assert effects.let_go == [task]


def test_of_what_a_worker_died_may_never_be_known() -> None:
    core = PoolCore(1)
    core.on_granted(make_worker("l1"), 0.0, Effects())
    core.on_submitted([make_task("a", retries=0)], 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9, "its connection broke", presumed=True), 1.0, Effects())
    effects = Effects()
    core.on_time(1.0 + CAUSE_S, effects)
    [(_, failure)] = effects.failed
    assert failure.exit is not None
    assert failure.exit.reason == "its connection broke"


def test_last_words_that_arrive_after_word_of_the_death_still_count() -> None:
    core = PoolCore(1)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task("a", retries=0)], 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, 0), 1.0, Effects())
    effects = Effects()
    core.on_results("l1", answers(worker, 1), 0.1, 1.001, effects)
    assert [task.future for task, _ in effects.finished] == ["a"]


def busy_core(*durations_s: float) -> tuple[PoolCore, list[Worker]]:
    """As many workers, each with tasks in flight."""
    core = PoolCore(len(durations_s))
    workers = [make_worker(f"l{number}") for number in range(len(durations_s))]
    core.on_submitted([make_task(str(number)) for number in range(len(workers))], 0.0, Effects())
    for worker, duration_s in zip(workers, durations_s, strict=True):
        core.on_granted(worker, 0.0, Effects())
        core.on_results(worker.lease, answers(worker, 1), duration_s, 0.0, Effects())
    core.on_submitted([make_task(f"more{number}") for number in range(len(workers) * 3)], 0.0, Effects())
    return core, workers


def test_a_worker_that_is_wanted_back_goes_after_its_task_and_gives_back_its_queue() -> None:
    core, [worker] = busy_core(1e-3)
    assert len(worker.in_flight) == 3
    effects = Effects()
    core.on_lease_wanted("l0", 0.0, effects)
    [(_, attempts)] = effects.retract
    assert attempts == list(worker.in_flight)[1:]
    assert not effects.give_back
    effects = Effects()
    core.on_retracted("l0", attempts, 0.0, effects)
    assert not effects.send
    core.on_results("l0", answers(worker, 1), 1e-3, 0.0, effects)
    assert [given[0] for given in effects.give_back] == [worker]
    other = make_worker("l1")
    effects = Effects()
    core.on_granted(other, 0.1, effects)
    assert [task.future for task in other.in_flight.values()] == ["more1"]


def test_an_idle_worker_that_is_wanted_back_goes_at_once() -> None:
    core = PoolCore(1, eager=True)
    core.on_opened(0.0, Effects())
    core.on_granted(make_worker("l0"), 0.0, Effects())
    effects = Effects()
    core.on_lease_wanted("l0", 0.0, effects)
    assert [worker.lease for worker in effects.leave] == ["l0"]
    # It is still wanted as before: another one comes for it.
    assert effects.demand == []


def test_above_the_fair_share_busy_workers_are_given_back_when_their_tasks_end() -> None:
    core, workers = busy_core(0.5, 0.5, 0.5)
    effects = Effects()
    core.on_reclaim(0.0, effects, 2)
    core.on_reclaim(0.0, effects, 2)
    assert [worker.wanted for worker in workers] == [True, True, False]
    for worker in workers:
        core.on_results(worker.lease, answers(worker, 1), 0.5, 0.5, effects)
    assert [given[0] for given in effects.give_back] == workers[:2]
    assert workers[2].in_flight


def test_above_the_fair_share_the_parents_of_nested_work_stay() -> None:
    core, workers = busy_core(0.5, 0.5, 0.5)
    core.on_reclaim(0.0, Effects(), 2, parents=("l0",))
    assert [worker.wanted for worker in workers] == [False, True, True]


class TestWorkersThatAreStillToCome:
    """Nobody is asked to give back what would come too late to find any work."""

    @pytest.fixture
    def core(self) -> PoolCore:
        core = PoolCore(2)
        core.on_opened(0.0, Effects())
        core.on_submitted([make_task("1"), make_task("2")], 0.0, Effects())
        core.on_granted(make_worker("l0"), 0.0, Effects())
        return core

    @staticmethod
    def answer(core: PoolCore, now: float) -> None:
        worker = core.workers["l0"]
        core.on_results("l0", answers(worker, 1), 0.001, now, Effects())

    def test_are_wanted_while_tasks_wait(self, core: PoolCore) -> None:
        self.answer(core, 0.1)
        assert core.next_deadline() is None
        assert core.demanded == 2

    def test_are_not_wanted_when_there_has_been_nothing_to_do_for_a_while(self, core: PoolCore) -> None:
        self.answer(core, 0.1)
        self.answer(core, 0.2)
        deadline = core.next_deadline()
        assert deadline is not None
        assert core.demanded == 2
        effects = Effects()
        core.on_time(deadline, effects)
        assert effects.demand == [(Shape(), 1)]
        assert not effects.leave

    def test_are_wanted_if_tasks_have_come_again(self, core: PoolCore) -> None:
        self.answer(core, 0.1)
        self.answer(core, 0.2)
        core.on_submitted([make_task("3"), make_task("4"), make_task("5")], 0.21, Effects())
        deadline = core.next_deadline()
        assert deadline is not None
        core.on_time(deadline, Effects())
        assert core.demanded == 2

    def test_are_not_wanted_either_if_tasks_come_one_by_one(self, core: PoolCore) -> None:
        self.answer(core, 0.1)
        self.answer(core, 0.2)
        core.on_time(1.0, Effects())
        assert core.demanded == 1
        core.on_submitted([make_task("3")], 1.0, Effects())
        self.answer(core, 1.1)
        assert core.demanded == 1


class TestIdleWorkersThatOthersWaitFor:
    """They are given back once they have been idle for about as long as another would take to come up."""

    @pytest.fixture
    def core(self) -> PoolCore:
        core = PoolCore(1)
        core.on_opened(0.0, Effects())
        core.on_granted(make_worker("l0"), 1.0, Effects())
        return core

    @staticmethod
    def due(core: PoolCore) -> float:
        deadline = core.next_deadline()
        assert deadline is not None
        return deadline

    def test_at_once_after_a_while(self, core: PoolCore) -> None:
        effects = Effects()
        core.on_reclaim(2.0, effects)
        assert [worker.lease for worker in effects.leave] == ["l0"]

    def test_soon_if_they_have_just_become_idle(self, core: PoolCore) -> None:
        effects = Effects()
        core.on_reclaim(1.001, effects)
        assert not effects.leave
        assert 1.0 < self.due(core) < 1.1
        core.on_time(self.due(core), effects)
        assert [worker.lease for worker in effects.leave] == ["l0"]

    @pytest.mark.parametrize("single", [True, False])
    def test_not_if_something_comes_for_them(self, core: PoolCore, single: bool) -> None:
        core.on_reclaim(1.001, Effects())
        task = make_task("t")
        if single:
            assert core.on_single(task, 1.002) is core.workers["l0"]
        else:
            core.on_submitted([task], 1.002, Effects())
        assert core.next_deadline() is None
        # While the others may still wait, each time anew.
        core.on_results("l0", answers(core.workers["l0"], 1), 0.1, 1.102, Effects())
        assert 1.102 < self.due(core) < 1.2

    def test_those_that_have_just_become_idle_stay_if_the_others_do_not_wait_for_long(self, core: PoolCore) -> None:
        effects = Effects()
        core.on_reclaim(1.001, effects, lasting=False)
        assert not effects.leave
        assert core.next_deadline() is None
        core.on_reclaim(1.1, effects, lasting=False)
        assert [worker.lease for worker in effects.leave] == ["l0"]

    def test_later_they_are_kept(self, core: PoolCore) -> None:
        core.on_reclaim(1.001, Effects())
        core.on_submitted([make_task("t")], 1.002, Effects())
        core.on_results("l0", answers(core.workers["l0"], 1), 8.0, 9.0, Effects())
        assert core.next_deadline() is None


def at_home(name: str, node: str) -> Task:
    task = make_task(name)
    task.home = node
    return task


def test_tasks_go_to_idle_workers_on_the_node_of_their_arguments() -> None:
    core = PoolCore(3)
    for node in ("a", "b", "c"):
        core.on_granted(Worker(f"on-{node}", b"w", Shape(), node, 1, 1), 0.0, Effects())
    effects = Effects()
    core.on_submitted([at_home("1", "a"), at_home("2", "c"), at_home("3", "c")], 0.0, effects)
    sent = {task.future: worker.node for worker, tasks in effects.send for task in tasks}
    # The third could wait for c, or be fetched: what is idle works.
    assert sent == {"1": "a", "2": "c", "3": "b"}


def test_a_worker_takes_first_what_has_its_arguments_there() -> None:
    core = PoolCore(1)
    worker = Worker("l", b"w", Shape(), "b", 1, 1)
    core.on_submitted([at_home("1", "a"), at_home("2", "b"), at_home("3", "")], 0.0, Effects())
    core.on_granted(worker, 0.0, Effects())
    order = []
    while worker.in_flight:
        order += [task.future for task in worker.in_flight.values()]
        core.on_results("l", answers(worker, 1), 0.5, 0.0, Effects())
    assert order == ["2", "3", "1"]


def test_the_scheduler_is_told_where_workers_would_be_of_most_use() -> None:
    core = PoolCore(9)
    core.on_submitted(
        [at_home(str(i), node) for i, node in enumerate(["a", "b", "b", "", "b", "a", "c"])], 0.0, Effects()
    )
    assert core.near(Shape()) == ("b", "a", "c")
    assert (
        home_of([Location("1", "x", "s", 0, 100), Location("2", "y", "s", 0, 60), Location("3", "y", "s", 0, 60)])
        == "y"
    )


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_that_kills_its_workers_runs_retries_plus_one_times(retries: int) -> None:
    core = PoolCore(1)
    core.on_submitted([make_task("killer", retries), make_task("neighbour")], 0.0, Effects())
    attempts = 0
    failed: list[tuple[Task, Failure]] = []
    finished: list[Any] = []
    for n in range(20):
        worker = make_worker(f"l{n}")
        effects = Effects()
        core.on_granted(worker, float(n), effects)
        core.on_set_up(worker.lease, float(n), Effects())
        for _ in range(10):
            if not worker.in_flight:
                break
            head = next(iter(worker.in_flight.values()))
            if head.future == "killer":
                attempts += 1
                core.on_ended(worker.lease, WorkerExit(1, -11), n + 0.1, Effects())
                effects = Effects()
                core.on_time(n + 0.2, effects)
                failed += effects.failed
                break
            effects = Effects()
            core.on_results(worker.lease, answers(worker, 1), 1.0, n + 0.1, effects)
            finished += effects.finished
    assert attempts == retries + 1
    assert [(task.future, failure.kind) for task, failure in failed] == [("killer", FailureKind.WORKER_DIED)]
    assert [task.future for task, _ in finished] == ["neighbour"]


def test_a_time_limit_interrupts_then_replaces_the_worker() -> None:
    core = PoolCore(1)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task("a", timeout_s=5.0), make_task("b")], 0.0, Effects())
    attempt = next(iter(worker.in_flight))
    assert core.next_deadline() == 5.0
    effects = Effects()
    core.on_time(5.0, effects)
    assert effects.interrupt == [(worker, attempt)]
    assert [failure.kind for _, failure in effects.failed] == [FailureKind.TIMED_OUT]
    effects = Effects()
    core.on_time(5.0 + INTERRUPT_GRACE_S, effects)
    assert [(w.lease, terminate) for w, _, terminate in effects.give_back] == [("l1", True)]
    core.on_ended("l1", WorkerExit(1, -15), 7.0, Effects())
    effects = Effects()
    core.on_granted(make_worker("l2"), 8.0, effects)
    assert [[t.future for t in tasks] for _, tasks in effects.send] == [["b"]]


def test_an_interrupt_that_is_heeded_keeps_the_worker() -> None:
    core = PoolCore(1)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task("a"), make_task("b")], 0.0, Effects())
    task = next(iter(worker.in_flight.values()))
    attempt = task.message.attempt
    core.on_killed(task, 1.0, Effects())
    effects = Effects()
    core.on_results("l1", [Result(attempt, OK, b"")], 1.0, 1.1, effects)
    assert effects.finished == []
    assert [[t.future for t in tasks] for _, tasks in effects.send] == [["b"]]
    assert core.next_deadline() is None


@pytest.mark.parametrize("short_way", [True, False])
def test_a_task_that_is_killed_when_it_has_just_ended_is_not_settled_twice(short_way: bool) -> None:
    core = PoolCore(1)
    worker, task = make_worker("l1"), make_task("a")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([task], 0.0, Effects())
    if short_way:
        assert core.on_single_result("l1", task.message.attempt, 1.0, 1.0) is task
    else:
        core.on_results("l1", answers(worker, 1), 1.0, 1.0, Effects())
    effects = Effects()
    core.on_killed(task, 1.0, effects)
    assert not effects.failed
    core.on_closed(1.0, effects)
    assert effects.leave == [worker]
    core.check_invariants()


def test_what_has_failed_can_no_longer_be_withdrawn() -> None:
    core = PoolCore(1)
    tasks = [make_task("waits"), make_task("waits, too"), make_task("refused", cpus=2.0)]
    core.on_submitted(tasks, 0.0, Effects())
    assert [task.withdrawn for task in tasks] == [False, False, True]
    core.on_broken(Failure(FailureKind.BROKEN), 0.0, Effects())
    assert all(task.withdrawn for task in tasks)


def test_a_cancelled_task_does_not_fail_when_no_node_can_run_it() -> None:
    core = PoolCore(1)
    task, effects = make_task("a"), Effects()
    core.on_submitted([task, make_task("b")], 0.0, Effects())
    core.on_withdrawn(task, Effects())
    core.on_infeasible(Shape(), "too large", 0.0, effects)
    assert [task.future for task, _ in effects.failed] == ["b"]
    assert core.outstanding == 0


def test_a_worker_that_starts_leaves_when_the_last_task_of_a_closed_pool_is_cancelled() -> None:
    core = PoolCore(1)
    task = make_task("a")
    core.on_submitted([task], 0.0, Effects())
    core.on_granted(make_worker("l1"), 0.0, Effects())
    core.on_set_up("l1", 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9), 1.0, Effects())
    core.on_silent("l1", 1.0, Effects())
    worker = make_worker("l2")
    core.on_granted(worker, 1.1, Effects())
    core.on_closed(1.2, Effects())
    effects = Effects()
    core.on_withdrawn(task, effects)
    assert effects.leave == [worker]
    assert effects.demand == [(Shape(), 0)]


def test_a_worker_that_started_for_a_task_that_another_took_meanwhile_gets_the_next_one() -> None:
    core = PoolCore(2)
    workers = [make_worker("l1"), make_worker("l2")]
    core.on_submitted([make_task("a"), make_task("suspect")], 0.0, Effects())
    for worker in workers:
        core.on_granted(worker, 0.0, Effects())
        core.on_set_up(worker.lease, 0.0, Effects())
    core.on_ended("l2", WorkerExit(1, -9), 1.0, Effects())
    core.on_silent("l2", 1.0, Effects())
    late = make_worker("l3")
    core.on_granted(late, 1.1, Effects())
    assert not late.in_flight, "a suspect is given to nobody who is not known to have started"
    core.on_results("l1", answers(workers[0], 1), 1.0, 1.2, Effects())
    assert names_at(workers[0]) == ["suspect"]
    core.on_set_up("l3", 1.3, Effects())
    core.on_submitted([make_task("next")], 1.4, Effects())
    assert names_at(late) == ["next"]
    core.check_invariants()


def test_a_worker_that_comes_when_all_tasks_of_a_closed_pool_are_cancelled_leaves() -> None:
    core = PoolCore(1)
    task, worker = make_task("a"), make_worker("l1")
    core.on_submitted([task], 0.0, Effects())
    core.on_closed(0.0, Effects())
    core.on_withdrawn(task, Effects())
    effects = Effects()
    core.on_granted(worker, 0.1, effects)
    assert effects.leave == [worker]
    assert not effects.send


def test_what_comes_when_the_pool_has_ended_fails() -> None:
    core = PoolCore(1)
    core.on_closed(0.0, Effects())
    assert core.over
    effects = Effects()
    core.on_submitted([make_task("a"), make_task("b", cpus=0.5)], 0.0, effects)
    assert [(task.future, failure.kind) for task, failure in effects.failed] == [
        ("a", FailureKind.ENDED),
        ("b", FailureKind.ENDED),
    ]
    assert not effects.demand
    assert core.over


def test_a_strict_pool_breaks_when_a_worker_dies() -> None:
    core = PoolCore(2, strict=True)
    core.on_granted(make_worker("l1"), 0.0, Effects())
    core.on_submitted([make_task("a"), make_task("b")], 0.0, Effects())
    core.on_ended("l1", WorkerExit(1, -9), 1.0, Effects())
    effects = Effects()
    core.on_time(2.0, effects)
    assert effects.broken is not None
    assert len(effects.failed) == 2


def test_a_task_that_needs_more_than_the_pool_has_fails_at_once() -> None:
    effects = Effects()
    PoolCore(2).on_submitted([make_task("a", cpus=3)], 0.0, effects)
    assert [failure.kind for _, failure in effects.failed] == [FailureKind.INFEASIBLE]


def test_workers_are_replaced_after_max_tasks_per_child() -> None:
    core = PoolCore(1, max_tasks_per_child=2)
    worker = make_worker("l1")
    core.on_granted(worker, 0.0, Effects())
    core.on_submitted([make_task(str(i)) for i in range(5)], 0.0, Effects())
    core.on_results("l1", answers(worker, 1), 1e-5, 0.1, Effects())
    assert len(worker.in_flight) == 1
    effects = Effects()
    core.on_results("l1", answers(worker, 1), 1e-5, 0.2, effects)
    assert effects.leave == [worker]
    assert not effects.send


def test_a_pool_that_starts_all_workers_at_once_replaces_none_when_it_closes() -> None:
    core = PoolCore(2, eager=True)
    core.on_opened(0.0, Effects())
    for lease in ("l1", "l2"):
        core.on_granted(make_worker(lease), 0.0, Effects())
    effects = Effects()
    core.on_closed(0.1, effects)
    assert {worker.lease for worker in effects.leave} == {"l1", "l2"}
    for lease in ("l1", "l2"):
        effects = Effects()
        core.on_ended(lease, WorkerExit(1, 0), 0.2, effects)
        assert effects.demand == []
    assert core.demanded == 0


class TestAnInitializerWithoutTasks:
    """``Pool(2, initializer)`` that is closed at once: the initializer runs."""

    @pytest.fixture
    def core(self) -> PoolCore:
        core = PoolCore(2, eager=True, initialized=True)
        core.on_opened(0.0, Effects())
        effects = Effects()
        core.on_closed(0.0, effects)
        assert effects.demand == []
        assert core.demanded == 2
        assert not core.over
        return core

    def test_workers_stay_until_it_ran(self, core: PoolCore) -> None:
        effects = Effects()
        for lease in ("l1", "l2"):
            core.on_granted(make_worker(lease), 0.0, effects)
        assert effects.leave == []
        core.on_set_up("l2", 0.1, effects)
        assert {worker.lease for worker in effects.leave} == {"l1", "l2"}
        core.on_ended("l2", WorkerExit(1, 0), 0.2, effects)
        core.on_ended("l1", WorkerExit(1, 0), 0.2, effects)
        assert core.demanded == 0
        assert core.over

    def test_one_worker_is_enough(self, core: PoolCore) -> None:
        effects = Effects()
        core.on_granted(make_worker("l1"), 0.0, effects)
        core.on_set_up("l1", 0.1, effects)
        assert [worker.lease for worker in effects.leave] == ["l1"]
        assert core.demanded == 0

    def test_a_worker_that_dies_before_is_replaced(self, core: PoolCore) -> None:
        core.on_granted(make_worker("l1"), 0.0, Effects())
        core.on_ended("l1", WorkerExit(1, -9), 0.1, Effects())
        assert core.demanded == 2

    def test_nor_is_it_given_back(self, core: PoolCore) -> None:
        core.on_granted(make_worker("l1"), 0.0, Effects())
        core.on_reclaim(0.1, Effects())
        assert core.demanded == 2

    def test_unless_no_worker_can_be_had(self, core: PoolCore) -> None:
        core.on_infeasible(Shape(), "too large", 0.1, Effects())
        assert core.demanded == 0

    def test_unless_it_fails(self, core: PoolCore) -> None:
        effects = Effects()
        core.on_granted(make_worker("l1"), 0.0, effects)
        core.on_set_up_failed("l1", Failure(FailureKind.BROKEN), 0.1, effects)
        assert [worker.lease for worker, *_ in effects.give_back] == ["l1"]
        assert core.demanded == 0


def test_a_worker_that_comes_when_the_last_task_has_been_given_out_is_not_asked_for_again() -> None:
    core = PoolCore(2)
    busy = make_worker("busy")
    core.on_submitted([make_task("a"), make_task("b")], 0.0, Effects())
    core.on_granted(busy, 0.0, Effects())
    core.on_results("busy", answers(busy, 1), 1e-5, 0.0, Effects())
    core.on_closed(0.1, Effects())
    effects = Effects()
    core.on_granted(make_worker("late"), 0.2, effects)
    assert [worker.lease for worker in effects.leave] == ["late"]
    assert effects.demand == [(Shape(), 1)]


def state_of(core: PoolCore) -> Any:
    """Everything that a later decision may depend on."""
    groups = [
        (
            shape,
            list(group.idle),
            list(group.workers),
            [task.future for task in group.ready],
            (group.demand, group.flowing, group.task_s),
        )
        for shape, group in core._dealer.groups.items()
    ]
    workers = [
        (
            worker.lease,
            {attempt: task.future for attempt, task in worker.in_flight.items()},
            list(worker.stopping),
            (worker.tasks_given, worker.answered, worker.leaving, worker.exclusive, worker.last_progress),
        )
        for worker in core.workers.values()
    ]
    # The gathering of tasks ends by itself; whether that is seen now or at its deadline makes no difference.
    deadlines = {key: at for key, at in core.state.deadlines.items() if key[0] != "gather"}
    return groups, workers, deadlines, core.outstanding, core.hungry, core._dealer._next_attempt


def said(effects: Effects) -> Any:
    """What is to be done beyond sending a task and settling one."""
    return [getattr(effects, name) for name in Effects.__struct_fields__ if name not in ("send", "finished", "let_go")]


class PoolModel(RuleBasedStateMachine):
    """Whatever happens, every task is settled exactly once, within its attempts, and none is forgotten."""

    @initialize(
        slots=st.integers(1, 4),
        strict=st.booleans(),
        max_tasks=st.sampled_from([0, 0, 1, 3]),
        idle=st.sampled_from([None, 0.05]),
        eager=st.booleans(),
        initialized=st.booleans(),
    )
    def open(
        self, slots: int, strict: bool, max_tasks: int, idle: float | None, eager: bool, initialized: bool
    ) -> None:
        self.core = PoolCore(
            slots,
            eager=eager,
            initialized=initialized,
            strict=strict,
            max_tasks_per_child=max_tasks,
            idle_timeout_s=idle,
        )
        self.now = 0.0
        self.demand: dict[Shape, int] = {}
        self.alive: dict[str, Worker] = {}
        self.tasks: dict[str, Task] = {}
        self.retries: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self.settled: dict[str, str] = {}
        self.leases = 0
        self.closed = False
        #: What was said of workers and by them, to be said again.
        self.heard: list[tuple[Any, ...]] = []

    def perform(self, effects: Effects) -> None:
        for shape, workers in effects.demand:
            self.demand[shape] = workers
        for _, tasks in effects.send:
            for task in tasks:
                assert task.future not in self.settled, "a settled task was sent"
                self.runs[task.future] += 1
                assert self.runs[task.future] <= self.retries[task.future] + 1 or task.deaths == 0
        for task in effects.requeued:
            if task.deaths == 0:
                self.runs[task.future] -= 1
        for task, _ in effects.finished:
            self.settle(task.future, "finished")
        for task, failure in effects.failed:
            self.settle(task.future, failure.kind.value)
        for _worker, _, _ in effects.give_back:
            self.give_backs = True

    def settle(self, name: str, how: str) -> None:
        assert name not in self.settled, f"{name} was settled twice: {self.settled[name]}, {how}"
        self.settled[name] = how

    @precondition(lambda self: not self.closed)
    @rule(retries=st.integers(0, 3), timed=st.booleans(), cpus=st.sampled_from([1.0, 2.0]))
    def submit_single(self, retries: int, timed: bool, cpus: float) -> None:
        """The short way decides as the long one does, or says that it cannot."""
        name = f"t{len(self.tasks)}"
        task = make_task(name, retries, 1.0 if timed else None, cpus)
        self.tasks[name], self.retries[name], self.runs[name] = task, retries, 0
        twin, effects = copy.deepcopy((self.core, task)), Effects()
        twin[0].on_submitted([twin[1]], self.now, effects)
        before = state_of(self.core)
        worker = self.core.on_single(task, self.now)
        if worker is None:
            assert state_of(self.core) == before
            effects = Effects()
            self.core.on_submitted([task], self.now, effects)
            self.perform(effects)
            return
        self.perform(Effects(send=[(worker, [task])]))
        assert [(w.lease, [t.future for t in tasks]) for w, tasks in effects.send] == [(worker.lease, [name])]
        assert said(effects) == said(Effects())
        assert state_of(self.core) == state_of(twin[0])

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False), each=st.sampled_from([1e-6, 1e-3, 0.5]))
    def answer_single(self, pick: Any, each: float) -> None:
        worker = self.alive[pick.choice(sorted(self.alive))]
        attempt = next(iter(worker.in_flight), 10_000_000)
        twin, effects = copy.deepcopy(self.core), Effects()
        twin.on_results(worker.lease, [Result(attempt, OK, b"")], each, self.now, effects)
        before = state_of(self.core)
        task = self.core.on_single_result(worker.lease, attempt, each, self.now)
        if task is None:
            assert state_of(self.core) == before
            return
        self.settle(task.future, "finished")
        assert [task.future for task, _ in effects.finished] == [task.future]
        assert [task.future for task in effects.let_go] == [task.future]
        assert (effects.send, said(effects)) == ([], said(Effects()))
        assert state_of(self.core) == state_of(twin)

    @precondition(lambda self: not self.closed)
    @rule(
        count=st.integers(1, 30), retries=st.integers(0, 3), timed=st.booleans(), cpus=st.sampled_from([1.0, 1.0, 2.0])
    )
    def submit(self, count: int, retries: int, timed: bool, cpus: float) -> None:
        tasks = []
        for _ in range(count):
            name = f"t{len(self.tasks)}"
            task = make_task(name, retries, 1.0 if timed else None, cpus)
            self.tasks[name] = task
            self.retries[name] = retries
            self.runs[name] = 0
            tasks.append(task)
        effects = Effects()
        self.core.on_submitted(tasks, self.now, effects)
        self.perform(effects)

    @rule(pick=st.randoms(use_true_random=False))
    def grant(self, pick: Any) -> None:
        open_shapes = [
            shape
            for shape, wanted in self.demand.items()
            if wanted > sum(1 for w in self.alive.values() if w.shape == shape)
        ]
        if not open_shapes:
            return
        self.leases += 1
        worker = make_worker(f"l{self.leases}", pick.choice(open_shapes).num_cpus)
        self.alive[worker.lease] = worker
        effects = Effects()
        self.core.on_granted(worker, self.now, effects)
        self.perform(effects)

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False), each=st.sampled_from([1e-6, 1e-3, 0.5]))
    def answer(self, pick: Any, each: float) -> None:
        worker = self.alive[pick.choice(sorted(self.alive))]
        results = answers(worker, pick.randint(1, 5))
        results += [Result(attempt, OK, b"") for attempt in sorted(worker.stopping)]
        if pick.random() < 0.2:
            results.append(Result(10_000_000, OK, b""))
        if not results:
            return
        effects = Effects()
        self.heard.append((PoolCore.on_results, worker.lease, list(results), each * len(results)))
        self.core.on_results(worker.lease, results, each * len(results), self.now, effects)
        self.perform(effects)

    @precondition(lambda self: self.heard)
    @rule(pick=st.randoms(use_true_random=False))
    def say_again(self, pick: Any) -> None:
        """A message comes twice, or after others that were said later: nothing is settled by it, or sent twice."""
        handle, *arguments = pick.choice(self.heard)
        before, outstanding = dict(self.settled), self.core.outstanding
        effects = Effects()
        handle(self.core, *arguments, self.now, effects)
        self.perform(effects)
        if handle is not PoolCore.on_ended:  # of which a second word counts: it may know the cause
            assert (self.settled, self.core.outstanding) == (before, outstanding)

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False))
    def retracted(self, pick: Any) -> None:
        worker = self.alive[pick.choice(sorted(self.alive))]
        if not worker.retracting:
            return
        effects = Effects()
        self.heard.append((PoolCore.on_retracted, worker.lease, list(worker.in_flight)[1:]))
        self.core.on_retracted(worker.lease, list(worker.in_flight)[1:], self.now, effects)
        self.perform(effects)

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False))
    def die(self, pick: Any) -> None:
        worker = self.alive.pop(pick.choice(sorted(self.alive)))
        effects = Effects()
        exit = WorkerExit(1, -9, shortage=pick.choice(["", "", "node"]))
        self.core.on_ended(worker.lease, exit, self.now, effects)
        self.heard += [(PoolCore.on_ended, worker.lease, exit), (PoolCore.on_set_up, worker.lease)]
        self.perform(effects)

    @precondition(lambda self: self.tasks)
    @rule(pick=st.randoms(use_true_random=False))
    def kill(self, pick: Any) -> None:
        task = self.tasks[pick.choice(sorted(self.tasks))]
        if task.future in self.settled:
            return
        effects = Effects()
        self.core.on_killed(task, self.now, effects)
        self.perform(effects)
        assert task.future in self.settled

    @precondition(lambda self: self.tasks)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: Any) -> None:
        unsent = self.core.unsent()
        if not unsent:
            return
        task = pick.choice(unsent)
        effects = Effects()
        self.core.on_withdrawn(task, effects)
        self.settle(task.future, "cancelled")
        self.perform(effects)

    @rule(step=st.sampled_from([0.001, 0.006, 0.1, 1.5]))
    def time(self, step: float) -> None:
        self.now += step
        while (deadline := self.core.next_deadline()) is not None and deadline <= self.now:
            effects = Effects()
            self.core.on_time(self.now, effects)
            self.perform(effects)
            if self.core.next_deadline() == deadline:
                raise AssertionError("a deadline that does not go away")

    @rule(excess=st.integers(0, 3))
    def reclaim(self, excess: int) -> None:
        effects = Effects()
        self.core.on_reclaim(self.now, effects, excess)
        self.perform(effects)
        assert sum(worker.leaving or worker.wanted for worker in self.alive.values()) >= min(excess, len(self.alive))

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False))
    def want_back(self, pick: Any) -> None:
        worker = self.alive[pick.choice(sorted(self.alive))]
        effects = Effects()
        self.core.on_lease_wanted(worker.lease, self.now, effects)
        self.perform(effects)
        assert worker.leaving or worker.wanted

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "core"):
            self.core.check_invariants()
            assert len(self.tasks) == len(self.settled) + self.core.outstanding

    def teardown(self) -> None:
        """Everything that is left gets done by willing workers."""
        if not hasattr(self, "core"):
            return
        self.closed = True
        for _ in range(2000):
            if len(self.settled) == len(self.tasks):
                break
            for lease, worker in list(self.alive.items()):
                effects = Effects()
                if worker.leaving:
                    del self.alive[lease]
                    self.core.on_ended(lease, WorkerExit(1, 0), self.now, effects)
                elif worker.retracting:
                    self.core.on_retracted(lease, list(worker.in_flight)[1:], self.now, effects)
                else:
                    results = answers(worker, 100) + [Result(attempt, OK, b"") for attempt in list(worker.stopping)]
                    self.core.on_results(lease, results, 1e-3 * len(results), self.now, effects)
                self.perform(effects)
            for shape, wanted in self.demand.items():
                while wanted > sum(1 for w in self.alive.values() if w.shape == shape):
                    self.leases += 1
                    worker = make_worker(f"l{self.leases}", shape.num_cpus)
                    self.alive[worker.lease] = worker
                    effects = Effects()
                    self.core.on_granted(worker, self.now, effects)
                    self.core.on_set_up(worker.lease, self.now, effects)
                    self.perform(effects)
                    wanted = self.demand[shape]
            self.now += 0.01
            effects = Effects()
            self.core.on_time(self.now, effects)
            self.perform(effects)
            self.core.check_invariants()
        assert len(self.settled) == len(self.tasks), "tasks were forgotten"


PoolModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPoolModel = PoolModel.TestCase
