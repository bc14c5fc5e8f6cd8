"""``multiprocessing`` whose pools run on distpool: ``import distpool.multiprocessing as multiprocessing``.

Every public name of the standard module is here.  ``Pool`` is ours (see ``pool``); contexts give it out too.  The rest
is the standard library's own, the very same objects, and works together with our pools: locks, queues, pipes, shared
values and manager proxies may be given to a pool's initializer as usual.  Submodules that we add nothing to
(``distpool.multiprocessing.managers``, ``.shared_memory``, ...) are the standard library's.
"""

from __future__ import annotations

import multiprocessing as _standard

from distpool.multiprocessing import standard_modules as _standard_modules
from distpool.multiprocessing.context import default_context as _default_context
from distpool.multiprocessing.context import register as _register

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    import typing as _typing
    from multiprocessing import *  # noqa: F403

    from distpool.multiprocessing import pool as pool
del TYPE_CHECKING  # no public name of the standard module

_register()
_standard_modules.install(__name__)

__all__ = list(_standard.__all__)
# As in the standard module, the public names are the methods of the default context; those that it lacks (newer
# Pythons may add names of another kind) are the standard module's.
globals().update({name: getattr(_default_context, name, None) or getattr(_standard, name) for name in __all__})


def __getattr__(name: str) -> _typing.Any:
    """Submodules, which the standard module shows as soon as anything has imported them."""
    if not name.startswith("__"):
        module = _standard_modules.find(__name__, name)
        if module is not None:
            return module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
