"""What the core of pulling keeps: how far each object has come, and who may have it whose home is gone."""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from distpool.wire.objects import Extent

#: A piece fits into one frame of an encrypted connection.
CHUNK_BYTES = (1 << 18) - 512
#: So many pieces are under way at a time, and are asked for in runs of so many: a question for each would cost as much
#: time as the piece.
WINDOW, RUN = 96, 16


class State(enum.Enum):
    """How far a pull has come."""

    ROOM = "room"
    SEEKING = "seeking"
    PULLING = "pulling"


#: Legal transitions; anything else is a bug.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.ROOM: frozenset({State.SEEKING}),
    State.SEEKING: frozenset({State.PULLING}),
    State.PULLING: frozenset({State.SEEKING, State.PULLING}),
}


class Pull(msgspec.Struct, eq=False):
    """An object on its way here."""

    extent: Extent
    askers: list[int]
    state: State = State.ROOM
    source: str = ""
    others: tuple[str, ...] = ()
    #: pieces to be asked for, and those under way, by number
    todo: deque[int] = msgspec.field(default_factory=deque)
    asked: dict[int, None] = msgspec.field(default_factory=dict)
    missing: int = 0
    #: when the last piece came; when something was last asked
    progress_at: float = 0.0
    asked_at: float = 0.0
    #: the connection to the source is broken
    cut: bool = False
    home_gone: bool = False
    #: copies were sought, or are, since nothing came any more; why
    searched: bool = False
    reason: str = ""


class Search(msgspec.Struct, eq=False):
    """For copies of what a home had that is gone."""

    until: float
    #: nobody is waited for any more
    over: bool = False
    #: key -> sites
    holders: dict[str, list[str]] = msgspec.field(default_factory=dict)


def chunks(extent: Extent) -> int:
    return -(-extent.size_bytes // CHUNK_BYTES)


def chunk_bytes(extent: Extent, number: int) -> int:
    return min(CHUNK_BYTES, extent.size_bytes - number * CHUNK_BYTES)
