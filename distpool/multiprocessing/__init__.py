"""``multiprocessing`` whose pools run on distpool: ``import distpool.multiprocessing as multiprocessing``.

Every public name of the standard module is here.  ``Pool`` is ours (see ``pool``); contexts give it out too.  The rest
is the standard library's own, the very same objects, and works together with our pools: locks, queues, pipes, shared
values and manager proxies may be given to a pool's initializer as usual.  Submodules that we add nothing to
(``distpool.multiprocessing.managers``, ``.shared_memory``, ...) are the standard library's.
"""

from __future__ import annotations

import sys as _sys

from distpool.multiprocessing import standard_modules as _standard_modules
from distpool.on_import import wait_for as _wait_for

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    import typing as _typing
    from collections.abc import Callable as _Callable
    from collections.abc import Iterable as _Iterable
    from multiprocessing import *  # noqa: F403

    from distpool.multiprocessing import pool as pool
else:

    def Pool(
        processes: int | None = None,
        initializer: _Callable[..., object] | None = None,
        initargs: _Iterable[_typing.Any] = (),
        maxtasksperchild: int | None = None,
    ) -> pool.Pool:
        """A pool of distpool workers (see ``distpool.multiprocessing.pool.Pool``)."""
        # Not the default context's method: the node starts while that, and the standard module, are being loaded.
        from distpool.driver.ahead import start_pool_ahead

        start_pool_ahead("distpool.multiprocessing.pool", processes)
        return _load().Pool(processes, initializer, initargs, maxtasksperchild)


del TYPE_CHECKING  # no public name of the standard module


def _load() -> _typing.Any:
    """Take over the standard module's public names, and register our contexts there; returns the default one."""
    # First of all, so that it is here that a thread waits for another one that loads it.
    import multiprocessing as standard

    from distpool.multiprocessing.context import default_context

    names = globals()
    if "__all__" not in names:
        # As in the standard module, the public names are the methods of the default context; those that it lacks (newer
        # Pythons may add names of another kind) are the standard module's.
        names.update({each: _find(standard, default_context, each) for each in standard.__all__ if each not in names})
        names["__all__"] = list(standard.__all__)
    return default_context


def _register(standard: object) -> None:
    """The standard module has been loaded, if not by our contexts, which see to it themselves."""
    if f"{__name__}.context" not in _sys.modules:
        _load()


def _find(standard: _typing.Any, context: _typing.Any, name: str) -> _typing.Any:
    return getattr(context, name, None) or getattr(standard, name)


def __getattr__(name: str) -> _typing.Any:
    """The standard module's names, once one of them is asked for, and its submodules, which that shows as soon as
    anything has imported them."""
    if name == "__all__" or not name.startswith("__"):
        _load()
        names = globals()
        if name in names:
            return names[name]
        module = _standard_modules.find(__name__, name)
        if module is not None:
            return module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    _load()
    return sorted(globals())


_standard_modules.install(__name__)
if "multiprocessing" in _sys.modules:
    _load()
else:
    _wait_for("multiprocessing", _register)
