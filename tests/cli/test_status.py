"""``distpool status`` where no cluster runs: programs that have nodes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provision.programs import ENDLESS

pytestmark = pytest.mark.watchdog(120)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DISTPOOL_SPARE_WORKERS": "0",
    }


def status(environment: dict[str, str], **more: str) -> str:
    words = [sys.executable, "-m", "distpool", "status"]
    done = subprocess.run(words, env={**environment, **more}, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout


@pytest.mark.parametrize(("address", "nodes"), [("", 1), ("local://?nodes=2", 2)])
def test_a_program_with_nodes_of_its_own_is_shown(
    environment: dict[str, str], tmp_path: Path, address: str, nodes: int
) -> None:
    path = tmp_path / "train.py"
    # No address is not an empty one.
    path.write_text(ENDLESS if address else ENDLESS.replace(", address=sys.argv[1]", ""))
    words = [sys.executable, str(path), address]
    program = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        # Of two nodes the second may still be on its way.
        for engine in (None, "local://?nodes=9"):
            while True:
                told = status(environment, **({"DISTPOOL_ADDRESS": engine} if engine else {}))
                row = re.search(rf"^  {program.pid} +(.+?)  +(\d+)  +1/(\d+) CPUs +1 +0$", told, re.MULTILINE)
                assert row is not None, told
                if int(row[2]) == nodes:
                    break
            assert "python" in row[1]
            beginning = "No node of yours" if engine is None else f"{engine} names an engine"
            assert told.startswith(beginning)
    finally:
        program.kill()
        program.communicate()
    while re.search(rf"^  {program.pid} ", status(environment), re.MULTILINE):
        pass


def test_nothing_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """As far as this user can see from here: others who test on this machine may have programs."""
    told = status(environment)
    assert "No node of yours runs on this machine" in told
    assert "nodes of its own now" in told or "have nodes of their own:" in told
