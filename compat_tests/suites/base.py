"""What a suite's adapter provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery


class SuiteUnavailable(Exception):
    """The suite is neither installed nor to be had for this Python; the message says why."""


EXTRAS = "COMPAT_EXTRAS"
#: Targets without distpool: what they do is compared with, and not judged.
BASELINES = ("stdlib", "loky")


def install_extras(interpreter: Interpreter, packages: Sequence[str], folder: Path) -> str:
    """Test tools that a suite needs and the environment need not have; gives the folder for ``sys.path``.

    :raises SuiteUnavailable: when they cannot be installed.
    """
    import subprocess

    done = folder / "installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        command = [str(interpreter.path), "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        command += ["--target", str(folder)]
        run = subprocess.run([*command, *packages], capture_output=True, text=True, timeout=600)
        if run.returncode != 0:
            raise SuiteUnavailable(f"{', '.join(packages)} cannot be installed: {run.stderr.strip()[-300:]}")
        done.write_text(wanted)
    return str(folder)


class Suite(Protocol):
    """:param title: for the report.
    :param targets: what it can be pointed at; ``stdlib`` is the unpatched original, to know the machine's baseline.
    :param timeout_s: limit for one test, including the start and the end of its process.
    """

    name: str
    title: str
    targets: Sequence[str]
    timeout_s: float

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        """In the coordinator: finds or installs the suite.

        :param cache: folder for downloads.
        :returns: environment variables that its processes need.
        :raises SuiteUnavailable: when it is not to be had.
        """
        ...

    def patch(self, target: str) -> None:
        """In every process below a test, before the suite is imported: points it at ``target``."""
        ...

    def serve(self, nursery: Nursery, target: str) -> None:
        """In the nursery: collects the tests and hands them to ``nursery.serve``."""
        ...
