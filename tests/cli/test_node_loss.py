"""A node of a cluster is killed: what only it held is computed again on another, when somebody needs it."""

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
import numpy as np
import distpool
from distpool import DistExecutor

def note(folder, *words):
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def make(number, folder):
    note(folder, "make", number)
    open(os.path.join(folder, f"here.{number}"), "w").close()
    while not all(os.path.exists(os.path.join(folder, f"here.{number}")) for number in range(3)):
        time.sleep(0.01)
    return np.full(100_000, float(number))

def plus(array, folder):
    note(folder, "plus", int(array[0]))
    return array + 1

if __name__ == "__main__":
    address, folder = sys.argv[1:]
    with DistExecutor(3, address=address) as executor:
        # All workers have made one of these.
        made = [executor.submit(make, number, folder) for number in range(3)]
        # Here nobody has what is in between.
        more = [executor.submit(plus, executor.submit(make, number, folder), folder) for number in range(10, 13)]
        distpool.wait(made + more, len(made + more))
        print("made", flush=True)
        sys.stdin.readline()
        print(float(executor.submit(np.sum, made[0]).result()), *(future.result()[-1] for future in made + more))
"""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    command.environment["DISTPOOL_SILENCE_S"] = "3"
    yield command
    command("stop")


def test_what_a_killed_node_held_is_computed_again(command: Command, tmp_path: Path) -> None:
    address = command.start_head("--num-cpus", "0")
    for name, cpus in (("one", "1"), ("two", "2")):
        command("start", "--join", address, "--num-cpus", cpus, "--node", name)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    words = [sys.executable, str(script), address, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=command.environment, text=True, **pipes) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "made\n"
        assert set(runs(tmp_path).values()) == {1}
        found = re.search(r"node one, process (\d+)", command("status"))
        assert found is not None
        os.kill(int(found[1]), signal.SIGKILL)
        while "of 2 CPUs in use" not in command("status"):
            time.sleep(0.05)
        output, errors = program.communicate("go\n", timeout=100)
    assert output == "0.0 0.0 1.0 2.0 11.0 12.0 13.0\n", errors
    again = {run: count for run, count in runs(tmp_path).items() if count > 1}
    # What was on the node that is left was used as it is.
    assert sum(run in again for run in ("make 0", "make 1", "make 2")) == 1
    assert set(again.values()) == {2}
    # Under its name the node comes back, and removes what the killed one has left.
    command("start", "--join", address, "--num-cpus", "1", "--node", "one")
    while "0 of 3 CPUs in use" not in command("status"):
        time.sleep(0.05)


def runs(folder: Path) -> Counter[str]:
    return Counter((folder / "runs").read_text().splitlines())
