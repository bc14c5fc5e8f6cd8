"""Our own tests of what other libraries rely on, run with these libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compat_tests.suites.base import EXTRAS, SuiteUnavailable

if TYPE_CHECKING:
    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery

_FOLDER = Path(__file__).resolve().parent.parent / "libraries"
_PROBLEMS = "install-problems.txt"


class Libraries:
    """The libraries live in a folder of their own behind the interpreter's packages."""

    name = "libraries"
    title = "What libraries rely on"
    targets = ("distpool", "stdlib")
    timeout_s = 120.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        if "pytest" not in interpreter.packages:
            raise SuiteUnavailable(f"pytest is not installed for {interpreter.path}")
        packages = _install(interpreter, cache / f"libraries-{interpreter.minor}")
        for problem in (packages / _PROBLEMS).read_text().splitlines():
            print(f"NOT INSTALLED: {problem}", flush=True)
        return {EXTRAS: str(packages)}

    def patch(self, target: str) -> None:
        sys.path.append(os.environ[EXTRAS])

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import pytest_runs

        pytest_runs.serve(nursery, ["--import-mode=append", str(_FOLDER)])


def _install(interpreter: Interpreter, folder: Path) -> Path:
    """A virtual environment that sees the interpreter's packages; gives its folder of packages."""
    packages = folder / "lib" / f"python{interpreter.minor}" / "site-packages"
    wanted = (_FOLDER / "requirements.txt").read_text()
    installed = packages / "installed-requirements.txt"
    if installed.exists() and installed.read_text() == wanted:
        return packages
    subprocess.run([str(interpreter.path), "-m", "venv", str(folder)], check=True, timeout=300)
    # pip counts what this file makes importable as installed, so nothing is downloaded twice or in another version.
    (packages / "interpreter.pth").write_text(_packages_of(interpreter) + "\n")
    problems = []
    lines = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    # A library that wants torch must not bring another one: no torch, no such library.
    pins = packages / "pins.txt"
    pins.write_text("\n".join(line for line in lines if "==" in line.partition(";")[0]) + "\n")
    for line in lines:
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-c", str(pins), line]
        run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if run.returncode != 0:
            why = (run.stderr.strip().splitlines() or ["no message"])[-1]
            problems.append(f"{line}: {why[:300]}")
        elif "Ignoring" in run.stdout + run.stderr:
            problems.append(f"{line}: not meant for Python {interpreter.minor}")
    (packages / _PROBLEMS).write_text("\n".join(problems))
    installed.write_text(wanted)
    return packages


def _packages_of(interpreter: Interpreter) -> str:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return subprocess.check_output([str(interpreter.path), "-c", code], text=True, timeout=60).strip()


SUITE = Libraries()
