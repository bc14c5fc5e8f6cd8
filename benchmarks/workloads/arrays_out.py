"""40 distinct arrays of 32 MB as results

Each call makes an array, and the caller sums each result as it comes, then lets it go. The second pass is the same once
more.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from benchmarks.contenders import EXECUTORS, SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.arrays_in import LENGTH

METRICS = {"steady": Metric("MB/s", "higher"), "first": Metric("MB/s", "higher")}
SIZES = Sizes(full=40, quick=4, smaller={"ipyparallel": 10, "parsl": 10, "dask": 20})
CONTENDERS = (*SUBMIT, "joblib", "distpool-joblib")
TARGETS = [
    Target("steady", ratio=2, against=("ray",)),
    Target("steady", ratio=8, against=EXECUTORS),
    Target("first", ratio=2, against=("ray",)),
]
LIMITS = ["memcpy_warm", "write_fresh_shared", "write_recycled_shared", "write_map_sum"]


def make(number: int) -> Any:
    return np.full(LENGTH, number, dtype=np.float64)


def measure(contender: Contender, size: int) -> dict[str, float]:
    rates = []
    for _ in range(2):
        started = time.perf_counter()
        if hasattr(contender, "parallel"):
            sums = [float(array.sum()) for array in contender.map(make, range(size))]
        else:
            call = contender.task(make)
            handles = deque(call(number) for number in range(size))
            # Handles are dropped as results are used: nothing need be kept.
            sums = [float(contender.result(handles.popleft()).sum()) for _ in range(size)]
        elapsed = time.perf_counter() - started
        check(sums == [float(LENGTH * number) for number in range(size)])
        rates.append(size * LENGTH * 8 / 1e6 / elapsed)
    return {"steady": rates[1], "first": rates[0]}
