"""The committed exceptions of a suite, and what a run has to say about them.

``exceptions/<suite>.toml`` holds entries of this form::

    [[exception]]
    tests = ["*.ProcessPool*.test_name"]     # * stands for anything
    python = ["3.10", "3.11"]                # default: every version
    targets = ["distpool"]                   # default: every target but the unpatched original; "hosts": any on hosts
    outcome = "failed"                       # or "hung", or "either" (sometimes passes)
    kind = "private"                         # see KINDS
    reason = "one sentence that a user would accept"
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compat_tests.runner import place
from compat_tests.runner.verdict import FAILED, HUNG, PASSED, Record

FOLDER = Path(__file__).resolve().parent.parent / "exceptions"

KINDS = {
    "private": "the test inspects private parts of the original implementation",
    "different by design": "distpool promises something else here, and says so",
    "better": "distpool does better than what the test asks for",
    "environment": "the test fails with the original, too, on this machine",
    "upstream": "the test itself is wrong or unreliable",
    "runner": "the runner cannot do to this test what an edit of its imports would do",
}
_EITHER = "either"


class ExpectationError(ValueError):
    """An exceptions file that does not make sense."""


class Expectation(NamedTuple):
    """One entry."""

    tests: tuple[str, ...]
    python: tuple[str, ...]
    targets: tuple[str, ...]
    outcome: str
    kind: str
    reason: str

    def covers(self, test: str) -> bool:
        """Whether one of its patterns matches the whole name."""
        return any(matches(pattern, test) for pattern in self.tests)


class Judgement(NamedTuple):
    """:param unexpected: failed or hung without an entry; the run fails.
    :param expected: failed or hung as an entry says, with that entry.
    :param surprises: entries that no longer hold, in words."""

    unexpected: list[Record]
    expected: list[tuple[Record, Expectation]]
    surprises: list[str]


def matches(pattern: str, test: str) -> bool:
    """``*`` is the only special character: test names are full of brackets."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), test, re.DOTALL) is not None


def load(suite: str, target: str, minor: str) -> list[Expectation]:
    """The entries that apply to this target and Python; on hosts, those for one machine as well.

    :raises ExpectationError: for a malformed file.
    """
    path = FOLDER / f"{suite}.toml"
    if not path.exists():
        return []
    names = {target, target.removesuffix(place.SUFFIX)}
    if target.endswith(place.SUFFIX):
        names.add("hosts")
    entries = [_entry(path, raw) for raw in _parse(path).get("exception", [])]
    return [
        entry
        for entry in entries
        if (not entry.python or minor in entry.python)
        and (names.intersection(entry.targets) or (not entry.targets and target != "stdlib"))
    ]


def _parse(path: Path) -> dict[str, Any]:
    # Python 3.10 has no tomllib; there pytest brings the package that it was made from.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    with path.open("rb") as file:
        content: dict[str, Any] = toml.load(file)
        return content


def _entry(path: Path, raw: dict[str, Any]) -> Expectation:
    unknown = raw.keys() - set(Expectation._fields)
    if unknown:
        raise ExpectationError(f"{path.name}: unknown keys {sorted(unknown)}")
    entry = Expectation(
        tuple(raw.get("tests", ())),
        tuple(raw.get("python", ())),
        tuple(raw.get("targets", ())),
        raw.get("outcome", FAILED),
        raw.get("kind", ""),
        raw.get("reason", ""),
    )
    if not entry.tests or not entry.reason.strip() or entry.kind not in KINDS:
        raise ExpectationError(f"{path.name}: an exception needs tests, a reason and a kind of {sorted(KINDS)}: {raw}")
    if entry.outcome not in (FAILED, HUNG, _EITHER):
        raise ExpectationError(f"{path.name}: outcome {entry.outcome!r}")
    return entry


def fitting(record: Record, expectations: Sequence[Expectation]) -> Expectation | None:
    """The entry that excuses this failure; a hang is never excused by one that expects a failure, nor the reverse."""
    for entry in expectations:
        if entry.outcome in (record.outcome, _EITHER) and entry.covers(record.test):
            return entry
    return None


def judge(records: Sequence[Record], expectations: Sequence[Expectation], complete: bool) -> Judgement:
    """:param complete: all tests of the suite ran, so that an entry without any test is a mistake."""
    judgement = Judgement([], [], [])
    used: dict[Expectation, int] = dict.fromkeys(expectations, 0)
    for record in records:
        entries = [entry for entry in expectations if entry.covers(record.test)]
        for entry in entries:
            used[entry] += 1
        if record.outcome in (FAILED, HUNG):
            excuse = fitting(record, entries)
            if excuse is not None:
                judgement.expected.append((record, excuse))
            else:
                judgement.unexpected.append(record)
        elif record.outcome == PASSED:
            for entry in entries:
                if entry.outcome != _EITHER:
                    judgement.surprises.append(f"{record.test} passes, but is listed: {entry.reason}")
    if complete:
        judgement.surprises.extend(
            f"no test matches {', '.join(entry.tests)}" for entry, count in used.items() if not count
        )
    return judgement
