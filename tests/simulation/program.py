"""What the simulated drivers compute, and the model against which it is checked."""

from __future__ import annotations

import random
from collections.abc import Container
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import msgspec

from distpool import errors
from distpool.driver.future import DistFuture
from distpool.driver.spec import PoolSpec
from distpool.wire import driver_to_worker
from tests.simulation.load import Load
from tests.simulation.memory import FILL_BYTES_PER_S, NODE_BYTES

#: Of an attempt that its worker began, and what became of a task.
Outcome = tuple[str, Any]
_PRIME = (1 << 31) - 1


@dataclass
class Spec:
    """One task: what it needs, what it does, and what is done to it."""

    number: int
    dependencies: tuple[int, ...] = ()
    duration_s: float = 0.01
    retries: int | None = None
    timeout_s: float | None = None
    num_cpus: float = 1.0
    #: kills its worker in its first so many runs
    deaths: int = 0
    #: when it is told to end, it goes on
    stubborn: bool = False
    raises: bool = False
    argument_bytes: int = 0
    result_bytes: int = 0
    #: how much memory it comes to use, and the most that it may
    fills_bytes: int = 0
    memory_bytes: int | None = None
    #: how many tasks it submits and waits for
    nested: int = 0
    #: how long its worker goes on looking at its arguments afterwards
    views_s: float = 0.0
    submitted_s: float = 0.0
    cancelled_s: float | None = None
    killed_s: float | None = None

    @property
    def too_large(self) -> bool:
        """Whether it comes to use more than a node has."""
        return min(self.fills_bytes, FILL_BYTES_PER_S * self.duration_s) > NODE_BYTES


@dataclass
class Record:
    """What is known of a task while the simulation runs."""

    spec: Spec
    future: DistFuture[Any] | None = None
    attempts: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    sent_at: float = 0.0
    #: which worker its last attempt went to
    worker: str = ""
    settled: int = 0
    settled_at: float = 0.0
    deaths: int = 0
    #: every object that was ever made of its result
    objects: list[str] = field(default_factory=list)
    #: how often it was to run again because its result was lost
    recomputed: int = 0
    killed: bool = False
    cancelled: bool = False


