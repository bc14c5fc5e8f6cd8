"""What the agent and its zygotes say to each other over a pair of sockets, descriptors included.

A message is four bytes of length and a ``msgspec`` struct.  Descriptors travel beside the messages that announce them,
in the same order.
"""

from __future__ import annotations

import array
import socket
from collections import deque
from typing import TypeAlias

import msgspec


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class ClusterFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a worker must know to be reached from other machines.

    :param secret: the cluster's (see ``distpool.wire.security``).
    :param bind_host: the address on which it listens, ``advertised_host`` that by which others reach it.
    :param first_port, last_port: it listens on the first that is free; 0: on any.
    """

    secret: bytes
    bind_host: str
    advertised_host: str
    first_port: int = 0
    last_port: int = 0

    def __repr__(self) -> str:
        return f"<ClusterFacts {self.advertised_host}>"  # not the secret


class Fork(_Message, frozen=True):
    """Agent → zygote: fork a worker.  One descriptor: its standard error.  The fields are those of ``WorkerStart``."""

    worker: str
    node: str
    agent_endpoint: str
    endpoint: str
    scheduler_endpoint: str
    store_folder: str
    cluster: ClusterFacts | None = None


class Generate(_Message, frozen=True):
    """Agent → first zygote: fork a generation that loads these modules.  One descriptor: its control socket."""

    generation: int
    modules: tuple[str, ...]


class Forked(_Message, frozen=True):
    """Zygote → agent."""

    worker: str
    pid: int


class NotForked(_Message, frozen=True):
    """Zygote → agent."""

    worker: str
    reason: str


class Exited(_Message, frozen=True):
    """Zygote → agent: a child was reaped."""

    pid: int
    exit_code: int
    peak_rss_bytes: int


class Ready(_Message, frozen=True):
    """Zygote → agent: it can fork.  ``unloadable``: modules that could not be imported."""

    generation: int
    pid: int
    modules: tuple[str, ...]
    unloadable: tuple[str, ...]


class Unfit(_Message, frozen=True):
    """Zygote → agent: it cannot serve and ends: these modules start threads, or nothing works at all (``reason``)."""

    generation: int
    unloadable: tuple[str, ...]
    reason: str


ToZygote: TypeAlias = "Fork | Generate"
FromZygote: TypeAlias = "Forked | NotForked | Exited | Ready | Unfit"

_encode = msgspec.msgpack.Encoder().encode
_decode_to_zygote = msgspec.msgpack.Decoder(Fork | Generate).decode
_decode_from_zygote = msgspec.msgpack.Decoder(Forked | NotForked | Exited | Ready | Unfit).decode
_MOST_DESCRIPTORS = 64


class _End:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self.descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: ToZygote | FromZygote, descriptor: int | None = None) -> None:
        payload = _encode(message)
        frame = len(payload).to_bytes(4, "big") + payload
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            sent = self._socket.sendmsg([frame], rights)
            frame = frame[sent:]
        if frame:
            self._socket.sendall(frame)

    def _receive(self) -> list[bytes]:
        """Wait for something to come; ``EOFError`` when the other side is gone."""
        size = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(65536, size, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        except ConnectionError:
            raise EOFError from None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self.descriptors.extend(received)
        if not data:
            raise EOFError
        buffer = self._buffer
        buffer += data
        payloads = []
        start = 0
        while len(buffer) - start >= 4:
            end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
            if len(buffer) < end:
                break
            payloads.append(bytes(buffer[start + 4 : end]))
            start = end
        del buffer[:start]
        return payloads


class AgentEnd(_End):
    """The agent's end."""

    def send(self, message: ToZygote, descriptor: int) -> None:
        """Send; the descriptor is duplicated by that."""
        self._send(message, descriptor)

    def receive(self) -> list[FromZygote]:
        """What has come; call when readable.  :raises EOFError: when the zygote is gone."""
        return [_decode_from_zygote(payload) for payload in self._receive()]


class ZygoteEnd(_End):
    """A zygote's end."""

    def send(self, message: FromZygote) -> None:
        """Send."""
        self._send(message)

    def receive(self) -> list[ToZygote]:
        """What has come; call when readable.  :raises EOFError: when the agent is gone."""
        return [_decode_to_zygote(payload) for payload in self._receive()]
