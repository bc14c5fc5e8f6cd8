"""Our own tests of what the standard library gets wrong, by the numbers of CPython's issues.

With the target ``stdlib`` they show what the original does on this Python; their failures there are the point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compat_tests.suites.base import SuiteUnavailable

if TYPE_CHECKING:
    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery

FOLDER = Path(__file__).resolve().parent.parent / "better"


class Better:
    """One short program per issue."""

    name = "better"
    title = "Better than the original"
    targets = ("distpool", "stdlib")
    timeout_s = 30.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        if "pytest" not in interpreter.packages:
            raise SuiteUnavailable(f"pytest is not installed for {interpreter.path}")
        return {}

    def patch(self, target: str) -> None:
        pass

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import pytest_runs

        pytest_runs.serve(nursery, ["--import-mode=append", str(FOLDER)])


SUITE = Better()
