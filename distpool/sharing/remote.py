"""A semaphore that only its owner can reach: others use it through a thread of the owner.

``multiprocessing`` unlinks its semaphores as soon as they are made when its start method is ``fork``; no other process
can open them after that, yet programs pass them to pools all the time (``tqdm`` does).  A worker's thread that uses one
has a connection, and the owner has a thread, for each such pair: so recursive locks, which belong to threads, keep
their meaning.  An operation costs a round trip (some ten microseconds) instead of a system call.

A lock whose holder dies is released, where the standard library's would be locked for ever; and what a process would
have got that died, or gave up, while it waited for a semaphore goes to another.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import threading
from typing import Any

from distpool.sharing.server import USE_SEMAPHORE, connect, receive_exactly

# Values of ``multiprocessing.synchronize``; importing that for them would take time in every worker.
RECURSIVE_MUTEX = 0

_REQUEST = struct.Struct("!cBd")  # operation, block, timeout in seconds (NaN: none)
_REPLY = struct.Struct("!bq")  # index into _ERRORS, value

_ACQUIRE, _RELEASE, _COUNT, _IS_MINE, _VALUE, _GOODBYE = (bytes([code]) for code in b"arcmvg")
_ERRORS: tuple[type[Exception] | None, ...] = (None, ValueError, AssertionError, NotImplementedError, OSError)
_MESSAGES = (
    "",
    "semaphore or lock released too many times",
    "attempt to release recursive lock not owned by thread",
    "this system cannot tell the value of a semaphore",
    "the owner of the lock could not perform the operation",
)


def serve(connection: socket.socket, semlock: Any, mutex: bool) -> None:
    """The owner's side of one connection.

    :param semlock: the ``_multiprocessing.SemLock``.
    :param mutex: whoever acquired it is meant to release it, so a holder that dies releases it.
    """
    held = 0
    granted = 0  # by the last answer
    unknown = 0  # of that, what the client never learnt of
    farewell = False
    try:
        while True:
            operation, block, timeout_s = _REQUEST.unpack(receive_exactly(connection, _REQUEST.size))
            granted = 0
            if operation == _GOODBYE:
                farewell = True
                return
            error, value = _perform(semlock, operation, bool(block), None if math.isnan(timeout_s) else timeout_s)
            if error == 0:
                held += {_ACQUIRE: value, _RELEASE: -1}.get(operation, 0)
                granted = value if operation == _ACQUIRE else 0
            if granted and _hung_up(connection):
                raise BrokenPipeError
            connection.sendall(_REPLY.pack(error, value))
    except OSError:
        # The last answer could not be sent, or (connection reset) was not read.
        unknown = granted
        raise
    finally:
        # A recursive lock belongs to this thread, so nobody else can ever release it.  A plain one may legally be
        # released by somebody else after its holder left in good order.
        taken_back = held if semlock.kind == RECURSIVE_MUTEX or (mutex and not farewell) else unknown
        for _ in range(taken_back):
            semlock.release()


def _hung_up(connection: socket.socket) -> bool:
    """Whether the client left while it waited for an answer, before which it sends nothing more.

    An answer can still be sent to one that is reached through a relay, so sending alone does not tell.
    """
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _perform(semlock: Any, operation: bytes, block: bool, timeout_s: float | None) -> tuple[int, int]:
    try:
        if operation == _ACQUIRE:
            return 0, int(semlock.acquire(block, timeout_s))
        if operation == _RELEASE:
            semlock.release()
            return 0, 0
        if operation == _COUNT:
            return 0, int(semlock._count())
        if operation == _IS_MINE:
            return 0, int(semlock._is_mine())
        return 0, int(semlock._get_value())
    except Exception as error:
        kinds = [index for index, kind in enumerate(_ERRORS) if kind is not None and isinstance(error, kind)]
        return (kinds or [len(_ERRORS) - 1])[0], 0


class RemoteSemLock:
    """Stands for a ``_multiprocessing.SemLock`` of another process; the standard ``Lock``, ``RLock``, ``Semaphore``
    and all that is built of them work on it."""

    name = None
    handle = None

    def __init__(self, address: str, key: bytes, kind: int, maxvalue: int) -> None:
        self.address = address
        self.key = key
        self.kind = kind
        self.maxvalue = maxvalue
        self._local = threading.local()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """As ``multiprocessing.Lock.acquire``."""
        return bool(self._call(_ACQUIRE, block, timeout))

    def release(self) -> None:
        """As ``multiprocessing.Lock.release``."""
        self._call(_RELEASE)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _count(self) -> int:
        return self._call(_COUNT)

    def _is_mine(self) -> bool:
        return bool(self._call(_IS_MINE))

    def _get_value(self) -> int:
        return self._call(_VALUE)

    def _is_zero(self) -> bool:
        return self._call(_VALUE) == 0

    def _after_fork(self) -> None:
        self._local = threading.local()

    def _call(self, operation: bytes, block: bool = True, timeout: float | None = None) -> int:
        line: _Line | None = getattr(self._local, "line", None)
        if line is None or line.pid != os.getpid():
            line = self._local.line = _Line(connect(self.address, USE_SEMAPHORE, self.key))
        try:
            return line.call(operation, block, timeout)
        except BaseException as error:
            if not line.intact:
                # An answer may still be on its way; nobody must mistake it for that to the next question.  If it
                # would have been the lock, the owner takes it back when it finds us gone.
                self._local.line = None
                line.close()
            if isinstance(error, EOFError):
                raise OSError("the process that owns this lock has ended") from None
            raise


class _Line:
    """One thread's connection to one semaphore."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid = os.getpid()
        self.intact = True
        self._connection = connection

    def call(self, operation: bytes, block: bool, timeout: float | None) -> int:
        timeout_s = math.nan if timeout is None else timeout
        self.intact = False
        self._connection.sendall(_REQUEST.pack(operation, block, timeout_s))
        error, value = _REPLY.unpack(receive_exactly(self._connection, _REPLY.size))
        self.intact = True
        kind = _ERRORS[error]
        if kind is not None:
            raise kind(_MESSAGES[error])
        return int(value)

    def close(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        # The thread, or the process, ends in good order.
        if self.intact and self.pid == os.getpid():
            try:
                self._connection.sendall(_REQUEST.pack(_GOODBYE, 0, 0.0))
            except OSError:
                pass
        self._connection.close()
