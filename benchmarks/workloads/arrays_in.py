"""40 distinct arrays of 32 MB as arguments

Each call sums its array. The first pass finds the library as it is after opening; before the second, every array is
changed in place, so that nothing sent before can serve again.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.contenders import POOLS, SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"steady": Metric("MB/s", "higher"), "first": Metric("MB/s", "higher")}
SIZES = Sizes(full=40, quick=4, smaller={"ipyparallel": 10, "parsl": 10, "dask": 20})
#: Elements of 8 bytes.
LENGTH = 4_000_000
CONTENDERS = (*SUBMIT, "joblib", "distpool-joblib")
TARGETS = [
    Target("steady", ratio=2, against=("ray",)),
    Target("steady", ratio=8, against=POOLS),
    Target("first", ratio=2, against=("ray",)),
]
LIMITS = ["memcpy_warm", "write_fresh_shared", "write_recycled_shared", "write_map_sum"]


def total(array: Any) -> float:
    return float(array.sum())


def measure(contender: Contender, size: int) -> dict[str, float]:
    arrays = [np.full(LENGTH, number, dtype=np.float64) for number in range(size)]
    rates = []
    for turn in range(2):
        started = time.perf_counter()
        if hasattr(contender, "parallel"):
            results = list(contender.map(total, arrays))
        else:
            call = contender.task(total)
            results = contender.results([call(array) for array in arrays])
        elapsed = time.perf_counter() - started
        check(results == [float(LENGTH * (number + turn)) for number in range(size)])
        rates.append(size * LENGTH * 8 / 1e6 / elapsed)
        for array in arrays:
            array += 1
    return {"steady": rates[1], "first": rates[0]}
