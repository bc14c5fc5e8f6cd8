"""What ``multiprocessing`` finds by a name is on one machine: errors that say so to whoever looks for it on another."""

from __future__ import annotations

import functools
import socket
import sys
from types import TracebackType
from typing import Any

from distpool.on_import import wait_for
from distpool.sharing import reach

_MODULE = "multiprocessing.shared_memory"


def explain_shared_memory() -> None:
    """In a worker of a cluster: have ``SharedMemory`` say what it means that there is none of a name."""
    if not reach.asks_driver():
        return
    loaded = sys.modules.get(_MODULE)
    if loaded is None:
        wait_for(_MODULE, _explain)
    else:
        _explain(loaded)


def _explain(module: Any) -> None:
    plain = module.SharedMemory.__init__
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def __init__(self: Any, name: str | None = None, create: bool = False, size: int = 0, **more: Any) -> None:
        try:
            plain(self, name, create, size, **more)
        except FileNotFoundError as error:
            if create:
                raise
            raise FileNotFoundError(error.errno, _shared_memory(), name) from None

    module.SharedMemory.__init__ = __init__


def _shared_memory() -> str:
    return (
        f"there is no shared memory of this name on {socket.gethostname()}: it was unlinked, or is on another machine, "
        "which memory cannot leave. Pass the array or bytes themselves: each machine gets them once, and its tasks map "
        "the same copy. For state that tasks change together take a multiprocessing.Manager() of the program"
    )


def hint(error: BaseException) -> str:
    """What to add in a program to an error of opening a task's result, when that looked here for something that is on
    the task's machine; empty for other errors."""
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        modules = _modules(error.__traceback__)
        if _MODULE in modules:
            return f" ({_shared_memory()})"
        if "multiprocessing.managers" in modules:
            return (
                f" (it refers to a manager that cannot be reached from {socket.gethostname()}: one that a task starts "
                "serves the task's own machine only, and ends with the task's worker or with its last reference there. "
                "Start the manager in the program and pass its proxies to the tasks: they work on every machine)"
            )
    return ""


def _modules(traceback: TracebackType | None) -> set[str]:
    found = set()
    while traceback is not None:
        found.add(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    return found
