"""The owner's side: one listening socket per process, from which other processes of the same user fetch file
descriptors and through which they use semaphores.

Every entry is named by a random key that only who holds a pickle of it knows; peers must run as the same user.  The
socket lives in Linux's abstract namespace, so that nothing is left behind, however this process ends; elsewhere it is
a file in ``multiprocessing``'s private temporary folder.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from distpool.interpreter import call_after_fork
from distpool.sharing import reach

KEY_BYTES = 16
#: First byte of a connection: what the client wants of the entry that the key names.
FETCH_DESCRIPTOR = b"F"
USE_SEMAPHORE = b"S"
USE_CONNECTION = b"C"

_UCRED = struct.Struct("3i")

_Entry = TypeVar("_Entry")


class Server:
    """Serves the entries of this process; starts its thread with the first one."""

    def __init__(self) -> None:
        # Finalizers call ``remove``, and may run wherever memory is taken: under the lock too, and in any other thread,
        # so nothing is waited for under it.
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._address = ""
        self._descriptors: dict[bytes, int | Callable[[], int]] = {}
        self._semaphores: dict[bytes, Callable[[socket.socket], None]] = {}

    def add_descriptor(self, fd: int | Callable[[], int]) -> tuple[str, bytes]:
        """Serve a duplicate of ``fd``, or what it gives when called, until ``remove``; returns address and key."""
        return self._add(self._descriptors, os.dup(fd) if isinstance(fd, int) else fd)

    def add_semaphore(self, serve: Callable[[socket.socket], None]) -> tuple[str, bytes]:
        """Serve a semaphore until ``remove``: ``serve`` is called with each connection, in a thread of its own."""
        return self._add(self._semaphores, serve)

    def remove(self, keys: list[bytes]) -> None:
        """Serve these no longer (to new connections); with the last entry, the thread ends."""
        with self._lock:
            fds = [self._descriptors.pop(key) for key in keys if key in self._descriptors]
            for key in keys:
                self._semaphores.pop(key, None)
            listener = None
            if not self._descriptors and not self._semaphores:
                listener, self._listener = self._listener, None
        for fd in fds:
            if isinstance(fd, int):
                os.close(fd)
        if listener is not None:
            # The accepting thread is woken by this, and closes it; closing alone would leave it asleep.
            listener.shutdown(socket.SHUT_RDWR)

    def _add(self, entries: dict[bytes, _Entry], entry: _Entry) -> tuple[str, bytes]:
        key = os.urandom(KEY_BYTES)
        started: tuple[socket.socket, str] | None = None
        while True:
            with self._lock:
                # First, since as long as there are entries no finalizer ends the listener.
                entries[key] = entry
                if self._listener is None and started is not None:
                    (self._listener, self._address), started = started, None
                listens, address = self._listener is not None, self._address
            if listens:
                break
            try:
                started = self._start()
            except BaseException:
                self.remove([key])
                raise
        if started is not None:
            # Another thread was sooner.
            started[0].shutdown(socket.SHUT_RDWR)
        return address, key

    def _start(self) -> tuple[socket.socket, str]:
        """A listener with its thread, and its address.  Not under the lock: the new thread may run a finalizer before
        it counts as started."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if sys.platform == "linux":
                address = f"\0distpool-{os.getpid()}-{os.urandom(8).hex()}"
            else:
                from multiprocessing.util import get_temp_dir

                address = os.path.join(get_temp_dir(), f"share-{os.urandom(4).hex()}")
            listener.bind(address)
            listener.listen(128)
            threading.Thread(target=self._accept, args=(listener,), name="distpool-sharing", daemon=True).start()
        except BaseException:
            listener.close()
            raise
        return listener, address

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED):
                    # A passing want of something; the client is still queued, or gone.
                    time.sleep(0.1)
                    continue
                listener.close()
                return
            threading.Thread(
                target=self._serve, args=(connection,), name="distpool-sharing-client", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if not _same_user(connection):
                    return
                hello = receive_exactly(connection, 1 + KEY_BYTES)
                kind, key = hello[:1], hello[1:]
                if kind == FETCH_DESCRIPTOR:
                    self._send_descriptor(connection, key)
                elif kind == USE_CONNECTION:
                    self._serve_connection(connection, key)
                elif kind == USE_SEMAPHORE:
                    serve = self._semaphores.get(key)
                    if serve is not None:
                        serve(connection)
            except (OSError, EOFError):
                pass  # the client is gone

    def _send_descriptor(self, connection: socket.socket, key: bytes) -> None:
        provide = self._descriptors.get(key)
        if callable(provide):
            fds = array.array("i", [provide()])
            connection.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            return
        with self._lock:
            fd = self._descriptors.get(key)
            if not isinstance(fd, int):
                return
            # Under the lock, so that it is not closed and its number reused in between.
            fds = array.array("i", [fd])
            connection.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def _serve_connection(self, client: socket.socket, key: bytes) -> None:
        with self._lock:
            fd = self._descriptors.get(key)
            if not isinstance(fd, int):
                return
            duplicate = os.dup(fd)
        from distpool.sharing import connections

        connections.serve(client, duplicate)

    def forget_after_fork(self) -> None:
        """In a forked child: the entries are the parent's."""
        self._lock = threading.RLock()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for fd in self._descriptors.values():
            if isinstance(fd, int):
                os.close(fd)
        self._descriptors.clear()
        self._semaphores.clear()


def connect(address: str, kind: bytes, key: bytes) -> socket.socket:
    """Dial an owner's server.

    :raises OSError: when the owner is gone, or on another machine.
    """
    connection = None
    try:
        # Descriptors cannot leave their machine.
        connection = (reach.connect_here if kind == FETCH_DESCRIPTOR else reach.connect)(address)
        connection.sendall(kind + key)
    except OSError as error:
        if connection is not None:
            connection.close()
        raise OSError(
            error.errno,
            "a multiprocessing object (lock, queue, pipe, shared value) cannot be reached from "
            f"{socket.gethostname()}: the program that made it has ended or runs on another machine ({error.strerror})",
        ) from None
    return connection


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes.

    :raises EOFError: when the other side hangs up before.
    """
    data = connection.recv(size)
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _same_user(connection: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the socket is a file in a folder that only this user may enter
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == os.geteuid())


class SharedDescriptor:
    """A file descriptor of another process, to be fetched from it; stands where ``multiprocessing`` pickles a
    ``DupFd``.  May be fetched any number of times, by any number of processes."""

    def __init__(self, address: str, key: bytes) -> None:
        self._address = address
        self._key = key

    @property
    def shared(self) -> tuple[str, bytes]:
        """Address and key of the entry."""
        return self._address, self._key

    def detach(self) -> int:
        """A descriptor of our own; the caller closes it."""
        with connect(self._address, FETCH_DESCRIPTOR, self._key) as connection:
            _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_LEN(array.array("i").itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: fds.itemsize])
                os.set_inheritable(fds[0], False)
                return fds[0]
        raise OSError(
            "a multiprocessing object (queue, pipe, shared value) is gone: its owner shares it only while the pool "
            "that it was given to exists"
        )

    def __getstate__(self) -> Any:
        return self._address, self._key

    def __setstate__(self, state: Any) -> None:
        self._address, self._key = state


server = Server()

call_after_fork(server.forget_after_fork)
