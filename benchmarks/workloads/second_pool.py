"""A second pool in the same process

A pool is opened, used and closed; then another one is opened. The time until the first result of the second pool, and
until it is closed as well; the median of several further pools.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.submit import nothing

METRICS = {"first_result": Metric("ms", "lower", ",.1f"), "with_closing": Metric("ms", "lower", ",.1f")}
#: Pools after the first one.
SIZES = Sizes(full=10, quick=2, smaller=dict.fromkeys(("ray", "dask", "ipyparallel", "parsl"), 2))
CONTENDERS = SUBMIT
TARGETS = [
    Target("first_result", ratio=1, against=("pool-forkserver",), ours="distpool"),
    Target("first_result", ratio=1, against=("pool-forkserver",), ours="distpool-pool"),
    Target("with_closing", ratio=1, against=("pool-forkserver",), ours="distpool-pool"),
]
OPENED = False
LIMITS = ["fork_and_wait"]


def measure(contender: Contender, size: int) -> dict[str, float]:
    results_s, wholes_s = [], []
    for number in range(size + 1):
        started = time.perf_counter()
        with contender:
            check(contender.result(contender.task(nothing)(number)) == number)
            results_s.append(time.perf_counter() - started)
        wholes_s.append(time.perf_counter() - started)
    return {
        "first_result": statistics.median(results_s[1:]) * 1e3,
        "with_closing": statistics.median(wholes_s[1:]) * 1e3,
    }
