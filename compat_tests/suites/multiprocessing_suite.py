"""CPython's ``_test_multiprocessing`` with ``distpool.multiprocessing`` in the place of ``multiprocessing``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from compat_tests.runner import translation
from compat_tests.suites import cpython_tests

if TYPE_CHECKING:
    from pathlib import Path

    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery

_TESTS = "test._test_multiprocessing"
_START_METHODS = "compat_tests.suites.start_methods"


class Multiprocessing:
    """Every start method of the standard library, and ``distpool`` as one more."""

    name = "multiprocessing"
    title = "CPython _test_multiprocessing"
    targets = ("distpool", "stdlib")
    #: A test starts two hundred processes that each import the suite: one to two minutes on two busy cores.
    timeout_s = 300.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        return cpython_tests.locate(interpreter, "_test_multiprocessing", cache)

    def patch(self, target: str) -> None:
        cpython_tests.extend_test_package()
        if target == "distpool":
            translation.translate_imports((_TESTS, _START_METHODS), ("multiprocessing",), _substitute)

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import unittest_runs

        cpython_tests.keep_environment_in_scripts()
        methods = ["fork", "spawn", "forkserver", *(["distpool"] if target == "distpool" else [])]
        tests = unittest_runs.collect([f"{_START_METHODS}.{method}" for method in methods])
        nursery.serve(list(tests), lambda name: unittest_runs.run(tests[name]))


def _substitute(name: str) -> ModuleType | None:
    return importlib.import_module("distpool." + name)


SUITE = Multiprocessing()
