"""Where nodes come from: the engines that an address may name, as Python objects.

``distpool.provision.Local(nodes=3)`` is what ``local://?nodes=3`` says, and either may be given wherever an address is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distpool.provision.registry import ENGINES

if TYPE_CHECKING:
    from distpool.provision.dask import Dask
    from distpool.provision.kubernetes import Kubernetes
    from distpool.provision.local import Local
    from distpool.provision.mpi import MPI
    from distpool.provision.ray import Ray
    from distpool.provision.slurm import Slurm
    from distpool.provision.ssh import SSH

_HOMES = {name: module for module, name in ENGINES.values()}

__all__ = ["MPI", "SSH", "Dask", "Kubernetes", "Local", "Ray", "Slurm"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
