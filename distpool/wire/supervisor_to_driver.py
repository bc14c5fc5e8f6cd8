"""What a program hears from the process that looks after its nodes, as lines of JSON in a pipe.

In the other direction there is one thing only, the end of the program, which the end of a pipe says.
"""

from __future__ import annotations

import msgspec

from distpool.wire.resources import Shape


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


class SupervisorConfig(msgspec.Struct, frozen=True):
    """What it is told when it starts, through that pipe: the engine's address."""

    engine: str


class HeadUp(_Message, frozen=True):
    """The program's scheduler runs; ``token`` leads to it."""

    token: str

    def __repr__(self) -> str:
        return "<HeadUp>"  # not the token


class Standing(msgspec.Struct, frozen=True):
    """Machines that are not nodes yet: how many are in which phase for which reason, and for how long at most."""

    phase: str
    reason: str
    count: int
    since_s: float


class News(_Message, frozen=True):
    """How things stand; sent at each look.

    :param up: nodes that have joined.
    :param wanted: how many there should be by now.
    :param least: how many are kept; with 0 none is waited for.
    :param waiting: the others.
    :param capacity: of as many nodes as there may be, CPUs only.
    """

    up: int
    wanted: int
    least: int
    waiting: tuple[Standing, ...]
    capacity: Shape


class Said(_Message, frozen=True):
    """A line for people: a node failed, say."""

    line: str


class Hopeless(_Message, frozen=True):
    """There are no nodes and there will be none."""

    reason: str


Message = HeadUp | News | Said | Hopeless


def decode(line: bytes) -> Message:
    """:raises msgspec.DecodeError: when it is none."""
    return _decoder.decode(line)


_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
