"""Results of nested work on another node, handed to the program by reference, outlive those who made them."""

from __future__ import annotations

import os
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
    return np.full(300_000, float(number))

def nested():
    with DistExecutor(2) as executor:
        with distpool.options(resources={"b": 1}):
            futures = [executor.submit(make, number) for number in range(3)]
        distpool.wait(futures, len(futures))
        segments = [location.segment for future in futures for location in future._packed.value.objects]
    return futures[:2], segments

if __name__ == "__main__":
    executor = DistExecutor(1, address=sys.argv[1])
    with distpool.options(resources={"a": 1}):
        handed, segments = executor.submit(nested).result()
    print(*segments, flush=True)
    sys.stdin.readline()
    executor.shutdown()
    print([float(value[0]) for value in distpool.get(handed)], flush=True)
"""


@pytest.fixture
def distpool(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    yield command
    command("stop")


def test_what_nobody_has_goes_and_the_rest_stays(distpool: Command, tmp_path: Path) -> None:
    address = distpool.start_head("--num-cpus", "0")
    for name in "ab":
        distpool("start", "--join", address, "--num-cpus", "2", "--node", name, "--resources", f"{name}=9")
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script), address],
        env={**distpool.environment, "DISTPOOL_ADDRESS": address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        *handed, dropped = program.stdout.readline().split()
        # Without anybody's word it would go after a minute only, and the others with it.
        while dropped in (there := names()):
            time.sleep(0.05)
        assert there.issuperset(handed)
        assert program.communicate("\n")[0] == "[0.0, 1.0]\n"


def names() -> set[str]:
    """Of all segments in shared memory."""
    return {name for _, _, files in os.walk("/dev/shm") for name in files}
