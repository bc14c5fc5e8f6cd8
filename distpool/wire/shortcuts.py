"""Shortcuts: sockets that lead straight from a driver to a worker of the same machine, beside their ZeroMQ connection.

On its way through ZeroMQ a message wakes a thread of ZeroMQ's at either end; there and back that makes six wake-ups,
where a plain socket needs two.  So small messages between a driver and a worker take a Unix socket if they can: it
keeps messages apart (``SOCK_SEQPACKET``), and takes one whole or, when its buffer is full, not at all.  Everything else
goes through ZeroMQ, whose buffer has no end.

Messages to a peer with a shortcut are numbered, and whichever way they took, they are handed on in that order.  The
side that dials sends its routing id first, and takes the shortcut when the other side has answered that; until then,
and for ever if it does not, it uses ZeroMQ.  Sockets lie in the node's folder, which only its user can enter.

The end of a worker is seen here sooner than anywhere else, and behind everything that it said: where a message of its
goes through ZeroMQ, its number alone goes through the shortcut.  If nothing is missing when the shortcut breaks, a
message without frames says so.

Used by ``channel`` only, under its lock.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterable

#: What goes through a shortcut at most; larger messages gain nothing.
MOST_BYTES = 32 << 10
_SUFFIX = "+"
#: Taken in at once, so that senders get their turn: so many messages of so many peers.
ROUNDS, _READY = 64, 16
_NUMBER = struct.Struct("<Q")
_HEADER = _NUMBER.size
_number_in = _NUMBER.unpack_from
#: Drivers and workers, whose messages are of one frame: a second one is a number.
_ROLES = (b"d", b"w")
_GREETING = b"\0distpool shortcut\0"
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_DONTWAIT", 0)

#: Messages in the order in which they are to be handled: from whom, and their frames (none: no more will come).
Arrived = list["tuple[bytes, list[bytes]]"]


def path_beside(endpoint: str) -> str:
    """Where the owner of this endpoint listens for shortcuts; empty when there are none to it."""
    return endpoint.removeprefix("ipc://") + _SUFFIX if endpoint.startswith("ipc://") else ""


class _Shortcut:
    """A peer to which there is, or was, a shortcut: the numbers go on when it has broken."""

    __slots__ = ("announced", "expected", "held", "peer", "sent", "socket", "usable")

    def __init__(self, peer: bytes, connection: socket.socket | None, *, usable: bool) -> None:
        self.peer = peer
        self.socket = connection
        self.usable = usable
        self.sent = 0
        self.expected = 0
        #: so many messages have been sent, as far as is known
        self.announced = 0
        self.held: dict[int, list[bytes]] = {}

    def deliver(self, number: int, frames: list[bytes], arrived: Arrived) -> None:
        """Hand on what has come, as soon as all that was sent before it has."""
        if number != self.expected:
            self.held[number] = frames
            return
        arrived.append((self.peer, frames))
        self.expected += 1
        while self.held and (next_frames := self.held.pop(self.expected, None)) is not None:
            arrived.append((self.peer, next_frames))
            self.expected += 1


class Shortcuts:
    """Those of one channel.

    :param watch: told of each descriptor that must be waited for from now on (True), or no longer (False).
    :ivar active: whether there are or were any; where not, this need not be asked.
    :ivar by_fd: those that are connected, by descriptor.
    """

    def __init__(self, routing_id: bytes, watch: Callable[[int, bool], None]) -> None:
        self._routing_id = routing_id
        self._watch = watch
        self._epoll = select.epoll() if hasattr(select, "epoll") and hasattr(socket, "SOCK_SEQPACKET") else None
        self.active = False
        self._listener: socket.socket | None = None
        self.by_fd: dict[int, _Shortcut] = {}
        self._by_peer: dict[bytes, _Shortcut] = {}
        self._buffer = bytearray(MOST_BYTES + _NUMBER.size + 1)
        self._view = memoryview(self._buffer)

    def listen(self, endpoint: str) -> None:
        """Let drivers dial the owner of ``endpoint``."""
        path = path_beside(endpoint)
        if self._epoll is None or not path:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind(path)
            listener.listen(8)
        except OSError:
            listener.close()
            return
        listener.setblocking(False)
        self._listener = listener
        self.active = True
        self._register(listener.fileno())

    def dial(self, endpoint: str, peer: bytes) -> None:
        """Try for a shortcut to the peer that listens at ``endpoint``, before the first message to it."""
        path = path_beside(endpoint)
        if self._epoll is None or not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(path)
            connection.send(_GREETING + self._routing_id, _FLAGS)
        except OSError:
            connection.close()
            return
        self._add(_Shortcut(peer, connection, usable=False))

    def send(self, peer: bytes, frame: bytes | memoryview) -> bytes | None:
        """Send a message of one frame.  None: it has left; otherwise a further frame with which ZeroMQ is to carry it,
        empty if there never was a shortcut."""
        shortcut = self._by_peer.get(peer)
        if shortcut is None:
            return b""
        number = _NUMBER.pack(shortcut.sent)
        shortcut.sent += 1
        if shortcut.usable:
            assert shortcut.socket is not None
            small = len(frame) <= MOST_BYTES
            try:
                shortcut.socket.send(number + frame if small else number, _FLAGS)
                if small:
                    return None
            except OSError:
                pass  # it is full, or broken, of which we hear when we read
        return number

    def descriptors(self) -> list[int]:
        """What must be waited for at this moment."""
        listening = [self._listener.fileno()] if self._listener is not None else []
        return [*listening, *self.by_fd]

    def take_in_from(self, fds: Iterable[int], arrived: Arrived) -> None:
        """Take in one message from each of these connections, which are said to have one."""
        for fd in fds:
            shortcut = self.by_fd.get(fd)
            if shortcut is not None:  # else it broke in the meantime
                self._receive(shortcut, arrived)

    def take_in(self, arrived: Arrived) -> None:
        """Take in what has come, but not endlessly much: descriptors stay readable as long as there is more."""
        epoll = self._epoll
        if epoll is None:
            return
        for _ in range(ROUNDS):
            ready = epoll.poll(0, _READY)
            if not ready:
                break
            for fd, _ in ready:
                shortcut = self.by_fd.get(fd)
                if shortcut is not None:
                    self._receive(shortcut, arrived)
                elif self._listener is not None and fd == self._listener.fileno():
                    self._accept(self._listener)

    def deliver(self, peer: bytes, frames: list[bytes], arrived: Arrived) -> None:
        """Hand on what came through ZeroMQ, in its turn."""
        if len(frames) != 2 or len(frames[1]) != _NUMBER.size or peer[:1] not in _ROLES:
            arrived.append((peer, frames))
            return
        number = frames.pop()
        if peer not in self._by_peer:
            self.take_in(arrived)  # it dialled before it sent this
        shortcut = self._by_peer.get(peer)
        if shortcut is None:
            arrived.append((peer, frames))
        else:
            shortcut.deliver(_NUMBER.unpack(number)[0], frames, arrived)

    def hang_up(self, peer: bytes) -> None:
        """Forget a peer."""
        shortcut = self._by_peer.pop(peer, None)
        if shortcut is not None:
            self._break(shortcut)

    def close(self) -> None:
        """Close them all."""
        self._by_peer.clear()
        for shortcut in list(self.by_fd.values()):
            self._break(shortcut)
        self._stop_listening()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    # -- within -------------------------------------------------------------------------------------------------

    def _add(self, shortcut: _Shortcut) -> None:
        assert shortcut.socket is not None
        fd = shortcut.socket.fileno()
        self.active = True
        self.by_fd[fd] = shortcut
        if shortcut.peer:
            self._by_peer[shortcut.peer] = shortcut
        self._register(fd)

    def _receive(self, shortcut: _Shortcut, arrived: Arrived) -> None:
        try:
            size = shortcut.socket.recv_into(self._buffer)  # type: ignore[union-attr]  # connected, or it were not here
        except (BlockingIOError, ConnectionResetError):
            return  # after a reset there may still be last words, and then the end
        except OSError:
            self._break(shortcut)
            return
        if not size:
            complete = shortcut.expected >= shortcut.announced and not shortcut.held
            if shortcut.usable and complete and shortcut.peer[:1] == b"w":
                arrived.append((shortcut.peer, []))
            self._break(shortcut)
        elif shortcut.usable:
            (number,) = _number_in(self._buffer)
            if size == _HEADER:
                shortcut.announced = number + 1
                return
            frames = [bytes(self._view[_HEADER:size])]
            if number == shortcut.expected and not shortcut.held:
                shortcut.expected = number + 1
                arrived.append((shortcut.peer, frames))
            else:
                shortcut.deliver(number, frames, arrived)
        elif shortcut.peer:
            shortcut.usable = True  # the other side's answer to our greeting
        else:
            self._admit(shortcut, bytes(self._view[:size]))

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._stop_listening()  # out of descriptors: nobody may count on a shortcut that nobody listens to
            return
        connection.setblocking(False)
        # Whoever waits here is often faster than the other side, which has yet to send its greeting.
        self._add(_Shortcut(b"", connection, usable=False))

    def _admit(self, shortcut: _Shortcut, greeting: bytes) -> None:
        """A peer that dialled has said who it is."""
        peer = greeting.removeprefix(_GREETING)
        try:
            if peer == greeting or peer in self._by_peer:
                raise ConnectionError("a stranger")
            assert shortcut.socket is not None
            shortcut.socket.send(_GREETING, _FLAGS)
        except OSError:
            self._break(shortcut)
            return
        shortcut.peer = peer
        shortcut.usable = True
        self._by_peer[peer] = shortcut

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._unregister(listener.fileno())
            listener.close()

    def _break(self, shortcut: _Shortcut) -> None:
        connection, shortcut.socket = shortcut.socket, None
        shortcut.usable = False
        if connection is not None:
            # Closing would not do: a process that the user forked may have the same socket.
            self._unregister(connection.fileno())
            del self.by_fd[connection.fileno()]
            connection.close()

    def _register(self, fd: int) -> None:
        assert self._epoll is not None
        self._epoll.register(fd, select.EPOLLIN)
        self._watch(fd, True)

    def _unregister(self, fd: int) -> None:
        if self._epoll is not None:
            self._epoll.unregister(fd)
            self._watch(fd, False)
