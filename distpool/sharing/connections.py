"""Ends of pipes whose descriptors are on another machine: their owner reads and writes for us.

``multiprocessing``'s queues and pipes are made of such ends.  Each call is a question to the owner and its answer, so
that a queue's locks protect what they protect at home: a message is in the pipe before its writer lets the lock go.
"""

from __future__ import annotations

import math
import multiprocessing.connection
import os
import socket
import struct
import threading
from io import BytesIO
from typing import Any

from distpool.sharing import reach
from distpool.sharing.server import USE_CONNECTION, SharedDescriptor, connect, receive_exactly

_REQUEST = struct.Struct("!cqd")  # operation, size, timeout in seconds (NaN: none)
_REPLY = struct.Struct("!bq")  # outcome, size, or the errno
_SEND, _RECEIVE, _POLL = (bytes([code]) for code in b"srp")
_DONE, _ENDED, _FAILED = range(3)


def serve(client: socket.socket, fd: int) -> None:
    """The owner's side of one client's connection.

    :param fd: of the pipe or socket; closed in the end.
    """
    end = multiprocessing.connection.Connection(fd)
    try:
        while True:
            operation, size, timeout_s = _REQUEST.unpack(receive_exactly(client, _REQUEST.size))
            data = receive_exactly(client, size) if operation == _SEND else b""
            answer = b""
            try:
                if operation == _SEND:
                    end.send_bytes(data)
                    reply = _REPLY.pack(_DONE, 0)
                else:
                    ready = multiprocessing.connection.wait([end, client], None if math.isnan(timeout_s) else timeout_s)
                    if client in ready:
                        return  # it is gone, since it asks nothing while it waits; what comes now is for others
                    if operation == _POLL:
                        reply = _REPLY.pack(_DONE, int(end in ready))
                    else:
                        answer = end.recv_bytes(None if size < 0 else size)
                        reply = _REPLY.pack(_DONE, len(answer))
            except EOFError:
                reply = _REPLY.pack(_ENDED, 0)
            except OSError as error:
                reply = _REPLY.pack(_FAILED, error.errno or 0)
            client.sendall(reply)
            if answer:
                client.sendall(answer)
    finally:
        end.close()


class RemoteConnection(multiprocessing.connection._ConnectionBase):
    """Stands for a ``multiprocessing.connection.Connection`` whose pipe is on another machine."""

    def __init__(self, address: str, key: bytes, readable: bool, writable: bool) -> None:
        self.shared = (address, key)
        self._local = threading.local()
        self._lines: list[socket.socket] = []
        super().__init__(self._line().fileno(), readable, writable)

    def fileno(self) -> int:
        """:raises OSError: always, since the descriptor is on another machine."""
        raise OSError("this end of a pipe is on another machine and has no descriptor here; poll() tells of its state")

    def _line(self) -> socket.socket:
        """This thread's own connection to the owner: one may wait for a message while another sends."""
        line: socket.socket | None = getattr(self._local, "line", None)
        if line is None or self._local.pid != os.getpid():
            line = self._local.line = connect(self.shared[0], USE_CONNECTION, self.shared[1])
            self._local.pid = os.getpid()
            self._lines.append(line)
        return line

    def _ask(self, operation: bytes, size: int, timeout_s: float | None = None, data: bytes = b"") -> tuple[int, Any]:
        line = self._line()
        try:
            line.sendall(_REQUEST.pack(operation, size, math.nan if timeout_s is None else timeout_s))
            if data:
                line.sendall(data)
            outcome, value = _REPLY.unpack(receive_exactly(line, _REPLY.size))
            if outcome == _DONE and operation == _RECEIVE:
                return value, receive_exactly(line, value) if value else b""
        except BaseException as error:
            # An answer may still be on its way, which nobody must take for that to the next question.
            self._local.line = None
            self._lines.remove(line)
            line.close()
            if isinstance(error, EOFError):
                raise OSError("the process that owns this end of a pipe has ended") from None
            raise
        if outcome == _ENDED:
            raise EOFError
        if outcome == _FAILED:
            raise OSError(value, os.strerror(value)) if value else OSError("bad message length")
        return value, b""

    def _send_bytes(self, buf: Any) -> None:
        data = bytes(buf)
        self._ask(_SEND, len(data), data=data)

    def _recv_bytes(self, maxsize: int | None = None) -> BytesIO:
        _, data = self._ask(_RECEIVE, -1 if maxsize is None else maxsize)
        buffer = BytesIO()
        buffer.write(data)
        return buffer

    def _poll(self, timeout: float | None) -> bool:
        return bool(self._ask(_POLL, 0, timeout)[0])

    def _close(self) -> None:
        for line in self._lines:
            line.close()


def rebuild(descriptor: SharedDescriptor, readable: bool, writable: bool) -> Any:
    """The counterpart of the reducer: the end itself, or on another machine what stands for it."""
    try:
        fd = descriptor.detach()
    except OSError:
        if not reach.asks_driver():
            raise
        return RemoteConnection(*descriptor.shared, readable, writable)
    return multiprocessing.connection.Connection(fd, readable, writable)


def rebuild_remote(address: str, key: bytes, readable: bool, writable: bool) -> RemoteConnection:
    """The counterpart of the reducer of a ``RemoteConnection``, which is not this process's to serve."""
    return RemoteConnection(address, key, readable, writable)
