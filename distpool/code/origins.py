"""Which modules belong to the user's project, and what of their state travels.

Used by both halves, which must agree: the worker digests what importing the module gave, the driver compares.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from distpool.code.names import home

#: Values whose pickles are larger than this are not compared, and travel only through the object store.
LARGE_BYTES = 64 << 20
#: Digest of a value that cannot be compared: it cannot be pickled, or not by name.
INCOMPARABLE = b""
#: Digest of a value beyond ``LARGE_BYTES``.
LARGE = b"large"

_OWN_PACKAGE = __name__.partition(".")[0]
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})


@functools.cache
def installed_folders() -> tuple[str, ...]:
    """Where Python's own modules are."""
    # What ``sysconfig`` would say, without the ten thousand build settings that it loads first.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    extensions = os.path.join(sys.base_exec_prefix, sys.platlibdir, version)
    folders = {os.path.realpath(folder) for folder in (os.path.dirname(os.__file__), extensions)}
    return tuple(folder + os.sep for folder in folders)


@functools.lru_cache(maxsize=4096)
def is_user_file(path: str) -> bool:
    """Whether a module's file belongs to the user's project: neither to Python nor to an installed package.

    Editable installs lie in the user's own folders, so they do.
    """
    if path.startswith("<"):
        return False
    parts = path.replace("\\", "/").split("/")
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return not (os.path.realpath(path)).startswith(installed_folders())


def is_user_module(module: types.ModuleType) -> bool:
    """Whether a loaded module belongs to the user's project."""
    name = module.__name__
    top = name.partition(".")[0]
    if top == _OWN_PACKAGE or name == "__main__" or top in sys.stdlib_module_names:
        return False
    path = getattr(module, "__file__", None)
    return isinstance(path, str) and is_user_file(path)


def user_modules() -> list[str]:
    """The names of the loaded modules of the user's project."""
    # Most are Python's own or ours, which their names tell; to look at a module itself copies, in a worker, the page
    # that it shares with the zygote.
    never = sys.stdlib_module_names | {_OWN_PACKAGE}
    return [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in never
        and isinstance(module, types.ModuleType)
        and getattr(module, "__name__", None) == name
        and is_user_module(module)
    ]


def state_of(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """The globals of a module that are state: no special names, no modules, nothing that the module itself defines."""
    for name, value in list(module.__dict__.items()):
        if (name.startswith("__") and name.endswith("__")) or isinstance(value, types.ModuleType):
            continue
        if isinstance(value, (types.FunctionType, type)):
            if value.__module__ == module.__name__ and value.__qualname__ == name:
                continue
            if home(value) is None:
                continue
        yield name, value


def digest(module_name: str, name: str, value: Any) -> bytes:
    """What tells whether two processes hold the same value, as far as pickles can tell.

    Equal digests mean equal values; equal values may have different digests (sets of strings have another order in
    each process).
    """
    import pickle

    # ``hashlib`` would load OpenSSL, in every worker that asks about a module.
    from _blake2 import blake2b

    hashing = blake2b(digest_size=12)
    if type(value) in _ATOMS:
        if isinstance(value, (str, bytes)) and len(value) > LARGE_BYTES:
            return LARGE
        hashing.update(pickle.dumps(value, 5))
        return hashing.digest()
    from distpool.code.by_value import DefinitionPickler

    sink = _HashingFile(hashing)
    pickler = DefinitionPickler(
        sink, module_name, name, value, code_by_value=False, buffer_callback=lambda buffer: sink.write(buffer.raw())
    )
    try:
        pickler.dump(value)
    except _TooLarge:
        return LARGE
    except Exception:
        return INCOMPARABLE
    return hashing.digest()


class _TooLarge(Exception):
    pass


class _HashingFile:
    """Takes a pickle and keeps nothing of it."""

    def __init__(self, hashing: Any) -> None:
        self._hashing = hashing
        self._left_bytes = LARGE_BYTES

    def write(self, data: Any) -> None:
        """Part of the file protocol that ``pickle`` needs; also takes the buffers."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise _TooLarge
        self._hashing.update(data)
