"""Calls that run on several workers at once: the driver's core."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distpool.driver.core import PoolCore
from distpool.driver.functions import in_payload
from distpool.driver.gangs import ranks_of
from distpool.driver.losing import LAST_WORDS_S
from distpool.driver.state import Effects, FailureKind, Worker, WorkerExit
from distpool.driver.task import Task
from distpool.wire.driver_to_worker import Task as TaskMessage
from distpool.wire.resources import Shape
from distpool.wire.worker_to_driver import OK, Result

SIZE = 3
SHAPE = Shape(gang=SIZE)
RAISED = OK + 1


def make_call(name: str, retries: int = 3, timeout_s: float | None = None) -> list[Task]:
    return ranks_of(Task(name, TaskMessage(0, 0, b"x"), in_payload(len), SHAPE, retries, timeout_s), SIZE)


def make_gang(name: str, core: PoolCore | None = None) -> list[Worker]:
    gang = [Worker(f"{name}{rank}", b"w", SHAPE, "n", 1, 1, gang=name, rank=rank) for rank in range(SIZE)]
    for worker in gang if core is not None else ():
        core.on_granted(worker, 0.0, Effects())  # type: ignore[union-attr]
    return gang


def answer(core: PoolCore, worker: Worker, status: int = OK) -> Effects:
    effects = Effects()
    core.on_results(worker.lease, [Result(next(iter(worker.in_flight)), status, b"")], 0.1, 1.0, effects)
    return effects


def die(core: PoolCore, worker: Worker, now: float = 2.0) -> Effects:
    effects = Effects()
    core.on_ended(worker.lease, WorkerExit(1, -9), now, effects)
    core.on_time(now + LAST_WORDS_S, effects)
    return effects


def test_a_call_asks_for_a_whole_gang_and_waits_for_all_of_it() -> None:
    core = PoolCore(8)
    effects = Effects()
    core.on_submitted(make_call("a"), 0.0, effects)
    assert effects.demand == [(SHAPE, SIZE)]
    effects = Effects()
    for worker in make_gang("g"):
        assert not effects.send
        core.on_granted(worker, 0.0, effects)
    assert [(worker.rank, [task.rank for task in tasks]) for worker, tasks in effects.send] == [
        (0, [0]),
        (1, [1]),
        (2, [2]),
    ]


def test_two_halves_of_gangs_make_no_whole() -> None:
    core = PoolCore(8)
    first, second = make_gang("g"), make_gang("h")
    core.on_submitted(make_call("a"), 0.0, Effects())
    effects = Effects()
    for worker in [*first[:2], second[2]]:
        core.on_granted(worker, 0.0, effects)
    assert not effects.send


def test_a_gang_takes_the_next_call_when_all_are_done() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    core.on_submitted([*make_call("a"), *make_call("b")], 0.0, Effects())
    assert not answer(core, gang[0]).send
    assert not answer(core, gang[2]).send
    assert {task.future for _, tasks in answer(core, gang[1]).send for task in tasks} == {"b"}


def test_when_one_raises_the_others_are_stopped() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    core.on_submitted(make_call("a"), 0.0, Effects())
    answer(core, gang[0])
    effects = answer(core, gang[2], RAISED)
    assert [worker.rank for worker, _ in effects.interrupt] == [1]
    assert core.outstanding == 0
    core.check_invariants()


def test_when_a_worker_dies_all_of_the_call_runs_again_on_another_gang() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    core.on_submitted(make_call("a", retries=1), 0.0, Effects())
    answer(core, gang[0])
    effects = die(core, gang[1])
    assert [worker.rank for worker, *_ in effects.give_back] == [0, 2]
    assert core.outstanding == SIZE
    core.check_invariants()
    for worker in (gang[0], gang[2]):
        die(core, worker)
    other = make_gang("h", core)
    assert [task.rank for worker in other for task in worker.in_flight.values()] == [0, 1, 2]
    effects = die(core, other[0])
    assert {failure.kind for _, failure in effects.failed} == {FailureKind.WORKER_DIED}
    assert core.outstanding == 0


def test_a_call_that_waits_is_cancelled_as_a_whole() -> None:
    core = PoolCore(SIZE)
    first, second = make_call("a"), make_call("b")
    core.on_submitted([*first, *second], 0.0, Effects())
    core.on_withdrawn(first[0], Effects())
    core.check_invariants()
    gang = make_gang("g", core)
    assert {task.future for worker in gang for task in worker.in_flight.values()} == {"b"}


def test_a_call_that_runs_is_killed_as_a_whole() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    call = make_call("a")
    core.on_submitted(call, 0.0, Effects())
    answer(core, gang[1])
    effects = Effects()
    core.on_killed(call[0], 0.0, effects)
    assert [worker.rank for worker, _ in effects.interrupt] == [0, 2]
    assert core.outstanding == 0


def test_a_call_that_is_killed_when_it_has_just_failed_is_not_settled_twice() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    call = make_call("a")
    core.on_submitted(call, 0.0, Effects())
    answer(core, gang[1], RAISED)
    effects = Effects()
    core.on_killed(call[0], 0.0, effects)
    assert not effects.failed
    assert core.outstanding == 0


def test_when_one_is_wanted_back_all_go_after_their_call() -> None:
    core = PoolCore(SIZE)
    gang = make_gang("g", core)
    core.on_submitted(make_call("a"), 0.0, Effects())
    effects = Effects()
    core.on_lease_wanted(gang[0].lease, 0.0, effects)
    assert not effects.give_back
    given = [worker for worker in gang for worker, *_ in answer(core, worker).give_back]
    assert given == gang


def test_a_gang_that_exceeds_the_pool_is_refused() -> None:
    core = PoolCore(2)
    effects = Effects()
    core.on_submitted(make_call("a"), 0.0, effects)
    [(_, failure), *_] = effects.failed
    assert "it needs 3 CPUs, and its pool has 2" in failure.reason


class GangModel(RuleBasedStateMachine):
    """Random histories; in the end everything is settled, and every call was answered by the ranks of one gang."""

    @initialize(gangs=st.integers(1, 2))
    def open(self, gangs: int) -> None:
        self.core = PoolCore(gangs * SIZE)
        self.now = 0.0
        self.demand: dict[Shape, int] = {}
        self.alive: dict[str, Worker] = {}
        self.ready_to_die: list[str] = []
        self.calls: dict[str, list[Task]] = {}
        self.answered: dict[str, dict[int, str]] = {}
        self.settled: dict[str, str] = {}
        self.gangs = 0

    def perform(self, effects: Effects) -> None:
        self.demand.update(effects.demand)
        for task in effects.requeued:
            self.answered[task.future].clear()
        for worker, tasks in effects.send:
            assert [task.rank for task in tasks] == [worker.rank]
            assert all(task.future not in self.settled for task in tasks)
        for task, result in effects.finished:
            self.answered[task.future][task.rank] = result.payload.decode()
            if task.future in self.settled:
                continue
            if result.status != OK:
                self.settled[task.future] = "raised"
            elif len(self.answered[task.future]) == SIZE:
                assert len(set(self.answered[task.future].values())) == 1, "answers of two gangs"
                self.settled[task.future] = "done"
        for task, failure in effects.failed:
            self.settled.setdefault(task.future, failure.kind.value)

    def do(self, action: Any, *arguments: Any) -> None:
        effects = Effects()
        action(*arguments, effects)
        self.perform(effects)

    @rule(count=st.integers(1, 4), retries=st.integers(0, 2), timed=st.booleans())
    def submit(self, count: int, retries: int, timed: bool) -> None:
        for _ in range(count):
            name = f"c{len(self.calls)}"
            self.calls[name] = make_call(name, retries, 1.0 if timed else None)
            self.answered[name] = {}
            self.do(self.core.on_submitted, self.calls[name], self.now)

    @rule()
    def grant(self) -> None:
        if self.demand.get(SHAPE, 0) < len(self.alive) + SIZE:
            return
        self.gangs += 1
        for worker in make_gang(f"g{self.gangs}-"):
            self.alive[worker.lease] = worker
            self.do(self.core.on_granted, worker, self.now)

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False), status=st.sampled_from([OK, OK, OK, RAISED]))
    def answer(self, pick: Any, status: int) -> None:
        worker = self.alive[pick.choice(sorted(self.alive))]
        attempts = [*worker.in_flight, *sorted(worker.stopping)][:1]
        results = [Result(attempt, status, worker.gang.encode()) for attempt in attempts]
        if results:
            self.do(self.core.on_results, worker.lease, results, 0.1, self.now)

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False))
    def die(self, pick: Any) -> None:
        """One dies, and the scheduler ends the rest."""
        gang = self.alive[pick.choice(sorted(self.alive))].gang
        for lease in sorted(
            (lease for lease, worker in self.alive.items() if worker.gang == gang), key=lambda _: pick.random()
        ):
            del self.alive[lease]
            self.do(self.core.on_ended, lease, WorkerExit(1, -9), self.now)

    @precondition(lambda self: self.calls)
    @rule(pick=st.randoms(use_true_random=False))
    def kill(self, pick: Any) -> None:
        name = pick.choice(sorted(self.calls))
        if name not in self.settled:
            self.do(self.core.on_killed, self.calls[name][0], self.now)
            assert name in self.settled

    @precondition(lambda self: self.alive)
    @rule(pick=st.randoms(use_true_random=False))
    def want_back(self, pick: Any) -> None:
        self.do(self.core.on_lease_wanted, pick.choice(sorted(self.alive)), self.now)

    @rule(excess=st.integers(0, 4))
    def reclaim(self, excess: int) -> None:
        effects = Effects()
        self.core.on_reclaim(self.now, effects, excess)
        self.perform(effects)

    @rule(step=st.sampled_from([0.006, 0.1, 1.5]))
    def time(self, step: float) -> None:
        self.now += step
        self.do(self.core.on_time, self.now)

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "core"):
            self.core.check_invariants()

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for _ in range(1000):
            if len(self.settled) == len(self.calls):
                break
            for lease, worker in list(self.alive.items()):
                if worker.leaving:
                    del self.alive[lease]
                    self.do(self.core.on_ended, lease, WorkerExit(1, 0), self.now)
                    continue
                attempts = [*worker.in_flight, *worker.stopping]
                results = [Result(attempt, OK, worker.gang.encode()) for attempt in attempts]
                if results:
                    self.do(self.core.on_results, lease, results, 0.1, self.now)
            self.grant()
            self.time(0.01)
        assert len(self.settled) == len(self.calls), "calls were forgotten"
        assert self.core.outstanding == 0


GangModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestGangModel = GangModel.TestCase
