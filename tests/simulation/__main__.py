"""Simulated clusters under faults, one seed after the other, until one fails or for as long as asked.

python -m tests.simulation [--from-seed N] [--seconds S] [--jobs N]
python -m tests.simulation --seed N
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import deque

import distpool
from tests.simulation.cluster import Cluster

_REPORT_S = 30.0


def run(seed: int) -> tuple[int, int, str]:
    """One run: its seed, the number of events, and what is wrong."""
    cluster = None
    try:
        cluster = Cluster(seed)
        cluster.run()
    except Exception as error:
        return seed, 0, f"{type(error).__name__}: {error}"
    return seed, cluster.events, ""


def main() -> int:
    """See the module's description; the status is 1 when a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="this one, with its traceback")
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="default: until it is interrupted")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        cluster = Cluster(arguments.seed)
        cluster.run()
        print(f"seed {arguments.seed}: {cluster.events} events; faults: {cluster.faults}")
        return 0
    began = reported = time.monotonic()
    runs = events = 0
    seeds = itertools.count(arguments.from_seed)
    with distpool.DistExecutor(arguments.jobs) as executor:
        pending = deque(executor.submit(run, next(seeds)) for _ in range(2 * arguments.jobs))
        while pending:
            seed, count, problem = pending.popleft().result()
            if problem:
                print(f"seed {seed}: {problem}")
                return 1
            now = time.monotonic()
            if now < began + arguments.seconds:
                pending.append(executor.submit(run, next(seeds)))
            runs, events = runs + 1, events + count
            if now - reported > _REPORT_S:
                reported = now
                print(f"{runs} runs, {events} events, up to seed {seed}; all is well", flush=True)
    print(f"{runs} runs, {events} events in {time.monotonic() - began:.0f} s; all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
