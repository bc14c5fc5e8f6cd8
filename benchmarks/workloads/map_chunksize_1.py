"""Map a tiny function over 20,000 items, chunks of 1

``map(function, range(20_000), chunksize=1)``: every call may go to whichever worker is free.
"""

from __future__ import annotations

from benchmarks.contenders import MAP, POOLS, Contender
from benchmarks.workload import Metric, Sizes, Target
from benchmarks.workloads import map_default

METRICS = {"rate": Metric("items/s", "higher")}
SIZES = Sizes(full=20_000, quick=1_000, smaller={"dask": 5_000, "parsl": 5_000, "ipyparallel": 5_000})
CONTENDERS = MAP
TARGETS = [
    Target("rate", ratio=1.2, against=POOLS, ours="distpool"),
    Target("rate", ratio=1.2, against=POOLS, ours="distpool-pool"),
]
LIMITS = ["bare_zmq_pool"]


def measure(contender: Contender, size: int) -> dict[str, float]:
    return map_default.measure(contender, size, chunksize=1)
