"""What tasks of this worker came to import: told to the agent, which has it loaded ahead of time for later workers, and
compared with what the driver has, if that is on another machine."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from distpool.wire.worker_to_agent import ModulesImported
from distpool.wire.worker_to_driver import Notice
from distpool.worker.mailbox import Mailbox


class Imports:
    """See the module's description.  What is loaded when it is made is known already."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._at_start = frozenset(sys.modules)
        self._count = len(self._at_start)
        self._told: set[str] = set()
        self._versions: dict[str, str] = {}

    def compare_with(self, versions: Mapping[str, str]) -> None:
        """The driver is on another machine, and has these versions of packages."""
        self._versions = dict(versions)

    def report(self) -> None:
        """Tell the agent which installed modules have been imported since the last time."""
        if len(sys.modules) == self._count:
            return
        self._count = len(sys.modules)
        names = {_preloadable(name) for name in list(sys.modules) if name not in self._at_start}
        new = {name for name in names - self._told if _is_installed(name)}
        if new:
            self._compare(new)
            self._told |= new
            self._mailbox.tell_agent(ModulesImported(tuple(sorted(new))))

    def _compare(self, names: set[str]) -> None:
        """Packages may be of other versions here; once is enough to say so."""
        for name in sorted({name.partition(".")[0] for name in names}):
            theirs, ours = self._versions.pop(name, ""), getattr(sys.modules.get(name), "__version__", "")
            if theirs and isinstance(ours, str) and ours and ours.split(".")[:2] != theirs.split(".")[:2]:
                self._mailbox.tell_driver(
                    Notice(f"{name} is {theirs} where the program runs, and {ours} on {socket.gethostname()}")
                )


def _preloadable(name: str) -> str:
    """What to preload for a module: big packages import their parts (``sklearn.ensemble``) on demand only."""
    package, _, part = name.partition(".")
    part = part.partition(".")[0]
    return f"{package}.{part}" if part and not part.startswith("_") else package


def _is_installed(name: str) -> bool:
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or ""
    return "site-packages" in origin or "dist-packages" in origin
