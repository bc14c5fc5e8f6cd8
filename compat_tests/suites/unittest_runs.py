"""Runs single tests of a suite written for ``unittest``."""

from __future__ import annotations

import unittest
from collections.abc import Iterator, Sequence
from typing import Any

from compat_tests.runner.verdict import FAILED, PASSED, SKIPPED, Verdict


def collect(module_names: Sequence[str]) -> dict[str, unittest.TestCase]:
    """All tests of the modules by name; a module that cannot be imported is a test that fails."""
    found = unittest.TestLoader().loadTestsFromNames(list(module_names))
    return {test.id(): test for test in _flatten(found)}


def _flatten(suite: Any) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
    else:
        for part in suite:
            yield from _flatten(part)


def run(test: unittest.TestCase) -> Verdict:
    """Runs one test with the set-up of its module and class."""
    result = unittest.TestResult()
    unittest.TestSuite([test]).run(result)
    problems = [text for _, text in (*result.errors, *result.failures)]
    problems += [f"unexpected success: {case}" for case in result.unexpectedSuccesses]
    if problems:
        return Verdict(FAILED, "\n".join(problems))
    if result.skipped:
        return Verdict(SKIPPED, result.skipped[0][1])
    if result.testsRun == 0:
        return Verdict(FAILED, "nothing ran")
    return Verdict(PASSED)
