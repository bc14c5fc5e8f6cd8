"""The local provisioner and the commands, against a real cluster on this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.node.statefolder import find_token
from distpool.provision.autoscaler import Autoscaler
from distpool.provision.interface import NodeType, Phase
from distpool.provision.link import OperatorLink
from distpool.provision.local import LocalProvisioner
from distpool.wire.resources import Shape
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.gate import Gate

pytestmark = pytest.mark.watchdog(180)

#: As it is before a harness puts itself in its place.
PYTHON = sys.executable

PAGE = Path(__file__).parents[2] / "docs/how-to/elastic.md"

LOCAL = NodeType("local", Shape(1.0, 0.0, 1 << 30, (("extra", 1.0),)), most=2, start_s=1.0)


def command(*words: str) -> str:
    done = subprocess.run([PYTHON, "-m", "distpool", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster with a node that has one CPU."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DISTPOOL_SPARE_WORKERS", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    said = command("start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "1")
    found = re.search(r"listens at (\S+);", said)
    assert found is not None, said
    yield found[1]
    command("stop")


@pytest.fixture
def link(address: str) -> Iterator[OperatorLink]:
    with OperatorLink(address) as link:
        yield link


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(tmp_path / "gate", sys.executable)
    monkeypatch.setattr(sys, "executable", str(gate.script))
    return gate


@pytest.fixture
def provisioner(address: str) -> Iterator[LocalProvisioner]:
    provisioner = LocalProvisioner(find_token(address), LOCAL)
    yield provisioner
    provisioner.close()


class TestLocalProvisioner(ProvisionerContract):
    def test_one_that_is_killed_is_gone_from_the_list(self, provisioner: LocalProvisioner, link: OperatorLink) -> None:
        provisioner.start("one", "local")
        eventually(lambda: "one" in self.nodes(link))
        # The node may be heard of before the provisioner has noted that.
        eventually(lambda: provisioner.list()["one"].phase is Phase.RUNNING)
        os.kill(provisioner.handles["one"].pid, signal.SIGKILL)
        eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
        assert "SIGKILL" in provisioner.list()["one"].reason
        provisioner.release("one")
        assert not provisioner.list()


EXTRA = """
import os, sys
import distpool
from distpool import DistExecutor

def where():
    return os.getppid()

if __name__ == "__main__":
    with DistExecutor(2) as executor:
        futures = [executor.with_options(resources={"extra": 1}).submit(where) for _ in range(4)]
        print(len({future.result(100) for future in futures}) >= 1)
"""


def test_nodes_come_for_work_that_only_they_could_do_and_go_when_they_are_idle(
    address: str,
    link: OperatorLink,
    provisioner: LocalProvisioner,
    run_script: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    scaler = Autoscaler(address, provisioner, most=2, patience_s=0.2, idle_s=2.0, say=said.append)
    thread = threading.Thread(target=scaler.run)
    thread.start()
    try:
        eventually(lambda: bool(scaler.core.next_deadline()))
        monkeypatch.setenv("DISTPOOL_ADDRESS", address)
        assert run_script(EXTRA, timeout_s=120).split() == ["True"]
        eventually(lambda: len(link.load().nodes) == 1)
        eventually(lambda: not provisioner.list())
    finally:
        scaler.stop()
        thread.join()
        scaler.close()
    started = [line for line in said if "is started" in line]
    assert 1 <= len(started) <= 2
    assert sum("is drained" in line for line in said) == len(started)


def test_what_the_page_shows(address: str) -> None:
    found = re.search(r"^```python\n(from distpool.*?)^scaler.run", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    names: dict[str, Any] = {"address": address}
    exec(compile(found[1], str(PAGE), "exec"), names)
    scaler: Autoscaler = names["scaler"]
    scaler.look()
    scaler.close()


def test_the_commands(address: str, link: OperatorLink) -> None:
    words = [PYTHON, "-m", "distpool", "autoscale", "--min", "1", "--max", "1", "--address", address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as scaler:
        eventually(lambda: len(link.load().nodes) == 2)
        [node] = [node.node for node in link.load().nodes if node.node.startswith("auto-")]
        assert f"Node {node} is idle and leaves" in command("drain", node, "--address", address)
        # It is kept at one, so another one comes.
        eventually(lambda: any(one.node.startswith("auto-") and one.node != node for one in link.load().nodes))
        scaler.send_signal(signal.SIGINT)
        output, _ = scaler.communicate(timeout=60)
        assert scaler.returncode == 0
    assert "Between 1 and 1 nodes with 1 CPU each." in output
    eventually(lambda: len(link.load().nodes) == 1)
    unknown = subprocess.run([PYTHON, "-m", "distpool", "drain", "nobody"], capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 1
    assert "there is no node nobody" in unknown.stdout
