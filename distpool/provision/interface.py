"""What starts and ends machines: the one thing to write for another place where nodes may come from.

``tests/provision/contract.py`` holds the tests that every provisioner must pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from distpool.wire.resources import Shape


@dataclass(frozen=True, slots=True)
class NodeType:
    """A kind of machine that may be asked for.

    :param name: what it is called where it comes from.
    :param capacity: what it offers.
    :param most: how many of it there may be at one time.
    :param start_s: how long it takes from being asked for until it takes work, about.
    :param price: what one costs per hour, in whatever currency the others are in, too.
    """

    name: str
    capacity: Shape
    most: int
    start_s: float = 60.0
    price: float = 0.0


class ProvisionError(Exception):
    """A machine was refused: no quota left, no such type, no answer.  The text is for people."""


class Provisioner(Protocol):
    """Starts and ends machines that join the cluster as nodes.

    All methods return soon: they ask, and do not wait for a machine.  They are called from one thread.
    """

    def node_types(self) -> Sequence[NodeType]:
        """The kinds of machines that there are, and what they cost."""

    def start(self, node: str, node_type: str) -> None:
        """Ask for a machine whose agent joins the cluster under the name ``node``.

        Asking again under the same name changes nothing.

        :raises ProvisionError: when there will be none.
        """

    def release(self, node: str) -> None:
        """End the machine of this name, whether it has joined or not; one that does not exist is ignored."""

    def list(self) -> Mapping[str, str]:
        """Name and type of every machine that was asked for and has neither been released nor ended by itself."""

    def close(self) -> None:
        """The program ends: let go of what only it holds.  Machines that outlive it go on."""
