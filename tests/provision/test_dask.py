"""Nodes inside of tasks of a real Dask cluster on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distpool.node.statefolder import find_token
from distpool.provision.dask import Dask, DaskProvisioner
from distpool.provision.interface import Phase
from distpool.provision.link import OperatorLink
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.gate import Gate
from tests.provision.programs import SPREAD, killed_at_the_end
from tests.provision.sshd import free_port
from tests.support.head import running_head

pytest.importorskip("distributed", reason="Dask is not installed (see docs/how-to/develop.md)")

pytestmark = [
    pytest.mark.watchdog(120),
    # Its client keeps threads for the life of the process.
    pytest.mark.leaks("threads", "descriptors"),
]


class DaskCluster:
    """A scheduler and two workers with a thread each."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._folder = folder
        self._scheduler = self._run("distributed.cli.dask_scheduler", "--port=0", "--no-dashboard", "--host=127.0.0.1")
        eventually(self._file.exists)
        self.address = json.loads(self._file.read_text())["address"].removeprefix("tcp://")
        self.workers = [self.start_worker() for _ in range(2)]

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._run("distributed.cli.dask_worker", "--nthreads=1", "--no-nanny", "--no-dashboard")

    def stop(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.terminate()
        for process in (*self.workers, self._scheduler):
            process.wait(30)

    def _run(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, f"--scheduler-file={self._file}", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_head(tmp_path_factory.mktemp("state")) as address:
        yield address


@pytest.fixture(scope="module")
def cluster(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


@pytest.fixture
def link(address: str) -> Iterator[OperatorLink]:
    with OperatorLink(address) as link:
        eventually(lambda: len(link.load().nodes) == 1)  # those of the test before are gone
        yield link


@pytest.fixture
def harness(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", sys.executable)


@pytest.fixture
def provisioner(cluster: DaskCluster, address: str, request: pytest.FixtureRequest) -> Iterator[DaskProvisioner]:
    python = request.getfixturevalue("harness").script if "harness" in request.fixturenames else ""
    provisioner = DaskProvisioner(Dask(scheduler=cluster.address, nodes=2, python=str(python)), find_token(address))
    eventually(lambda: len(provisioner._workers()) == 2)
    yield provisioner
    provisioner.close()


class TestDask(ProvisionerContract):
    @pytest.mark.leaks("processes")  # there is another worker afterwards
    def test_one_whose_worker_is_lost_has_failed_and_waits_for_another(
        self, cluster: DaskCluster, provisioner: DaskProvisioner, link: OperatorLink
    ) -> None:
        for node in ("one", "two"):
            self.start(provisioner, node, link)
        worker = cluster.workers.pop()
        worker.kill()
        worker.wait()
        eventually(lambda: any(machine.phase is Phase.FAILED for machine in provisioner.list().values()))
        [lost] = [node for node, machine in provisioner.list().items() if machine.phase is Phase.FAILED]
        assert "is lost" in provisioner.list()[lost].reason
        eventually(lambda: lost not in self.nodes(link))  # the agent has ended with it
        provisioner.release(lost)
        provisioner.start("three", "dask")
        assert "has a node already" in provisioner.list()["three"].reason
        cluster.workers.append(cluster.start_worker())
        eventually(lambda: provisioner.list()["three"].phase is Phase.RUNNING)


def test_a_program_and_its_nodes(cluster: DaskCluster, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SPREAD)
    words = [sys.executable, str(path), f"dask://{cluster.address}?nodes=2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "ran on 2\n"), done.stderr


def test_nodes_end_with_a_program_that_is_killed(cluster: DaskCluster, tmp_path: Path) -> None:
    with killed_at_the_end(tmp_path, f"dask://{cluster.address}?nodes=1"):
        pass


NOBODY = """
import distpool.provision.dask as engine
from distpool.wire.security import Token
try:
    engine.DaskProvisioner(engine.Dask(scheduler="127.0.0.1:{port}"), Token("127.0.0.1:1", bytes(32)))
except engine.ProvisionError as error:
    print(error)
    assert error.hopeless
"""


def test_a_scheduler_that_is_not_there(run_script: Callable[..., str]) -> None:
    port = free_port()
    said = run_script(NOBODY.format(port=port))
    assert f"Dask's scheduler does not answer at 127.0.0.1:{port}: connection refused" in said
