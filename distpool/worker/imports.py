"""What tasks of this worker came to import: told to the agent, which has it loaded ahead of time for later workers, and
compared with what the driver has, if that is on another machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Mapping

from distpool.code.origins import installed_folders
from distpool.wire.worker_to_agent import ModulesImported
from distpool.wire.worker_to_driver import Notice
from distpool.worker.mailbox import Mailbox

#: Modules of the standard library that do something when they are imported: print, open a browser or a terminal, read
#: the environment of the process; and those that belong to a program of their own.
_NEVER_AHEAD = frozenset(
    {"antigravity", "idlelib", "lib2to3", "pdb", "readline", "rlcompleter", "site", "sysconfig", "test", "this"}
    | {"tkinter", "turtle", "turtledemo", "zoneinfo"}
)


class Imports:
    """See the module's description.  What is loaded when it is made is known already."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        # Their names are not looked at here, one by one: they lie on pages that are shared with the zygote until then.
        self._count = len(sys.modules)
        self._newest_at_start = next(reversed(sys.modules))
        self._told: set[str] = set()
        self._versions: dict[str, str] = {}

    def compare_with(self, versions: Mapping[str, str]) -> None:
        """The driver is on another machine, and has these versions of packages."""
        self._versions = dict(versions)

    def report(self) -> None:
        """Tell the agent which modules of Python and of installed packages have been imported since the last time."""
        if len(sys.modules) == self._count:
            return
        try:
            names = list(itertools.takewhile(lambda name: name != self._newest_at_start, reversed(sys.modules)))
        except RuntimeError:
            return  # a thread imports something just now
        self._count = len(sys.modules)
        installed = {name for name in {_preloadable(name) for name in names} - self._told if _is_installed(name)}
        if installed:
            self._compare(installed)
        new = installed.union(name for name in names if name not in self._told and _is_standard(name))
        if new:
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


def forget_shadowed(learned: frozenset[str]) -> None:
    """Unload what was loaded ahead of time and is not what the program means: its folders have another module of that
    name, which importing it would find first."""
    if not learned:
        return
    shadowed: set[str] = set()
    for folder in sys.path:
        if (os.path.realpath(folder) + os.sep).startswith(installed_folders()):
            break
        with contextlib.suppress(OSError):  # not there, or an archive
            for entry in os.listdir(folder or "."):
                name, _, suffix = entry.partition(".")
                if name in learned and (suffix or os.path.exists(os.path.join(folder, entry, "__init__.py"))):
                    shadowed.add(name)
    if shadowed:
        for name in [name for name in sys.modules if name.partition(".")[0] in shadowed]:
            del sys.modules[name]


def _preloadable(name: str) -> str:
    """What to preload for a module: big packages import their parts (``sklearn.ensemble``) on demand only."""
    package, _, part = name.partition(".")
    part = part.partition(".")[0]
    return f"{package}.{part}" if part and not part.startswith("_") else package


def _is_installed(name: str) -> bool:
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or ""
    return "site-packages" in origin or "dist-packages" in origin


def _is_standard(name: str) -> bool:
    """Whether a module is one of the standard library's that may be loaded ahead of time."""
    parts = name.split(".")
    if parts[0] not in sys.stdlib_module_names or parts[0] in _NEVER_AHEAD or any(part[0] == "_" for part in parts):
        return False
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None) or ""
    return getattr(spec, "name", None) == name and (
        origin in ("built-in", "frozen") or os.path.realpath(origin).startswith(installed_folders())
    )
