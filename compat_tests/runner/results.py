"""The result of a run as a file: what ``report`` makes the documentation from."""

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
    reasons = {record.test: entry for record, entry in judgement.expected}
    exceptions = [
        {
            "test": record.test,
            "outcome": record.outcome,
            "expected": record.test in reasons,
            "kind": reasons[record.test].kind if record.test in reasons else "",
            "reason": reasons[record.test].reason if record.test in reasons else "",
            "detail": record.detail,
        }
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
        "exceptions": exceptions,
        "skipped": dict(skipped.most_common()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = "-selection" if selection else ""
    path = folder / f"{suite}-{target}-py{interpreter.minor}{part}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The results of complete runs."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [result for result in found if not result["selection"]]
