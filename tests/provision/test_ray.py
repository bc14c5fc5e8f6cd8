"""Nodes inside of actors of a real Ray on this machine."""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distpool.node import folders
from distpool.node.statefolder import find_token
from distpool.provision.interface import Phase
from distpool.provision.link import OperatorLink
from distpool.provision.ray import Ray, RayProvisioner
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.guests import REFUSED, address, harness, link, python
from tests.provision.programs import killed_at_the_end, spreads
from tests.support import ports

__all__ = ["address", "harness", "link", "python"]

# It listens to the machine's network, and reads this when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
ray = pytest.importorskip("ray", reason="Ray is not installed (see docs/how-to/develop.md)")

HAS_CLIENT = importlib.util.find_spec("grpc") is not None
pytestmark = [
    pytest.mark.watchdog(240),
    # Ray keeps threads and processes of its own from connection to connection.
    pytest.mark.leaks("processes", "threads", "descriptors"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray with two CPUs, which programs of this module find as ``auto``; where its client server listens."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        # A new cluster of Ray's ends what was started before in this folder, and nothing else.
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        words = [sys.executable, "-m", "ray.scripts.scripts"]
        options = ["--num-cpus=2", "--object-store-memory=80000000", "--include-dashboard=false", "--port=0"]
        with ports.reserved(1) as [port]:
            client = f"127.0.0.1:{port}"
        # Ray insists on a port that nobody holds.
        if HAS_CLIENT:
            options.append(f"--ray-client-server-port={client.partition(':')[2]}")
        start = [*words, "start", "--head", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *options]
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen([*start, "--block"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                eventually(lambda: b"--block" in (Path(folder) / "log").read_bytes(), 200)
                yield client
            finally:
                process.terminate()
                process.wait(60)


@pytest.fixture
def provisioner(cluster: str, address: str, python: str) -> Iterator[RayProvisioner]:
    provisioner = RayProvisioner(Ray(nodes=2, cpus=1, python=python), find_token(address))
    yield provisioner
    provisioner.close()


class TestRay(ProvisionerContract):
    def logs(self) -> Path:
        return Path(os.environ["RAY_TMPDIR"])

    def test_what_ray_has_no_room_for_waits_with_the_reason(self, provisioner: RayProvisioner, address: str) -> None:
        @ray.remote(num_cpus=2)
        class Other:
            pass

        other = Other.remote()
        ray.get(other.__ray_ready__.remote())
        provisioner.start("one", "ray")
        eventually(lambda: "1 CPU wanted, 0 free" in provisioner.list()["one"].reason)
        assert provisioner.list()["one"].phase is Phase.QUEUED
        ray.kill(other)
        eventually(lambda: provisioner.list()["one"].phase is Phase.RUNNING)

    def test_one_whose_actor_is_lost_has_failed(self, provisioner: RayProvisioner, link: OperatorLink) -> None:
        self.start(provisioner, "one", link)
        ray.kill(provisioner.handles["one"].handle)
        eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
        assert "its actor is lost" in provisioner.list()["one"].reason
        eventually(lambda: "one" not in self.nodes(link))  # the agent has ended with it
        folders.sweep()


@pytest.mark.skipif(not HAS_CLIENT, reason="Ray is installed without its client (see docs/how-to/develop.md)")
def test_a_program_and_its_nodes_through_rays_client_server(cluster: str, tmp_path: Path) -> None:
    spreads(tmp_path, f"ray://{cluster}?nodes=2&cpus=1")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("127.0.0.1:{port}", "Ray's client server does not answer at 127.0.0.1:{port}: connection refused"),
        ("localhost", "'localhost' is not of the form host:port"),
    ],
)
def test_a_ray_that_is_not_there(run_script: Callable[..., str], own_port: int, cluster: str, words: str) -> None:
    program = REFUSED.format(module="ray", call=f"Ray(cluster='{cluster.format(port=own_port)}')")
    assert words.format(port=own_port) in run_script(program, timeout_s=60)


def test_nodes_end_with_a_program_that_is_killed(cluster: str, tmp_path: Path) -> None:
    with killed_at_the_end(tmp_path, "ray://?cpus=1"):
        assert agents()
    eventually(lambda: not agents())


def agents() -> list[str]:
    """Agents of this test run that engines hold."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_text()
            if "--until-eof" in command and os.environ["RAY_TMPDIR"] in (path / "environ").read_text():
                found.append(path.name)
        except OSError:
            pass
    return found
