"""joblib: Parallel over 20,000 tiny calls

``Parallel(n_jobs=2)(delayed(function)(i) for i in range(20_000))`` with automatic batching, the better of the
second and third call with the same workers, and the first.
"""

from __future__ import annotations

import time

from benchmarks.contenders import JoblibLoky
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.map_default import plus_one

METRICS = {"warm": Metric("s", "lower", ".3f"), "first": Metric("s", "lower", ".3f")}
SIZES = Sizes(full=20_000, quick=2_000)
CONTENDERS = ("distpool-joblib", "joblib", "joblib-multiprocessing")
TARGETS = [Target("warm", ratio=1, against=("joblib",))]


def measure(contender: JoblibLoky, size: int) -> dict[str, float]:
    times_s = []
    for _ in range(3):
        started = time.perf_counter()
        results = contender.map(plus_one, range(size))
        times_s.append(time.perf_counter() - started)
        check(list(results) == list(range(1, size + 1)))
    return {"warm": min(times_s[1:]), "first": times_s[0]}
