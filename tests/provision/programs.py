"""Programs that get their nodes from an engine, as a user would run them; what they print says how it went."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: What runs them, also where a test puts another Python in its place for the nodes.
PYTHON = sys.executable

#: argv[1]: address.  Prints on how many nodes its calls ran.
SPREAD = """
import os, sys, time
import distpool

def where(number):
    time.sleep(0.05)
    return os.getppid(), os.uname().nodename

if __name__ == "__main__":
    distpool.init(address=sys.argv[1])
    workers = distpool.cpu_count()
    with distpool.DistExecutor() as executor:
        seen = set()
        while len(seen) < workers:
            seen |= set(executor.map(where, range(20)))
    print("ran on", len(seen))
"""

#: argv[1]: address.  Says that it runs, then runs for ever.
ENDLESS = """
import sys, time
import distpool

if __name__ == "__main__":
    with distpool.DistExecutor(1, address=sys.argv[1]) as executor:
        future = executor.submit(time.sleep, 3600)
        while not future.running():
            time.sleep(0.01)
        print("running", flush=True)
        future.result()
"""

#: argv[1]: address, argv[2]: a file.  Keeps three workers busy for as long as the file is there.
BUSY = """
import os, sys, time
import distpool

def wait(path):
    while os.path.exists(path):
        time.sleep(0.02)

if __name__ == "__main__":
    with distpool.DistExecutor(3, address=sys.argv[1]) as executor:
        print("all", len(list(executor.map(wait, [sys.argv[2]] * 3))), "done")
"""


def spreads(tmp_path: Path, address: str, nodes: int = 2) -> None:
    """A program uses so many nodes, ends well, and says nothing else."""
    path = tmp_path / "program.py"
    path.write_text(SPREAD)
    done = subprocess.run([PYTHON, str(path), address], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, f"ran on {nodes}\n"), done.stderr


@contextlib.contextmanager
def killed_at_the_end(
    tmp_path: Path,
    address: str,
    launcher: Sequence[str] = (PYTHON,),
    victim: Callable[[int], int] = lambda pid: pid,
    **options: Any,
) -> Iterator[subprocess.Popen[str]]:
    """A program that has a call running on a node; it is killed with SIGKILL when the body has ended.

    What it leaves is found by the fixtures that look after every test.

    :param launcher: what runs the file.
    :param victim: the process to kill, by that which was started.
    :param options: of ``subprocess.Popen``.
    """
    path = tmp_path / "endless.py"
    path.write_text(ENDLESS)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, **options}
    with subprocess.Popen([*launcher, str(path), address], **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        try:
            yield process
        finally:
            os.kill(victim(process.pid), signal.SIGKILL)
