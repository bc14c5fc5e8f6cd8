"""joblib's own tests with ``"distpool"`` as the default process backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compat_tests.suites.base import EXTRAS, SuiteUnavailable, install_extras

if TYPE_CHECKING:
    from pathlib import Path

    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery


class Joblib:
    """The wheel contains the tests."""

    name = "joblib"
    title = "joblib"
    targets = ("distpool", "stdlib")
    timeout_s = 120.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        for package in ("joblib", "pytest"):
            if package not in interpreter.packages:
                raise SuiteUnavailable(f"{package} is not installed for {interpreter.path}")
        extras = ["pytest-asyncio"]
        if interpreter.minor == "3.10":
            extras.append("backports.asyncio.runner")
        return {EXTRAS: install_extras(interpreter, extras, cache / f"joblib-{interpreter.minor}")}

    def patch(self, target: str) -> None:
        sys.path.append(os.environ[EXTRAS])

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import pytest_runs

        if target == "distpool":
            make_default_backend()
        pytest_runs.serve(nursery, ["-p", "pytest_asyncio", "--pyargs", "joblib"])


def make_default_backend() -> None:
    """``Parallel`` without a backend, and with one of joblib's own process backends by name, runs in distpool."""
    from joblib import parallel

    import distpool.joblib  # noqa: F401 - registers the backend

    backend = parallel.BACKENDS["distpool"]
    parallel.DEFAULT_BACKEND = parallel.DEFAULT_PROCESS_BACKEND = "distpool"
    for name in ("loky", "multiprocessing"):
        parallel.BACKENDS[name] = backend


SUITE = Joblib()
