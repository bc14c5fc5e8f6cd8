"""A head start for the private node: it starts while this process still loads what drives it.

Called by the front doors when they are about to open a pool, and by the session, which takes the node over.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from _thread import allocate_lock

from distpool.driver.interrupts import shield
from distpool.on_import import import_msgspec

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from typing import Any

    from distpool.node.launch import PrivateNode

_lock = allocate_lock()
_ahead: PrivateNode | None = None


#: What every first pool needs.
_NEEDED = (
    "distpool.driver.current",
    "distpool.driver.environment",
    "distpool.code.definitions",
    "distpool.code.pickler",
    "distpool.store.client",
)


def start_ahead(address: str | None = None, *, front: str = "") -> None:
    """Start a private node if the first pool of this process will need one, and load what drives it.  Cheap later.

    Ctrl-C waits for that: a module whose import is interrupted halfway may fail in other ways when imported again.

    :param address: of the cluster that the pool is for.
    :param front: the module of the front door, if it is not loaded yet.
    :raises ConnectError: when it cannot be started.
    """
    if "distpool.driver.current" in sys.modules:
        return
    # What is loaded here stays: looking for garbage in it meanwhile takes a tenth of the time.
    collects = gc.isenabled()
    with shield:
        gc.disable()
        try:
            private = not (address or os.environ.get("DISTPOOL_ADDRESS") or _in_worker())
            if private:
                _start()
            import_msgspec()
            load_needed(front)
            if collects and not gc.get_freeze_count():
                # Made old without a look at it, which the next new object would be the occasion for.
                gc.freeze()
                gc.unfreeze()
        finally:
            if collects:
                gc.enable()


def start_pool_ahead(front: str, workers: Any) -> None:
    """The same for a pool whose front door is about to be loaded, unless that will refuse to make such a pool.

    :param front: the module.
    :param workers: how many the pool is to have; None: as many as there are CPUs.
    """
    if front not in sys.modules and (workers is None or (isinstance(workers, int) and workers > 0)):
        start_ahead(front=front)


def load_needed(front: str = "") -> None:
    """Load what drives a pool.

    :param front: the module of the front door, if it is not loaded yet.
    """
    for name in (*_NEEDED, *([front] if front else ())):
        importlib.import_module(name)


def _in_worker() -> bool:
    worker_context = sys.modules.get("distpool.worker.context")
    return worker_context is not None and worker_context.current() is not None


def _start() -> None:
    global _ahead
    from distpool.node.spawn import spawn_private

    with _lock:
        if _ahead is None:
            # Before the modules are loaded that say what node it is to be: the process loads its own meanwhile.
            spawned = spawn_private()
            import_msgspec()
            from distpool.node.launch import start_private_node

            _ahead = start_private_node(wait=False, spawned=spawned)


def take_over() -> PrivateNode | None:
    """The node that was started ahead, if there is one; it is the caller's from now on."""
    global _ahead
    node, _ahead = _ahead, None
    if node is not None and node.owner != os.getpid():
        node.forget()  # of the program that forked this process
        return None
    return node
