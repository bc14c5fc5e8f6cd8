"""Map a tiny function over 1,000,000 items, default chunks

``map(function, range(1_000_000))`` with what the library does when no chunk size is given. Executors, loky, Ray and the
frameworks send single calls unless told otherwise and get fewer items.
"""

from __future__ import annotations

import time

from benchmarks.contenders import EXECUTORS, MAP, POOLS, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"rate": Metric("items/s", "higher")}
_SINGLE_CALLS = dict.fromkeys((*EXECUTORS, "loky", "ray"), 50_000)
SIZES = Sizes(full=1_000_000, quick=20_000, smaller={**_SINGLE_CALLS, "dask": 5_000, "parsl": 5_000, "joblib": 200_000})
CONTENDERS = MAP
#: Of ours, only this one chooses chunks by itself, as the standard library's does.
OURS = "distpool-pool"
TARGETS = [Target("rate", ratio=1, against=POOLS, ours="distpool-pool")]
LIMITS = ["call_in_python"]


def plus_one(number: int) -> int:
    return number + 1


def measure(contender: Contender, size: int, chunksize: int | None = None) -> dict[str, float]:
    items = range(size)
    started = time.perf_counter()
    results = contender.map(plus_one, items, chunksize)
    elapsed = time.perf_counter() - started
    check(list(results) == list(range(1, size + 1)))
    return {"rate": size / elapsed}
