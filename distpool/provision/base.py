"""What engines have in common: keeping the books of their nodes, so that an engine is its own commands, and the reading
of their answers.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.version import __version__
from distpool.wire.codec import PYTHON
from distpool.wire.resources import Shape

H = TypeVar("H")


class Cure(NamedTuple):
    """What to do about a failure; whether the next attempt fails in the same way if nobody does."""

    advice: str
    lasting: bool


#: What agents say that cannot start, as patterns.
CURES = {
    "No module named": Cure(
        f"install distpool there, the same version: python -m pip install distpool=={__version__}", True
    ),
    r"(?i)python[\w.]*: ((command )?not found|no such file)|no such file or directory: \S*python": Cure(
        "name the Python of that machine with the option python", True
    ),
    "refused this node": Cure(
        f"it needs Python {PYTHON}, which the option python may name, and distpool=={__version__}", True
    ),
    "no answer from the cluster": Cure("it must reach the program's machine: head_host says where", False),
}
#: Nodes that are killed are gone after so long, or are not waited for.
_KILL_S = 5.0
_LOOK_S = 0.02


class BaseProvisioner(ABC, Generic[H]):
    """A ``Provisioner`` of one kind of nodes, each of which its engine knows by a *handle*: a job's number, a process.

    :ivar kind: of all nodes.
    :ivar handles: of the nodes that were asked for and have not been released.
    """

    #: By patterns of what is said of a node that failed; the first that is found counts.
    cures: ClassVar[Mapping[str, Cure]] = CURES
    #: Seconds that a released node may take to end before it is killed.
    END_S: ClassVar[float] = 20.0

    def __init__(self, kind: NodeType) -> None:
        self.kind = kind
        self.handles: dict[str, H] = {}
        #: handles of those that were released, and when they are killed
        self._ending: list[tuple[H, float]] = []

    # -- an engine's own ----------------------------------------------------------------------------------------

    @abstractmethod
    def request(self, node: str) -> H:
        """Ask for a node of this name, and do not wait for it.

        :raises ProvisionError: when there will be none.
        """

    @abstractmethod
    def look(self, node: str, handle: H) -> Machine | None:
        """How far a node has come (``seen`` makes the answer); None: it has ended in order."""

    @abstractmethod
    def end(self, node: str, handle: H) -> None:
        """Have a node end, and do not wait for that; it may not have begun, or have ended already."""

    def refresh(self) -> None:
        """Ask the engine about all nodes in one question; called before ``look``."""

    def has_ended(self, handle: H) -> bool:
        """Whether a node that was to end has."""
        return True

    def kill(self, handle: H) -> None:
        """It was to end long ago."""

    def tidy(self, handle: H) -> None:
        """A released node has ended: give back what it used."""

    # -- for that -----------------------------------------------------------------------------------------------

    def seen(self, phase: Phase, reason: str = "", hopeless: bool = False) -> Machine:
        """The answer of ``look``; see ``Machine``."""
        return Machine(self.kind.name, phase, reason, hopeless)

    def failed(self, reason: str, hopeless: bool = False) -> Machine:
        """The answer of ``look`` for a node that will not come or has ended; what to do is added if it is known."""
        cure = next((cure for pattern, cure in self.cures.items() if re.search(pattern, reason)), Cure("", False))
        return self.seen(Phase.FAILED, f"{reason} ({cure.advice})" if cure.advice else reason, hopeless or cure.lasting)

    def held(self) -> Sequence[H]:
        """All that have not ended, also those that were released."""
        return [*self.handles.values(), *(handle for handle, _ in self._ending)]

    # -- what all engines do ------------------------------------------------------------------------------------

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self.kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self.kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self.kind.name}")
        if node in self.handles:
            return
        if len(self.handles) >= self.kind.most:
            raise ProvisionError(f"there are {len(self.handles)} nodes, which is the most (options nodes, max)")
        self._reap()
        self.handles[node] = self.request(node)

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        if node in self.handles:
            handle = self.handles.pop(node)
            self.end(node, handle)
            self._ending.append((handle, time.monotonic() + self.END_S))
            self._reap()

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``; those that have ended in order are released."""
        self._reap()
        self.refresh()
        found = {}
        for node, handle in [*self.handles.items()]:
            machine = self.look(node, handle)
            if machine is None:
                self.release(node)
            else:
                found[node] = machine
        return found

    def close(self) -> None:
        """Release all, and wait until they have ended."""
        for node in [*self.handles]:
            self.release(node)
        deadline = time.monotonic() + self.END_S + _KILL_S
        while self._ending and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            self._reap()

    def _reap(self) -> None:
        left = []
        for handle, kill_at in self._ending:
            if self.has_ended(handle):
                self.tidy(handle)
                continue
            if time.monotonic() >= kill_at:
                self.kill(handle)
            left.append((handle, kill_at))
        self._ending = left


def agent_words(node: str, offer: Shape, *further: str) -> list[str]:
    """What must stand behind the name of a Python to start a node that is the program's own.

    :param offer: what it has; of what is negative: what it finds.
    :param further: where its token is: ``--token-file FILE``, or ``--token-file -`` (standard input), usually with
        ``--until-eof``: the node ends when its standard input does.
    """
    words = ["-m", "distpool", "start", "--join", "--private", "--foreground", "--node", node, *further]
    amounts = {"--num-cpus": offer.num_cpus, "--num-gpus": offer.num_gpus, "--memory-bytes": offer.memory_bytes}
    for name, amount in amounts.items():
        words += [name, f"{amount:.15g}"] if amount >= 0 else []
    return words


def last_line(path: str) -> str:
    """The last line of a log, which often says why; empty if there is none."""
    try:
        with open(path, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4000:].splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""
