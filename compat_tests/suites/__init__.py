"""The suites: where to find each, how to collect it, and how to point it at distpool.

This is imported in every process below a test (see ``runner.bootstrap``), so modules here import lightly.
"""

from __future__ import annotations

import importlib

from compat_tests.suites.base import BASELINES, Suite, SuiteUnavailable

NAMES = ("concurrent_futures", "multiprocessing", "joblib", "sklearn", "libraries", "better")

__all__ = ["BASELINES", "NAMES", "Suite", "SuiteUnavailable", "load"]


def load(name: str) -> Suite:
    """:param name: one of ``NAMES``, or of a module with a dot in its name that has a ``SUITE``.

    :raises KeyError: for an unknown suite.
    """
    if name not in NAMES and "." not in name:
        raise KeyError(name)
    suite: Suite = importlib.import_module(name if "." in name else f"compat_tests.suites.{name}_suite").SUITE
    return suite
