"""A file that says of each test that it began, and how it ended.

When a run was ended by the watchdog, a second run with the same journal does the tests that the first had not begun,
and the one that hung stands there as failed: a hang costs one test and not the report on all others.  Used when
``DISTPOOL_TEST_JOURNAL`` names the file.

As a script, sums journals up: ``python journal.py FILE...`` prints what failed, and at last
``N passed, N failed, N skipped``.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

VARIABLE = "DISTPOOL_TEST_JOURNAL"
#: From better to worse; a test is as bad as the worst of its set-up, call and tear-down.
OUTCOMES = ("passed", "skipped", "failed")


class Journal:
    """A pytest plugin."""

    def __init__(self, path: Path) -> None:
        self._begun = set(read(path)) if path.exists() else set()
        # Unbuffered: what ends the process must not take the last line with it.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = [item for item in items if item.nodeid in self._begun]
        if done:
            items[:] = [item for item in items if item.nodeid not in self._begun]
            config.hook.pytest_deselected(items=done)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write("failed", report.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("began", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(report.outcome if report.when == "call" or report.outcome != "passed" else "", report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write("ended", nodeid)

    def _write(self, word: str, nodeid: str) -> None:
        if word:
            os.write(self._file, f"{word} {json.dumps(nodeid)}\n".encode())


def read(path: Path) -> dict[str, str]:
    """Outcome of each test that began; one that began and did not end has failed."""
    outcomes: dict[str, str] = {}
    open_tests: set[str] = set()
    for word, nodeid in _lines(path):
        if word == "began":
            open_tests.add(nodeid)
            outcomes.setdefault(nodeid, "passed")
        elif word == "ended":
            open_tests.discard(nodeid)
        elif OUTCOMES.index(word) >= OUTCOMES.index(outcomes.get(nodeid, "passed")):
            outcomes[nodeid] = word
    return outcomes | dict.fromkeys(open_tests, "failed")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        word, _, nodeid = line.partition(" ")
        yield word, json.loads(nodeid)


def main(names: list[str]) -> int:
    counts: Counter[str] = Counter()
    for name in names:
        if os.path.exists(name):
            outcomes = read(Path(name))
            counts.update(outcomes.values())
            for nodeid in [nodeid for nodeid, outcome in outcomes.items() if outcome == "failed"]:
                print(f"failed in {os.path.basename(name)}: {nodeid}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
