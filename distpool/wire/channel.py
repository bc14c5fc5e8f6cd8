"""One ROUTER socket per process that any thread may use.

Every role (driver, scheduler, agent, worker) has exactly one channel.  Peers are named by routing ids, whose first
letter tells the role (``d``, ``s``, ``a``, ``w``); the side that dials names the peer it dials beforehand, so it can
send at once.

A ZeroMQ socket is not thread-safe, and a thread that sits in ``zmq_poll`` on it would keep others from sending.
Here threads wait on the socket's *file descriptor* (and on a wake-up descriptor), which is safe, and touch the socket
only for the moment of a send or a drain, under a lock.  The descriptor is edge-triggered: whoever touches the socket
must look whether that swallowed the edge, and pass it on: every method here does.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Sequence
from typing import TypeAlias

import zmq

from distpool.wire.doorbell import Doorbell

Frame: TypeAlias = "bytes | memoryview"
Incoming: TypeAlias = "tuple[bytes, list[bytes]]"

#: Frames larger than this are handed to ZeroMQ without a copy.
_ZERO_COPY_BYTES = 65536


class PeerUnreachable(Exception):
    """There is no connection to this peer (any more); nothing was sent."""


class Channel:
    """See the module's description.

    :param context: the ZeroMQ context; the channel does not end it.
    :param routing_id: how peers see this process.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], routing_id: bytes) -> None:
        self.routing_id = routing_id
        self._lock = threading.Lock()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        # What cannot be routed must be an error and not vanish; flow control is by credits, never by high-water marks.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket = socket
        self._fd = int(socket.getsockopt(zmq.FD))
        self._endpoints: dict[bytes, str] = {}
        self._doorbell = Doorbell()
        #: One for each thread that waits: ``poll`` objects refuse a second one.
        self._polls = threading.local()
        self._closed = False

    def bind(self, endpoint: str) -> str:
        """Listen at ``endpoint``; returns the endpoint with the port that was chosen, if it left that open."""
        with self._lock:
            self._socket.bind(endpoint)
            self._pass_on_edge()
            return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, endpoint: str, peer: bytes) -> None:
        """Dial ``endpoint`` and call whoever listens there ``peer``; sending to it works at once."""
        with self._lock:
            self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, peer)
            self._socket.connect(endpoint)
            self._endpoints[peer] = endpoint
            self._pass_on_edge()

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that was dialled; unknown peers are ignored."""
        with self._lock:
            endpoint = self._endpoints.pop(peer, None)
            if endpoint is None or self._closed:
                return
            try:
                self._socket.disconnect(endpoint)
            except zmq.ZMQError:
                pass  # the other side was faster
            self._pass_on_edge()

    def send(self, peer: bytes, frames: Sequence[Frame]) -> None:
        """Send one message.  Never blocks.

        :raises PeerUnreachable: when there is no connection to ``peer``.
        """
        socket = self._socket
        with self._lock:
            if self._closed:
                raise PeerUnreachable(peer)
            try:
                socket.send(peer, zmq.SNDMORE | zmq.NOBLOCK)
                last = len(frames) - 1
                for i in range(last):
                    frame = frames[i]
                    socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK, copy=len(frame) < _ZERO_COPY_BYTES)
                frame = frames[last]
                socket.send(frame, zmq.NOBLOCK, copy=len(frame) < _ZERO_COPY_BYTES)
            except zmq.ZMQError as error:
                raise PeerUnreachable(peer) from error
            finally:
                self._pass_on_edge()

    def drain(self) -> list[Incoming]:
        """All messages that have arrived, without waiting."""
        socket = self._socket
        arrived: list[Incoming] = []
        with self._lock:
            if self._closed:
                return arrived
            while self._readable():
                # One lock hold for the whole backlog would starve senders; a bound keeps both sides moving.
                if len(arrived) >= 256:
                    self.wake()
                    break
                frames = socket.recv_multipart(zmq.NOBLOCK)
                arrived.append((frames[0], frames[1:]))
        return arrived

    @property
    def descriptors(self) -> tuple[int, int]:
        """What an event loop polls for reading instead of calling ``wait``; it then calls ``drain_woken``."""
        return self._fd, self._doorbell.fd

    def drain_woken(self) -> list[Incoming]:
        """``drain``, with past wake-ups forgotten."""
        self._doorbell.answer()
        return self.drain()

    def wait(self, timeout_s: float | None = None, doorbell: Doorbell | None = None) -> bool:
        """Block until something may have arrived, ``wake`` was called, or ``doorbell`` rings; False when the time ran
        out.

        Several threads may wait.  A message or a ``wake`` brings at least one of them back, which must ``drain``;
        whoever must reach a certain thread rings the doorbell that this thread waits with.
        """
        poll = self._poll_of(doorbell)
        ready = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        for fd, _ in ready:
            if fd == self._doorbell.fd:
                self._doorbell.answer()
            elif fd != self._fd and doorbell is not None:
                doorbell.note(fd, poll)
        return bool(ready)

    def receive(self, timeout_s: float | None = None, doorbell: Doorbell | None = None) -> list[Incoming]:
        """``drain``, and if there was nothing, ``wait`` and ``drain`` once more.  May return an empty list."""
        arrived = self.drain()
        if not arrived and self.wait(timeout_s, doorbell):
            arrived = self.drain()
        return arrived

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
            self._socket.close(int(linger_s * 1000))
        self._doorbell.close()

    def _pass_on_edge(self) -> None:
        """After any call on the socket, which may have taken in the news of a message silently: wake a waiter."""
        if self._readable():
            self.wake()

    def _readable(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def _poll_of(self, doorbell: Doorbell | None) -> select.poll:
        poll: select.poll | None = getattr(self._polls, "poll", None)
        if poll is None:
            poll = self._polls.poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.register(self._doorbell.fd, select.POLLIN)
        if doorbell is not None:
            doorbell.register_with(poll)
        return poll
