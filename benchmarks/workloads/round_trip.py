"""Round trip of a single call

One call after the other: submit, wait for the result, submit the next.
"""

from __future__ import annotations

import time

from benchmarks.contenders import POOLS, SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.submit import nothing

METRICS = {
    "median": Metric("µs", "lower"),
    "p99": Metric("µs", "lower"),
    "p99_per_median": Metric("x", "lower", ".1f"),
}
SIZES = Sizes(full=5_000, quick=200, smaller={"dask": 300, "ray": 1_000, "ipyparallel": 500, "parsl": 500})
CONTENDERS = SUBMIT
TARGETS = [Target("median", ratio=0.75, against=POOLS), Target("p99_per_median", value=3)]
LIMITS = ["pipe_round_trip", "socket_round_trip", "zmq_round_trip", "thread_wake_up"]


def measure(contender: Contender, size: int) -> dict[str, float]:
    call, result = contender.task(nothing), contender.result
    times_s = []
    for number in range(size):
        started = time.perf_counter()
        answer = result(call(number))
        times_s.append(time.perf_counter() - started)
        check(answer == number)
    times_s.sort()
    median, p99 = times_s[size // 2] * 1e6, times_s[size * 99 // 100] * 1e6
    return {"median": median, "p99": p99, "p99_per_median": p99 / median}
