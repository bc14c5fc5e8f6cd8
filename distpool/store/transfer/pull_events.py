"""What the core of pulling is told (past tense) and what it wants done (imperative)."""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Extent


class Wanted(msgspec.Struct, frozen=True):
    """Somebody on this site needs an object."""

    extent: Extent
    asker: int


class RoomMade(msgspec.Struct, frozen=True):
    """There is room for it."""

    key: str


class RoomRefused(msgspec.Struct, frozen=True):
    """There is none, or it could not be written."""

    key: str
    reason: str


class SourceNamed(msgspec.Struct, frozen=True):
    """The home said who gives it to us."""

    key: str
    source: str
    others: tuple[str, ...] = ()


class SourceUnknown(msgspec.Struct, frozen=True):
    """``source``, which may be the home, does not have it."""

    key: str
    source: str


class ChunkCame(msgspec.Struct, frozen=True):
    """A piece arrived."""

    key: str
    offset: int
    size_bytes: int


class LinkUp(msgspec.Struct, frozen=True):
    """``site`` can be reached, perhaps under another name."""

    site: str


class LinkLost(msgspec.Struct, frozen=True):
    """The connection to ``site`` broke; what was under way is lost."""

    site: str


class SiteGone(msgspec.Struct, frozen=True):
    """``site`` is no more."""

    site: str


class CopiesFound(msgspec.Struct, frozen=True):
    """``site`` has copies of these objects of a home that is gone."""

    home: str
    site: str
    keys: tuple[str, ...]


class ObjectsEnded(msgspec.Struct, frozen=True):
    """Nobody needs these any more."""

    object_ids: tuple[str, ...]


class CopyEvicted(msgspec.Struct, frozen=True):
    """The memory of a copy is needed for something else."""

    key: str


class TimePassed(msgspec.Struct, frozen=True):
    """A deadline has come."""


Event = (
    Wanted
    | RoomMade
    | RoomRefused
    | SourceNamed
    | SourceUnknown
    | ChunkCame
    | LinkUp
    | LinkLost
    | SiteGone
    | CopiesFound
    | ObjectsEnded
    | CopyEvicted
    | TimePassed
)


class MakeRoom(msgspec.Struct, frozen=True):
    """Answered by ``RoomMade`` or ``RoomRefused``."""

    key: str
    size_bytes: int


class AskSource(msgspec.Struct, frozen=True):
    """Ask the home; ``failed`` is a source that did not do."""

    extent: Extent
    failed: str = ""


class AskChunks(msgspec.Struct, frozen=True):
    """Ask a source for pieces that lie one after the other."""

    extent: Extent
    source: str
    offset: int
    size_bytes: int


class StoreChunk(msgspec.Struct, frozen=True):
    """The piece that came is new: put it in its place."""

    key: str
    offset: int


class TellReceived(msgspec.Struct, frozen=True):
    """Tell the home that this site has it all."""

    extent: Extent


class FindSite(msgspec.Struct, frozen=True):
    """Find out whether a site is still there, and where; answered by ``LinkUp`` or ``SiteGone``."""

    site: str


class FindCopies(msgspec.Struct, frozen=True):
    """A home is gone: ask everybody for copies of its objects; answered by ``CopiesFound``, by each who has some."""

    home: str


class Deliver(msgspec.Struct, frozen=True):
    """It is here: tell who asked."""

    key: str
    asker: int


class Lose(msgspec.Struct, frozen=True):
    """It cannot be had: tell who asked."""

    extent: Extent
    asker: int
    reason: str


class Discard(msgspec.Struct, frozen=True):
    """Give up a copy, or the room for one."""

    key: str


Effect = MakeRoom | AskSource | AskChunks | StoreChunk | TellReceived | FindSite | FindCopies | Deliver | Lose | Discard
