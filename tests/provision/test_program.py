"""A program that is given an engine's address, and what becomes of its nodes however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.provision import sshd
from tests.provision.contract import eventually
from tests.provision.programs import ENDLESS, SPREAD
from tests.provision.test_ssh import loopback
from tests.support import ports

pytestmark = pytest.mark.watchdog(180)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("DISTPOOL_SPARE_WORKERS", "0")
    return dict(os.environ)


def popen(tmp_path: Path, program: str, address: str) -> subprocess.Popen[str]:
    path = tmp_path / "program.py"
    path.write_text(program)
    return subprocess.Popen(
        [sys.executable, str(path), address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(tmp_path: Path, program: str, address: str) -> tuple[int, str, str]:
    with popen(tmp_path, program, address) as process:
        output, errors = process.communicate(timeout=150)
    return process.returncode, output, errors


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_program_and_its_nodes(environment: dict[str, str], tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, SPREAD, "local://?nodes=3")
    assert (status, output) == (0, "ran on 3\n"), errors
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert kept == []


def test_nodes_come_for_work_when_none_is_kept(environment: dict[str, str], tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, SPREAD, "local://?min=0&max=2")
    assert (status, output) == (0, "ran on 2\n"), errors


UP = """
import sys
import distpool
from distpool.driver.current import current_session

if __name__ == "__main__":
    distpool.init(address=sys.argv[1])
    print(distpool.cpu_count(), sum(node.capacity.num_cpus for node in current_session().nodes()))
"""


def test_nodes_that_are_asked_for_at_once_are_waited_for(environment: dict[str, str], tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, UP, "local://?nodes=3&wait=140")
    assert (status, output) == (0, "3 3.0\n"), errors


@pytest.mark.skipif(bool(sshd.missing()), reason=f"no sshd: {sshd.missing()}")
def test_one_that_fails_is_not_waited_for(environment: dict[str, str], tmp_path: Path) -> None:
    with ports.reserved(2) as [port, nobody]:
        there = loopback(tmp_path / "sshd", port)
        try:
            address = f"ssh://127.0.0.1:{port},127.0.0.1:{nobody}?config={there.config}&cpus=1&wait=100000"
            status, output, errors = run(tmp_path, UP, address)
        finally:
            there.close()
    assert (status, output) == (0, "2 1.0\n"), errors  # the other one may come
    assert "no sshd listens there" in errors


def test_what_is_wrong_with_the_address(environment: dict[str, str], tmp_path: Path) -> None:
    status, _, errors = run(tmp_path, SPREAD, "local://?nods=3")
    assert status == 1
    assert "did you mean nodes?" in errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nodes_end_with_the_program_however_it_ends(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with popen(tmp_path, ENDLESS, "local://?nodes=2") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        below = descendants(process.pid)
        assert len(below) >= 6
        process.send_signal(number)
        process.communicate(timeout=60)
    eventually(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below))


def test_the_program_hears_of_it_when_nobody_looks_after_its_nodes(environment: dict[str, str], tmp_path: Path) -> None:
    with popen(tmp_path, ENDLESS, "local://?nodes=1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        below = descendants(process.pid)
        [supervisor] = psutil.Process(process.pid).children()
        supervisor.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the nodes from local://?nodes=1 are gone" in errors
    eventually(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below))


def test_an_engine_that_is_not_here_is_told_in_a_line(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, errors = run(tmp_path, SPREAD, "slurm://")
    assert status == 1
    assert "no nodes from slurm://: there is no scontrol here: run the program on a machine" in errors
    assert errors.count("Traceback") == 1  # of the program's ConnectError


DEAF = """
import os, pathlib, time
from dataclasses import dataclass
from typing import ClassVar
from distpool.provision.address import Engine

@dataclass(frozen=True, kw_only=True)
class Deaf(Engine):
    scheme: ClassVar[str] = "deaf"

    def provisioner(self, token):
        pathlib.Path(os.environ["DEAF_MARK"]).write_text(str(os.getpid()))
        time.sleep(3600)
"""


def test_an_engine_that_never_answers_does_not_outlive_its_program(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "deaf.py").write_text(DEAF)
    known = tmp_path / "deaf-1.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: deaf\nVersion: 1\n")
    (known / "entry_points.txt").write_text("[distpool.engines]\ndeaf = deaf:Deaf\n")
    mark = tmp_path / "mark"
    environment |= {"PYTHONPATH": f"{tmp_path}:{environment['PYTHONPATH']}", "DEAF_MARK": str(mark)}
    program = subprocess.Popen([sys.executable, "-c", "import distpool; distpool.init('deaf://')"], env=environment)
    eventually(lambda: mark.exists() and mark.read_text())
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    eventually(lambda: not os.path.exists(f"/proc/{mark.read_text()}"))
