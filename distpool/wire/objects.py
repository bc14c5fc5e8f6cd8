"""Where a buffer of the object store is; part of the messages that carry values."""

from __future__ import annotations

import msgspec


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
