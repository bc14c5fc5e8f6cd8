"""How cost grows: with outstanding tasks (1,000 to 1,000,000), with workers (1 to 256) and with leases (10 to 1,000).

On a machine with fewer cores than workers the time says little, so the CPU time per task of each part is counted:
driver, node (scheduler and agent), zygote, workers. A curve that rises is cost that grows faster than the work. With
few tasks what is paid once (a function's first use, the workers' first message) counts for more.

``python -m benchmarks growth`` measures each point in a fresh process and writes ``growth.json``, ``growth.md`` and
``growth.png``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import contenders, machine, proc
from benchmarks.run import environment, say

TASKS = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
#: Where others are slower, the longest runs say nothing more.
MOST_TASKS = {"executor-fork": 30_000, "pool-fork": 300_000}
WORKERS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
LEASES = [10, 30, 100, 300, 1_000]
TIME_LIMIT_S = 120.0


def points(quick: bool) -> list[tuple[str, str, int]]:
    tasks = [count for count in TASKS if not quick or count <= 10_000]
    counts = [count for count in WORKERS if not quick or count <= 8]
    found = [
        ("outstanding", name, count)
        for count in tasks
        for name in ("distpool", "pool-fork", "executor-fork")
        if count <= MOST_TASKS.get(name, count)
    ]
    found += [("workers", "distpool", count) for count in counts]
    return found + [("leases", "distpool", count) for count in LEASES if not quick or count <= 30]


def carry_out(output: Path, quick: bool) -> None:
    """Measure all points, one fresh process each, and write them down."""
    proc.adopt_orphans()
    measured: list[dict[str, Any]] = []
    for kind, name, count in points(quick):
        point: dict[str, Any] = {"kind": kind, "contender": name, "count": count}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.growth_points", kind, name, str(count)],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            point["message"] = f"gave up after {TIME_LIMIT_S:.0f} s"
        else:
            if done.returncode == 0:
                point["values"] = json.loads(done.stdout.splitlines()[-1])
            else:
                point["message"] = done.stderr.strip()[-300:] or f"exit {done.returncode}"
        proc.end_descendants(os.getpid())
        measured.append(point)
        values = point.get("values", {})
        say(f"{kind:12} {name:14} {count:>9,}  " + ", ".join(f"{key} {value:,.1f}" for key, value in values.items())
            + point.get("message", "")[-200:])  # fmt: skip
        document = {"machine": machine.facts(), "points": measured}
        (output / "growth.json").write_text(json.dumps(document, indent=1))
    report(output)


def report(output: Path) -> None:
    """``growth.md`` and ``growth.png`` from ``growth.json``."""
    from benchmarks import plots

    document = json.loads((output / "growth.json").read_text())
    measured = document["points"]
    lines = ["# How cost grows", "", str(__doc__).split("\n\n")[1].replace("\n", " "), ""]
    lines += [f"* {key}: {value}" for key, value in document["machine"].items()]
    lines += ["", "![Curves](growth.png)", ""]
    lines += ["## Outstanding tasks, two workers", "", *table(measured, "outstanding"), ""]
    lines += ["## Workers", "", *table(measured, "workers"), ""]
    lines += ["## Leases, one after the other", "", *table(measured, "leases")]
    (output / "growth.md").write_text("\n".join(lines) + "\n")

    def curve(kind: str, name: str, key: str) -> tuple[list[float], list[float]]:
        chosen = [
            (point["count"], point["values"][key])
            for point in measured
            if (point["kind"], point["contender"]) == (kind, name) and key in point.get("values", {})
        ]
        return [x for x, _ in chosen], [y for _, y in chosen]

    names = {name: contenders.ALL[name].title for name in ("distpool", "pool-fork", "executor-fork")}
    parts = ("driver", "node", "zygote", "workers")
    tasks, many = "outstanding tasks", "workers (leases)"
    plots.curves(
        [
            ("Time to submit and to run", tasks, "µs per task",
             {"submit": curve("outstanding", "distpool", "submit_us"),
              "run and take results": curve("outstanding", "distpool", "drain_us")}),
            ("CPU of each part", tasks, "CPU µs per task",
             {part: curve("outstanding", "distpool", f"{part}_us") for part in parts}),
            ("Caller's memory", tasks, "bytes per task",
             {title: curve("outstanding", name, "memory_bytes") for name, title in names.items()}),
            ("CPU of each part", many, "CPU µs per task",
             {part: curve("workers", "distpool", f"{part}_us") for part in parts}),
            ("CPU for one more worker", many, "CPU µs per worker",
             # Not the workers': they wait for each other by looking, which costs them what it costs.
             {part: curve("workers", "distpool", f"lease_{part}_us") for part in parts[:3]}),
            ("CPU for one more lease", "leases, one after the other", "CPU µs per lease",
             {part: curve("leases", "distpool", f"{part}_us") for part in parts[:2]}),
        ],
        output / "growth.png",
    )  # fmt: skip


def table(measured: list[dict[str, Any]], kind: str) -> list[str]:
    chosen = [point for point in measured if point["kind"] == kind]
    keys = list(dict.fromkeys(key for point in chosen for key in point.get("values", {})))
    lines = [f"| | {kind} | " + " | ".join(heading(key) for key in keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for point in sorted(chosen, key=lambda point: (list(contenders.ALL).index(point["contender"]), point["count"])):
        values = point.get("values")
        cells = [f"{values[key]:,.1f}" if key in values else "" for key in keys] if values else [point["message"][:80]]
        lines.append(f"| {contenders.ALL[point['contender']].title} | {point['count']:,} | " + " | ".join(cells) + " |")
    return lines


def heading(key: str) -> str:
    name, _, unit = key.rpartition("_")
    return f"{name.replace('_', ' ')}, {'µs' if unit == 'us' else unit}"
