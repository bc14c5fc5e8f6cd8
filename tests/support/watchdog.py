"""Ends a test run that hangs.

The watchdog is a process of its own.  A thread in the test process could not speak while something holds the GIL,
and would make every ``fork`` in a test a fork of a multi-threaded program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROCESS = Path(__file__).with_name("watchdog_process.py")


class Watchdog:
    """The test process's side; make it while file descriptor 2 is the real standard error.

    :param environment_mark: the variable that marks the run's processes.
    :param folder: the run's temporary folder, removed when the test process has ended.
    """

    def __init__(self, environment_mark: str, folder: str) -> None:
        # Without the mark by which a run's processes are known: the watchdog is not a leak.
        environment = {name: value for name, value in os.environ.items() if name != environment_mark}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(PROCESS), str(os.getpid()), os.environ[environment_mark], folder],
            stdin=subprocess.PIPE,
            stdout=2,
            env=environment,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def arm(self, label: str, seconds: float) -> None:
        """From now on ``label`` has ``seconds``; replaces what was armed before."""
        self._tell({"label": label, "seconds": seconds})

    def disarm(self) -> None:
        """Nothing is being timed."""
        self._tell({})

    def close(self) -> None:
        """End the watchdog."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
