"""What becomes of a channel's connections to other machines, as ZeroMQ reports it.

A connection that breaks is made again by ZeroMQ, but what was under way is lost.  Whoever dialled must know: it says
hello anew, or gives the peer up.  Whoever listens counts the callers that were turned away.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import msgspec
import zmq


class LinkUp(msgspec.Struct, frozen=True):
    """The connection to a peer that was dialled is there, both sides authenticated."""

    peer: bytes


class LinkDown(msgspec.Struct, frozen=True):
    """It broke after it had been there; ZeroMQ tries to make it again."""

    peer: bytes


class LinkFailed(msgspec.Struct, frozen=True):
    """It could not be made; ZeroMQ tries again.  ``reason`` is for people."""

    peer: bytes
    reason: str


class CallerRefused(msgspec.Struct, frozen=True):
    """Somebody connected to a listener of ours and could not authenticate."""

    endpoint: str


LinkEvent = LinkUp | LinkDown | LinkFailed | CallerRefused

NOBODY = "nobody listens there (connection refused)"
NO_ANSWER = "the connection attempt is not answered"
OTHER_KEY = (
    "somebody listens there but ended the connection before it was authenticated: it is another cluster with another "
    "key (was it started anew?), or no distpool at all"
)

#: How long to hope that a failure passes, which gets longer the less it says.
_PATIENCE_S = {OTHER_KEY: 2.0, NOBODY: 5.0}


class Patience:
    """For how long to wait for somebody who was dialled, and why it was in vain.

    :param timeout_s: at most.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        #: seconds from the first attempt
        self.lasts_s = timeout_s
        self.reason = "it is silent"

    def note(self, event: LinkEvent) -> None:
        """Something became of the connection."""
        if isinstance(event, LinkUp):
            self.lasts_s = self._timeout_s
            self.reason = "it was reached, but its scheduler does not answer; see its log on the machine where it runs"
        elif isinstance(event, LinkFailed):
            lasts_s = min(_PATIENCE_S.get(event.reason, self._timeout_s), self._timeout_s)
            if lasts_s <= self.lasts_s:
                self.reason, self.lasts_s = event.reason, lasts_s


#: The first frame of what ZeroMQ tells: event and value.
_EVENT = struct.Struct("=Hi")
_EVENTS = (
    zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_MONITOR_STOPPED
)
_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
)


class LinkWatch:
    """Watches one socket, in a thread of its own.

    :param peer_at: the peer that was dialled at an endpoint, or None.
    :param tell: called in that thread.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        peer_at: Callable[[str], bytes | None],
        tell: Callable[[LinkEvent], None],
    ) -> None:
        self._peer_at = peer_at
        self._tell = tell
        self._up: set[bytes] = set()
        self._socket = socket
        # Not ``get_monitor_socket``: with a bound on what waits to be read, a burst blocks ZeroMQ's thread, and
        # then, with the interpreter's lock in hand, whoever ends the watch.
        address = f"inproc://distpool-links-{id(self)}"
        socket.monitor(address, _EVENTS)
        self._monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(address)
        self._thread = threading.Thread(target=self._run, name="distpool-links", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the socket must still be open, and no other thread use it meanwhile."""
        self._socket.disable_monitor()
        self._thread.join()

    def forget(self, peer: bytes) -> None:
        """It was hung up on."""
        self._up.discard(peer)

    def _run(self) -> None:
        monitor = self._monitor
        try:
            while True:
                # Not ``zmq.utils.monitor``, which loads all of asyncio into every process.
                event_and_value, endpoint = monitor.recv_multipart()
                event, _ = _EVENT.unpack(event_and_value)
                if event == zmq.EVENT_MONITOR_STOPPED:
                    break
                found = self._judge(event, endpoint.decode(errors="replace"))
                if found is not None:
                    self._tell(found)
        except zmq.ZMQError:
            pass  # the context ends
        monitor.close(0)

    def _judge(self, event: int, endpoint: str) -> LinkEvent | None:
        peer = self._peer_at(endpoint)
        if peer is None:
            return CallerRefused(endpoint) if event in _FAILED else None
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._up.add(peer)
            return LinkUp(peer)
        if event == zmq.EVENT_DISCONNECTED:
            if peer in self._up:
                self._up.discard(peer)
                return LinkDown(peer)
            return None
        if event in _FAILED:
            return LinkFailed(peer, OTHER_KEY)
        if event == zmq.EVENT_CLOSED:
            return LinkFailed(peer, NOBODY)
        return LinkFailed(peer, NO_ANSWER) if event == zmq.EVENT_CONNECT_DELAYED else None
