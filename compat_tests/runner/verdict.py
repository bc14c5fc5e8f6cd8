"""What is known of one test after it ran."""

from __future__ import annotations

from typing import NamedTuple

PASSED = "passed"
FAILED = "failed"
HUNG = "hung"
SKIPPED = "skipped"
OUTCOMES = (PASSED, FAILED, HUNG, SKIPPED)

_DETAIL_LIMIT = 4000


class Verdict(NamedTuple):
    """Given by the test process itself; a process that ends without one has failed."""

    outcome: str
    detail: str = ""


class Record(NamedTuple):
    """A verdict with its test and the time that the test's process took."""

    test: str
    outcome: str
    seconds: float
    detail: str = ""
    attempts: int = 1


def shorten(detail: str) -> str:
    """Both ends tell: stacks of a hung process start with the innermost frame, a traceback ends with the error."""
    half = _DETAIL_LIMIT // 2
    return detail if len(detail) <= _DETAIL_LIMIT else f"{detail[:half]}\n[...]\n{detail[-half:]}"
