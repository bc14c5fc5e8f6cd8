"""One long task among short ones

A task of 2 s is submitted first, then 63 of 20 ms; two workers could be done after 2.00 s. By single submits, and by
``map`` with default chunks, where chunks that wait behind the long item cost time.
"""

from __future__ import annotations

import time

from benchmarks.contenders import MAP, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"by_submit": Metric("s", "lower", ".3f"), "by_map": Metric("s", "lower", ".3f")}
#: Seconds of the long task in tenths, so that a quick run is shorter.
SIZES = Sizes(full=20, quick=5)
CONTENDERS = MAP
TARGETS = [
    Target("by_submit", value=2.05, ours="distpool"),
    Target("by_map", value=2.05, ours="distpool"),
    Target("by_submit", value=2.05, ours="distpool-pool"),
    Target("by_map", value=2.05, ours="distpool-pool"),
]


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def measure(contender: Contender, size: int) -> dict[str, float]:
    long_s = size / 10
    seconds = [long_s] + [long_s / 100] * 63
    values = {}
    if not hasattr(contender, "parallel"):
        started = time.perf_counter()
        call = contender.task(sleep)
        check(list(contender.results([call(each) for each in seconds])) == seconds)
        values["by_submit"] = time.perf_counter() - started
    started = time.perf_counter()
    check(list(contender.map(sleep, seconds)) == seconds)
    values["by_map"] = time.perf_counter() - started
    return values
