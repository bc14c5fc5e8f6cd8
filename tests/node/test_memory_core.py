"""The watching of memory against a machine of numbers: tasks fill it, and the kernel's killer must never come."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from distpool.node.memory_core import _FILL_BYTES_PER_S, NODE, TASK, Kind, MemoryCore, Sample, Verdict
from distpool.node.memory_policy import MemoryPolicy

MB = 1 << 20
GB = 1 << 30


class Process:
    """A task that fills memory at some rate up to some size."""

    def __init__(self, name: str, began: float, size: int, rate: float, *, retriable: bool, limit: int) -> None:
        self.name, self.began, self.size, self.rate = name, began, size, rate
        self.retriable, self.limit = retriable, limit
        self.told = False
        self.dies_at: float | None = None

    def bytes(self, now: float) -> int:
        return 20 * MB + int(min(self.size, self.rate * (now - self.began)))


class Machine:
    """A node with a core, in virtual time.  Raises ``AssertionError`` where the core does what it must not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.size = self.random.choice([2 * GB, 8 * GB, 64 * GB])
        self.cpus = 4
        self.core = MemoryCore(MemoryPolicy(), self.cpus)
        self.now = 0.0
        self.processes: dict[str, Process] = {}
        self.killed: list[tuple[Process, Verdict]] = []
        self.started = 0
        self.looks = 0

    def left(self) -> int:
        return self.size - sum(process.bytes(self.now) for process in self.processes.values())

    def run(self, until: float) -> None:
        step = 0.01
        while self.now < until:
            self.now += step
            if len(self.processes) < self.cpus and self.random.random() < 0.05:
                self.start()
            for process in list(self.processes.values()):
                if not process.told and self.now - process.began > 0.25:
                    process.told = True
                    self.core.on_task_runs(process.name, process.began, process.retriable)
                over = process.dies_at is None and self.now - process.began > 20
                if over or (process.dies_at is not None and self.now >= process.dies_at):
                    del self.processes[process.name]
                    self.core.on_gone(process.name, self.now)
            assert self.left() >= 0, "the kernel's killer came first"
            if self.core.due(self.now):
                self.look()
            assert not self.processes or self.core.next_deadline() is not None

    def start(self) -> None:
        self.started += 1
        name = f"w{self.started}"
        size = int(self.size * self.random.choice([0.05, 0.2, 0.5, 0.9]))
        rate = self.random.choice([0.1, 0.5, 1.0]) * _FILL_BYTES_PER_S * 0.9
        limit = self.random.choice([0, 0, int(self.size * 0.4)])
        process = Process(name, self.now, size, rate, retriable=self.random.random() < 0.7, limit=limit)
        self.processes[name] = process
        self.core.on_lease_began(name, limit, self.now)

    def look(self) -> None:
        self.looks += 1
        sizes = {process.name: process.bytes(self.now) for process in self.processes.values()}
        verdict = self.core.on_sample(Sample((Kind("the machine", self.size, self.left()),), sizes), self.now)
        if verdict is None:
            return
        assert not any(process.dies_at for process in self.processes.values()), "two at a time"
        victim = self.processes[verdict.worker]
        if verdict.shortage == TASK:
            assert victim.limit, "it had no limit"
            assert sizes[victim.name] > victim.limit, "it was within its limit"
        else:
            assert self.left() < self.size / 8, "there was enough"
            assert sizes[victim.name] >= max(sizes.values()) / 4, "it was not the reason"
            others = [other for other in self.processes.values() if other.told and other is not victim]
            large = [other for other in others if sizes[other.name] >= max(sizes.values()) / 2]
            if victim.told and not victim.retriable:
                assert not any(other.retriable for other in large), "one that may run again was there"
            if victim.told and victim.retriable and sizes[victim.name] >= max(sizes.values()) / 2:
                assert all(other.began <= victim.began for other in large if other.retriable), "it was not the newest"
        victim.dies_at = self.now + 0.03
        self.killed.append((victim, verdict))


def check(seeds: int) -> tuple[int, int]:
    """Verdicts on the node and on tasks."""
    counts = {NODE: 0, TASK: 0}
    for seed in range(seeds):
        machine = Machine(seed)
        machine.run(10.0)
        for process in machine.processes.values():
            grown = process.bytes(machine.now) - 20 * MB
            late = 0.06 * _FILL_BYTES_PER_S
            assert not process.limit or process.dies_at or grown < process.limit + 2 * late, "its limit was forgotten"
        for _, verdict in machine.killed:
            counts[verdict.shortage] += 1
    return counts[NODE], counts[TASK]


