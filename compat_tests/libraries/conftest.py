"""The same tests run against distpool and against the standard library (``--target stdlib``)."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

TARGET = os.environ.get("COMPAT_TARGET", "distpool")


@pytest.fixture
def multiprocessing() -> ModuleType:
    """``multiprocessing``, or what takes its place."""
    return importlib.import_module("multiprocessing" if TARGET == "stdlib" else "distpool.multiprocessing")


@pytest.fixture
def futures() -> ModuleType:
    """``concurrent.futures``, or what takes its place."""
    return importlib.import_module("concurrent.futures" if TARGET == "stdlib" else "distpool.futures")


@pytest.fixture(params=["ProcessPoolExecutor", "DistExecutor"])
def executor_class(request: pytest.FixtureRequest, futures: ModuleType) -> type:
    """Each class of process pool executor."""
    if request.param == "ProcessPoolExecutor":
        return futures.ProcessPoolExecutor
    if TARGET == "stdlib":
        pytest.skip("the standard library has no DistExecutor")
    return importlib.import_module("distpool").DistExecutor


@pytest.fixture
def start_method() -> str:
    """The start method by which a library that takes only a name or a context gets our processes."""
    return "fork" if TARGET == "stdlib" else "distpool"
