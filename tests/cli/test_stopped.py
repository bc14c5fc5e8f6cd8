"""Processes of a cluster that are stopped (SIGSTOP) for longer than they may be silent, and then go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_cluster import Command

pytestmark = pytest.mark.watchdog(180)

PROGRAM = """
import os, sys, time
from distpool import DistExecutor

def run(number, folder):
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{number} {os.getpid()}\\n")
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
    return number * number

if __name__ == "__main__":
    address, folder = sys.argv[1:]
    for _ in sys.stdin:
        with DistExecutor(3, address=address) as executor:
            print(list(executor.map(run, range(12), [folder] * 12)), flush=True)
"""
RESULTS = f"{[number * number for number in range(12)]}\n"


def until(done: Callable[[], bool]) -> None:
    """Wait; the watchdog knows for how long."""
    while not done():
        time.sleep(0.02)


class Running:
    """A head without CPUs, nodes with one and with two, and a program whose map holds all three."""

    def __init__(self, command: Command, folder: Path) -> None:
        command.environment["DISTPOOL_SILENCE_S"] = "3"
        self._command = command
        self.folder = folder
        address = command.start_head("--num-cpus", "0")
        for name, cpus in (("one", "1"), ("two", "2")):
            command("start", "--join", address, "--num-cpus", cpus, "--node", name)
        script = folder / "program.py"
        script.write_text(PROGRAM)
        self.process = subprocess.Popen(
            [sys.executable, str(script), address, str(folder)],
            env=command.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.map()
        until(lambda: len(self.runs()) == 3)

    def map(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("map\n")
        self.process.stdin.flush()

    def runs(self) -> list[list[str]]:
        """Number and process of each, as far as they have been written."""
        try:
            lines = (self.folder / "runs").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [line.split() for line in lines if line.endswith("\n")]

    def finish(self) -> None:
        """Let the tasks end; the results are right."""
        (self.folder / "go").touch()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == RESULTS

    def map_again(self) -> None:
        """On all nodes."""
        until(lambda: "0 of 3 CPUs in use" in self._command("status"))
        (self.folder / "go").unlink()
        (self.folder / "runs").unlink()
        self.map()
        until(lambda: len(self.runs()) == 3)
        self.finish()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    command = Command(tmp_path / "state")
    try:
        found = Running(command, tmp_path)
        yield found
        found.close()
    finally:
        command("stop")


def test_a_worker_is_stopped(running: Running) -> None:
    number, pid = running.runs()[0]
    os.kill(int(pid), signal.SIGSTOP)
    # Nothing is heard of it: it is given up, as if it had died, and another takes its place.
    until(lambda: len(running.runs()) == 4)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    running.finish()
    assert [run[0] for run in running.runs()].count(number) == 2
    running.map_again()


def test_an_agent_is_stopped(running: Running) -> None:
    found = re.search(r"node one, process (\d+)", running._command("status"))
    assert found is not None
    agent = int(found[1])
    os.kill(agent, signal.SIGSTOP)
    try:
        # The node is lost, and the task of its worker waits for another.
        until(lambda: "of 2 CPUs in use" in running._command("status"))
        running.finish()
    finally:
        os.kill(agent, signal.SIGCONT)
    running.map_again()


def test_the_time_of_silence_must_be_one(tmp_path: Path) -> None:
    command = Command(tmp_path / "state")
    said = command("start", "--head", "--host", "127.0.0.1", "--port", "0", status=1, DISTPOOL_SILENCE_S="soon")
    assert "DISTPOOL_SILENCE_S must be a number of seconds, 0.5 or more, not 'soon'" in said
