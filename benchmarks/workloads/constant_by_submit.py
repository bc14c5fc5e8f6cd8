"""200 submits of partial(function, 100 MB array)

``call = partial(function, array)``, then ``submit(call, number)`` 200 times: the same large constant each time. Ray and
Dask also as their documentation advises, with the array put or scattered by hand. Slow contenders make fewer calls;
what counts is the time per call.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"per_call": Metric("ms/call", "lower", ",.2f")}
_COPIES = ("executor-fork", "executor-forkserver", "pool-fork", "pool-forkserver", "loky", "mpire", "dask")
SIZES = Sizes(full=200, quick=4, smaller={**dict.fromkeys(_COPIES, 40), "ipyparallel": 10, "parsl": 10})
CONTENDERS = (*SUBMIT, "ray-put", "dask-scatter")
#: 200 calls in one second.
TARGETS = [
    Target("per_call", value=5),
    Target("per_call", ratio=1, against=tuple(name for name in CONTENDERS if not name.startswith("distpool"))),
]
LIMITS = ["memcpy_warm", "write_fresh_shared"]
TIME_LIMIT_S = 180.0
#: Elements of 8 bytes.
LENGTH = 12_500_000


def look_up(array: Any, number: int) -> float:
    return float(array[number] + array[-1])


def measure(contender: Contender, size: int) -> dict[str, float]:
    array = np.arange(LENGTH, dtype=np.float64)
    started = time.perf_counter()
    call = contender.task(functools.partial(look_up, array))
    results = contender.results([call(number) for number in range(size)])
    elapsed = time.perf_counter() - started
    check(results == [float(number + LENGTH - 1) for number in range(size)])
    return {"per_call": elapsed / size * 1e3}
