"""The last node of a cluster is drained: what programs need of it stays."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
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


def test_it_stays_while_a_program_needs_what_it_has(distpool: Command, tmp_path: Path) -> None:
    address = distpool.start_head("--node", "only")
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script), address],
        env=distpool.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "made\n"
        assert "no other node to take over" in distpool("drain", "only", "--address", address)
        log = distpool.folder / "distpool" / "logs" / "only.log"
        while "this node stays" not in log.read_text():
            time.sleep(0.05)  # the watchdog ends this, if need be
        assert "only" in distpool("status", "--address", address)
        assert program.communicate("\n")[0].splitlines() == ["0.0", "1.0", "2.0", "3.0"]
    while "No node of yours" not in distpool("status"):
        time.sleep(0.1)
