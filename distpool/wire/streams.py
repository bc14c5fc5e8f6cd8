"""Worker ↔ driver, both ways: byte streams between a process on one machine and a socket that only the other has.

A stream has the number that the worker gave it with ``OpenStream``.  Neither side sends more than ``WINDOW_BYTES`` that
the other has not passed on.  Each direction ends by itself, as those of a socket do.
"""

from __future__ import annotations

import msgspec

#: How much may be under way in one direction of a stream.
WINDOW_BYTES = 1 << 20


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class OpenStream(_Message, frozen=True):
    """Worker → driver: connect me with the Unix socket at ``address`` on your machine.  ``request`` is also the number
    of the stream."""

    request: int
    address: str


class StreamOpened(_Message, frozen=True):
    """Driver → worker, the answer; ``error`` (an ``errno``) and ``reason`` say why not."""

    request: int
    error: int = 0
    reason: str = ""


class StreamBytes(_Message, frozen=True):
    """More of it."""

    stream: int
    data: bytes


class StreamTaken(_Message, frozen=True):
    """So many bytes that you sent have been passed on."""

    stream: int
    size: int


class StreamEnded(_Message, frozen=True):
    """No more will come this way; ``broken``: nor can anything be passed on here any more."""

    stream: int
    broken: bool = False


StreamMessage = StreamBytes | StreamTaken | StreamEnded
