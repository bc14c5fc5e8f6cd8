"""How ``multiprocessing`` objects are pickled: which reducers a pickler must use, and in which state of this thread.

The standard library's reducers ask whether a child process is being started just now (``get_spawning_popen``) and let
that one duplicate file descriptors.  Inside ``sharing()`` a ``Shared`` stands in for the child.
"""

from __future__ import annotations

import contextlib
import copyreg
import fcntl
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from distpool.on_import import loaded
from distpool.sharing import reach
from distpool.sharing.remote import RECURSIVE_MUTEX, RemoteSemLock, serve
from distpool.sharing.server import SharedDescriptor, server

Reducer: TypeAlias = "Callable[[Any], Any]"
DispatchTable: TypeAlias = "dict[type, Reducer]"


class Shared:
    """What was shared inside one ``sharing()`` block; others can reach it until this is closed or collected."""

    def __init__(self) -> None:
        keys: list[bytes] = []
        self._keys = keys
        self._addresses: dict[int, tuple[str, bytes]] = {}
        self._semaphores: dict[int, tuple[str, bytes]] = {}
        self._files: dict[tuple[int, ...], int] = {}
        self._close = weakref.finalize(self, server.remove, keys)
        self._close.atexit = False

    def close(self) -> None:
        """Nobody will ask for any of it any more."""
        self._close()

    # The two methods that the standard library's reducers call on the process that is being started.

    def duplicate_for_child(self, fd: int) -> int:
        """Serve ``fd``, also after the caller closes it."""
        # What is pickled again and again (a global, for each worker that asks for it) is served once.
        file = _file_of(fd)
        number = self._files.get(file)
        if number is None:
            address, key = server.add_descriptor(fd)
            self._keys.append(key)
            number = self._files[file] = len(self._keys)
            self._addresses[number] = (address, key)
        return number

    def DupFd(self, number: int) -> SharedDescriptor:
        """The picklable stand-in for a served descriptor."""
        return SharedDescriptor(*self._addresses[number])

    def provide(self, open_: Callable[[], int]) -> SharedDescriptor:
        """A stand-in for a descriptor that ``open_`` gives when somebody asks for it, and which stays the caller's."""
        address, key = server.add_descriptor(open_)
        self._keys.append(key)
        return SharedDescriptor(address, key)

    def address_of(self, semlock: Any, mutex: bool) -> tuple[str, bytes]:
        """Serve a semaphore of this process."""
        found = self._semaphores.get(id(semlock))
        if found is None:
            # The function keeps the semaphore alive, so its id stays its own.
            found = server.add_semaphore(lambda connection: serve(connection, semlock, mutex))
            self._keys.append(found[1])
            self._semaphores[id(semlock)] = found
        return found


def _file_of(fd: int) -> tuple[int, ...]:
    """Tells open files apart, as long as a duplicate of each is open: the two ends of a pipe are one inode."""
    status = os.fstat(fd)
    return fd, status.st_dev, status.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL)


@contextlib.contextmanager
def sharing(shared: Shared | None = None) -> Iterator[Shared]:
    """What this thread pickles in the block may contain ``multiprocessing`` objects (see ``Shared``).

    :param shared: where to enter what is shared, if there is something already.
    """
    from multiprocessing import context

    if shared is None:
        shared = Shared()
    outer = context.get_spawning_popen()
    outer_shared = _tables.shared
    context.set_spawning_popen(shared)  # type: ignore[arg-type]
    _tables.shared, _tables.size = True, -1
    try:
        yield shared
    finally:
        context.set_spawning_popen(outer)
        _tables.shared, _tables.size = outer_shared, -1


class _Tables(threading.local):
    shared = False
    size = -1
    table: DispatchTable | None = None


_tables = _Tables()


def dispatch_table() -> DispatchTable | None:
    """The ``dispatch_table`` for a pickler of this thread at this moment, or None when the usual one will do.

    Cheap enough to be asked for each pickle; the same object as long as nothing changed.
    """
    reduction = loaded("multiprocessing.reduction")
    if reduction is None:
        return None
    tables = _tables
    known = reduction.ForkingPickler._extra_reducers
    size = len(known) + len(copyreg.dispatch_table)
    if size == tables.size:
        return tables.table
    table: DispatchTable = dict(copyreg.dispatch_table)
    for kind, reducer in list(known.items()):
        # Reducers that others registered (torch for its tensors, say) are about their own pools' ways.
        if str(getattr(reducer, "__module__", "")).startswith("multiprocessing."):
            table[kind] = reducer
    if tables.shared:
        if synchronize := loaded("multiprocessing.synchronize"):
            for kind in (synchronize.Lock, synchronize.RLock, synchronize.Semaphore, synchronize.BoundedSemaphore):
                table[kind] = _reduce_semaphore
        if connection := loaded("multiprocessing.connection"):
            table[connection.Connection] = _reduce_connection
        if heap := loaded("multiprocessing.heap"):
            table[heap.Arena] = _reduce_arena
        if connections := loaded("distpool.sharing.connections"):
            table[connections.RemoteConnection] = _reduce_remote_connection
    # Inside ``sharing`` the modules that matter may still be on their way: look each time.
    tables.size = -1 if tables.shared else size
    tables.table = table
    return table


