"""The harness: every workload with every contender, each in a fresh process, in turn, several times.

Each round goes through all workloads, and in each workload through all contenders, beginning with another one each
time: what disturbs the machine for a minute disturbs all of them.  Every run is written down as it ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, limits, machine, proc, workload

ROOT = Path(__file__).resolve().parent.parent
#: A run longer than this is not repeated more often than ``SLOW_RUNS`` times.
SLOW_S = 45.0
SLOW_RUNS = 2
#: Contenders that take seconds to start, or minutes for what others do in one: with a budget of time they run after the
#: others, and once.
SLOW = ("ray", "ray-put", "dask", "dask-scatter", "ipyparallel", "parsl")
#: With a budget of time: the limit of each run, and what is not repeated.
BUDGET_LIMIT_S, BUDGET_SHORT_S = 30.0, 8.0
#: Seconds for a contender to take itself down after its numbers are in.
CLOSE_S = 20.0


@dataclass
class Plan:
    """What to run."""

    workloads: list[str]
    contenders: list[str]
    rounds: int
    workers: int
    quick: bool
    output: Path
    #: Overrides each workload's own limit.
    time_limit_s: float | None = None
    #: The budget of time: no run is begun that might exceed it.
    minutes: float | None = None
    #: Go on with a run that was cut short: what has been run counts.
    resume: bool = False

    def runs(self) -> Iterator[tuple[int, str, str]]:
        """(round, workload, contender), interleaved."""
        if self.minutes is None:
            for turn in range(self.rounds):
                yield from self._round(turn, self.contenders)
            return
        fast = [name for name in self.contenders if name not in SLOW]
        yield from self._round(0, fast)
        yield from self._round(0, [name for name in self.contenders if name in SLOW])
        for turn in range(1, self.rounds):
            yield from self._round(turn, fast)

    def _round(self, turn: int, contenders: list[str]) -> Iterator[tuple[int, str, str]]:
        for name in self.workloads:
            taking_part = [each for each in workload.load(name).CONTENDERS if each in contenders]
            shift = turn % len(taking_part) if taking_part else 0
            for contender in taking_part[shift:] + taking_part[:shift]:
                yield turn, name, contender

    def has_time(self, earlier: list[dict[str, Any]], left_s: float) -> bool:
        """Whether a run may begin ``left_s`` seconds before the budget is used up, given those of the same before."""
        longest_s = max((run["wall_s"] for run in earlier), default=0.0)
        if earlier and longest_s > BUDGET_SHORT_S:
            return False
        return left_s > (1.5 * longest_s + 1.0 if earlier else BUDGET_LIMIT_S)


def carry_out(plan: Plan, before: dict[str, Any]) -> None:
    """Run the plan; what is found is added to what was found ``before``, and saved with every run."""
    proc.adopt_orphans()
    file = plan.output / "runs.json"
    records: list[dict[str, Any]] = before.get("runs", [])
    say("limits of this machine")
    end = None if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    document: dict[str, Any] = {
        "machine": machine.facts(),
        "quick": plan.quick,
        "limits": limits.best_of(before.get("limits", {}), limits.measure(quick=plan.quick)),
        "runs": records,
    }
    file.write_text(json.dumps(document, indent=1))
    for turn, name, contender in plan.runs():
        earlier = [run for run in records if (run["workload"], run["contender"]) == (name, contender)]
        if not worth_repeating(earlier) or (plan.resume and len(earlier) > turn):
            continue
        if end is not None and not plan.has_time(earlier, end - time.monotonic()):
            continue
        record = run_once(plan, name, contender)
        record["round"] = turn
        records.append(record)
        say(f"{turn + 1}/{plan.rounds}  {name:20} {contender:22} {in_short(record)}")
        file.write_text(json.dumps(document, indent=1))


def worth_repeating(earlier: list[dict[str, Any]]) -> bool:
    if any(run["status"] in ("unsupported", "timeout", "wrong") for run in earlier):
        return False
    if sum(run["status"] == "failed" for run in earlier) >= SLOW_RUNS:
        return False
    return len(earlier) < SLOW_RUNS or max(run["wall_s"] for run in earlier) < SLOW_S


def run_once(plan: Plan, name: str, contender: str) -> dict[str, Any]:
    """One fresh process; never raises for what a contender does."""
    module = workload.load(name)
    size = module.SIZES.of(contender, plan.quick)
    limit_s: float = getattr(module, "TIME_LIMIT_S", 120.0) if plan.minutes is None else BUDGET_LIMIT_S
    if plan.time_limit_s is not None:
        limit_s = plan.time_limit_s
    record: dict[str, Any] = {"workload": name, "contender": contender, "size": size, "workers": plan.workers}
    shared_before, busy_before, own_before = proc.shared_memory_bytes(), proc.machine_busy_s(), own_cpu_s()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "log")
        arguments = [name, contender, f"--size={size}", f"--workers={plan.workers}", f"--answer={answer}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.one", *arguments],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        hung = wait(process, answer, limit_s)
        record["wall_s"] = time.perf_counter() - started
        if process.returncode == 0:
            time.sleep(0.2)  # for helpers that end a moment after their driver
        record["left_processes"] = proc.end_descendants(os.getpid())
        record.update(read_answer(answer) or {"status": "timeout" if hung else "failed"})
        if record["status"] != "ok" or hung:
            # Cut afterwards, or half a folder may be left.
            record["log"] = without_folders(log.read_text(errors="replace"))[-2000:]
            record.setdefault("message", f"gave up after {limit_s:.0f} s" if hung else f"exit {process.returncode}")
        record["hung_at_close"] = bool(hung and record["status"] == "ok")
    for told in {"message", "traceback"} & record.keys():
        record[told] = without_folders(record[told])
    record["left_shared_memory_bytes"] = max(0, proc.shared_memory_bytes() - shared_before)
    own = own_cpu_s() - own_before
    record["other_load"] = max(0.0, (proc.machine_busy_s() - busy_before - own) / record["wall_s"])
    return record


def wait(process: subprocess.Popen[bytes], answer: Path, limit_s: float) -> bool:
    """Wait for the end of a run; whether it had to be killed."""
    give_up = time.monotonic() + limit_s
    closing: float | None = None
    while True:
        try:
            process.wait(timeout=0.1 if closing is None else 0.02)
            return False
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if closing is None and answer.exists():
                closing = now
            if now > give_up or (closing is not None and now > closing + CLOSE_S):
                process.send_signal(signal.SIGUSR1)  # its faulthandler writes where it hangs
                time.sleep(0.5)
                process.kill()
                process.wait()
                return True


def without_folders(text: str) -> str:
    """``text`` without the folders of this machine that modules lie in: results are read on others."""
    for folder in sorted({str(ROOT), *filter(os.path.isdir, sys.path), tempfile.gettempdir()}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text


def read_answer(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def environment() -> dict[str, str]:
    """As a user's shell would have it: compiled modules are kept, and the checkout can be imported everywhere."""
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    return {**found, "PYTHONPATH": str(ROOT)}


