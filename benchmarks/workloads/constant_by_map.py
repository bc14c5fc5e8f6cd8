"""map(partial(function, 100 MB array), range(200))

The same large constant for 200 items, by ``map`` with default chunks.
"""

from __future__ import annotations

import functools
import time

import numpy as np

from benchmarks.contenders import MAP, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.constant_by_submit import LENGTH, look_up

METRICS = {"per_call": Metric("ms/call", "lower", ",.2f")}
_COPIES = ("executor-fork", "executor-forkserver", "loky", "dask", "joblib")
SIZES = Sizes(full=200, quick=4, smaller={**dict.fromkeys(_COPIES, 40), "parsl": 10})
CONTENDERS = (*MAP, "ray-put", "dask-scatter")
#: 200 calls in 0.2 seconds.
TARGETS = [Target("per_call", value=1, ours="distpool"), Target("per_call", value=1, ours="distpool-pool")]
LIMITS = ["memcpy_warm", "write_fresh_shared"]
TIME_LIMIT_S = 180.0


def measure(contender: Contender, size: int) -> dict[str, float]:
    array = np.arange(LENGTH, dtype=np.float64)
    started = time.perf_counter()
    results = list(contender.map(functools.partial(look_up, array), range(size)))
    elapsed = time.perf_counter() - started
    check(results == [float(number + LENGTH - 1) for number in range(size)])
    return {"per_call": elapsed / size * 1e3}
