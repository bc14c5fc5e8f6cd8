"""Nodes over a real ``sshd``: the contract on loopback, programs on hosts of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distpool
from distpool.errors import ConnectError
from distpool.node.statefolder import find_token
from distpool.provision.link import OperatorLink
from distpool.provision.registry import parse
from distpool.provision.ssh import SSH, SSHProvisioner
from distpool.version import __version__
from tests.multihost import hosts
from tests.multihost.hosts import HERE, other_python
from tests.provision import sshd
from tests.provision.contract import Harness, ProvisionerContract, eventually
from tests.provision.gate import Gate
from tests.provision.programs import SPREAD, killed_at_the_end
from tests.provision.test_local import address, link

__all__ = ["address", "link"]

pytestmark = [
    pytest.mark.watchdog(240),
    pytest.mark.skipif(bool(sshd.missing()), reason=f"no sshd: {sshd.missing()}"),
]


# -- addresses -----------------------------------------------------------------------------------------------------


def test_machines_of_an_address(tmp_path: Path) -> None:
    assert parse("ssh://me@a,b,you@c:2222") == SSH(hosts=("me@a", "b", "you@c:2222"))
    assert SSH(hosts=("me@a", "b", "you@c:2222")).machines() == ["me@a", "me@b", "you@c:2222"]
    assert SSH(hosts=("a", "b")).bounds() == (2, 2)
    assert SSH(hosts=("a", "b"), min=0).bounds() == (0, 2)
    listed = tmp_path / "machines"
    listed.write_text("# ours\nme@a\nb:2222  # the new one\n\n")
    by_file = parse(f"ssh://?hosts={listed}")
    assert isinstance(by_file, SSH)
    assert by_file.machines() == ["me@a", "me@b:2222"]
    assert parse(str(by_file)) == by_file


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://", "which machines?"),
        ("ssh://a,b?nodes=3", "3 nodes, and 2 machines"),
        ("ssh:///no/such/file", "/no/such/file cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said(address: str, words: str) -> None:
    with pytest.raises(ConnectError, match=words):
        parse(address)


# -- the contract, on loopback ---------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "XDG_STATE_HOME": str(folder),
        "DISTPOOL_SPARE_WORKERS": "0",
    }


def loopback(folder: Path, port: int) -> sshd.Sshd:
    server = sshd.Sshd(folder, "127.0.0.1", port, environment(folder / "state"))
    server.start(lambda *words, **options: subprocess.Popen(words, **options), server.listens)
    return server


@pytest.fixture
def server(tmp_path: Path, own_port: int) -> Iterator[sshd.Sshd]:
    server = loopback(tmp_path / "sshd", own_port)
    yield server
    server.close()


@pytest.fixture
def harness(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", sys.executable)


@pytest.fixture
def provisioner(address: str, server: sshd.Sshd, harness: Gate) -> Iterator[SSHProvisioner]:
    machines = (f"127.0.0.1:{server.port}", f"localhost:{server.port}")
    engine = SSH(hosts=machines, config=str(server.config), python=str(harness.script), cpus=1.0)
    provisioner = SSHProvisioner(engine, find_token(address))
    yield provisioner
    provisioner.close()


class TestSSHProvisioner(ProvisionerContract):
    def test_a_login_that_is_refused(
        self, harness: Harness, server: sshd.Sshd, provisioner: SSHProvisioner, link: OperatorLink
    ) -> None:
        (server.folder / "authorized").write_text("")
        assert "Permission denied" in self.failure(provisioner, "one")
        failed = provisioner.list()["one"]
        assert failed.hopeless
        assert "ssh-copy-id" in failed.reason

    def test_a_machine_where_nobody_listens(
        self, address: str, server: sshd.Sshd, provisioner: SSHProvisioner, link: OperatorLink
    ) -> None:
        server.close()
        assert "127.0.0.1:" in (reason := self.failure(provisioner, "one"))
        assert "no sshd listens there" in reason

    def test_a_python_that_is_not_there(self, address: str, server: sshd.Sshd) -> None:
        engine = SSH(hosts=(f"127.0.0.1:{server.port}",), config=str(server.config), python="/no/python")
        provisioner = SSHProvisioner(engine, find_token(address))
        try:
            assert "with the option python" in self.failure(provisioner, "one")
        finally:
            provisioner.close()


def test_an_environment_that_is_activated_first(
    address: str, server: sshd.Sshd, link: OperatorLink, tmp_path: Path
) -> None:
    there = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(there)], check=True, timeout=60)
    with (there / "bin" / "activate").open("a") as script:
        script.write(
            "export DISTPOOL_NUM_CPUS=$(python -c 'import sys; print(7 if sys.prefix != sys.base_prefix else 1)')"
        )
    setup = f". {there}/bin/activate"
    engine = SSH(hosts=(f"127.0.0.1:{server.port}",), config=str(server.config), setup=setup, python="python")
    provisioner = SSHProvisioner(engine, find_token(address))
    try:
        provisioner.start("one", "ssh")
        eventually(lambda: [node.capacity.num_cpus for node in link.load().nodes if node.node == "one"] == [7.0])
    finally:
        provisioner.close()


def test_nodes_end_with_a_program_that_is_killed(server: sshd.Sshd, tmp_path: Path) -> None:
    address = f"ssh://127.0.0.1:{server.port},localhost:{server.port}?config={server.config}&cpus=1"
    with killed_at_the_end(tmp_path, address, env={**os.environ, **environment(tmp_path / "program")}):
        pass


# -- programs, on hosts of their own -----------------------------------------------------------------------------------


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[tuple[hosts.Lan, str]]:
    """Three hosts; on the last two there is an ``sshd``; and where the program finds what ``ssh`` needs."""
    if hosts.missing():
        pytest.skip(f"no hosts of their own: {hosts.missing()}")
    lan = hosts.Lan(["desk", "beta", "gamma"], [Path(sys.prefix).parent])
    servers = []
    try:
        for host in lan.hosts[1:]:
            given = {"PYTHONPATH": str(hosts.ROOT), "XDG_STATE_HOME": "/tmp/state", "DISTPOOL_NUM_CPUS": "1"}
            given["DISTPOOL_SPARE_WORKERS"] = "0"
            server = sshd.Sshd(tmp_path / host.name, host.address, 22, given)
            # Hosts have a /tmp of their own.
            host.run("mkdir", "-p", str(tmp_path))
            for name in ("host", "authorized", "sshd_config"):
                host.write(f"{server.folder}/{name}", (server.folder / name).read_text())
            server.start(host.popen, lambda host=host: not host.run(*_PROBE, host.address, status=None))
            servers.append(server)
        desk = lan.hosts[0]
        lines = ["Host *", "  StrictHostKeyChecking accept-new", "  UserKnownHostsFile /tmp/known", "  LogLevel ERROR"]
        for host, server in zip(lan.hosts[1:], servers, strict=True):
            lines += [f"Host {host.name}", f"  HostName {host.address}", f"  IdentityFile /tmp/{host.name}.key"]
            desk.write(f"/tmp/{host.name}.key", (server.folder / "client").read_text())
        desk.write("/tmp/config", "\n".join(lines) + "\n")
        yield lan, "ssh://beta,gamma?config=/tmp/config"
    finally:
        for server in servers:
            server.close()
        lan.close()


_PROBE = (sys.executable, "-c", "import socket, sys; socket.create_connection((sys.argv[1], 22), 1)")


@pytest.mark.leaks("processes", "descriptors")
def test_a_program_on_two_machines(lan: tuple[hosts.Lan, str]) -> None:
    network, address = lan
    desk = network.hosts[0]
    desk.write("/tmp/project/program.py", SPREAD)
    assert "ran on 2\n" in desk.run(sys.executable, "/tmp/project/program.py", address)
    for host in network.hosts:
        assert "distpool" not in host.run("ps", "-e", "-o", "args=").replace("sshd", "")
        assert host.run("find", "/dev/shm", "-mindepth", "1") == ""


FROM_OUTSIDE = """
import os, sys
import numpy
import distpool

