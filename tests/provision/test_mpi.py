"""Ranks as nodes: the contract with processes that play ranks, and whole programs under a real ``mpirun``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import distpool
from distpool.node import machine
from distpool.node.statefolder import find_token
from distpool.provision.link import OperatorLink
from distpool.provision.mpi import MPI, MPIProvisioner, close_folder, common_folder, open_folder, place
from distpool.provision.mpi_ranks import own_cpus
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.gate import Gate
from tests.provision.programs import SPREAD, killed_at_the_end
from tests.provision.test_local import PYTHON, address, link

__all__ = ["address", "link"]

pytestmark = pytest.mark.watchdog(240)

RANK = """
import sys
from pathlib import Path
from distpool.provision.mpi_ranks import serve
sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""


RANK_0_KILLED = """
import os, sys
from pathlib import Path
from distpool.provision.mpi import open_folder
open_folder(Path(sys.argv[1]))
os.kill(os.getpid(), 9)
"""


def test_what_launchers_say() -> None:
    assert place({}) == (0, 1)
    assert place({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}) == (2, 4)
    assert place({"PMI_RANK": "1", "PMI_SIZE": "3"}) == (1, 3)
    assert place({"SLURM_PROCID": "5", "SLURM_NTASKS": "8"}) == (5, 8)
    assert place({"PMI_RANK": "junk", "PMI_SIZE": "3"}) == (0, 1)


def test_ranks_of_one_job_meet_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    assert common_folder({**one, "SLURM_PROCID": "0"}) == common_folder({**one, "SLURM_PROCID": "1"})
    assert common_folder(one) != common_folder({**one, "SLURM_STEP_ID": "1"})
    assert common_folder({"DISTPOOL_MPI_FOLDER": "/shared/x"}) == Path("/shared/x")


def test_ranks_of_one_machine_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "cpu_count", lambda environment: 8)
    assert own_cpus({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 2
    assert own_cpus({}) == 8
    monkeypatch.setattr(machine, "cpu_count", lambda environment: 3)  # it is bound to these
    assert own_cpus({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 3


@pytest.fixture
def harness(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", sys.executable)


@pytest.fixture
def provisioner(tmp_path: Path, address: str, harness: Gate) -> Iterator[MPIProvisioner]:
    folder = tmp_path / "orders"
    life = open_folder(folder)
    ranks = [
        subprocess.Popen([PYTHON, "-c", RANK, str(folder), str(rank), str(harness.script)], env={**os.environ})
        for rank in (1, 2)
    ]
    provisioner = MPIProvisioner(MPI(nodes=2, cpus=1.0), find_token(address), folder, 3)
    yield provisioner
    provisioner.close()
    assert folder.exists()
    close_folder(folder, 3)
    os.close(life)
    assert [rank.wait(60) for rank in ranks] == [0, 0]


class TestMPIProvisioner(ProvisionerContract):
    def test_what_lies_in_the_folder_is_the_users_alone(
        self, provisioner: MPIProvisioner, link: OperatorLink, tmp_path: Path
    ) -> None:
        self.start(provisioner, "one", link)
        assert (tmp_path / "orders").stat().st_mode & 0o077 == 0
        assert [path for path in (tmp_path / "orders").iterdir() if path.stat().st_mode & 0o077] == []


# -- a real mpirun ---------------------------------------------------------------------------------------------------

needs_mpirun = pytest.mark.skipif(shutil.which("mpirun") is None, reason="not installed: mpirun (openmpi-bin)")


def launcher(ranks: int) -> list[str]:
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpirun = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    return [*mpirun, sys.executable, "-m", "distpool.mpi"]


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "DISTPOOL_SPARE_WORKERS": "0",
        "DISTPOOL_NUM_CPUS": "",
    }


def mpirun(tmp_path: Path, ranks: int, program: str, *words: str) -> tuple[int, str]:
    path = tmp_path / "program.py"
    path.write_text(program)
    command = [*launcher(ranks), str(path), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment(tmp_path))
    return done.returncode, done.stdout + done.stderr


@needs_mpirun
def test_a_program_under_mpirun(tmp_path: Path) -> None:
    status, output = mpirun(tmp_path, 3, SPREAD.replace("address=sys.argv[1]", ""), "an argument")
    assert status == 0, output
    assert "ran on 2\n" in output
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == []


@needs_mpirun
def test_the_exit_status_is_the_programs_and_no_rank_is_left_waiting(tmp_path: Path) -> None:
    status, output = mpirun(tmp_path, 3, "import sys; print('no call at all'); sys.exit(7)")
    assert status == 7, output
    assert output.count("no call at all") == 1


@needs_mpirun
def test_ranks_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    def rank_0(pid: int) -> int:
        [found] = [
            child.pid for child in psutil.Process(pid).children() if child.environ().get("OMPI_COMM_WORLD_RANK") == "0"
        ]
        return found

    with killed_at_the_end(tmp_path, "mpi://", launcher(3), rank_0, env=environment(tmp_path)) as process:
        assert list((tmp_path / "state").rglob("mpi-*/open"))
    assert process.returncode
    eventually(lambda: not list((tmp_path / "state").rglob("mpi-*")))


def test_what_a_killed_rank_0_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    left, other = tmp_path / "mpi-1", tmp_path / "mpi-2"
    code = (
        "import os, sys, distpool.provision.mpi as mpi; mpi.open_folder(mpi.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(left)], timeout=60)
    assert (left / "open").exists()
    lives = open_folder(other)
    assert not left.exists()
    os.close(open_folder(tmp_path / "mpi-3"))
    assert other.exists()
    os.close(lives)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    with pytest.raises(distpool.ConnectError, match="is not empty"):
        open_folder(tmp_path)
    assert (tmp_path / "thesis").exists()


def test_without_a_launcher_it_is_a_program_like_any_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distpool.mpi", "-c", "import os; print(os.environ.get('DISTPOOL_MPI_SIZE'))"],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_the_address_without_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(distpool.ConnectError, match=r"mpirun -n 4 python -m distpool\.mpi"):
        distpool.init("mpi://")
