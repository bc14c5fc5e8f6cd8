"""One ROUTER socket per process that any thread may use.

Every role (driver, scheduler, agent, worker) has exactly one channel.  Peers are named by routing ids, whose first
letter tells the role (``d``, ``s``, ``a``, ``w``); the side that dials names the peer it dials beforehand, so it can
send at once.

A ZeroMQ socket is not thread-safe, and a thread that sits in ``zmq_poll`` on it would keep others from sending.
Here threads wait on the socket's *file descriptor* (and on a wake-up descriptor), which is safe, and touch the socket
only for the moment of a send or a drain, under a lock.  The descriptor is edge-triggered: whoever touches the socket
must look whether that swallowed the edge, and pass it on: every method here does.

Within a machine channels speak over ipc sockets in a folder that only this user can enter.  Beyond it they speak TCP,
always encrypted and authenticated (see ``security``): a channel without the cluster's keys refuses TCP endpoints.
"""

from __future__ import annotations

import socket as sockets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import zmq

from distpool.wire.doorbell import Doorbell
from distpool.wire.frames import FRAME_BYTES, Frame, in_pieces, put_together
from distpool.wire.shortcuts import Shortcuts
from distpool.wire.silence import silence_s
from distpool.wire.waiting import Waiter

if TYPE_CHECKING:
    from distpool.wire.links import LinkEvent, LinkWatch
    from distpool.wire.security import Keys

#: A peer and the parts of what it said; of a bulk channel, all but the first are memoryviews.
Incoming: TypeAlias = "tuple[bytes, list[bytes]]"

#: What ``wait`` returns unless messages are in certain shortcuts only, of which it then returns the descriptors.
EVERYTHING = (-1,)
#: Messages that are taken in while the lock is held; few if they are large, since others want to be served in between.
_AT_ONCE, _BULKS_AT_ONCE = 256, 32
#: As plain numbers: to combine flags of an enumeration takes longer than what is done with them.
_NOW, _MORE, _POLLIN = int(zmq.NOBLOCK), int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.POLLIN)
#: Frames larger than this are handed to ZeroMQ without a copy.
_ZERO_COPY_BYTES = 65536
#: What encryption adds to a frame, and more.
_FRAME_MARGIN_BYTES = 1 << 10
#: Seconds that a caller may take to authenticate.
_HANDSHAKE_S = 10
#: Shares of the time that a peer may be silent after which its connection is looked at, and given up.  ZeroMQ's own
#: threads do this, so a process that computes for long without the interpreter's lock is not given up.
_HEARTBEAT, _SILENCE = 0.3, 1.2
#: Options of local endpoints that those of TCP differ from.
_LOCAL = ((zmq.CURVE_SERVER, 0), (zmq.MAXMSGSIZE, -1), (zmq.HEARTBEAT_IVL, 0))
#: Seconds between attempts to connect over TCP that are not answered at all.
_CONNECT_S = 5


class PeerUnreachable(Exception):
    """There is no connection to this peer (any more); nothing was sent."""


