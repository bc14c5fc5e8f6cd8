"""CPython's ``test_concurrent_futures`` with ``distpool.futures`` imported in the place of ``concurrent.futures``."""

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

_MODULE = "test.test_concurrent_futures"


class ConcurrentFutures:
    """Targets: ``distpool`` is ``distpool.futures``; ``distexecutor`` has ``DistExecutor`` as its process pool."""

    name = "concurrent_futures"
    title = "CPython test_concurrent_futures"
    targets = ("distpool", "distexecutor", "stdlib")
    timeout_s = 120.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        return cpython_tests.locate(interpreter, "test_concurrent_futures", cache)

    def patch(self, target: str) -> None:
        cpython_tests.extend_test_package()
        if target != "stdlib":
            translation.translate_imports((_MODULE,), ("concurrent",), Futures(target).substitute)

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import unittest_runs

        cpython_tests.keep_environment_in_scripts()
        tests = unittest_runs.collect([_MODULE])
        nursery.serve(list(tests), lambda name: unittest_runs.run(tests[name]))


class Futures:
    """Answers the suite's imports; private submodules (``concurrent.futures._base``) stay the standard library's."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._answers: dict[str, ModuleType] = {}

    def substitute(self, name: str) -> ModuleType | None:
        if name == "concurrent":
            return self._once(name, lambda: translation.package_with(name, futures=self._futures()))
        if name == "concurrent.futures":
            return self._futures()
        return importlib.import_module(name)

    def _futures(self) -> ModuleType:
        futures = importlib.import_module("distpool.futures")
        if self._target == "distexecutor":
            executor = importlib.import_module("distpool").DistExecutor
            # Under its own name, too: scripts that tests write import ``executor_type.__name__``.
            return self._once(
                "concurrent.futures",
                lambda: translation.package_with(
                    "distpool.futures", ProcessPoolExecutor=executor, DistExecutor=executor
                ),
            )
        return futures

    def _once(self, name: str, make: object) -> ModuleType:
        if name not in self._answers:
            assert callable(make)
            self._answers[name] = make()
        return self._answers[name]


SUITE = ConcurrentFutures()
