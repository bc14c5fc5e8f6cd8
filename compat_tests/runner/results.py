"""The result of a run as a file: what ``report`` makes the documentation from.

The file of a complete run is brought up to date by later runs of a selection: each test counts with its last run.
"""

from __future__ import annotations

import collections
import datetime
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compat_tests.runner.expectations import Judgement
from compat_tests.runner.interpreter import Interpreter
from compat_tests.runner.verdict import OUTCOMES, PASSED, SKIPPED, Record

FOLDER = Path(__file__).resolve().parent.parent / "results"


class Journal:
    """The records of a run that is not complete yet, one line each: what one that is cut short leaves for the next."""

    def __init__(self, folder: Path, suite: str, target: str, interpreter: Interpreter) -> None:
        self._path = folder / f"{suite}-{target}-py{interpreter.minor}.partial"

    def read(self) -> list[Record]:
        """What was recorded; a line that was cut in the middle does not count."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().split("\n")[:-1]
        return [Record(**json.loads(line)) for line in lines]

    def add(self, record: Record) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(record._asdict()) + "\n")

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


def counts(records: Sequence[Record]) -> dict[str, int]:
    """How many tests had each outcome."""
    counter = collections.Counter(record.outcome for record in records)
    return {outcome: counter[outcome] for outcome in OUTCOMES}


def write(
    folder: Path,
    suite: str,
    target: str,
    interpreter: Interpreter,
    selection: str,
    records: Sequence[Record],
    judgement: Judgement,
    seconds: float,
) -> Path:
    """Writes ``<suite>-<target>-<python>.json``; a run of a selection gets a name of its own.

    :param selection: what was selected, in words; nothing for a complete run.
    """
    failures = [
        {"test": record.test, "outcome": record.outcome, "detail": record.detail}
        for record in records
        if record.outcome not in (PASSED, SKIPPED)
    ]
    skipped = collections.Counter(record.detail for record in records if record.outcome == SKIPPED)
    content: dict[str, Any] = {
        "suite": suite,
        "target": target,
        "python": interpreter.version,
        "packages": interpreter.packages,
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        "selection": selection,
        "total": len(records),
        "counts": counts(records),
        "passed_on_retry": [r.test for r in records if r.outcome == PASSED and r.attempts > 1],
        "seconds": round(seconds, 1),
        "slowest": {r.test: r.seconds for r in sorted(records, key=lambda r: -r.seconds)[:10]},
        "surprises": judgement.surprises,
        "outcomes": {record.test: record.outcome for record in records},
        "failures": failures,
        "skipped": dict(skipped.most_common()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / f"{suite}-{target}-py{interpreter.minor}.json"
    path = complete.with_stem(complete.stem + "-selection") if selection else complete
    path.write_text(json.dumps(content, indent=1) + "\n")
    if selection and complete.exists():
        complete.write_text(json.dumps(_updated(json.loads(complete.read_text()), content), indent=1) + "\n")
    return path


def _updated(complete: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A complete result with what a later run of a selection found instead."""
    outcomes: dict[str, str] = complete["outcomes"]
    again = {test: outcome for test, outcome in later["outcomes"].items() if test in outcomes}
    failures = [failure for failure in complete["failures"] if failure["test"] not in again]
    failures += [failure for failure in later["failures"] if failure["test"] in again]
    outcomes = {**outcomes, **again}
    counter = collections.Counter(outcomes.values())
    return {
        **complete,
        "packages": later["packages"],
        "date": later["date"],
        "outcomes": outcomes,
        "failures": sorted(failures, key=lambda failure: list(outcomes).index(failure["test"])),
        "counts": {outcome: counter[outcome] for outcome in OUTCOMES},
    }


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The results of complete runs."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [result for result in found if not result["selection"]]
