"""The node's store folder, and where its segments go on disk, as one process finds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from distpool.store.ownership import maker_of
from distpool.store.spill import NodeFacts, SpillFolder


class NodeFolder:
    """Looked into when it is first needed.  Methods are called under the client's lock.

    :param owner: the client's name.
    :param prepare: makes the folder, when it is first needed.
    :param on_facts: told what the node allows its clients.
    :ivar facts: None: no node keeps this folder.
    :ivar spill: None: there is no disk to go to.
    """

    def __init__(
        self, path: str, owner: str, prepare: Callable[[], None] | None, on_facts: Callable[[NodeFacts], None]
    ) -> None:
        self.path = path
        self.facts: NodeFacts | None = None
        self.spill: SpillFolder | None = None
        self._owner = owner
        self._prepare = prepare
        self._on_facts = on_facts
        self._looked = False

    def look(self) -> None:
        """See that the facts are known."""
        if self._looked:
            return
        if self._prepare is not None:
            self._prepare()
        self._looked = True
        self.facts = NodeFacts.read(self.path)
        if self.facts is not None:
            self._on_facts(self.facts)
            self.spill = SpillFolder(self.facts, self._owner)

    def look_again(self) -> None:
        """Another node keeps the folder."""
        self._looked = False
        self.look()

    def path_of(self, segment: str) -> str:
        """The file of a segment that is in memory."""
        return os.path.join(self.path, segment)

    def place_of(self, segment: str) -> str:
        """``"memory"`` or ``"disk"``, or nothing."""
        if os.path.exists(self.path_of(segment)):
            return "memory"
        return "disk" if self.spill is not None and (self.spill.uri or self.spill.find(segment)) else ""

    def find_spilled(self, segment: str) -> str | None:
        """The local file of a segment that is not in memory."""
        self.look()
        return self.spill.find(segment) if self.spill is not None else None

    def remove(self, segment: str) -> None:
        """Remove the segment of a maker that is dead."""
        self.look()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path_of(segment))
        if self.spill is not None:
            self.spill.remove(segment)

    def makers(self) -> set[str]:
        """Whose segments there are."""
        self.look()
        return {maker_of(name) for name in self._names() if not name.startswith(".")}

    def remove_dead(self, maker: str, keep: Callable[[str], bool]) -> None:
        """Remove the segments of a maker that is dead, except some."""
        self.look()
        for name in self._names():
            if maker_of(name) == maker and not keep(name):
                self.remove(name)

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            names = []  # the node ended first
        return names + self.spill.names() if self.spill is not None else names
