"""Nodes as jobs of a real Slurm on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distpool.node import folders
from distpool.node.statefolder import find_token
from distpool.provision.interface import Phase, ProvisionError
from distpool.provision.link import OperatorLink
from distpool.provision.slurm import Slurm, SlurmProvisioner
from distpool.provision.slurm_steps import StepProvisioner
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.gate import Gate
from tests.provision.guests import link
from tests.provision.programs import PYTHON, killed_at_the_end, spreads
from tests.support import ports, slurm
from tests.support.head import running_head
from tests.support.slurm import SlurmCluster

__all__ = ["link"]

pytestmark = [
    pytest.mark.watchdog(180),
    pytest.mark.skipif(bool(slurm.missing()), reason=f"not installed: {slurm.missing()} (Debian: slurm-wlm, munge)"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    # Its folder's path is part of a socket's, which may not be long.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder, ports.reserved(1 + 3) as own:
        cluster = SlurmCluster(Path(folder), own)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def address(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster that has no node but its head."""
    with running_head(tmp_path_factory.mktemp("state"), SLURM_CONF=str(cluster.configuration)) as address:
        yield address


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(tmp_path / "gate", sys.executable)
    monkeypatch.setattr(sys, "executable", str(gate.script))
    return gate


@pytest.fixture
def provisioner(address: str) -> Iterator[SlurmProvisioner]:
    provisioner = SlurmProvisioner(Slurm(nodes=2, cpus=1, ask=0.2), find_token(address))
    yield provisioner
    provisioner.close()


