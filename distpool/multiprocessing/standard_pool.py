"""The classes of ``multiprocessing.pool`` from which ours derive: as soon as anybody can ask.

Libraries recognise a pool and its results by ``isinstance``.  Nothing of the original's code runs, so the originals
become bases when their module is imported, which loads ``tempfile``, ``subprocess`` and every compression there is and
takes longer than all of ours.  Nobody can ask before.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distpool.on_import import wait_for

if TYPE_CHECKING:
    from multiprocessing.pool import ApplyResult as StandardApplyResult
    from multiprocessing.pool import IMapIterator as StandardIMapIterator
    from multiprocessing.pool import IMapUnorderedIterator as StandardIMapUnorderedIterator
    from multiprocessing.pool import MapResult as StandardMapResult
    from multiprocessing.pool import Pool as StandardPool
    from types import ModuleType
else:

    class _NotYet:
        """In the place of a base that is not loaded: ``object`` itself could not be exchanged."""

    class StandardPool(_NotYet):
        """``multiprocessing.pool.Pool``."""

    class StandardApplyResult(_NotYet):
        """``multiprocessing.pool.ApplyResult``."""

    class StandardMapResult(_NotYet):
        """``multiprocessing.pool.MapResult``."""

    class StandardIMapIterator(_NotYet):
        """``multiprocessing.pool.IMapIterator``."""

    class StandardIMapUnorderedIterator(_NotYet):
        """``multiprocessing.pool.IMapUnorderedIterator``."""


__all__ = [
    "StandardApplyResult",
    "StandardIMapIterator",
    "StandardIMapUnorderedIterator",
    "StandardMapResult",
    "StandardPool",
]

_MODULE = "multiprocessing.pool"


def _derive(module: ModuleType) -> None:
    StandardPool.__bases__ = (module.Pool,)
    StandardApplyResult.__bases__ = (module.ApplyResult,)
    StandardMapResult.__bases__ = (module.MapResult,)
    StandardIMapIterator.__bases__ = (module.IMapIterator,)
    StandardIMapUnorderedIterator.__bases__ = (module.IMapUnorderedIterator,)


if _MODULE in sys.modules:
    import multiprocessing.pool

    _derive(multiprocessing.pool)
else:
    wait_for(_MODULE, _derive)
