"""The scheduler is killed, stopped or restarted while programs use the cluster; the workers are on another node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cluster import Command

pytestmark = pytest.mark.watchdog(180)

PROGRAM = """
import os, sys, time
import distpool
from distpool import DistExecutor

def run(number, folder):
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{number}\\n")
    deadline = time.monotonic() + 100
    while number >= 4 and not os.path.exists(os.path.join(folder, "go")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return number * number

def nested(number, folder):
    with DistExecutor(1) as executor:
        return executor.submit(run, number, folder).result()

if __name__ == "__main__":
    address, folder, kind = sys.argv[1:]
    with DistExecutor(2, address=address) as executor:
        task = nested if kind == "nested" else run
        futures = [executor.submit(task, number, folder) for number in range(30)]
        print([future.result() for future in futures[:4]], flush=True)
        print([future.result() for future in futures])
"""


@pytest.fixture
def distpool(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    yield command
    command("stop")


class Running:
    """A head without workers, a node with two, and a program whose map has begun."""

    def __init__(self, distpool: Command, folder: Path, kind: str, port: int) -> None:
        self._distpool = distpool
        self._words = ("--port", str(port), "--num-cpus", "0")
        self.folder = folder
        address = distpool.start_head(*self._words)
        distpool("start", "--join", address, "--num-cpus", "2", "--node", "other")
        found = re.search(r"head (\S+), process (\d+)", distpool("status"))
        assert found is not None
        self.head = int(found[2])
        script = folder / "program.py"
        script.write_text(PROGRAM)
        self.process = subprocess.Popen(
            [sys.executable, str(script), address, str(folder), kind],
            env=distpool.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first == "[0, 1, 4, 9]\n", first

    def kill_and_restart(self) -> None:
        os.kill(self.head, signal.SIGKILL)
        # The scheduler's port is free when its process has been reaped.
        while Path(f"/proc/{self.head}").exists():
            time.sleep(0.01)
        self._distpool.start_head(*self._words)

    def finish(self) -> None:
        """Let the tasks end; each must have run once."""
        (self.folder / "go").touch()
        output, errors = self.process.communicate(timeout=120)
        assert output == f"{[number * number for number in range(30)]}\n", errors
        runs = Counter((self.folder / "runs").read_text().split())
        assert runs == {str(number): 1 for number in range(30)}


def test_a_map_goes_on_while_the_scheduler_is_away_and_after(distpool: Command, tmp_path: Path, own_port: int) -> None:
    running = Running(distpool, tmp_path, "plain", own_port)
    running.kill_and_restart()
    running.finish()
    while "0 of 2 CPUs in use" not in distpool("status"):
        pass


def test_nested_work_waits_for_a_scheduler_that_is_away(distpool: Command, tmp_path: Path, own_port: int) -> None:
    running = Running(distpool, tmp_path, "nested", own_port)
    running.kill_and_restart()
    running.finish()


def test_a_scheduler_that_is_stopped_for_long_and_goes_on(distpool: Command, tmp_path: Path, own_port: int) -> None:
    """For longer than nodes and programs may be silent."""
    distpool.environment["DISTPOOL_SILENCE_S"] = "2"
    running = Running(distpool, tmp_path, "plain", own_port)
    os.kill(running.head, signal.SIGSTOP)
    try:
        subprocess.run(["sleep", "4"], check=True)
    finally:
        os.kill(running.head, signal.SIGCONT)
    running.finish()
