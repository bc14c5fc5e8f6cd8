"""Finds modules of CPython's own ``test`` package, and makes importable what an installation lacks."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from compat_tests.suites.base import SuiteUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from compat_tests.runner.interpreter import Interpreter

FOLDER = "COMPAT_CPYTHON_TESTS"


def locate(interpreter: Interpreter, module: str, cache: Path) -> dict[str, str]:
    """Environment variables that make ``test.<module>`` importable: none where the installation ships it.

    :raises SuiteUnavailable: when neither the installation nor Debian has it for this minor version.
    """
    if _is_in(interpreter.library / "test", module):
        return {}
    folder = cache / f"libpython{interpreter.minor}-testsuite" / f"usr/lib/python{interpreter.minor}/test"
    if not _is_in(folder, module):
        _fetch_debian_package(interpreter.minor, cache)
    if not _is_in(folder, module):
        raise SuiteUnavailable(f"neither {interpreter.path} nor Debian's package ships test.{module}")
    return {FOLDER: str(folder)}


def _is_in(folder: Path, module: str) -> bool:
    return (folder / f"{module}.py").exists() or (folder / module / "__init__.py").exists()


def _fetch_debian_package(minor: str, cache: Path) -> None:
    import shutil
    import subprocess

    name = f"libpython{minor}-testsuite"
    missing = f"this Python does not ship the module, and Debian has no package {name} here"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SuiteUnavailable(missing)
    cache.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", name], cwd=cache, capture_output=True, timeout=300).returncode != 0:
        subprocess.run(["apt-get", "update"], capture_output=True, timeout=300)
        if subprocess.run(["apt-get", "download", name], cwd=cache, capture_output=True, timeout=300).returncode != 0:
            raise SuiteUnavailable(missing)
    (package,) = cache.glob(f"{name}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(cache / name)], check=True, timeout=120)


def extend_test_package() -> None:
    """Adds the fetched folder behind the installation's own ``test`` package (its ``test.support`` stays)."""
    folder = os.environ.get(FOLDER)
    if folder:
        package = importlib.import_module("test")
        if folder not in package.__path__:
            package.__path__.append(folder)


def keep_environment_in_scripts() -> None:
    """Scripts that tests run with ``-I`` would lose ``sitecustomize``; CPython's own switch keeps the environment."""
    script_helper = importlib.import_module("test.support.script_helper")
    script_helper.__dict__["__cached_interp_requires_environment"] = True
