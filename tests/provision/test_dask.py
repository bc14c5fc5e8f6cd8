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
from tests.provision.guests import REFUSED, address, harness, link, python
from tests.provision.programs import killed_at_the_end, spreads

__all__ = ["address", "harness", "link", "python"]

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
        self.folder = folder
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
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # now and then a worker waits for ever for a coroutine of its own
                process.kill()
                process.wait()

    def _run(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, f"--scheduler-file={self._file}", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


@pytest.fixture
def provisioner(cluster: DaskCluster, address: str, python: str) -> Iterator[DaskProvisioner]:
    provisioner = DaskProvisioner(Dask(scheduler=cluster.address, nodes=2, python=python), find_token(address))
    eventually(lambda: len(provisioner._workers()) == 2)
    yield provisioner
    provisioner.close()


class TestDask(ProvisionerContract):
    @pytest.fixture(autouse=True)
    def remember(self, cluster: DaskCluster) -> None:
        self.folder = cluster.folder

    def logs(self) -> Path:
        return self.folder

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
    spreads(tmp_path, f"dask://{cluster.address}?nodes=2")


def test_nodes_end_with_a_program_that_is_killed(cluster: DaskCluster, tmp_path: Path) -> None:
    with killed_at_the_end(tmp_path, f"dask://{cluster.address}?nodes=1"):
        pass


def test_a_scheduler_that_is_not_there(run_script: Callable[..., str], own_port: int) -> None:
    said = run_script(REFUSED.format(module="dask", call=f"Dask(scheduler='127.0.0.1:{own_port}')"))
    assert f"Dask's scheduler does not answer at 127.0.0.1:{own_port}: connection refused" in said