def own_cpu_s() -> float:
    """CPU time of this process and of all descendants that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_short(record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{record['status']}: {record.get('message', '')}"[:160]
    metrics = workload.load(record["workload"]).METRICS
    shown = [
        f"{key} {value:{metrics[key].format}} {metrics[key].unit}".strip()
        for key, value in record["values"].items()
        if value is not None
    ]
    left = f"  ({record['left_processes']} processes left behind)" if record["left_processes"] else ""
    return ", ".join(shown) + left + ("  (hung at close)" if record["hung_at_close"] else "")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def contender_names(wanted: str | None) -> list[str]:
    """The contenders named (``ours`` and ``others`` are groups), or all."""
    groups = {"ours": list(contenders.OURS), "others": [name for name in contenders.ALL if name not in contenders.OURS]}
    if not wanted:
        return list(contenders.ALL)
    found: list[str] = []
    for name in wanted.split(","):
        if name not in contenders.ALL and name not in groups:
            raise SystemExit(f"no contender {name!r}; there are: {', '.join([*contenders.ALL, *groups])}")
        found += groups.get(name, [name])
    return list(dict.fromkeys(found))


def workload_names(wanted: str | None) -> list[str]:
    known = workload.names()
    if not wanted:
        return known
    for name in wanted.split(","):
        if name not in known:
            raise SystemExit(f"no workload {name!r}; there are: {', '.join(known)}")
    return [name for name in known if name in wanted.split(",")]
