"""What every provisioner must do: inherit from ``ProvisionerContract`` and provide the four fixtures.

``provisioner`` is one with a type of one CPU of which exactly two can be started; ``address`` is that of the cluster
that its machines join, which has one node with one CPU; ``link`` is connected to that; ``harness`` makes the engine
fail.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from distpool.node.statefolder import find_token
from distpool.provision.autoscaler import Autoscaler
from distpool.provision.interface import Machine, Phase, Provisioner, ProvisionError
from distpool.provision.link import OperatorLink
from tests.provision.programs import BUSY, PYTHON


def eventually(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.05)


class Harness(Protocol):
    """What can be done to an engine; ask for it before the provisioner."""

    def refuse(self, words: str) -> None:
        """What is asked for from now on is refused, in these words."""

    def hold(self) -> None:
        """What is asked for from now on does not come up before ``go``."""

    def kill_held(self) -> None:
        """What is held is lost."""

    def go(self) -> None:
        """All is well again."""

    def kill_node(self) -> None:
        """The node that came last is lost, without a word."""


class ProvisionerContract:
    """See the module's description."""

    @staticmethod
    def nodes(link: OperatorLink) -> set[str]:
        return {node.node for node in link.load().nodes}

    def logs(self) -> Path | None:
        """Where the engine writes what others may read, or keep."""
        return None

    def test_types_say_what_they_offer_and_cost(self, provisioner: Provisioner) -> None:
        kinds = provisioner.node_types()
        assert kinds
        assert len({kind.name for kind in kinds}) == len(kinds)
        for kind in kinds:
            assert kind.most >= 1
            assert kind.start_s >= 0
            assert kind.price >= 0
            assert kind.capacity.num_cpus > 0

    def test_a_machine_from_start_to_release(self, provisioner: Provisioner, link: OperatorLink, address: str) -> None:
        kind = provisioner.node_types()[0]
        provisioner.start("one", kind.name)
        assert {node: machine.node_type for node, machine in provisioner.list().items()} == {"one": kind.name}
        eventually(lambda: "one" in self.nodes(link))
        [node] = [node for node in link.load().nodes if node.node == "one"]
        assert node.capacity.num_cpus == kind.capacity.num_cpus
        assert node.capacity.custom == kind.capacity.custom
        self.assert_nobody_else_sees(find_token(address).line().partition("@")[0])
        provisioner.release("one")
        assert provisioner.list() == {}
        eventually(lambda: "one" not in self.nodes(link))
        # The name is free again.
        eventually(lambda: self._can_start(provisioner, "one", kind.name))
        eventually(lambda: "one" in self.nodes(link))

    def assert_nobody_else_sees(self, secret: str) -> None:
        """It is on no command line, and in no log of the engine's."""
        logs = self.logs()
        read = [path for path in logs.rglob("*") if path.is_file()] if logs is not None else []
        assert logs is None or read
        seen = 0
        for path in [*Path("/proc").glob("[0-9]*/cmdline"), *read]:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                text = path.read_bytes()
                seen += b"distpool" in text and path.name == "cmdline"
                assert secret.encode() not in text, path
        assert seen, "nothing of ours was among these"

    @staticmethod
    def _can_start(provisioner: Provisioner, node: str, kind: str) -> bool:
        provisioner.start(node, kind)
        return node in provisioner.list()

    def test_asking_twice_is_asking_once(self, provisioner: Provisioner, link: OperatorLink) -> None:
        kind = provisioner.node_types()[0]
        before = len(self.nodes(link))
        for _ in range(2):
            provisioner.start("one", kind.name)
        provisioner.start("two", kind.name)
        eventually(lambda: len(self.nodes(link)) == before + 2)
        assert set(provisioner.list()) == {"one", "two"}

    def test_one_that_has_not_come_yet_can_be_released(self, provisioner: Provisioner, link: OperatorLink) -> None:
        provisioner.start("one", provisioner.node_types()[0].name)
        provisioner.release("one")
        assert provisioner.list() == {}
        provisioner.start("two", provisioner.node_types()[0].name)
        eventually(lambda: "two" in self.nodes(link))
        eventually(lambda: "one" not in self.nodes(link))

    def test_what_does_not_exist_can_be_released(self, provisioner: Provisioner) -> None:
        provisioner.release("nobody")
        assert provisioner.list() == {}

    def test_what_cannot_be_had_is_refused(self, provisioner: Provisioner) -> None:
        with pytest.raises(ProvisionError, match="no-such-type"):
            provisioner.start("one", "no-such-type")
        kind = provisioner.node_types()[0]
        for number in range(kind.most):
            provisioner.start(f"n{number}", kind.name)
        with pytest.raises(ProvisionError):
            provisioner.start("one-too-many", kind.name)
        assert len(provisioner.list()) == kind.most

    # -- an engine that fails -----------------------------------------------------------------------------------

    @staticmethod
    def machine(provisioner: Provisioner, node: str) -> Machine | None:
        return provisioner.list().get(node)

    def failure(self, provisioner: Provisioner, node: str) -> str:
        """Why a machine that is asked for does not come."""
        try:
            provisioner.start(node, provisioner.node_types()[0].name)
        except ProvisionError as error:
            return str(error)
        eventually(lambda: (seen := self.machine(provisioner, node)) is None or seen.phase is Phase.FAILED)
        failed = self.machine(provisioner, node)
        assert failed is not None, "it is gone, and nobody says why"
        return failed.reason

    def start(self, provisioner: Provisioner, node: str, link: OperatorLink) -> None:
        """Start one and wait until it has joined."""
        provisioner.start(node, provisioner.node_types()[0].name)
        eventually(lambda: node in self.nodes(link))

    def test_refused(self, harness: Harness, provisioner: Provisioner, link: OperatorLink) -> None:
        harness.refuse("no room today")
        assert "no room today" in self.failure(provisioner, "one")
        provisioner.release("one")
        assert provisioner.list() == {}
        harness.go()
        self.start(provisioner, "one", link)

    def test_partially_granted(self, harness: Harness, provisioner: Provisioner, link: OperatorLink) -> None:
        self.start(provisioner, "one", link)
        harness.refuse("only one for you")
        assert "only one for you" in self.failure(provisioner, "two")
        assert "one" in self.nodes(link)
        assert provisioner.list()["one"].phase is Phase.RUNNING

    def test_slow(self, harness: Harness, provisioner: Provisioner, link: OperatorLink) -> None:
        harness.hold()
        for node in ("one", "two"):
            provisioner.start(node, provisioner.node_types()[0].name)
        assert {machine.phase for machine in provisioner.list().values()} <= {Phase.QUEUED, Phase.STARTING}
        provisioner.release("one")
        assert set(provisioner.list()) == {"two"}
        harness.go()
        eventually(lambda: "two" in self.nodes(link))
        eventually(lambda: provisioner.list()["two"].phase is Phase.RUNNING)
        assert "one" not in self.nodes(link)

    def test_killed_while_starting(self, harness: Harness, provisioner: Provisioner, link: OperatorLink) -> None:
        harness.hold()
        provisioner.start("one", provisioner.node_types()[0].name)
        harness.kill_held()
        eventually(lambda: (seen := self.machine(provisioner, "one")) is None or seen.phase is Phase.FAILED)
        provisioner.release("one")
        assert provisioner.list() == {}
        harness.go()
        self.start(provisioner, "one", link)

    def test_vanished(self, harness: Harness, provisioner: Provisioner, link: OperatorLink) -> None:
        self.start(provisioner, "one", link)
        harness.kill_node()
        eventually(lambda: (seen := self.machine(provisioner, "one")) is None or seen.phase is Phase.FAILED)
        provisioner.release("one")
        eventually(lambda: "one" not in self.nodes(link))
        self.start(provisioner, "two", link)

    # -- with a program's work ----------------------------------------------------------------------------------

    # The head keeps what it forked its worker from; a module's end holds it to account.
    @pytest.mark.leaks("processes")
    def test_as_many_as_there_is_work_for(
        self,
        harness: Harness,
        provisioner: Provisioner,
        address: str,
        link: OperatorLink,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """They come for work, one that is lost is replaced, the work is done all the same, and they go."""
        # Idle machines stay for twice the time that one takes to start, which is said to be short here.
        kinds = [replace(kind, start_s=0.5) for kind in provisioner.node_types()]
        monkeypatch.setattr(provisioner, "node_types", lambda: kinds)
        said: list[str] = []
        scaler = Autoscaler(address, provisioner, most=2, patience_s=0.2, idle_s=1.0, say=said.append)

        def look_until(what: Callable[[], bool]) -> None:
            def so() -> bool:
                scaler.look()
                return what()

            eventually(so, 90)

        [head] = self.nodes(link)
        busy = tmp_path / "busy"
        busy.touch()
        (tmp_path / "program.py").write_text(BUSY)
        with subprocess.Popen(
            [PYTHON, str(tmp_path / "program.py"), address, str(busy)], stdout=subprocess.PIPE, text=True
        ) as program:
            try:
                look_until(lambda: len(self.nodes(link) - {head}) == 2)
                first = self.nodes(link)
                harness.kill_node()
                look_until(lambda: self.nodes(link) != first and len(self.nodes(link)) == 3)
                busy.unlink()
                while program.poll() is None:
                    look_until(lambda: True)
                assert program.stdout is not None
                assert (program.returncode, program.stdout.read()) == (0, "all 3 done\n")
                look_until(lambda: self.nodes(link) == {head} and not provisioner.list())
            finally:
                program.kill()
                scaler.close()
        assert sum("is started" in line for line in said) >= 3, said
        assert sum("is drained" in line for line in said) >= 1, said
