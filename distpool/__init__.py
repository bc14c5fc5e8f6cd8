"""distpool: one import, every core.

Change the import, keep the code: ``distpool.futures`` for ``concurrent.futures``, ``distpool.multiprocessing`` for
``multiprocessing``, the backend ``"distpool"`` for joblib, or ``DistExecutor`` directly.

Names are loaded when they are first used, so that ``import distpool`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys

from distpool.version import __version__ as __version__

# Not from ``typing``: that takes longer to import than everything that happens before the first pool's node is started.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from distpool.driver.capacity import cpu_count as cpu_count
    from distpool.errors import (
        ConnectError,
        DependencyError,
        DistpoolError,
        InfeasibleError,
        InitializerError,
        ObjectLostError,
        ObjectStoreFullError,
        OutOfMemoryError,
        SerializationError,
        TaskInterrupted,
        TaskKilledError,
        TaskTimeoutError,
        WorkerDiedError,
    )
    from distpool.executor import DistExecutor as DistExecutor
    from distpool.memory import memory as memory
    from distpool.provision.address import Engine
    from distpool.references import get as get
    from distpool.references import put as put
    from distpool.references import wait as wait
    from distpool.store.references import ObjectRef as ObjectRef
    from distpool.task_options import options as options
    from distpool.worker.context import gang as gang

__all__ = [
    "ConnectError",
    "DependencyError",
    "DistExecutor",
    "DistpoolError",
    "InfeasibleError",
    "InitializerError",
    "ObjectLostError",
    "ObjectRef",
    "ObjectStoreFullError",
    "OutOfMemoryError",
    "SerializationError",
    "TaskInterrupted",
    "TaskKilledError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "__version__",
    "cpu_count",
    "gang",
    "get",
    "init",
    "memory",
    "options",
    "put",
    "shutdown",
    "wait",
]

_HOMES = {
    "DistExecutor": "distpool.executor",
    "cpu_count": "distpool.driver.capacity",
    "gang": "distpool.worker.context",
    "ObjectRef": "distpool.store.references",
    "get": "distpool.references",
    "memory": "distpool.memory",
    "options": "distpool.task_options",
    "put": "distpool.references",
    "wait": "distpool.references",
}
_SUBMODULES = frozenset({"errors", "futures", "joblib", "multiprocessing", "provision"})


def init(
    address: str | Engine | None = None, *, store_bytes: float | None = None, spill_uri: str | None = None
) -> None:
    """Start now what otherwise starts with the first call: attach to a cluster, or start this program's private node.

    :param address: the cluster: ``host:port`` of its scheduler, or the path of its token file; or where nodes for a
        cluster of this program's own come from, as in ``"local://?nodes=3"`` or ``distpool.provision.Local(nodes=3)``;
        default: ``DISTPOOL_ADDRESS`` if set, otherwise a private node.
    :param store_bytes: shared memory that values may take on the private node; over it, those that nobody looks at move
        to disk.  Default: ``DISTPOOL_STORE_BYTES`` if set, otherwise 30 % of memory.  Never more than the file system
        behind shared memory can give.
    :param spill_uri: where they move to: an existing folder of this machine (``"/big/disk"``), or a URI for
        ``pyarrow.fs`` (``"s3://bucket/path"``).  Default: ``DISTPOOL_SPILL_URI`` if set, otherwise the temporary
        folder.
    :raises ConnectError: when the scheduler cannot be reached, or refuses, or the private node cannot be started.
    :raises RuntimeError: when this program has pools elsewhere, or when settings of the store are given and distpool
        has been started in this program before.
    :raises ValueError: when they are wrong, or are given for a cluster, whose nodes have their own.
    """
    from distpool.driver.current import begin_session, current_session

    chosen = None if address is None else str(address)
    if store_bytes is None and spill_uri is None:
        current_session(chosen)
    else:
        begin_session(chosen, store_bytes, spill_uri)


def shutdown() -> None:
    """End everything that distpool started for this program; what is still running is killed.

    The next call starts afresh.  Happens by itself when the program ends.
    """
    session = sys.modules.get("distpool.driver.current")
    if session is not None:
        session.close_current()


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "distpool.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


def _announce_to_joblib() -> None:
    """Let joblib find the backend ``"distpool"`` by name, whether joblib is imported before or after this."""
    from distpool.joblib_discovery import announce

    announce(sys.modules.get("joblib.parallel"))


_announce_to_joblib()