class Channel:
    """See the module's description.

    :param context: the ZeroMQ context; the channel does not end it.
    :param routing_id: how peers see this process.
    :param keys: the cluster's, for TCP.
    :param bulk: it carries much: all but the first part of a message is handed over where ZeroMQ has received it.
    :ivar link_events: what became of TCP connections, for whoever has called ``watch_links``.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        routing_id: bytes,
        keys: Keys | None = None,
        *,
        bulk: bool = False,
    ) -> None:
        self.routing_id = routing_id
        self._bulk = bulk
        self.link_events: deque[LinkEvent] = deque(maxlen=10_000)
        self._keys = keys
        # Encryption copies anyway.
        self._copy_below = _ZERO_COPY_BYTES if keys is None else FRAME_BYTES + 1
        self._links: LinkWatch | None = None
        self._listens_to_tcp = False
        self._lock = threading.Lock()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        # What cannot be routed must be an error and not vanish; flow control is by credits, never by high-water marks.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Whoever dials anew is known under its name at once, even if the end of its old connection is not known yet:
        # otherwise the new one would be there and never be listened to.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket = socket
        self._fd = int(socket.getsockopt(zmq.FD))
        self._endpoints: dict[bytes, str] = {}
        #: Last words of peers that were hung up on.
        self._last_words: list[Incoming] = []
        self._doorbell = Doorbell()
        #: One for each thread that waits, or for each doorbell that threads wait with.
        self._waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
        self._own_waiter = threading.local()
        self._waiter_with: dict[Doorbell, Waiter] = {}
        self._shortcuts = Shortcuts(routing_id, self._watch_shortcut)
        self._closed = False

    def bind(self, endpoint: str, *, shortcuts: bool = False) -> str:
        """Listen at ``endpoint``; returns the endpoint with the port that was chosen, if it left that open.

        :param shortcuts: let peers of this machine take shortcuts (see ``shortcuts``).  Not with keys.
        :raises PermissionError: for a TCP endpoint without keys.
        :raises OSError: when it cannot be had (the port is taken, ...).
        """
        with self._lock:
            self._secure(endpoint)
            try:
                self._socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise OSError(error.errno, f"cannot listen at {endpoint}: {error.strerror}") from error
            if shortcuts and self._keys is None:
                self._shortcuts.listen(endpoint)
            self._pass_on_edge()
            return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, endpoint: str, peer: bytes, *, shortcut: bool = False) -> None:
        """Dial ``endpoint`` and call whoever listens there ``peer``; sending to it works at once.

        :param shortcut: take one if the peer lets us.
        :raises PermissionError: for a TCP endpoint without keys.
        :raises OSError: when the name of its host is not known.
        """
        endpoint = _resolved(endpoint)
        with self._lock:
            if peer in self._endpoints:
                raise ValueError(f"{peer!r} was dialled before")  # ZeroMQ would abort the process
            gone = self._peer_at(endpoint)
            if gone is not None:
                # Its port is another's now.  ZeroMQ knows connections by their endpoint alone: whoever hung up on the
                # old one later would end the new one as well.
                while not self._take_in(self._last_words, self._shortcuts if self._shortcuts.active else None):
                    pass
                self._hang_up(gone)
            self._secure(endpoint, peer)
            self._endpoints[peer] = endpoint
            if shortcut and self._keys is None:
                self._shortcuts.dial(endpoint, peer)
            self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, peer)
            self._socket.connect(endpoint)
            self._pass_on_edge()

    def watch_links(self, ring: Callable[[], None]) -> None:
        """Have ``link_events`` filled from now on; called before the first ``bind`` or ``connect``.

        :param ring: called, in another thread, when there is something new.
        """
        from distpool.wire.links import LinkWatch

        def note(event: LinkEvent) -> None:
            self.link_events.append(event)
            ring()

        self._links = LinkWatch(self._socket, self._peer_at, note)

    def _peer_at(self, endpoint: str) -> bytes | None:
        for peer, known in list(self._endpoints.items()):
            if known == endpoint:
                return peer
        return None

    def _secure(self, endpoint: str, peer: bytes | None = None) -> None:
        """Options of the next endpoint, where ``peer`` is dialled, or else we listen; those before it keep theirs."""
        socket, keys = self._socket, self._keys
        if not endpoint.startswith("tcp://"):
            if self._listens_to_tcp:
                # The socket's authentication domain cannot be taken back, so local peers would be asked for keys.
                raise RuntimeError("local endpoints come before a TCP listener")
            for option, usual in _LOCAL:
                socket.setsockopt(option, usual)
            return
        if keys is None:
            raise PermissionError(f"{endpoint}: TCP needs the cluster's keys")
        if peer is None:
            self._listens_to_tcp = True
            socket.setsockopt(zmq.ZAP_DOMAIN, b"distpool")
            # Without this, everybody would be let in whenever nobody answers for the domain.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.listener(self.routing_id)[1])
            socket.setsockopt(zmq.CURVE_SERVER, 1)
        else:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.dialler_public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.dialler_secret)
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.listener(peer)[0])
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES + _FRAME_MARGIN_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_S * 1000)
        silence_ms = silence_s() * 1000
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(_HEARTBEAT * silence_ms))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(_SILENCE * silence_ms))
        # (The protocol's own field of it ends at 6,553 s.)
        socket.setsockopt(zmq.HEARTBEAT_TTL, min(6_500_000, int(_SILENCE * silence_ms)))
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_S * 1000)

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that was dialled; unknown peers are ignored."""
        with self._lock:
            if peer in self._endpoints and not self._closed:
                self._hang_up(peer)
                self._pass_on_edge()

    def _hang_up(self, peer: bytes) -> None:
        endpoint = self._endpoints.pop(peer)
        self._shortcuts.hang_up(peer)
        if self._links is not None:
            self._links.forget(peer)
        try:
            self._socket.disconnect(endpoint)
        except zmq.ZMQError:
            pass  # the other side was faster

    def send(self, peer: bytes, frames: Sequence[Frame]) -> None:
        """Send one message of one or several parts.  Never blocks.

        :raises PeerUnreachable: when there is no connection to ``peer``.
        """
        socket = self._socket
        if self._keys is not None:
            frames = in_pieces(frames)
        with self._lock:
            if self._closed:
                raise PeerUnreachable(peer)
            if self._shortcuts.active and len(frames) == 1:
                number = self._shortcuts.send(peer, frames[0])
                if number is None:
                    return
                if number:
                    frames = (frames[0], number)
            try:
                socket.send(peer, _MORE)
                last = len(frames) - 1
                for i in range(last):
                    frame = frames[i]
                    socket.send(frame, _MORE, copy=len(frame) < self._copy_below)
                frame = frames[last]
                socket.send(frame, _NOW, copy=len(frame) < self._copy_below)
            except zmq.ZMQError as error:
                raise PeerUnreachable(peer) from error
            finally:
                self._pass_on_edge()

    def drain(self, ready: Sequence[int] = EVERYTHING) -> list[Incoming]:
        """All messages that have arrived, without waiting.

        :param ready: what ``wait`` has just returned.
        """
        arrived: list[Incoming] = []
        with self._lock:
            if self._closed:
                return arrived
            if self._last_words:
                arrived, self._last_words = self._last_words, arrived
            shortcuts = self._shortcuts if self._shortcuts.active else None
            if shortcuts is not None:
                if ready is not EVERYTHING:
                    # Who has just waited will do so again: no need to look for more than there was.
                    shortcuts.take_in_from(ready, arrived)
                    return arrived
                shortcuts.take_in(arrived)
            if not self._take_in(arrived, shortcuts):
                self.wake()
        return arrived

    def _take_in(self, arrived: list[Incoming], shortcuts: Shortcuts | None) -> bool:
        """Add what is in ZeroMQ's socket; False when that may not be all (caller holds the lock)."""
        socket, most = self._socket, len(arrived) + (_BULKS_AT_ONCE if self._bulk else _AT_ONCE)
        while self._readable():
            # One lock hold for the whole backlog would starve senders; a bound keeps both sides moving.
            if len(arrived) >= most:
                return False
            if self._bulk:
                arrived.append(self._take_bulk())
                continue
            frames = socket.recv_multipart(_NOW)
            if shortcuts is not None:
                shortcuts.deliver(frames[0], frames[1:], arrived)
                continue
            several = self._keys is not None and len(frames) > 2
            arrived.append((frames[0], put_together(frames[1:]) if several else frames[1:]))
        return True

    def _take_bulk(self) -> Incoming:
        socket = self._socket
        peer, first = socket.recv(_NOW), socket.recv(_NOW)
        frames: list[Any] = [first]
        while socket.getsockopt(zmq.RCVMORE):
            frames.append(socket.recv(_NOW, copy=False).buffer)
        return peer, put_together(frames)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What an event loop polls for reading instead of calling ``wait``; it then calls ``drain_woken``."""
        return self._fd, self._doorbell.fd

    def drain_woken(self) -> list[Incoming]:
        """``drain``, with past wake-ups forgotten."""
        self._doorbell.answer()
        return self.drain()

    def wait(self, timeout_s: float | None = None, doorbell: Doorbell | None = None) -> Sequence[int]:
        """Block until something may have arrived, ``wake`` was called, or ``doorbell`` rings; empty when the time ran
        out, otherwise what ``drain`` has to look at.  Returns at once while something waits to be drained.

        Several threads may wait.  A message or a ``wake`` brings at least one of them back, which must ``drain``;
        whoever must reach a certain thread rings the doorbell that this thread waits with.
        """
        waiter: Waiter | None = (
            getattr(self._own_waiter, "waiter", None) if doorbell is None else self._waiter_with.get(doorbell)
        )
        if waiter is None:
            waiter = self._new_waiter(doorbell)
        ready = [fd for fd, _ in waiter.poll(-1 if timeout_s is None else max(0.0, timeout_s))]
        connected = self._shortcuts.by_fd
        for fd in ready:
            if fd not in connected:
                break
        else:
            return ready
        waiter.answer(ready)
        if self._doorbell.fd in ready:
            self._doorbell.answer()
        return EVERYTHING

    def receive(self, timeout_s: float | None = None, doorbell: Doorbell | None = None) -> list[Incoming]:
        """``wait`` and ``drain``.  May return an empty list."""
        ready = self.wait(timeout_s, doorbell)
        return self.drain(ready) if ready else []

    def wake(self) -> None:
        """Make some thread that waits come back and drain."""
        self._doorbell.ring()

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; what has not left yet may do so until the context ends, but no longer than ``linger_s``.
        No other thread may wait on the channel any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._links is not None:
                self._links.close()
            self._socket.close(int(linger_s * 1000))
            self._shortcuts.close()
            for waiter in self._waiters:
                waiter.close()
            self._waiter_with.clear()
        self._doorbell.close()

    def _pass_on_edge(self) -> None:
        """After any call on the socket, which may have taken in the news of a message silently: wake a waiter."""
        if self._last_words or self._readable():
            self.wake()

    def _readable(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & _POLLIN)

    def _new_waiter(self, doorbell: Doorbell | None) -> Waiter:
        with self._lock:
            waiter = Waiter((self._fd, self._doorbell.fd, *self._shortcuts.descriptors()), doorbell)
            self._waiters.add(waiter)
            if doorbell is None:
                self._own_waiter.waiter = waiter
            else:
                self._waiter_with[doorbell] = waiter
        return waiter

    def _watch_shortcut(self, fd: int, watch: bool) -> None:
        """A shortcut was made, or is about to be closed (caller holds the lock)."""
        for waiter in self._waiters:
            if watch:
                waiter.add(fd)
            else:
                waiter.remove(fd)


def _resolved(endpoint: str) -> str:
    """With a number in place of a host name, as events name it."""
    if not endpoint.startswith("tcp://"):
        return endpoint
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    family, *_, address = sockets.getaddrinfo(host.strip("[]"), int(port), type=sockets.SOCK_STREAM)[0]
    return f"tcp://[{address[0]}]:{port}" if family == sockets.AF_INET6 else f"tcp://{address[0]}:{port}"
