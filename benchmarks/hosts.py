"""One driver and its workers on several hosts: calls per second over 2 to 16 workers on 1, 2 and 4 hosts.

The hosts are namespaces of the kernel on this machine, joined by a bridge, and the driver is on one more; everything
between them is encrypted. Calls that do nothing show what the driver can keep busy, and the driver's own CPU time for
each whether more workers or hosts cost it more: on two cores, which all these processes share, the rate alone does not
tell. Calls that wait for 10 ms, of which each worker can do a hundred a second, show whether all of them are kept busy,
also where there are more workers than cores.

``python -m benchmarks hosts`` (as root, with iproute2; about five minutes) writes ``hosts.json`` and ``hosts.md``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.run import say

HOSTS = [1, 2, 4]
WORKERS = [2, 4, 8, 16]
WAIT_S = 0.01
_PROGRAM = """
import json, os, socket, sys, time
from distpool import DistExecutor

def nothing(x):
    return x

def rest(x):
    time.sleep(WAIT_S)
    return x

def who(x):
    time.sleep(WAIT_S)
    return socket.gethostname(), os.getpid()

def rate(executor, function, count):
    began = time.perf_counter()
    assert list(executor.map(function, range(count))) == list(range(count))
    return count / (time.perf_counter() - began)

if __name__ == "__main__":
    workers, calls, waits = map(int, sys.argv[1:])
    with DistExecutor(workers) as executor:
        while len(set(executor.map(who, range(8 * workers)))) < workers:
            pass
        rate(executor, nothing, calls // 10)
        began = time.process_time()
        found = {"nothing": rate(executor, nothing, calls)}
        found["driver_us"] = (time.process_time() - began) / calls * 1e6
        print(json.dumps({**found, "wait": rate(executor, rest, waits * workers)}))
"""


def carry_out(output: Path, quick: bool) -> None:
    """Measure all points, in rounds that take turns, and write the medians down."""
    from tests.multihost.hosts import missing

    if missing():
        say(f"NOT RUN: {missing()}")
        return
    rounds, calls, waits = (1, 10_000, 50) if quick else (3, 20_000, 200)
    found: dict[tuple[int, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for hosts in HOSTS:
            measure(hosts, calls, waits, found)
    points = []
    for (hosts, workers), values in found.items():
        medians = {key: statistics.median(value[key] for value in values) for key in values[0]}
        ideal = workers / WAIT_S
        points.append({"hosts": hosts, "workers": workers, **medians, "kept_busy": medians["wait"] / ideal})
    document = {"machine": machine.facts(), "rounds": rounds, "points": points}
    (output / "hosts.json").write_text(json.dumps(document, indent=1) + "\n")
    report(output)


def measure(hosts: int, calls: int, waits: int, found: dict[tuple[int, int], list[dict[str, float]]]) -> None:
    """A cluster of so many hosts, and on it one program for each number of workers."""
    from tests.multihost.hosts import Lan, nodes

    lan = Lan([f"host{number}" for number in range(1, hosts + 1)] + ["program"])
    with contextlib.closing(lan), nodes(lan.hosts[:-1], "--num-cpus", str(max(WORKERS) // hosts)) as token:
        program = lan.hosts[-1]
        program.write("/tmp/cluster.token", token)
        program.write("/tmp/program.py", _PROGRAM.replace("WAIT_S", str(WAIT_S)))
        for workers in WORKERS:
            words = (sys.executable, "/tmp/program.py", str(workers), str(calls), str(waits))
            values = json.loads(program.run(*words, env={"DISTPOOL_ADDRESS": "/tmp/cluster.token"}))
            found.setdefault((hosts, workers), []).append(values)
            say(f"{hosts} host(s), {workers:2} workers: " + ", ".join(f"{k} {v:,.0f}" for k, v in values.items()))


def report(output: Path) -> None:
    """``hosts.md`` from ``hosts.json``."""
    document = json.loads((output / "hosts.json").read_text())
    lines = ["# Several hosts", "", str(__doc__).split("\n\n")[1].replace("\n", " "), ""]
    lines += [f"* {key}: {value}" for key, value in document["machine"].items()]
    lines += [f"* Medians of {document['rounds']} round(s)", "", *table(document)]
    (output / "hosts.md").write_text("\n".join(lines) + "\n")
    say("\n".join(table(document)))


def table(document: dict[str, Any]) -> list[str]:
    lines = [
        "| hosts | workers | empty calls per second | CPU time of driver | calls of 10 ms per second | of what can be |"
    ]
    lines += ["|--:|--:|--:|--:|--:|--:|"]
    for point in document["points"]:
        cells = (
            point["hosts"],
            point["workers"],
            f"{point['nothing']:,.0f}",
            f"{point['driver_us']:.1f} µs" if "driver_us" in point else "",
            f"{point['wait']:,.0f}",
            f"{point['kept_busy']:.0%}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines
