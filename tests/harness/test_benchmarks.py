"""What the benchmarks write down."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contenders, limits, report, run, summary, workload
from benchmarks.summary import Figure, Row

ROOT = Path(run.__file__).resolve().parent.parent


def test_results_do_not_say_where_this_machine_has_its_modules() -> None:
    trace = f'File "{run.__file__}", line 3; File "{threading.__file__}", line 4; File "/elsewhere/code.py"'
    assert (
        run.without_folders(trace)
        == 'File "benchmarks/run.py", line 3; File "threading.py", line 4; File "/elsewhere/code.py"'
    )
    assert str(ROOT) not in run.without_folders(trace)
    assert sys.prefix not in run.without_folders(trace)


def test_how_often_each_was_run() -> None:
    def row(runs: int) -> Row:
        return Row("distpool", 1, {"rate": Figure(1.0, 1.0, 1.0, runs)}, ())

    assert report.rounds({"submit": [row(1)]}) == "Each figure is of 1 run."
    assert report.rounds({"submit": [row(5)], "chain": [row(5)]}) == "Each figure is of 5 runs."
    assert report.rounds({"submit": [row(1), row(5), row(5)]}).endswith("the median of 1 to 5 runs, of 5 for most.")
    assert report.rounds({}) == "Nothing was run to its end."


def test_targets_compare_runs_of_the_same_round() -> None:
    def ran(contender: str, ms: float) -> dict[str, Any]:
        return {"workload": "cold_start", "contender": contender, "size": 7, "values": {"whole": ms}}

    quick = [ran("distpool-pool", 200.0), ran("pool-forkserver", 140.0)]
    slow = [ran("pool-forkserver", 280.0), ran("distpool-pool", 400.0)]
    alone = [ran("distpool-pool", 410.0)]
    (verdict,) = summary.verdicts("cold_start", summary.rows("cold_start", quick + slow + alone))
    assert verdict.ratio == pytest.approx(200 / 140)
    assert (verdict.opponent, verdict.rounds, verdict.reached, verdict.met) == ("pool-forkserver", 2, 400.0, True)
    (verdict,) = summary.verdicts("cold_start", summary.rows("cold_start", [ran("distpool-pool", 310.0), *slow[:1]]))
    assert verdict.met
    (verdict,) = summary.verdicts("cold_start", summary.rows("cold_start", [ran("distpool-pool", 430.0), *slow[:1]]))
    assert verdict.met is False
    (verdict,) = summary.verdicts("cold_start", summary.rows("cold_start", alone))
    assert (verdict.met, verdict.ratio, verdict.rounds) == (None, None, 0)


def test_the_machine_can_do_what_it_did_best() -> None:
    one, other = {"memcpy_warm": 10.0, "pipe_round_trip": 50.0}, {"memcpy_warm": 12.0, "pipe_round_trip": 60.0}
    assert limits.best_of(one, other) == {"memcpy_warm": 12.0, "pipe_round_trip": 50.0}
    assert limits.best_of({}, other) == other
    assert limits.best_of(one, {}) == one


def test_names_are_listed_by_a_python_with_nothing_installed() -> None:
    command = [sys.executable, "-S", "-m", "benchmarks", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [*workload.names(), *contenders.ALL]
    assert not any(line.partition(" ")[2].strip() in ("", "None") for line in listed)
