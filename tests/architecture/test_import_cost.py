"""What an import loads is what every program pays that only wanted a pool."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("asyncio", "cloudpickle", "joblib", "numpy", "pandas", "psutil", "pyarrow")


@pytest.mark.parametrize(
    ("module", "its_own"),
    [
        ("distpool", set()),
        ("distpool.futures", set()),
        ("distpool.multiprocessing", set()),
        # joblib itself loads asyncio and, where it is installed, numpy.
        ("distpool.joblib", {"joblib", "asyncio", "numpy", "cloudpickle", "psutil"}),
        ("distpool.cli", set()),
        # What the first call loads, in the program and in its node.
        ("distpool.driver.current", set()),
        ("distpool.node.process", set()),
        ("distpool.worker.main", set()),
    ],
)
def test_importing_loads_nothing_heavy(module: str, its_own: set[str]) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert set(loaded.stdout.split()) <= its_own


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
