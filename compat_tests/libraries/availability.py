"""Says aloud which libraries are missing, and why."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

PROBLEMS = "install-problems.txt"


def require(name: str) -> ModuleType:
    """Imports a library, or skips the module with the reason why it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        problems = Path(os.environ.get("COMPAT_EXTRAS", ".")) / PROBLEMS
        lines = problems.read_text().splitlines() if problems.exists() else []
        why = next((line for line in lines if line.startswith(name.replace("_", "-"))), str(error))
        pytest.skip(f"{name} is not installed: {why}", allow_module_level=True)
