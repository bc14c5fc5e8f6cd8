"""Where a buffer of the object store is; part of the messages that carry values."""

from __future__ import annotations

import msgspec

_HEXADECIMAL = frozenset("0123456789abcdef")


def is_driver(site: str) -> bool:
    """Whether a site is a driver's, which cannot be dialled: ``d-`` and twelve hexadecimal digits."""
    return len(site) == 14 and site.startswith("d-") and _HEXADECIMAL.issuperset(site[2:])


class Location(msgspec.Struct, frozen=True, array_like=True):
    """One sealed buffer: ``size_bytes`` bytes at ``offset`` of a segment file of a node's store.

    ``object_id`` is unique in the cluster; ``segment`` is a file name below the node's store folder.  Several buffers
    of one value may lie in one segment; they are one object.

    A location of size 0 is no buffer: it names an object to which a reference inside the value refers.  In a result,
    ``lender`` is then the process that keeps it for the receiver, until that says ``ReleaseObjects``.
    """

    object_id: str
    node: str
    segment: str
    offset: int
    size_bytes: int
    lender: str = ""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """The bytes of one object: ``size_bytes`` of them from ``first`` on in a segment of the site ``home``, where it was
    made."""

    object_id: str
    home: str
    segment: str
    first: int
    size_bytes: int

    @property
    def key(self) -> str:
        """Names the copy of these bytes."""
        return f"{self.object_id}:{self.first}+{self.size_bytes}"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where an object's bytes are on the asker's own site: what is at ``first`` of the segment where the object was
    made is at ``first - shift`` of ``segment``."""

    object_id: str
    segment: str
    shift: int
