"""What a pool has unless it is told: the number of its workers, and their names."""

from __future__ import annotations

import os
from typing import Any


def worker_name(context: Any) -> str:
    """What the standard library calls the workers of a pool of this context, without their number."""
    name = getattr(getattr(context, "Process", None), "__name__", "DistpoolProcess")
    return str(name).replace("Process", "PoolWorker")


def usable_cpus() -> int:
    """The CPUs of the cluster, if the program works with one; otherwise those that the standard library would count."""
    from distpool.driver.current import works_with_cluster

    if works_with_cluster():
        from distpool.driver.capacity import default_workers

        return default_workers()
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return int(count() or 1)
    try:
        return len(os.sched_getaffinity(0)) or 1
    except (AttributeError, OSError):
        return os.cpu_count() or 1
