"""Which engine an address names.

A package of somebody else's adds one with an entry point in the group ``distpool.engines``: its name is the scheme, its
value the class.
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points

from distpool.errors import ConnectError
from distpool.provision.address import Engine

#: scheme → module and class
ENGINES = {
    "local": ("distpool.provision.local", "Local"),
    "k8s": ("distpool.provision.kubernetes", "Kubernetes"),
    "mpi": ("distpool.provision.mpi", "MPI"),
    "ssh": ("distpool.provision.ssh", "SSH"),
    "dask": ("distpool.provision.dask", "Dask"),
    "ray": ("distpool.provision.ray", "Ray"),
    "slurm": ("distpool.provision.slurm", "Slurm"),
}
_GROUP = "distpool.engines"


def is_engine(address: str) -> bool:
    """Whether an address says where nodes come from, rather than where a scheduler listens or a token lies."""
    scheme, found, _ = address.partition("://")
    return bool(found) and scheme != "tcp"


def schemes() -> list[str]:
    """What may stand before ``://``."""
    return sorted({*ENGINES, *(entry.name for entry in entry_points(group=_GROUP))})


def engine_class(scheme: str) -> type[Engine]:
    """The class behind a scheme.

    :raises ConnectError: when there is none, or it cannot be loaded.
    """
    if scheme in ENGINES:
        module, name = ENGINES[scheme]
        found: type[Engine] = getattr(importlib.import_module(module), name)
        return found
    for entry in entry_points(group=_GROUP):
        if entry.name == scheme:
            try:
                loaded: type[Engine] = entry.load()
            except Exception as error:
                raise ConnectError(f"{scheme}:// cannot be loaded from {entry.value}: {error!r}") from error
            return loaded
    near = difflib.get_close_matches(scheme, schemes(), 1)
    hint = f"did you mean {near[0]}://?" if near else f"there are {', '.join(f'{one}://' for one in schemes())}"
    raise ConnectError(f"there is no engine {scheme}://; {hint}")


def parse(address: str) -> Engine:
    """The engine that an address describes.

    :raises ConnectError: when it is not understood.
    """
    return engine_class(address.partition("://")[0].lower()).from_address(address)
