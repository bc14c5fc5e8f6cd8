"""Map a tiny function over 1,000,000 items, chunks of 5,000

``map(function, range(1_000_000), chunksize=5_000)``.
"""

from __future__ import annotations

from benchmarks.contenders import POOLS, Contender
from benchmarks.workload import Metric, Sizes, Target
from benchmarks.workloads import map_default

METRICS = {"rate": Metric("items/s", "higher")}
SIZES = Sizes(full=1_000_000, quick=50_000)
CONTENDERS = tuple(name for name in map_default.CONTENDERS if name not in ("ray", "parsl", "dask"))
TARGETS = [
    Target("rate", ratio=1, against=POOLS, ours="distpool"),
    Target("rate", ratio=1, against=POOLS, ours="distpool-pool"),
]
LIMITS = ["call_in_python"]


def measure(contender: Contender, size: int) -> dict[str, float]:
    return map_default.measure(contender, size, chunksize=5_000)
