"""Submit no-ops one by one

20,000 calls that do nothing are submitted one by one, then all results are taken.
"""

from __future__ import annotations

import time

from benchmarks.contenders import EXECUTORS, POOLS, SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"rate": Metric("tasks/s", "higher"), "submit_rate": Metric("submits/s", "neither")}
SIZES = Sizes(full=20_000, quick=1_000, smaller={"dask": 5_000, "ipyparallel": 5_000, "parsl": 5_000})
CONTENDERS = SUBMIT
TARGETS = [
    Target("rate", ratio=2, against=POOLS),
    Target("rate", ratio=6, against=EXECUTORS),
    Target("rate", ratio=30, against=("ray",)),
]
LIMITS = ["bare_zmq_pool", "future_made_and_resolved", "pickle_call"]


def nothing(number: int) -> int:
    return number


def measure(contender: Contender, size: int) -> dict[str, float]:
    call = contender.task(nothing)
    started = time.perf_counter()
    handles = [call(number) for number in range(size)]
    submitted = time.perf_counter()
    results = contender.results(handles)
    ended = time.perf_counter()
    check(results == list(range(size)))
    return {"rate": size / (ended - started), "submit_rate": size / (submitted - started)}
