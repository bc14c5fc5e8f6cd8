"""Nodes that must not leave, or not yet: the head, and one whose objects nobody has room for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_cluster import Command

pytestmark = pytest.mark.watchdog(120)

_PROGRAM = """
import sys
import numpy as np
import distpool
from distpool import DistExecutor

def make(number):
    return np.full(200_000, float(number))

if __name__ == "__main__":
    with DistExecutor(2, address=sys.argv[1]) as executor:
        made = [executor.submit(make, number) for number in range(4)]
        distpool.wait(made, num_returns=4)
    print("made", flush=True)
    sys.stdin.readline()
    for future in made:
        print(float(future.result()[-1]), flush=True)
"""


@pytest.fixture
def distpool(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    yield command
    command("stop")


def test_the_head_stays(distpool: Command) -> None:
    address = distpool.start_head("--node", "first")
    said = distpool("drain", "first", "--address", address, status=1)
    assert "Node first was not drained: it is the head" in said
    assert "0 of 2 CPUs in use" in distpool("status", "--address", address)


def test_a_node_stays_while_no_other_has_room_for_what_a_program_needs(
    distpool: Command, tmp_path: Path, own_port: int
) -> None:
    """Also under a scheduler that comes later, and so does who stands in for it."""
    address = _start_full_head(distpool, own_port)
    distpool("start", "--join", address, "--num-cpus", "2", "--node", "other")
    with _program_with_objects(distpool, address, tmp_path) as program:
        assert "idle and leaves" in distpool("drain", "other", "--address", address)
        log = distpool.folder / "distpool" / "logs" / "other.log"
        _wait_for("this node stays", log)
        assert "cannot take over" in log.read_text()
        _restart_head(distpool, address)
        _wait_for("is back", log)
        distpool("start", "--join", address, "--num-cpus", "1", "--node", "roomy")
        _wait_for("segments move to node roomy", log)
        while "other" in distpool("status", "--address", address):
            time.sleep(0.05)
        _restart_head(distpool, address)
        _wait_for("is back", log.with_name("roomy.log"))
        assert program.communicate("\n")[0].splitlines() == ["0.0", "1.0", "2.0", "3.0"]


def test_another_is_asked_at_once_when_the_successor_is_lost(distpool: Command, tmp_path: Path) -> None:
    distpool.environment["DISTPOOL_SILENCE_S"] = "3"
    address = _start_full_head(distpool)
    distpool("start", "--join", address, "--num-cpus", "2", "--node", "other")
    with _program_with_objects(distpool, address, tmp_path) as program:
        distpool("start", "--join", address, "--num-cpus", "1", "--node", "lost")
        pid = _process_of("lost", distpool)
        os.kill(pid, signal.SIGSTOP)  # so it takes nothing, and is there until it is missed
        distpool("drain", "other", "--address", address)
        log = distpool.folder / "distpool" / "logs" / "other.log"
        _wait_for("segments move to node lost", log)
        os.kill(pid, signal.SIGKILL)
        distpool("start", "--join", address, "--num-cpus", "1", "--node", "roomy")
        _wait_for("segments move to node roomy", log)
        assert "node lost cannot take over what this node has (it is gone)" in log.read_text()
        assert program.communicate("\n")[0].splitlines() == ["0.0", "1.0", "2.0", "3.0"]


def test_who_drains_is_told_when_the_node_knows(distpool: Command) -> None:
    distpool.environment["DISTPOOL_SILENCE_S"] = "3"
    address = distpool.start_head("--num-cpus", "0")
    distpool("start", "--join", address, "--num-cpus", "1", "--node", "deaf")
    pid = _process_of("deaf", distpool)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "Node deaf was not drained: it is gone" in distpool("drain", "deaf", "--address", address, status=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    log = distpool.folder / "distpool" / "logs" / "deaf.log"
    while "deaf" in distpool("status", "--address", address) or "drained" not in log.read_text():
        time.sleep(0.05)  # the order was on its way all the time


@contextmanager
def _program_with_objects(distpool: Command, address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """It has made its objects, and reads them when it is sent a line."""
    script = folder / "program.py"
    script.write_text(_PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script), address],
        env=distpool.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "made\n"
        yield program


def _process_of(node: str, distpool: Command) -> int:
    found = re.search(rf"{node}, process (\d+)", distpool("status"))
    assert found is not None, distpool("status")
    return int(found[1])


def _wait_for(words: str, log: Path) -> None:
    while words not in log.read_text():
        time.sleep(0.05)  # the watchdog ends this, if need be


class _NoLargeFiles(Command):
    """Starts nodes that have no room for a segment, neither in memory nor on disk."""

    def words(self, *words: str) -> list[str]:
        return ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh", *super().words(*words)]


def _start_full_head(distpool: Command, port: int = 0) -> str:
    full = _NoLargeFiles(distpool.folder)
    full.environment = distpool.environment
    return full.start_head("--port", str(port), "--num-cpus", "0")


def _restart_head(distpool: Command, address: str) -> None:
    found = re.search(r"head (\S+), process (\d+)", distpool("status"))
    assert found is not None
    os.kill(int(found[2]), signal.SIGKILL)
    while Path(f"/proc/{found[2]}").exists():
        time.sleep(0.01)  # its port is free when its process has been reaped
    _start_full_head(distpool, int(address.rpartition(":")[2]))
