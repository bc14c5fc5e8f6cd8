"""The reader's side: copy-on-write mappings of other processes' segments, and who still looks at them.

Called by ``client``.  Each ``unpack`` of an object gets memory of its own, in the sense that what it writes there is
seen by nobody else: two unpacks of one object at the same time use two mappings.  A mapping whose views are all gone is
kept for a while; when the maker puts the next object into the same slot of the segment, reading it there saves the page
faults, which would take longer than the reading.

Not thread-safe; ``client`` holds the lock, except where a method says that it runs in a finalizer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from typing import Any

from distpool import crashpoints
from distpool.errors import ObjectLostError
from distpool.store.mapping import PAGE, PrivateChanges, export, map_private, unmap

#: Mappings that nobody uses are kept up to this many and this size; they cost page tables, and while the maker gives
#: their segment back, its memory.
_IDLE_MAPPINGS = 32
_IDLE_BYTES = 512 << 20


class _Mapping:
    __slots__ = ("address", "busy", "segment", "size_bytes")

    def __init__(self, segment: str, address: int, size_bytes: int) -> None:
        self.segment = segment
        self.address = address
        self.size_bytes = size_bytes
        #: Offsets of slots with views.
        self.busy: set[int] = set()


class View:
    """What keeps one object mapped for one ``unpack``; ends with the last buffer over it."""

    __slots__ = ("_ended", "mapping", "object_id", "owner", "size_bytes", "start")

    def __init__(
        self,
        object_id: str,
        mapping: _Mapping,
        start: int,
        size_bytes: int,
        owner: Any,
        ended: Callable[[View], None],
    ) -> None:
        self.object_id = object_id
        self.mapping = mapping
        self.start = start
        self.size_bytes = size_bytes
        #: Kept alive as long as the view.
        self.owner = owner
        self._ended = ended

    def on_last_view_gone(self) -> None:
        """See ``mapping.Watcher``."""
        self._ended(self)


class Views:
    """All mappings of this process.

    :param folder: the node's store folder.
    :param ended: told of each view that ended, in a finalizer; must come back with it to ``close``.
    :param find_spilled: finds the file of a segment that is not in the folder.
    """

    def __init__(self, folder: str, ended: Callable[[View], None], find_spilled: Callable[[str], str | None]) -> None:
        self._folder = folder
        self._ended = ended
        self._find_spilled = find_spilled
        self._changes = PrivateChanges()
        self._mappings: dict[str, list[_Mapping]] = {}
        #: Mappings without views, those that have been so for longest first.
        self._idle: dict[_Mapping, None] = {}
        self._idle_bytes = 0
        #: Views alive, by object.
        self._counts: dict[str, int] = {}

    def open(self, object_id: str, segment: str, first: int, end: int, owner: Any) -> memoryview:
        """Bytes ``first`` to ``end`` of a segment, which are one object, at the start of its slot.

        :raises ObjectLostError: when the segment is gone.
        """
        start = first & -PAGE
        size_bytes = -(-(end - start) // PAGE) * PAGE
        for mapping in self._mappings.get(segment, ()):
            if start not in mapping.busy:
                break
        else:
            mapping = self._map(object_id, segment)
        if start + size_bytes > mapping.size_bytes:
            raise ObjectLostError(f"object {object_id} lies beyond the end of segment {segment}", (object_id,))
        if not mapping.busy:
            del self._idle[mapping]
            self._idle_bytes -= mapping.size_bytes
        mapping.busy.add(start)
        self._counts[object_id] = self._counts.get(object_id, 0) + 1
        view = View(object_id, mapping, start, size_bytes, owner, self._ended)
        return export(mapping.address + start, size_bytes, view)[first - start : end - start]

    def close(self, view: View) -> str | None:
        """Take back the memory of a view that ended; returns the object's id when it was its last one."""
        mapping = view.mapping
        self._changes.forget(mapping.address + view.start, view.size_bytes)
        mapping.busy.discard(view.start)
        if not mapping.busy:
            self._idle[mapping] = None
            self._idle_bytes += mapping.size_bytes
            if len(self._idle) > _IDLE_MAPPINGS or self._idle_bytes > _IDLE_BYTES:
                self._unmap(next(iter(self._idle)))
        object_id = view.object_id
        count = self._counts[object_id] - 1
        if count:
            self._counts[object_id] = count
            return None
        del self._counts[object_id]
        return object_id

    def viewed(self, object_id: str) -> bool:
        """Is a view of it alive?"""
        return object_id in self._counts

    def objects(self, known: Container[str] = ()) -> list[str]:
        """Those of which views are alive, except ``known`` ones."""
        return [object_id for object_id in self._counts if object_id not in known]

    def segments(self) -> list[str]:
        """Those of which views are alive."""
        return [name for name, mappings in self._mappings.items() if any(mapping.busy for mapping in mappings)]

    def trim(self) -> None:
        """Unmap what has no views."""
        for mapping in list(self._idle):
            self._unmap(mapping)

    def shut(self) -> None:
        """Keep nothing any more beyond the views that exist."""
        self.trim()
        self._changes.close()

    def _map(self, object_id: str, segment: str) -> _Mapping:
        # Whoever maps a new segment may do so because others were given back: see to it that they really go.
        for idle in [m for m in self._idle if not os.path.exists(os.path.join(self._folder, m.segment))]:
            self._unmap(idle)
        if os.sep in segment or segment.startswith("."):
            raise ObjectLostError(f"object {object_id}: {segment!r} is not a segment", (object_id,))
        path: str | None = os.path.join(self._folder, segment)
        fd = -1
        while fd < 0:
            if path is None:
                raise ObjectLostError(f"object {object_id} is gone: its segment {segment} was removed", (object_id,))
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                path = self._find_spilled(segment)
        try:
            size_bytes = os.fstat(fd).st_size
            mapping = _Mapping(segment, map_private(fd, size_bytes), size_bytes)
        finally:
            os.close(fd)
        crashpoints.reach("store.mapped")
        self._mappings.setdefault(segment, []).append(mapping)
        self._idle[mapping] = None
        self._idle_bytes += size_bytes
        return mapping

    def _unmap(self, mapping: _Mapping) -> None:
        del self._idle[mapping]
        self._idle_bytes -= mapping.size_bytes
        siblings = self._mappings[mapping.segment]
        siblings.remove(mapping)
        if not siblings:
            del self._mappings[mapping.segment]
        unmap(mapping.address, mapping.size_bytes)