class TestSlurm(ProvisionerContract):
    def test_one_that_is_killed_while_it_starts_is_said_to_have_failed(
        self, cluster: SlurmCluster, provisioner: SlurmProvisioner
    ) -> None:
        provisioner.start("one", "slurm")
        cluster("scancel", job_of(cluster, "one"))
        eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
        assert "CANCELLED" in provisioner.list()["one"].reason
        provisioner.release("one")
        assert provisioner.list() == {}

    def test_what_the_queue_has_no_room_for_waits_with_slurms_reason(
        self, cluster: SlurmCluster, provisioner: SlurmProvisioner, address: str, link: OperatorLink
    ) -> None:
        # Two of three machines are taken.
        cluster("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1000")
        other = cluster("squeue", "-h", "-n", "wrap", "-o", "%i")
        whole = SlurmProvisioner(Slurm(nodes=2, ask=0.2), find_token(address))
        try:
            for node in ("one", "two"):
                whole.start(node, "slurm")
            eventually(lambda: "one" in self.nodes(link))
            eventually(lambda: whole.list()["two"].reason in ("in Slurm (Resources)", "in Slurm (Priority)"))
            assert whole.list()["two"].phase is Phase.QUEUED
            cluster("scancel", other)
            eventually(lambda: "two" in self.nodes(link))
        finally:
            whole.close()
        assert cluster("squeue", "-h") == ""

    @pytest.mark.leaks("processes")  # the machine's daemon is another one afterwards
    def test_one_whose_machine_is_lost_is_said_to_have_failed(
        self, cluster: SlurmCluster, provisioner: SlurmProvisioner, link: OperatorLink
    ) -> None:
        provisioner.start("one", "slurm")
        eventually(lambda: "one" in self.nodes(link))
        machine = cluster("squeue", "-h", "-j", job_of(cluster, "one"), "-o", "%N")
        try:
            cluster.lose(machine)
            eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
            assert machine in provisioner.list()["one"].reason
            provisioner.release("one")
            provisioner.start("two", "slurm")
            eventually(lambda: "two" in self.nodes(link))
        finally:
            cluster.start_machine(machine)
            cluster("scontrol", "update", f"NodeName={machine}", "State=RESUME")
            folders.sweep()  # nobody was left there to do that

    def test_one_that_cannot_join_says_why(self, provisioner: SlurmProvisioner) -> None:
        provisioner._keys._line = b"nonsense\n"
        provisioner.start("one", "slurm")
        eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
        reason = provisioner.list()["one"].reason
        assert "NonZeroExitCode" in reason
        assert "token" in reason

    def test_the_key_is_in_a_file_of_the_user_only(
        self, cluster: SlurmCluster, provisioner: SlurmProvisioner, address: str
    ) -> None:
        provisioner.start("one", "slurm")
        job = job_of(cluster, "one")
        secret = find_token(address).line().partition("@")[0]
        assert secret not in cluster("scontrol", "show", "job", job)
        assert secret not in cluster("scontrol", "write", "batch_script", job, "-")
        file = provisioner._keys.log("one").with_suffix(".token")
        assert secret in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        provisioner.close()
        assert not file.parent.exists()

    def test_what_a_killed_program_left_is_taken_away_by_the_next(
        self, cluster: SlurmCluster, provisioner: SlurmProvisioner, address: str
    ) -> None:
        cluster("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            program = """
import os, sys
from distpool.provision.slurm import Slurm, SlurmProvisioner
from distpool.wire.security import Token
provisioner = SlurmProvisioner(Slurm(cpus=1), Token.parse(sys.stdin.readline()))
provisioner.start("one", "slurm")
print(provisioner._keys.log("one").with_suffix(".token"), flush=True)
os.kill(os.getpid(), 9)
"""
            words = [PYTHON, "-c", program]
            line = find_token(address).line()
            left = subprocess.run(words, input=line, capture_output=True, text=True, timeout=60).stdout.strip()
            assert Path(left).exists()
            assert cluster("squeue", "-h")
            SlurmProvisioner(Slurm(), find_token(address)).close()
            assert not Path(left).exists()
            assert not cluster("squeue", "-h")
            assert provisioner._keys.log("one").parent.exists()
        finally:
            cluster("scontrol", "update", "PartitionName=main", "State=UP")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (Slurm(cpus=1, partition="none-such"), "sbatch: .*partition"),
        (Slurm(cpus=1, sbatch=("no-such-option=1",)), "sbatch: .*no-such-option"),
    ],
)
def test_what_slurm_refuses_is_refused_in_its_words(address: str, engine: Slurm, words: str) -> None:
    provisioner = SlurmProvisioner(engine, find_token(address))
    try:
        with pytest.raises(ProvisionError, match=words) as caught:
            provisioner.start("one", "slurm")
        assert caught.value.hopeless
    finally:
        provisioner.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"time": "3:00:00"}, "cannot start: Partition"), ({"python": "/no/python"}, "with the option python")],
)
def test_what_can_never_start_has_failed_for_good(address: str, options: dict[str, str], reason: str) -> None:
    provisioner = SlurmProvisioner(Slurm(cpus=1, ask=0.2, **options), find_token(address))
    try:
        provisioner.start("one", "slurm")
        eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
        assert provisioner.list()["one"].hopeless
        assert reason in provisioner.list()["one"].reason
    finally:
        provisioner.close()


def job_of(cluster: SlurmCluster, node: str) -> str:
    lines = cluster("squeue", "-h", "-o", "%i|%k").splitlines()
    [job] = [line.partition("|")[0] for line in lines if line.endswith(f"node {node}")]
    return job


@pytest.fixture
def steps(cluster: SlurmCluster, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StepProvisioner]:
    """In an allocation of two machines; what ``salloc`` would set in the environment."""
    said = subprocess.run(
        ["salloc", "--no-shell", "--nodes=2", "--exclusive"], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"job allocation (\d+)", said.stderr)
    assert found is not None, said.stderr
    job = found[1]
    facts = {"SLURM_JOB_NODELIST": cluster("squeue", "-h", "-j", job, "-o", "%N"), "SLURM_JOB_CPUS_PER_NODE": "2(x2)"}
    for name, value in {"SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "2", **facts}.items():
        monkeypatch.setenv(name, value)
    engine = Slurm(cpus=1)
    assert not engine.submits()
    provisioner = engine.provisioner(find_token(address))
    assert isinstance(provisioner, StepProvisioner)
    yield provisioner
    provisioner.close()
    cluster("scancel", job)


class TestSteps(ProvisionerContract):
    @pytest.fixture
    def provisioner(self, steps: StepProvisioner) -> StepProvisioner:
        return steps


# -- programs --------------------------------------------------------------------------------------------------------


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(text)
    return str(path)


def test_a_program_and_its_jobs(cluster: SlurmCluster, address: str, tmp_path: Path) -> None:
    spreads(tmp_path, "slurm://?nodes=2&cpus=1&time=5:00&ask=0.2")
    assert cluster("squeue", "-h") == ""


def test_jobs_end_with_a_program_that_is_killed(cluster: SlurmCluster, address: str, tmp_path: Path) -> None:
    # There are three machines.
    with killed_at_the_end(tmp_path, "slurm://?nodes=4&cpus=2&ask=0.2&wait=0"):
        eventually(lambda: len(cluster("squeue", "-h").splitlines()) == 4)
    eventually(lambda: cluster("squeue", "-h") == "")


INSIDE = """
import os
import distpool

def double(number):
    return 2 * number

def gpus():
    return os.environ.get("CUDA_VISIBLE_DEVICES")

if __name__ == "__main__":
    distpool.init(address="slurm://")
    with distpool.DistExecutor() as executor:
        print("sum", sum(executor.map(double, range(10))))
        print("gpu", executor.with_options(num_gpus=1).submit(gpus).result())
"""


def test_a_program_in_a_job_uses_the_machines_and_gpus_of_that(
    cluster: SlurmCluster, address: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = f"exec {PYTHON} {program(tmp_path, INSIDE)}"
    environment = {**os.environ, "DISTPOOL_NUM_CPUS": "2"}  # the machine that plays two may have less
    words = ["sbatch", "--wait", "--nodes=2", "--exclusive", "--gres=gpu:1", f"--output={output}", "--wrap", command]
    subprocess.run(words, env=environment, timeout=150, check=True, capture_output=True)
    assert "sum 90\ngpu 0\n" in output.read_text()
