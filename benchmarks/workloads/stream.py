"""A stream of 100 MB results, larger than memory is meant to be

Tasks make arrays of 100 MB; the caller takes one after the other with ``imap`` (or what comes nearest), sums it and
lets it go. The rate, and the peak of what all processes and shared memory together grew by. Ray's store and distpool's
get 1 GB.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import proc
from benchmarks.contenders import Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"rate": Metric("MB/s", "higher"), "peak": Metric("MB", "lower")}
SIZES = Sizes(full=100, quick=5, smaller={"dask": 30, "loky": 30, "executor-fork": 30, "pool-fork": 30})
CONTENDERS = ("distpool", "distpool-pool", "executor-fork", "pool-fork", "loky", "ray", "dask")
TARGETS = [
    Target("rate", ratio=1, against=("executor-fork", "pool-fork", "loky", "ray", "dask"), ours="distpool-pool"),
    Target("peak", value=2000, ours="distpool-pool"),
]
LIMITS = ["memcpy_warm", "write_fresh_shared", "write_map_sum"]
TIME_LIMIT_S = 180.0
OPENED = False
BUDGET_BYTES = 1_000_000_000
#: Elements of 8 bytes.
LENGTH = 12_500_000


def make(number: int) -> Any:
    return np.full(LENGTH, number, dtype=np.float64)


def stream(contender: Any, size: int) -> Iterator[Any]:
    if hasattr(contender, "pool"):
        return iter(contender.pool.imap(make, range(size)))
    if hasattr(contender, "executor"):
        return iter(contender.executor.map(make, range(size)))
    call = contender.task(make)
    handles = [call(number) for number in range(size)]
    handles.reverse()
    return (contender.result(handles.pop()) for _ in range(size))


def measure(contender: Contender, size: int) -> dict[str, float]:
    if contender.name == "ray":
        contender.settings = lambda: {"object_store_memory": BUDGET_BYTES}  # type: ignore[attr-defined]
    if contender.name.startswith("distpool"):
        import distpool

        distpool.init(store_bytes=BUDGET_BYTES)
    with contender:
        contender.warm_up()
        with Peak() as peak:
            started = time.perf_counter()
            sums = [float(array.sum()) for array in stream(contender, size)]
            elapsed = time.perf_counter() - started
    check(sums == [float(LENGTH * number) for number in range(size)])
    return {"rate": size * LENGTH * 8 / 1e6 / elapsed, "peak": peak.growth_bytes / 1e6}


class Peak:
    """The most memory used, by this run's processes and in shared memory, over what it was at the beginning."""

    growth_bytes = 0

    def __enter__(self) -> Peak:
        self._before = used_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.growth_bytes = max(self.growth_bytes, used_bytes() - self._before)


def used_bytes() -> int:
    private = 0
    for process in proc.descendants(os.getppid()):
        try:
            private += proc.private_bytes(process.pid)
        except OSError:
            pass  # it has just ended
    return private + proc.shared_memory_bytes()
