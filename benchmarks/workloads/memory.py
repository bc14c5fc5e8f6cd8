"""Memory per outstanding task

100,000 small calls are submitted while every worker is kept busy; the growth of the caller's resident memory, per task,
with its handle and its argument. Then all are let go and their results checked.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path

from benchmarks import proc
from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check
from benchmarks.workloads.submit import nothing

METRICS = {"per_task": Metric("bytes", "lower"), "all_processes": Metric("bytes", "lower")}
SIZES = Sizes(
    full=100_000, quick=5_000, smaller={"ray": 20_000, "dask": 10_000, "ipyparallel": 10_000, "parsl": 10_000}
)
CONTENDERS = SUBMIT
TARGETS = [Target("per_task", value=1300)]
LIMITS = ["future_bytes"]


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.02)


def measure(contender: Contender, size: int) -> dict[str, float]:
    call, block = contender.task(nothing), contender.task(wait_for)
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        blocked = [block(str(gate)) for _ in range(contender.workers)]
        time.sleep(0.3)
        gc.collect()
        before, others_before = resident()
        handles = [call(number) for number in range(size)]
        time.sleep(1.0)  # for threads that still move tasks on
        gc.collect()
        after, others_after = resident()
        gate.touch()
        contender.results(blocked)
    check(list(contender.results(handles)) == list(range(size)))
    return {
        "per_task": (after - before) / size,
        "all_processes": (after - before + others_after - others_before) / size,
    }


def resident() -> tuple[int, int]:
    """Bytes in this process, and private bytes in all that belong to it."""
    others = 0
    for process in proc.descendants(os.getppid()):
        if process.pid != os.getpid():
            try:
                others += proc.private_bytes(process.pid)
            except OSError:
                pass  # it has just ended
    return proc.resident_bytes(os.getpid()), others
