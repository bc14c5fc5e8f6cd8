"""A stand-in for the Python that nodes are started with: it can refuse, wait, and die."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

from tests.provision.contract import eventually

_SCRIPT = """#!/bin/sh
cd {folder}
if [ -s refuse ]; then cat refuse >&2; exit 3; fi
echo $$ > started
while [ -e hold ]; do
    echo $$ > held
    if [ -e die ]; then kill -9 $$; fi
    sleep 0.02
done
cd "$OLDPWD"
exec {python} "$@"
"""


class Gate:
    """See the module's description; a ``Harness`` of the contract.

    :param folder: holds the script, and what it is told.
    :param python: what it becomes.
    :param kill: ends a process of an id that the script knew as its own.
    """

    def __init__(self, folder: Path, python: str, kill: Callable[[int], object] | None = None) -> None:
        folder.mkdir()
        self.script = folder / "python"
        self.script.write_text(_SCRIPT.format(folder=shlex.quote(str(folder)), python=shlex.quote(python)))
        self.script.chmod(0o755)
        self._folder = folder
        self._kill = kill or (lambda pid: os.kill(pid, signal.SIGKILL))

    def refuse(self, words: str) -> None:
        (self._folder / "refuse").write_text(f"{words}\n")

    def hold(self) -> None:
        (self._folder / "hold").touch()

    def kill_held(self) -> None:
        eventually((self._folder / "held").exists)
        (self._folder / "die").touch()

    def go(self) -> None:
        for name in ("refuse", "die", "hold"):
            (self._folder / name).unlink(missing_ok=True)

    def kill_node(self) -> None:
        self._kill(int((self._folder / "started").read_text()))
