"""What starts and ends machines: the one thing to write for another place where nodes may come from.

``tests/provision/contract.py`` holds the tests that every provisioner must pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from distpool.wire.resources import Shape


@dataclass(frozen=True, slots=True)
class NodeType:
    """A kind of machine that may be asked for.

    :param name: what it is called where it comes from.
    :param capacity: what it offers; fields that are negative are not known before the first one is there.
    :param most: how many of it there may be at one time.
    :param start_s: how long it takes from being granted until it takes work, about.
    :param price: what one costs per hour, in whatever currency the others are in, too.
    """

    name: str
    capacity: Shape
    most: int
    start_s: float = 60.0
    price: float = 0.0


class Phase(Enum):
    """How far a machine has come, as its engine sees it; whether its node has joined, the scheduler knows."""

    #: asked for, and the engine has no room for it yet: this may take for ever
    QUEUED = "queued"
    #: granted, and on its way
    STARTING = "starting"
    #: its node agent runs, as far as is known
    RUNNING = "running"
    #: it will not come, or has ended by itself; it stays listed until it is released
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that was asked for.

    :param node_type: the name of its kind.
    :param phase: how far it has come.
    :param reason: why it waits or has failed, in the engine's own words; for people.
    :param hopeless: it has failed, and asking again would fail for the same reason.
    """

    node_type: str
    phase: Phase = Phase.RUNNING
    reason: str = ""
    hopeless: bool = False


class ProvisionError(Exception):
    """A machine was refused: no quota left, no such type, no answer.  The text is for people.

    :ivar hopeless: asking again would be refused for the same reason.
    """

    def __init__(self, text: str, *, hopeless: bool = False) -> None:
        super().__init__(text)
        self.hopeless = hopeless


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

    def list(self) -> Mapping[str, Machine]:
        """Every machine that was asked for and has not been released.

        One that has ended by itself is ``FAILED``, with the reason, or not listed any more when it ended in order.
        """

    def close(self) -> None:
        """The program ends: let go of what only it holds, and wait (half a minute at most) for what was released.

        Machines that outlive the program go on.
        """