def _reduce_semaphore(obj: Any) -> Any:
    semlock = obj._semlock
    if isinstance(semlock, RemoteSemLock):
        # Not ours either: its owner serves whoever we pass it on to.
        return rebuild_remote, (type(obj), semlock.address, semlock.key, semlock.kind, semlock.maxvalue)
    mutex = semlock.kind == RECURSIVE_MUTEX or type(obj).__name__ == "Lock"
    address, key = _shared().address_of(semlock, mutex)
    remote = (type(obj), address, key, semlock.kind, semlock.maxvalue)
    memory = getattr(obj, "_distpool_memory", None)
    if memory is not None:
        return rebuild_in_memory, (*remote, *memory)
    if semlock.name is not None:
        return rebuild_by_name, (*remote, obj.__getstate__())
    return rebuild_remote, remote


def _reduce_connection(end: Any) -> Any:
    from distpool.sharing import connections

    shared = _shared()
    descriptor = shared.DupFd(shared.duplicate_for_child(end.fileno()))
    return connections.rebuild, (descriptor, end.readable, end.writable)


def _reduce_remote_connection(end: Any) -> Any:
    from distpool.sharing import connections

    return connections.rebuild_remote, (*end.shared, end.readable, end.writable)


def _reduce_arena(arena: Any) -> Any:
    shared = _shared()
    return rebuild_arena, (arena.size, shared.DupFd(shared.duplicate_for_child(arena.fd)))


def _shared() -> Shared:
    from multiprocessing import context

    shared = context.get_spawning_popen()
    assert isinstance(shared, Shared)
    return shared


class AbsentArena:
    """Stands for shared memory of another machine, until somebody wants to read or write it."""

    @property
    def buffer(self) -> Any:
        """:raises OSError: always."""
        raise OSError(
            f"shared memory (Value, Array, Barrier) cannot be reached from {socket.gethostname()}: it lives in the "
            "memory of the machine where the program runs. Those of a manager can be used everywhere: "
            "multiprocessing.Manager().Value(), .Array(), .Barrier()"
        )


def rebuild_arena(size: int, descriptor: SharedDescriptor) -> Any:
    """The counterpart of the reducer: the memory, or in a worker on another machine what stands for it."""
    from multiprocessing import heap

    try:
        fd = descriptor.detach()
    except OSError:
        if not reach.asks_driver():
            raise
        return AbsentArena()
    return heap.Arena(size, fd)


def rebuild_in_memory(cls: Any, address: str, key: bytes, kind: int, maxvalue: int, arena: Any, start: int) -> Any:
    """A semaphore in shared memory, or on another machine one that works on it."""
    if isinstance(arena, AbsentArena):
        return rebuild_remote(cls, address, key, kind, maxvalue)
    from distpool.sharing.semaphores import rebuild

    return rebuild(cls, kind, maxvalue, arena, start)


def rebuild_by_name(cls: Any, address: str, key: bytes, kind: int, maxvalue: int, state: Any) -> Any:
    """A semaphore that has a name and so can be opened anew, or on another machine one that works on it."""
    obj = cls.__new__(cls)
    try:
        obj.__setstate__(state)
    except FileNotFoundError:
        if not reach.asks_driver():
            raise
        return rebuild_remote(cls, address, key, kind, maxvalue)
    return obj


def rebuild_remote(cls: Any, address: str, key: bytes, kind: int, maxvalue: int) -> Any:
    """A standard ``Lock``, ``RLock`` or semaphore that works on another process's one."""
    from multiprocessing import util

    obj = cls.__new__(cls)
    obj._semlock = RemoteSemLock(address, key, kind, maxvalue)
    obj._make_methods()
    # What the standard library looks at before it pickles it for a child that is not forked; such a child could not
    # open it, so that is refused with the standard library's words.
    obj._is_fork_ctx = True
    util.register_after_fork(obj, _after_fork)
    return obj


def _after_fork(obj: Any) -> None:
    obj._semlock._after_fork()
