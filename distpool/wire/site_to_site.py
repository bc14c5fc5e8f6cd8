"""Between sites: who has an object, its bytes in pieces, and what is no longer needed.

A *site* is a place with a store of its own: a node, for which its agent speaks, or a driver of a cluster.  The site
where an object was made is its *home*, which knows who else has a copy.  A consumer asks the home for a *source*, then
asks that source for piece after piece.  Agents dial each other (``p-<site>`` dials ``t-<site>``); a driver dials agents
and is never dialled, so what an agent wants of a driver goes along the connection that the driver made.
"""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Extent


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class SiteHello(_Message, frozen=True):
    """Dialler → listener, first message of each connection."""


class SourceWanted(_Message, frozen=True):
    """Consumer → home: from whom may I have it?  Said again now and then while pulling."""

    extent: Extent


class SourceNamed(_Message, frozen=True):
    """Home → consumer.  ``others`` have it too, should home and source be lost."""

    key: str
    source: str
    others: tuple[str, ...] = ()


class SourceUnknown(_Message, frozen=True):
    """Home → consumer, or source → consumer: it is not here."""

    key: str


class SourceFailed(_Message, frozen=True):
    """Consumer → home: this one cannot be reached or does not have it; name another."""

    extent: Extent
    source: str


class CopiesHere(_Message, frozen=True):
    """Who has copies → who seeks them: all of these, of a home that is gone, are here."""

    home: str
    keys: list[str]


class Received(_Message, frozen=True):
    """Consumer → home: all of it is here, I can serve others."""

    key: str


class ChunksWanted(_Message, frozen=True):
    """Consumer → source: ``size_bytes`` from ``offset`` of the object's bytes, in pieces."""

    extent: Extent
    offset: int
    size_bytes: int


class Chunk(_Message, frozen=True):
    """Source → consumer: a piece, whose bytes follow as another part of the message."""

    key: str
    offset: int


class ObjectsEnded(_Message, frozen=True):
    """Owner → home, and home → who has copies: nobody needs these any more."""

    object_ids: list[str]


class MakerEnded(_Message, frozen=True):
    """Owner → home: a process there is dead; of its segments only ``keep`` are needed."""

    maker: str
    keep: list[str]


class SegmentsUnneeded(_Message, frozen=True):
    """Owner → home: these segments of dead makers can go."""

    segments: list[str]


class SegmentClaim(msgspec.Struct, frozen=True, array_like=True):
    """A segment, and for whom it is kept."""

    segment: str
    size_bytes: int
    keepers: tuple[str, ...]


class TakeOver(_Message, frozen=True):
    """A node that leaves → the one that stands in for it: have these segments, under their names.

    ``number`` tells one such request from the next.  ``stands_for``: other nodes, which left before and whose segments
    are among these.
    """

    number: int
    claims: list[SegmentClaim]
    stands_for: tuple[str, ...] = ()


class TakenOver(_Message, frozen=True):
    """Answer, for each when it is there, or with ``problem`` when it cannot be had."""

    number: int
    segment: str
    problem: str = ""


class TakeBack(_Message, frozen=True):
    """A node that leaves → one that was to stand in for it and could not: forget what ``TakeOver`` named."""


class SitePing(_Message, frozen=True):
    """Listener → dialler: that it could be sent says that the connection is there."""


class SiteGoodbye(_Message, frozen=True):
    """A driver ends: nothing is kept for it any more."""


Message = (
    SiteHello
    | SourceWanted
    | SourceNamed
    | SourceUnknown
    | SourceFailed
    | CopiesHere
    | Received
    | ChunksWanted
    | Chunk
    | ObjectsEnded
    | MakerEnded
    | SegmentsUnneeded
    | TakeOver
    | TakenOver
    | TakeBack
    | SitePing
    | SiteGoodbye
)
