"""The suites: where to find each, how to collect it, and how to point it at distpool.

This is imported in every process below a test (see ``runner.bootstrap``), so modules here import lightly.
"""

from __future__ import annotations

import importlib

from compat_tests.suites.base import Suite, SuiteUnavailable

NAMES = ("concurrent_futures", "multiprocessing", "joblib", "sklearn", "libraries")

__all__ = ["NAMES", "Suite", "SuiteUnavailable", "load"]


def load(name: str) -> Suite:
    """:raises KeyError: for an unknown suite."""
    if name not in NAMES:
        raise KeyError(name)
    suite: Suite = importlib.import_module(f"compat_tests.suites.{name}_suite").SUITE
    return suite
