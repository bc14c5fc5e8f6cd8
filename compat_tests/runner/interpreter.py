"""The Python under test: found by path or by version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_QUESTIONS = """
import importlib.metadata as m, json, platform, sys, sysconfig
versions = {}
for name in sys.argv[1:]:
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps([platform.python_version(), sysconfig.get_paths()["stdlib"], versions]))
"""


class Interpreter(NamedTuple):
    """:param library: its ``Lib`` folder."""

    path: Path
    version: str
    library: Path
    packages: dict[str, str]

    @property
    def minor(self) -> str:
        """For instance ``3.13``."""
        return ".".join(self.version.split(".")[:2])


def find_interpreter(wanted: str | None) -> Interpreter:
    """:param wanted: a path, a command, or a version such as ``3.13``; ``None`` is the running one.

    :raises LookupError: when there is none.
    """
    if wanted is None:
        return _ask(Path(sys.executable))
    if wanted.replace(".", "").isdigit():
        running = ".".join(map(str, sys.version_info[: wanted.count(".") + 1]))
        found = sys.executable if running == wanted else shutil.which(f"python{wanted}")
    else:
        found = shutil.which(wanted)
    if found is None:
        raise LookupError(f"no Python {wanted} found")
    # Not resolved: a virtual environment is known by the path of its link.
    return _ask(Path(found).absolute())


def _ask(path: Path) -> Interpreter:
    packages = ("distpool", "joblib", "scikit-learn", "numpy", "scipy", "pytest", "cloudpickle", "msgspec", "pyzmq")
    run = subprocess.run([str(path), "-c", _QUESTIONS, *packages], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        raise LookupError(f"{path} does not run: {run.stderr.strip()[-300:]}")
    version, library, versions = json.loads(run.stdout)
    return Interpreter(path, version, Path(library), versions)
