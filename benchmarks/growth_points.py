"""One point of a growth curve: ``python -m benchmarks.growth_points KIND CONTENDER COUNT`` prints it as JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import contenders, proc
from benchmarks.workload import check
from benchmarks.workloads.memory import wait_for
from benchmarks.workloads.submit import nothing

#: Calls with each number of workers, and how many times they are made; the least counts.
CALLS = 20_000
BURSTS = 3


def roles() -> dict[str, float]:
    """CPU seconds so far of each part of distpool (of other contenders: of the caller and of the rest)."""
    found = {"driver": time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)}
    depth = {os.getpid(): 0}
    for process in proc.descendants(os.getpid()):
        depth[process.pid] = depth[process.parent] + 1
        if "distpool/node" in process.command:
            role = {1: "node", 2: "zygote"}.get(depth[process.pid], "workers")
        else:
            role = "workers"
        found[role] = found.get(role, 0.0) + process.cpu_s
    return found


def begin() -> dict[str, float]:
    """What ``spent`` counts from; looking for the processes is not counted."""
    return {**roles(), "driver": time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)}


def spent(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """Microseconds per item of each role."""
    return {f"{role}_us": (after[role] - before.get(role, 0.0)) / count * 1e6 for role in after}


def outstanding(name: str, count: int) -> dict[str, float]:
    """``count`` tasks submitted while both workers are busy, then all of them run."""
    with contenders.ALL[name](2) as contender, tempfile.TemporaryDirectory() as folder:
        contender.warm_up()
        gate = Path(folder, "gate")
        block, call = contender.task(wait_for), contender.task(nothing)
        blocked = [block(str(gate)) for _ in range(2)]
        time.sleep(0.3)
        gc.collect()
        memory, before = proc.resident_bytes(os.getpid()), begin()
        started = time.perf_counter()
        handles = [call(number) for number in range(count)]
        submitted = time.perf_counter()
        memory = proc.resident_bytes(os.getpid()) - memory
        gate.touch()
        contender.results(blocked)
        draining = time.perf_counter()
        results = contender.results(handles)
        ended = time.perf_counter()
        values = spent(before, roles(), count)
        check(list(results) == list(range(count)))
    return {
        **values,
        "submit_us": (submitted - started) / count * 1e6,
        "drain_us": (ended - draining) / count * 1e6,
        "memory_bytes": memory / count,
    }


def workers(name: str, count: int) -> dict[str, float]:
    """``count`` workers are started, each shown to run at the same time as all others; then the calls."""
    with contenders.ALL[name](count) as contender, tempfile.TemporaryDirectory() as folder:
        contender.result(contender.task(nothing)(0))
        before = begin()
        started = time.perf_counter()
        meet, call = contender.task(wait_for_all), contender.task(nothing)
        contender.results([meet(folder, number, count) for number in range(count)])
        opened_s = time.perf_counter() - started
        lease = {f"lease_{key}": value for key, value in spent(before, roles(), count).items()}
        # Once more before counting: every worker has had the function then.
        contender.results([call(number) for number in range(10 * count)])
        bursts = [burst(contender, call) for _ in range(BURSTS)]
    least = {key: min(values[key] for values in bursts) for key in bursts[0]}
    return {**least, **lease, "lease_ms": opened_s / count * 1e3}


def burst(contender: contenders.Contender, call: contenders.Function) -> dict[str, float]:
    """``CALLS`` calls at once."""
    before = begin()
    started = time.perf_counter()
    results = contender.results([call(number) for number in range(CALLS)])
    elapsed = time.perf_counter() - started
    check(list(results) == list(range(CALLS)))
    return {**spent(before, roles(), CALLS), "task_us": elapsed / CALLS * 1e6}


def leases(name: str, count: int) -> dict[str, float]:
    """``count`` leases one after the other, two at a time: each worker leaves after one task."""
    from distpool import DistExecutor

    with DistExecutor(2, max_tasks_per_child=1) as executor:
        check(executor.submit(nothing, 0).result() == 0)
        before = begin()
        started = time.perf_counter()
        futures = [executor.submit(os.getpid) for _ in range(count)]
        pids = {future.result() for future in futures}
        elapsed = time.perf_counter() - started
        after = roles()
    check(len(pids) > 0.9 * count, "a worker ran more than one task")  # the kernel may use a number again
    # Of workers and zygotes, those that have ended are not found any more.
    values = {key: value for key, value in spent(before, after, count).items() if key in ("driver_us", "node_us")}
    return {**values, "lease_ms": elapsed / count * 1e3}


def wait_for_all(folder: str, number: int, count: int) -> None:
    Path(folder, str(number)).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.05 + count / 2_000)  # many workers that look often would be busy with that alone


KINDS = {"outstanding": outstanding, "workers": workers, "leases": leases}


def main() -> None:
    kind, name, count = sys.argv[1:]
    sys.stdout.write(json.dumps(KINDS[kind](name, int(count))) + "\n")


if __name__ == "__main__":
    main()
