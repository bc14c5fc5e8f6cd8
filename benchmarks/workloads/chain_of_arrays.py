"""A chain of 1,000 tasks, each handing on 8 MB

As the chain of small values, but each step adds one to an array of a million numbers and returns it. Slow contenders
make fewer steps.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.chain import chain

METRICS = {"step": Metric("ms/step", "lower", ",.2f")}
SIZES = Sizes(full=1_000, quick=10, smaller={name: 200 for name in SUBMIT if not name.startswith(("distpool", "ray"))})
CONTENDERS = SUBMIT
TARGETS = [
    Target("step", ratio=1, against=tuple(name for name in CONTENDERS if not name.startswith("distpool"))),
]
LIMITS = ["memcpy_warm", "write_recycled_shared"]


def step(array: Any) -> Any:
    return array + 1


def measure(contender: Contender, size: int) -> dict[str, float]:
    first = np.zeros(1_000_000)
    started = time.perf_counter()
    last = chain(contender, step, first, size)
    low, high = float(last.min()), float(last.max())
    elapsed = time.perf_counter() - started
    check(low == high == float(size))
    return {"step": elapsed / size * 1e3}
