"""Says yes or no to whoever wants to connect to a listener of this process.

ZeroMQ asks on a socket of fixed name within the context (the ZAP protocol, RFC 27), with the public key that the
dialler has just proved to own.  Listeners are told to refuse everybody while nobody answers there.
"""

from __future__ import annotations

import threading

import zmq
from zmq.utils import z85

from distpool.wire.security import Keys

_ENDPOINT = "inproc://zeromq.zap.01"
#: Named in each question; a listener without a domain would not ask at all.
DOMAIN = b"distpool"


class Gatekeeper:
    """One per ZeroMQ context that has listeners; ends with the context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        self._allowed = z85.decode(keys.dialler_public)
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="distpool-gatekeeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        socket = self._socket
        try:
            while True:
                question = socket.recv_multipart()
                socket.send_multipart(self._answer(question))
        except zmq.ContextTerminated:
            socket.close(0)
        except zmq.ZMQError:
            pass  # the context was destroyed, and this socket with it

    def _answer(self, question: list[bytes]) -> list[bytes]:
        version, request, domain, _address, _routing_id, mechanism, *credentials = question
        allowed = domain == DOMAIN and mechanism == b"CURVE" and credentials == [self._allowed]
        status, text = (b"200", b"OK") if allowed else (b"400", b"not of this cluster")
        return [version, request, status, text, b"", b""]
