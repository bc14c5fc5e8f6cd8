"""What every provisioner must do: inherit from ``ProvisionerContract`` and provide the two fixtures.

``provisioner`` is one with a type of which at least two can be started; ``link`` is connected to the cluster that its
machines join.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from distpool.provision.interface import Provisioner, ProvisionError
from distpool.provision.link import OperatorLink


def eventually(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.05)


class ProvisionerContract:
    """See the module's description."""

    @staticmethod
    def nodes(link: OperatorLink) -> set[str]:
        return {node.node for node in link.load().nodes}

    def test_types_say_what_they_offer_and_cost(self, provisioner: Provisioner) -> None:
        kinds = provisioner.node_types()
        assert kinds
        assert len({kind.name for kind in kinds}) == len(kinds)
        for kind in kinds:
            assert kind.most >= 1
            assert kind.start_s >= 0
            assert kind.price >= 0
            assert kind.capacity.num_cpus > 0

    def test_a_machine_from_start_to_release(self, provisioner: Provisioner, link: OperatorLink) -> None:
        kind = provisioner.node_types()[0]
        provisioner.start("one", kind.name)
        assert provisioner.list() == {"one": kind.name}
        eventually(lambda: "one" in self.nodes(link))
        [node] = [node for node in link.load().nodes if node.node == "one"]
        assert node.capacity.num_cpus == kind.capacity.num_cpus
        assert node.capacity.custom == kind.capacity.custom
        provisioner.release("one")
        assert provisioner.list() == {}
        eventually(lambda: "one" not in self.nodes(link))
        # The name is free again.
        eventually(lambda: self._can_start(provisioner, "one", kind.name))
        eventually(lambda: "one" in self.nodes(link))

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

    def test_one_that_was_drained_is_gone_from_the_list(self, provisioner: Provisioner, link: OperatorLink) -> None:
        provisioner.start("one", provisioner.node_types()[0].name)
        eventually(lambda: "one" in self.nodes(link))
        assert link.drain("one").problem == ""
        eventually(lambda: "one" not in self.nodes(link))
        provisioner.release("one")
        assert provisioner.list() == {}

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