class Program:
    """The tasks of one driver, and the rules for what may become of them."""

    def __init__(self, name: str, seed: int, tasks: int, slots: int, depth: int, load: Load) -> None:
        self.name = name
        self.slots = slots
        self.depth = depth
        self.load = load
        self._chance = chance = random.Random(seed)
        self._spec = PoolSpec(
            slots,
            max_retries=chance.choice(load.retries),
            max_tasks_per_child=chance.choice([None, None, None, 2]),
            idle_timeout_s=chance.choice([None, None, 1.0]),
        )
        self._numbers: dict[int, int] = {}
        self.records = [Record(self._draw(chance, number, tasks)) for number in range(tasks)]

    def _draw(self, chance: random.Random, number: int, tasks: int) -> Spec:
        spec = Spec(number)
        roll, load = chance.random, self.load
        spec.duration_s = chance.uniform(1e-5, 5e-4) if tasks > 60 or roll() < 0.4 else chance.uniform(0.01, 1.5)
        if number and roll() < load.depends:
            known = min(number, load.needed_again or number)
            spec.dependencies = tuple(sorted(chance.sample(range(known), min(known, chance.randint(1, 2)))))
        if roll() < 0.25:
            spec.retries = chance.choice([0, 0, 1, 2])
        if roll() < 0.05:
            spec.deaths = chance.randint(1, 5)
        if roll() < 0.06:
            spec.timeout_s = 0.4
            spec.duration_s = chance.choice([0.05, 0.4003, 3.0, 1e6])
            spec.stubborn = roll() < 0.5
        if self.slots >= 2 and roll() < 0.05:
            spec.num_cpus = 2.0
        spec.raises = roll() < 0.04
        if roll() < load.stored:
            spec.result_bytes = chance.randint(1 << 20, 40 << 20)
        if roll() < 0.1:
            spec.argument_bytes = 1 << 20
        if self.depth < 2 and roll() < 0.12 and spec.timeout_s is None:
            spec.nested = chance.randint(1, 3)
        if roll() < 0.3:
            spec.views_s = chance.uniform(0.0, 3.0)
        if roll() < 0.5:
            spec.submitted_s = chance.uniform(0.0, load.over_s)
        if roll() < load.cancelled:
            spec.cancelled_s = spec.submitted_s + chance.choice([0.0, chance.uniform(0.0, 1.0)])
        if roll() < load.killed:
            spec.killed_s = spec.submitted_s + chance.uniform(0.0, chance.choice([2.0, 2 * min(1.0, spec.duration_s)]))
            spec.stubborn = roll() < 0.5
        if roll() < load.large:
            spec.fills_bytes = chance.choice([1 << 30, 3 << 29, 2 << 30, 5 << 30])
            spec.duration_s = chance.uniform(0.5, 6.0)
        if roll() < 0.03:
            spec.memory_bytes = 1 << 30
        return spec

    @property
    def settled(self) -> bool:
        """Whether every task that was submitted has been resolved, and all were submitted."""
        return all(record.settled for record in self.records)

    def retries_of(self, record: Record) -> int:
        """How often it may run again."""
        return self._spec.max_retries if record.spec.retries is None else record.spec.retries

    def pool_spec(self) -> PoolSpec:
        """The pool in which it runs."""
        return self._spec

    def extend(self, tasks: int) -> list[int]:
        """More tasks, which depend on none; returns their numbers."""
        first = len(self.records)
        for number in range(first, first + tasks):
            record = Record(self._draw(self._chance, number, tasks))
            record.spec.dependencies = ()
            record.spec.submitted_s = 0.0
            self.records.append(record)
        return list(range(first, first + tasks))

    def number_of(self, attempt: int) -> int:
        """The task of an attempt."""
        return self._numbers[attempt]

    # -- what happens -------------------------------------------------------------------------------------------

    def on_sent(self, task: driver_to_worker.Task, worker: str, now: float) -> None:
        attempt = task.attempt
        number = self._numbers[attempt] = msgspec.msgpack.decode(task.payload)
        record = self.records[number]
        assert attempt not in record.attempts, f"{self._of(record)}: attempt {attempt} was used twice"
        record.attempts.add(attempt)
        record.sent_at = now
        record.worker = worker

    def on_started(self, number: int, attempt: int) -> int:
        """A worker begins an attempt; returns how many it had begun before."""
        record = self.records[number]
        assert attempt not in record.started, f"{self._of(record)}: attempt {attempt} ran twice"
        before = len(record.started)
        record.started.add(attempt)
        most = self.retries_of(record) + 1
        assert len(record.started) <= most, f"{self._of(record)}: it runs {len(record.started)} times, {most} allowed"
        for dependency in record.spec.dependencies:
            assert self.records[dependency].settled, f"{self._of(record)}: it runs before task {dependency} is done"
        return before

    def on_settled(self, number: int, deaths: int, now: float) -> None:
        record = self.records[number]
        record.settled += 1
        record.settled_at = now
        record.deaths = deaths
        assert record.settled == 1, f"{self._of(record)}: its future was resolved {record.settled} times"

    # -- what must be true --------------------------------------------------------------------------------------

    def value(self, number: int) -> int:
        """What the task's result must be."""
        spec = self.records[number].spec
        return combine(number, [self.value(dependency) for dependency in spec.dependencies])

    def check(self, failed_starts: int, lost: Container[str], stopped: Container[str]) -> None:
        """Compare every future with what may have become of it.

        :param failed_starts: how many workers ended before they were set up.
        :param lost: the objects that went with their nodes.
        :param stopped: the workers that were stopped because memory ran short.
        """
        for record in self.records:
            self.check_record(record, failed_starts, lost, stopped)
        for record in self.records:
            losses = _count(record, lost)
            assert record.recomputed <= losses, (
                f"{self._of(record)}: computed again {record.recomputed} times, lost {losses}"
            )

    def check_record(self, record: Record, failed_starts: int, lost: Container[str], stopped: Container[str]) -> None:
        """As ``check``, for one."""
        spec, future = record.spec, record.future
        assert future is not None
        assert record.settled == 1, f"{self._of(record)}: its future was resolved {record.settled} times"
        kind, value = outcome(future)
        told = f"{self._of(record)}: {kind} {value!r}"
        if kind == "value":
            assert value == self.value(spec.number), f"{told}, not {self.value(spec.number)}"
            assert not spec.raises, f"{told}, though it raises"
            late = spec.timeout_s is not None and spec.duration_s > spec.timeout_s
            assert not late, f"{told}, though it takes longer than it may"
            assert spec.deaths <= self.retries_of(record), f"{told}, though it kills its worker more often"
            assert not spec.too_large, f"{told}, though no node has the memory for it"
        elif kind == "WorkerDiedError":
            most = self.retries_of(record) + 1
            if record.deaths:
                assert record.deaths == most, f"{told}: after {record.deaths} deaths, not {most}"
                assert len(record.attempts) >= most, f"{told}: after {len(record.attempts)} attempts, not {most}"
            else:  # the pool is broken
                assert failed_starts >= 3, f"{told}: after {failed_starts} failed starts"
        elif kind == "OutOfMemoryError":
            assert record.worker in stopped, f"{told}, and its last worker was not stopped"
            most = self.retries_of(record) + 1
            above_limit = 0 < (spec.memory_bytes or 0) < spec.fills_bytes
            assert record.deaths == most or above_limit, f"{told}: after {record.deaths} deaths, not {most}"
        elif kind == "cancelled":
            assert record.cancelled or record.killed, f"{told}, and nobody wanted that"
        elif kind == "TaskKilledError":
            assert record.killed, f"{told}, and nobody wanted that"
        elif kind == "TaskTimeoutError":
            waited_s = record.settled_at - record.sent_at
            assert spec.timeout_s is not None, told
            assert waited_s >= spec.timeout_s - 1e-6, f"{told} after {waited_s:g} s"
        elif kind == "DependencyError":
            inputs = [self.records[dependency].future for dependency in spec.dependencies]
            assert any(outcome(found)[0] != "value" for found in inputs if found is not None), told
        elif kind == "ZeroDivisionError":
            assert spec.raises, told
        elif kind == "ObjectLostError":
            reasons = [found for found in self._needed_by(record) if _count(found, lost)]
            # What runs again has no more time than before, and may be out of reach for so long.
            too_late = isinstance(value.__cause__, errors.TaskTimeoutError)
            timed = too_late and any(found.spec.timeout_s is not None for found in reasons)
            exhausted = any(map(self._is_exhausted, reasons))
            assert failed_starts >= 3 or exhausted or timed, f"{told}, though it could run again"
        else:
            raise AssertionError(told)

    def _needed_by(self, record: Record) -> list[Record]:
        """A task and all that it depends on."""
        found: dict[int, Record] = {}
        todo = [record]
        while todo:
            current = todo.pop()
            if current.spec.number not in found:
                found[current.spec.number] = current
                todo += [self.records[number] for number in current.spec.dependencies]
        return list(found.values())

    def _is_exhausted(self, record: Record) -> bool:
        return len(record.attempts) > self.retries_of(record)

    def _of(self, record: Record) -> str:
        return f"{self.name} task {record.spec.number}"


def _count(record: Record, lost: Container[str]) -> int:
    """How many of its objects were lost."""
    return sum(1 for object_id in record.objects if object_id in lost)


def combine(number: int, values: list[int]) -> int:
    """A task's result."""
    total = number + 1
    for value in values:
        total = (total * 48271 + value) % _PRIME
    return total


def outcome(future: DistFuture[Any]) -> Outcome:
    """What became of a settled future."""
    try:
        error = future.exception()
    except CancelledError as cancelled:
        error = cancelled
    if error is None:
        return "value", future.result()
    if isinstance(error, CancelledError) and not isinstance(error, errors.DistpoolError):
        return "cancelled", None
    return type(error).__name__, error