def total(array):
    with distpool.DistExecutor(1) as executor:  # a program of the node's, which needs the scheduler, too
        return float(executor.submit(numpy.sum, array).result())

def listening():
    lines = [line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6") for line in open(path)]
    return [line[1] for line in lines if line[3] == "0A" and not line[1].startswith("0100007F:")]

if __name__ == "__main__":
    with distpool.DistExecutor(address=sys.argv[1]) as executor:
        ones = [executor.submit(numpy.ones, 500_000) for _ in range(2)]
        print(executor._max_workers, list(executor.map(total, ones)), listening())
"""


@pytest.mark.leaks("processes", "descriptors")
def test_machines_that_cannot_call_the_programs(lan: tuple[hosts.Lan, str]) -> None:
    network, address = lan
    desk = network.hosts[0]
    desk.write("/tmp/project/program.py", FROM_OUTSIDE)
    output = desk.run(sys.executable, "/tmp/project/program.py", f"{address}&tunnel=yes", stderr=subprocess.PIPE)
    assert output == "2 [500000.0, 500000.0] []\n"  # nothing listens there that another machine could call


@pytest.mark.leaks("processes", "descriptors")
def test_versions_that_differ_are_named_on_both_sides(lan: tuple[hosts.Lan, str]) -> None:
    network, address = lan
    desk, beta, gamma = network.hosts
    desk.write("/tmp/project/program.py", SPREAD)
    run = (sys.executable, "/tmp/project/program.py")
    # Of another release
    for host in (beta, gamma):
        host.run("cp", "-r", str(Path(distpool.__file__).parent), "/tmp/distpool")
        host.write("/tmp/distpool/version.py", '__version__ = "0.0.9"\n')
    said = desk.run(*run, f"{address}&setup=export PYTHONPATH=/tmp", status=1)
    assert said.count("ConnectError: no nodes from ssh://beta,gamma") == 1
    there, here = f"the node runs Python {HERE}, distpool 0.0.9", f"the cluster Python {HERE}, distpool {__version__}"
    assert there in said
    assert here in said
    assert f"(it needs Python {HERE}, which the option python may name, and distpool=={__version__})" in said
    python, version = other_python()
    if not python:
        pytest.skip(f"no Python but {HERE} beside this one that has what distpool needs")
    said = desk.run(*run, f"{address}&python={python}", status=1)
    assert f"the node runs Python {version}, distpool {__version__}" in said
    assert here in said
