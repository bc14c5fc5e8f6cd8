"""A program under fire: a mixed load whose every result is known, until standard input ends.

python -m tests.chaos.load SEED      prints a line of JSON a second, after each round, and at the end
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

import numpy as np

import distpool
from distpool import DistExecutor

#: A result that does not come for so long never will.
HUNG_S = 150.0
MB = 1 << 20
_RETRIES = 50


def square(number: int) -> int:
    return number * number


def slow(number: int, duration_s: float) -> int:
    time.sleep(duration_s)
    return number + 1


def filled(number: int, length: int) -> np.ndarray[Any, Any]:
    return np.full(length, float(number))


def plus(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return left + right


def total(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def filled_memory(size: int, duration_s: float) -> int:
    """Use so much of a worker's own memory for so long."""
    block = b"x" * size
    time.sleep(duration_s)
    return len(block)


def fail(number: int) -> None:
    raise ValueError(number)


def nested(number: int) -> int:
    with distpool.options(max_retries=_RETRIES), DistExecutor(2) as executor:
        return sum(executor.map(square, range(number)))


def attached() -> DistExecutor:
    """The scheduler may be away when the program begins."""
    deadline = time.monotonic() + HUNG_S
    while True:
        try:
            return DistExecutor()
        except distpool.ConnectError:
            if time.monotonic() > deadline:
                raise


class Load:
    """Runs rounds and keeps count."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tasks = 0
        self.wrong: list[str] = []
        self.errors: Counter[str] = Counter()
        self.hung: list[str] = []
        self.worst_s = 0.0
        self.ended = False
        self._round = (0.0, 0.0)
        self._writing = threading.Lock()
        self._rounds = [
            self.short,
            self.long,
            self.arrays,
            self.large,
            self.chain,
            self.nested,
            self.shared,
            self.memory,
            self.failures,
        ]

    def report(self) -> None:
        facts = {
            "tasks": self.tasks,
            "wrong": self.wrong,
            "errors": self.errors,
            "hung": self.hung,
            "worst_s": round(self.worst_s, 2),
            "ended": self.ended,
            #: When the latest round that is done began and ended; the clock is the same on all hosts.
            "round": self._round,
        }
        with self._writing:
            print(json.dumps(facts), flush=True)

    def run(self, stop: threading.Event) -> None:
        with distpool.options(max_retries=_RETRIES), attached() as executor:
            while not stop.is_set() and not self.hung:
                began = time.monotonic()
                self.random.choice(self._rounds)(executor)
                self._round = (began, time.monotonic())
                self.report()
            if self.hung:
                os._exit(3)  # the executor would wait for what never comes
        self.ended = True

    def expect_error(self, what: str, future: Future[Any], wanted: type[BaseException]) -> None:
        """One result that is an error."""
        try:
            found = future.exception(HUNG_S)
        except TimeoutError:
            self.hung.append(what)
            return
        self.tasks += 1
        if not isinstance(found, wanted):
            self.wrong.append(f"{what}: {found!r}, not {wanted.__name__}")

    def expect(self, what: str, future: Future[Any], wanted: Any, own_s: float = 0.0) -> None:
        """One result, and how long it took to come."""
        began = time.monotonic()
        try:
            found = future.result(HUNG_S)
        except TimeoutError:
            self.hung.append(what)
            return
        except Exception as error:
            self.errors[f"{what}: {type(error).__name__}: {str(error)[:200]}"] += 1
            return
        self.worst_s = max(self.worst_s, time.monotonic() - began - own_s)
        self.tasks += 1
        if found != wanted:
            self.wrong.append(f"{what}: {found!r}, not {wanted!r}")

    def short(self, executor: DistExecutor) -> None:
        numbers = [self.random.randrange(1000) for _ in range(self.random.choice([10, 300, 1000]))]
        futures = [executor.submit(square, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            self.expect("short", future, number * number)

    def long(self, executor: DistExecutor) -> None:
        durations = [self.random.uniform(0.05, 1.0) for _ in range(6)]
        futures = [executor.submit(slow, number, each) for number, each in enumerate(durations)]
        for number, future in enumerate(futures):
            self.expect("long", future, number + 1, sum(durations))

    def arrays(self, executor: DistExecutor) -> None:
        length = self.random.choice([10_000, 100_000, 400_000])
        made = [executor.submit(filled, number, length) for number in range(6)]
        sums = [executor.submit(total, future) for future in made]
        for number, future in enumerate(sums):
            self.expect("array", future, float(number * length))
        for number, future in enumerate(made):
            self.expect("large result", executor.submit(total, future.result(HUNG_S)), float(number * length))

    def large(self, executor: DistExecutor) -> None:
        """More than a node's store holds in memory."""
        length = 2 * MB
        made = [executor.submit(filled, number, length) for number in range(5)]
        sums = [executor.submit(total, executor.submit(plus, made[number], made[number - 1])) for number in range(5)]
        for number, future in enumerate(sums):
            self.expect("large array", future, float((number + (number - 1) % 5) * length))

    def memory(self, executor: DistExecutor) -> None:
        """More at once than a node may use."""
        futures = [executor.submit(filled_memory, 250 * MB, 0.3) for _ in range(4)]
        for future in futures:
            self.expect("memory", future, 250 * MB)

    def failures(self, executor: DistExecutor) -> None:
        """Errors are results as well."""
        raised = [executor.submit(fail, number) for number in range(3)]
        with distpool.options(timeout_s=0.5):
            late = executor.submit(slow, 1, 2 * HUNG_S)
        with distpool.options(memory_bytes=100 * MB):
            greedy = executor.submit(filled_memory, 250 * MB, 2 * HUNG_S)
        for future in raised:
            self.expect_error("error", future, ValueError)
        self.expect_error("time limit", late, distpool.TaskTimeoutError)
        self.expect_error("memory limit", greedy, distpool.OutOfMemoryError)

    def chain(self, executor: DistExecutor) -> None:
        future: Any = executor.submit(filled, 1, 50_000)
        for _ in range(5):
            future = executor.submit(plus, future, future)
        self.expect("chain", executor.submit(total, future), 32.0 * 50_000)

    def nested(self, executor: DistExecutor) -> None:
        numbers = [self.random.randrange(3, 10) for _ in range(3)]
        futures = [executor.submit(nested, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            self.expect("nested", future, sum(map(square, range(number))))

    def shared(self, executor: DistExecutor) -> None:
        ref = distpool.put(np.full(100_000, 2.0))
        futures = [executor.submit(total, ref) for _ in range(8)]
        for future in futures:
            self.expect("shared", future, 200_000.0)


def main() -> None:
    load = Load(int(sys.argv[1]))
    stop = threading.Event()

    def read() -> None:
        sys.stdin.read()
        stop.set()

    def talk() -> None:
        while not load.ended:
            load.report()
            time.sleep(1)

    for target in (read, talk):
        threading.Thread(target=target, daemon=True).start()
    load.run(stop)
    load.report()


if __name__ == "__main__":
    main()
