"""CPU use of an idle pool

After some tasks and a second's rest, the CPU time that all processes of the library use in the next ten seconds, the
caller's included.
"""

from __future__ import annotations

import os
import time

from benchmarks import proc
from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target

METRICS = {"cpu": Metric("s in 10 s", "lower", ".3f"), "processes": Metric("processes", "neither")}
#: Seconds.
SIZES = Sizes(full=10, quick=2)
CONTENDERS = SUBMIT
TARGETS = [Target("cpu", value=0.03)]


def measure(contender: Contender, size: int) -> dict[str, float]:
    time.sleep(1.0)
    before = {process.pid: process.cpu_s for process in proc.descendants(os.getppid())}
    looking = own_cpu_s()
    time.sleep(size)
    looking = own_cpu_s() - looking
    after = {process.pid: process.cpu_s for process in proc.descendants(os.getppid())}
    others_s = sum(cpu_s - before.get(pid, 0.0) for pid, cpu_s in after.items() if pid != os.getpid())
    return {"cpu": (others_s + looking) * 10 / size, "processes": len(after)}


def own_cpu_s() -> float:
    """Of all threads of this process; reading /proc for the others is left out of it."""
    return time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
