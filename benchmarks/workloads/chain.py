"""A chain of 1,000 dependent tasks

Each step takes the result of the one before. Where a library lets a task's handle be an argument, all steps are
submitted at once; otherwise the caller waits for each result and passes it on.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"step": Metric("µs/step", "lower")}
SIZES = Sizes(full=1_000, quick=50, smaller={"dask": 300})
CONTENDERS = SUBMIT
TARGETS = [Target("step", ratio=0.2, against=("ray",))]
LIMITS = ["pipe_round_trip", "zmq_round_trip"]


def step(number: int) -> int:
    return number + 1


def chain(contender: Contender, function: Any, first: Any, size: int) -> Any:
    call = contender.task(function)
    if not contender.takes_handles:
        value = first
        for _ in range(size):
            value = contender.result(call(value))
        return value
    handle = call(first)
    for _ in range(size - 1):
        handle = call(handle)
    return contender.result(handle)


def measure(contender: Contender, size: int) -> dict[str, float]:
    started = time.perf_counter()
    last = chain(contender, step, 0, size)
    elapsed = time.perf_counter() - started
    check(last == size)
    return {"step": elapsed / size * 1e6}
