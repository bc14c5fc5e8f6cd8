"""The head of a cluster for a module's tests, started as an operator would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_head(state: Path, **environment: str) -> Iterator[str]:
    """Its address; it offers one CPU.  This process has ``environment`` and finds the cluster's token meanwhile."""
    command = [sys.executable, "-m", "distpool"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setenv("DISTPOOL_SPARE_WORKERS", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        words = [*command, "start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "1"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        found = re.search(r"listens at (\S+);", said)
        assert found is not None, said
        yield found[1]
        subprocess.run([*command, "stop"], timeout=60, check=True, capture_output=True)
