from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.harness import Driver


@pytest.fixture
def driver() -> Iterator[Driver]:
    """A driver with a worker that has not been set up yet."""
    # Not ``tmp_path``: the paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        made = Driver(Path(folder))
        try:
            yield made
        finally:
            output = made.close()
    assert output == "", "the worker wrote to its real standard output or error"


@pytest.fixture
def ready(driver: Driver) -> Driver:
    """A driver with a worker that is set up."""
    driver.set_up()
    return driver
