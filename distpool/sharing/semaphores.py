"""Semaphores in shared memory, which have no name and still can be given to processes that are not our children.

Made by ``distpool.multiprocessing`` where the standard library would make one that it unlinks at once (start method
``fork``): the objects are the standard library's own ``Lock``, ``RLock``, ``Semaphore`` and ``BoundedSemaphore``; only
the memory in which the semaphore lives is one that has a file descriptor.  Nothing to clean up, no name, no tracker.

Needs a C library whose ``sem_close`` ignores semaphores that it did not open: glibc.  Elsewhere ``available()`` is
False, and the semaphores of plain ``multiprocessing`` are used (through ``remote``).
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import sys
from typing import Any

#: ``sizeof(sem_t)`` is 32 on all 64-bit glibc systems; a cache line each keeps neighbours from slowing one another.
_SLOT_BYTES = 64
#: Kind (0: recursive mutex, 1: semaphore) and greatest value (0: depends) of each class.
_KINDS = {"Lock": (1, 1), "RLock": (0, 1), "Semaphore": (1, 0), "BoundedSemaphore": (1, 0)}


@functools.cache
def available() -> bool:
    """Whether such semaphores can be made here."""
    if sys.platform != "linux":
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        import _multiprocessing  # type: ignore[import-not-found]
        import ctypes

        return hasattr(_multiprocessing, "SemLock") and hasattr(ctypes.CDLL(None), "sem_init")
    except (ImportError, OSError, ValueError):
        return False


@functools.cache
def _heap() -> Any:
    from multiprocessing.heap import Heap

    # Our own: that of shared values is the program's, down to its statistics.
    return Heap()


def make(name: str, value: int) -> Any:
    """A new object of the class ``name`` of ``multiprocessing.synchronize`` (errors as there).

    :param value: of the semaphore at first.
    """
    import ctypes
    from multiprocessing import synchronize, util

    kind, greatest = _KINDS[name]
    maxvalue = greatest or (value if name == "BoundedSemaphore" else synchronize.SEM_VALUE_MAX)  # type: ignore[attr-defined]
    value = operator.index(value)
    if not 0 <= value <= maxvalue:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    block = _heap().malloc(_SLOT_BYTES)
    arena, start, _ = block
    address = _address_of(arena, start)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sem_init(ctypes.c_void_p(address), 1, ctypes.c_uint(value)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    obj = _make(getattr(synchronize, name), address, kind, maxvalue, (arena, start))
    util.Finalize(obj, _heap().free, args=(block,))
    return obj


def rebuild(cls: Any, kind: int, maxvalue: int, arena: Any, start: int) -> Any:
    """The counterpart of the reducer: the same semaphore in another process, whose mapping ``arena`` is."""
    return _make(cls, _address_of(arena, start), kind, maxvalue, (arena, start))


def _make(cls: Any, address: int, kind: int, maxvalue: int, memory: tuple[Any, int]) -> Any:
    import _multiprocessing
    from multiprocessing import util

    obj = cls.__new__(cls)
    obj._semlock = _multiprocessing.SemLock._rebuild(address, kind, maxvalue, None)
    obj._distpool_memory = memory
    # Still refused by a child process that is spawned, with the standard library's words.
    obj._is_fork_ctx = True
    obj._make_methods()
    util.register_after_fork(obj, _after_fork)
    return obj


def _after_fork(obj: Any) -> None:
    obj._semlock._after_fork()


def _address_of(arena: Any, start: int) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(arena.buffer)) + start
