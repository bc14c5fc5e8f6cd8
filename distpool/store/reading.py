"""Finds the pieces of a value where its locations say, maps what they lie in, and hands them out as buffers.

Called by ``client``, which lends its lock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from distpool.errors import ObjectLostError
from distpool.store.room import Room
from distpool.store.views import Views
from distpool.wire.objects import Extent, Location

if TYPE_CHECKING:
    from distpool.store.elsewhere import Elsewhere

    class _Party(Protocol):
        """The part of ``client.ObjectStore`` that is needed here."""

        node: str
        elsewhere: Elsewhere | None

        def do_chores(self) -> None: ...


_ATTEMPTS = 3


class Reader:
    """See the module's description."""

    def __init__(self, lock: threading.Lock, room: Room, views: Views, party: _Party) -> None:
        self._lock = lock
        self._room = room
        self._views = views
        self._party = party

    def open(self, locations: Sequence[Location], readonly: bool, owner: object) -> list[memoryview]:
        """A buffer for each location; an object of which several are parts is mapped once.

        :param readonly: the buffers refuse writing.
        :param owner: is kept alive as long as any view of the buffers.
        :raises ObjectLostError: when an object is neither in memory nor where it was spilled to.
        """
        extents: dict[str, tuple[str, int, int]] = {}
        sites: dict[str, str] = {}
        for location in locations:
            first, end = location.offset, location.offset + location.size_bytes
            segment, known_first, known_end = extents.get(location.object_id, (location.segment, first, end))
            extents[location.object_id] = segment, min(first, known_first), max(end, known_end)
            sites[location.object_id] = location.node
        opened = self._open_here_or_elsewhere(extents, sites, owner)
        buffers = []
        for location in locations:
            first, memory = extents[location.object_id][1], opened[location.object_id]
            buffer = memory[location.offset - first : location.offset - first + location.size_bytes]
            buffers.append(buffer.toreadonly() if readonly else buffer)
        return buffers

    def _open_here_or_elsewhere(
        self, extents: dict[str, tuple[str, int, int]], sites: dict[str, str], owner: object
    ) -> dict[str, memoryview]:
        elsewhere = self._party.elsewhere
        away = [name for name, site in sites.items() if elsewhere is not None and site != self._party.node]
        if elsewhere is None or not away:
            return self._open(extents, owner)
        for attempt in range(_ATTEMPTS):
            wanted = [Extent(name, sites[name], segment, first, end - first)
                      for name, (segment, first, end) in extents.items() if name in away]  # fmt: skip
            here = dict(extents)
            for place in elsewhere.bring(wanted):
                _, first, end = extents[place.object_id]
                here[place.object_id] = place.segment, first - place.shift, end - place.shift
            try:
                return self._open(here, owner)
            except ObjectLostError:
                # A copy may have been given up for want of memory, before it was mapped.
                if attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _open(self, extents: dict[str, tuple[str, int, int]], owner: object) -> dict[str, memoryview]:
        try:
            return self._map(extents, owner)
        except ObjectLostError:
            # Without the lock, since it may take long.
            try:
                fetched = [self._room.fetch(segment) for segment, _, _ in extents.values()]
            except ObjectLostError as error:
                error.object_ids = tuple(extents)
                raise
            if not any(fetched):
                raise
            return self._map(extents, owner)

    def _map(self, extents: dict[str, tuple[str, int, int]], owner: object) -> dict[str, memoryview]:
        self._party.do_chores()
        with self._lock:
            opened = {
                object_id: self._views.open(object_id, segment, first, end, owner)
                for object_id, (segment, first, end) in extents.items()
            }
        self._room.on_viewed(sum(end - first for _, first, end in extents.values()))
        self._party.do_chores()
        return opened
