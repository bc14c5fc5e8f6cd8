"""What the benchmarks write down."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from benchmarks import report, run
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