def test_the_kernels_killer_never_comes() -> None:
    node, task = check(25)
    assert node > 20
    assert task > 5


def _never(*_: Any) -> bool:
    return False


def _forget_victim(real: Callable[..., Any]) -> Callable[..., Any]:
    def judge(self: Any, sample: Sample) -> Any:
        self._victim = ""
        return real(self, sample)

    return judge


def _first(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: next(iter(self._workers), None)


def _treat_all_alike(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, worker, since, retriable: real(self, worker, since, True)


def _forget_age(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, worker, since, retriable: real(self, worker, -since, retriable)


MUTANTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("_is_short", lambda real: _never),
    ("_is_short", lambda real: lambda self, kind, stalled: kind.left_bytes < 0.3 * kind.size_bytes),
    ("_judge", _forget_victim),
    ("_choose", _first),
    ("on_task_runs", _treat_all_alike),
    ("on_task_runs", _forget_age),
    ("_pause", lambda real: lambda self, sample: 4 * real(self, sample) + 0.5),
    ("on_lease_began", lambda real: lambda self, worker, limit, now: real(self, worker, 0, now)),
    ("on_lease_began", lambda real: lambda self, worker, limit, now: real(self, worker, limit // 2, now)),
    ("on_gone", lambda real: lambda self, worker, now: self._workers.pop(worker, None)),
]


@pytest.mark.parametrize(("method", "make"), MUTANTS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(MUTANTS)])
def test_planted_bugs_are_found(method: str, make: Callable[[Any], Any]) -> None:
    with mock.patch.object(MemoryCore, method, make(getattr(MemoryCore, method))), pytest.raises(AssertionError):
        check(25)


def test_where_much_is_left_looks_are_rare() -> None:
    core = MemoryCore(MemoryPolicy(), 2)
    core.on_lease_began("w", 0, 0.0)
    now, looks = 0.0, 0
    while now < 100.0:
        deadline = core.next_deadline()
        assert deadline is not None
        now = max(now, deadline)
        assert core.due(now)
        core.on_sample(Sample((Kind("the machine", 64 * GB, 60 * GB),), {"w": 20 * MB}), now)
        looks += 1
    assert looks < 25
    core.on_gone("w", now)
    assert core.next_deadline() is None, "a node without leases sleeps"


def test_where_little_is_left_and_nothing_happens_looks_become_rare() -> None:
    core = MemoryCore(MemoryPolicy(), 2)
    core.on_lease_began("w", 0, 0.0)
    now, looks = 0.0, 0
    while now < 100.0:
        now = max(now, core.next_deadline() or now)
        assert core.due(now)
        core.on_sample(Sample((Kind("the machine", 2 * GB, int(0.15 * 2 * GB)),), {"w": 20 * MB}), now)
        looks += 1
    assert looks < 230


def test_when_everything_stands_still_the_reserve_is_larger() -> None:
    core = MemoryCore(MemoryPolicy(), 2)
    core.on_lease_began("w", 0, 0.0)
    kinds = (Kind("the machine", 2 * GB, int(0.2 * 2 * GB)),)
    assert core.on_sample(Sample(kinds, {"w": GB}), 1.0) is None
    verdict = core.on_sample(Sample(kinds, {"w": GB}, stalled=0.5, consumers=("python (process 7) 1.0 GiB",)), 2.0)
    assert verdict is not None
    assert verdict.finding == (
        "it was stopped because memory ran short: of the 2.0 GiB of the machine 410 MiB were left; it used 1.0 GiB; "
        "the largest processes: python (process 7) 1.0 GiB"
    )


def test_what_others_use_is_not_the_tasks_fault() -> None:
    core = MemoryCore(MemoryPolicy(), 2)
    core.on_lease_began("w", 0, 0.0)
    assert core.on_sample(Sample((Kind("the machine", 2 * GB, 0),), {"w": 20 * MB}), 1.0) is None


def test_watching_can_be_turned_off() -> None:
    core = MemoryCore(MemoryPolicy(reserve=0.0), 2)
    core.on_lease_began("w", 0, 0.0)
    assert core.next_deadline() is None
    core.on_lease_began("limited", GB, 0.0)
    assert core.next_deadline() == 0.0, "a limit of a task's own holds all the same"
