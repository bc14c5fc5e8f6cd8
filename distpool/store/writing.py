"""Puts the pieces of a serialized value into objects: each large buffer into one of its own, which is an existing one
if the same bytes were stored before; what is small together.

Called by ``client``, which lends its lock, and afterwards does what finalizers left meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from distpool import crashpoints
from distpool.store.broadcast import Broadcast, Sighting
from distpool.store.endings import Endings
from distpool.store.room import Room
from distpool.store.segments import Slot, align
from distpool.store.serialization import Serialized
from distpool.wire.objects import Location

if TYPE_CHECKING:

    class _Party(Protocol):
        """The part of ``client.ObjectStore`` that is needed here."""

        @property
        def usable(self) -> bool: ...
        def check_open(self) -> None: ...
        def do_chores(self) -> None: ...
        def drop_later(self, object_ids: Sequence[str]) -> None: ...
        def drop_idle(self) -> list[str]: ...


#: Buffers of at least this size are objects of their own; smaller ones of one value share one.
_ALONE_BYTES = 1 << 18


class Writer:
    """See the module's description."""

    def __init__(
        self, owner: str, node: str, lock: threading.Lock, room: Room, endings: Endings, party: _Party
    ) -> None:
        self._owner = owner
        self._node = node
        self._lock = lock
        self._room = room
        self._ownership = endings.ownership
        self._slots = endings.slots
        self._party = party
        self._numbers = 0
        self._broadcast = Broadcast()
        #: Held while looking for a copy, which may take as long as comparing; taken before ``_lock``.
        self._broadcast_lock = threading.Lock()

    def close(self) -> None:
        """Forget what could be stored again."""
        with self._broadcast_lock:
            self._broadcast.close()

    def store(self, serialized: Serialized, in_band: bool, handles: dict[str, None]) -> tuple[list[Location], int]:
        """Where each buffer, and behind them the pickle unless it is ``in_band``, was stored, and how many bytes that
        took; the objects' ids are added to ``handles``."""
        buffers = serialized.buffers
        locations: list[Location | None] = [None] * len(buffers)
        stored_bytes = 0
        together: list[int] = []
        alone = _ALONE_BYTES if len(buffers) > 1 or not in_band else 0
        for index, buffer in enumerate(buffers):
            if len(buffer) < alone:
                together.append(index)
                continue
            object_id, slot = self._store_alone(buffer, handles)
            locations[index] = self._location(object_id, slot, 0, len(buffer))
            stored_bytes += len(buffer)
        if in_band and not together:
            return [location for location in locations if location is not None], stored_bytes
        pieces: list[tuple[int, memoryview]] = []
        end = 0
        for index in together:
            start = align(end)
            pieces.append((start, buffers[index]))
            end = start + len(buffers[index])
        payload_start = end = align(end) if not in_band else end
        if not in_band:
            for chunk in serialized.chunks:
                raw = memoryview(chunk)
                pieces.append((end, raw))
                end += raw.nbytes
        slot, object_id = self._write(pieces, end)
        handles[object_id] = None
        for index, (start, buffer) in zip(together, pieces, strict=False):
            locations[index] = self._location(object_id, slot, start, len(buffer))
        if not in_band:
            locations.append(self._location(object_id, slot, payload_start, end - payload_start))
        return [location for location in locations if location is not None], stored_bytes + end

    def _location(self, object_id: str, slot: Slot, start: int, size_bytes: int) -> Location:
        return Location(object_id, self._node, slot.segment.name, slot.offset + start, size_bytes)

    def _store_alone(self, buffer: memoryview, handles: dict[str, None]) -> tuple[str, Slot]:
        """The object of a single buffer: an existing one with the same bytes, or a new one."""
        with self._broadcast_lock:
            sighting = self._broadcast.sight(buffer)
            found = self._find_copy(sighting, handles)
        if found is not None:
            return found
        slot, object_id = self._write([(0, buffer)], len(buffer))
        handles[object_id] = None
        with self._broadcast_lock:
            self._broadcast.remember(sighting, slot, object_id)
        return object_id, slot

    def _find_copy(self, sighting: Sighting, handles: dict[str, None]) -> tuple[str, Slot] | None:
        copy = sighting.copy
        if copy is None:
            return None
        self._party.do_chores()
        with self._lock:
            if not copy.intact or not self._party.usable:
                return None
            slot, object_id = copy.slot, copy.object_id
            if self._slots.get(object_id) is not slot:
                if not self._room.revive(slot):
                    return None
                object_id = copy.object_id = self._new_id()
                self._slots[object_id] = slot
            # From here on nobody else gets the slot, and it stays where it is.
            self._ownership.add(object_id)
            self._room.begin_use(slot)
        same = False
        try:
            same = self._broadcast.same(sighting, copy)
        finally:
            with self._lock:
                self._room.end_use(slot)
            if not same or object_id in handles:
                self._party.drop_later((object_id,))
        if not same:
            return None
        handles[object_id] = None
        return object_id, slot

    def _new_id(self) -> str:
        self._numbers += 1
        return f"{self._owner}.{self._numbers:x}"

    def _write(self, pieces: list[tuple[int, memoryview]], end: int) -> tuple[Slot, str]:
        room = self._room
        for attempt in range(3):
            self._party.do_chores()
            slot = None
            try:
                # When memory has failed twice, the second time with all that can be given up given up.
                slot = room.take(end, self._party.check_open, on_disk=attempt == 2)
                crashpoints.reach("store.created")
                room.write(slot, pieces, end)
                crashpoints.reach("store.written")
            except BaseException as error:
                with self._lock:
                    if slot is not None:
                        room.discard(slot)
                    room.memory.trim()
                self._party.drop_idle()  # mappings that wait for their next use keep removed segments
                self._party.do_chores()
                if not isinstance(error, OSError):
                    raise
                if attempt == 2 or (attempt == 1 and not room.can_spill):
                    raise room.full(end) from error
                continue
            with self._lock:
                room.seal(slot, end)
                object_id = self._new_id()
                self._slots[object_id] = slot
                self._ownership.add(object_id)
            crashpoints.reach("store.sealed")
            return slot, object_id
        raise AssertionError("unreachable")
