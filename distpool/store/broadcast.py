"""The same large buffer, sent again: found, so that it is stored once.

Called by ``client`` for each large buffer of a value, before it is written.  ``partial(f, big)`` in two hundred
submits, a closure, an argument used again: each time the buffer must count as it is *now*, so identity of the object
says little and its bytes are what is compared, in steps of growing price:

1. a sample of 64 bytes spread over the buffer, and its ends.  No stored copy with the same sample and size: it is new.
   That is all that buffers pay which are never sent twice (2 µs each, whatever their size).
2. memory that is being watched (``memory_watch``) and was not written to is equal: 30 µs for 100 MB.
3. otherwise ``memcmp`` with the stored copy, which is still mapped here: 5 ms for 100 MB, the time of the copy that it
   saves.  Beforehand the memory begins to be watched, so that from the third time on step 2 will do.

A buffer that was found changed is watched again only after it was found equal ever more times in a row: programs that
change an array between submits shall not pay page faults each time.  Without the kernel's help, large ``bytes`` are
remembered with a reference to them (they cannot change) until nobody else has one; everything else is compared.

Content is what counts, not who owns the memory: a stored copy whose object has ended is used as well, as long as its
slot has not been given to something else.  200 submits of 100 MB, one at a time, are written once.

Not thread-safe; ``client`` holds a lock of its own for it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from distpool.store.mapping import address_of
from distpool.store.memory_watch import LEAST_BYTES, MemoryWatch, Watched
from distpool.store.segments import Slot

#: Copies that are remembered, the last used; each is a few hundred bytes, and may keep a freed slot known, not alive.
_REMEMBERED = 512
_WATCHED = 64
_SAMPLES = 64
_ENDS = 32

_libc = ctypes.CDLL(None)
_memcmp = _libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Copy:
    """Where the bytes of a buffer were written: a slot, as long as that is at ``version``."""

    __slots__ = ("object_id", "size_bytes", "slot", "source", "version", "watched", "watched_address")

    def __init__(self, slot: Slot, object_id: str, size_bytes: int) -> None:
        self.slot = slot
        self.version = slot.version
        self.object_id = object_id
        self.size_bytes = size_bytes
        self.watched: Watched | None = None
        self.watched_address = 0
        #: A ``bytes`` of which this is a copy.
        self.source: Any = None

    @property
    def intact(self) -> bool:
        """Whether the slot still holds these bytes."""
        return self.slot.version == self.version

    @property
    def address(self) -> int:
        """Of the copy, in this process; 0 when its store was closed."""
        address = self.slot.segment.address
        return address and address + self.slot.offset


class Sighting:
    """A buffer that is about to be stored, and the copy that may be equal to it."""

    __slots__ = ("address", "buffer", "copy", "key", "source")

    def __init__(self, buffer: memoryview, address: int, source: Any, key: Any, copy: Copy | None) -> None:
        self.buffer = buffer
        self.address = address
        self.source = source
        self.key = key
        self.copy = copy


class Broadcast:
    """What has been stored lately and could be sent again."""

    def __init__(self) -> None:
        self._copies: dict[Any, Copy] = {}
        self._watched: dict[Copy, None] = {}
        self._watch = MemoryWatch()
        #: By address and size: how often it must be found equal before it is watched (again), and what is left of that.
        self._patience: dict[tuple[int, int], tuple[int, int]] = {}

    def sight(self, buffer: memoryview) -> Sighting:
        """Look at a contiguous buffer of bytes; ``copy`` of what this returns is a possibility, not yet a fact."""
        size = len(buffer)
        key = size, bytes(buffer[:: size // _SAMPLES | 1]), bytes(buffer[:_ENDS]), bytes(buffer[-_ENDS:])
        copies = self._copies
        copy = copies.pop(key, None)
        if copy is not None:
            if copy.intact:
                copies[key] = copy  # now the last used
            else:
                self._drop(copy)
                copy = None
        source = buffer.obj
        return Sighting(buffer, address_of(buffer), source if type(source) is bytes else None, key, copy)

    def same(self, sighting: Sighting, copy: Copy) -> bool:
        """Whether the buffer's bytes are those of the copy, whose slot the caller keeps from being used again."""
        size = copy.size_bytes
        address, other = sighting.address, copy.address
        if not other:
            return False
        if copy.source is not None and copy.source is sighting.source:
            return True
        watched = copy.watched
        if watched is not None and copy.watched_address == address:
            if self._watch.unchanged(watched):
                head, tail = watched.first - address, address + size - watched.end
                if not _memcmp(address, other, head) and not _memcmp(address + size - tail, other + size - tail, tail):
                    return True
            self._forget_watch(copy)
            self._be_patient(address, size)
        if size >= LEAST_BYTES:
            self._begin_watch(copy, address, size)
        if _memcmp(address, other, size):
            if copy.watched is not None:
                self._forget_watch(copy)
                self._be_patient(address, size)
            return False
        self._keep_source(copy, sighting)
        return True

    def remember(self, sighting: Sighting, slot: Slot, object_id: str) -> None:
        """The buffer was written there, at the slot's beginning."""
        copies = self._copies
        before = copies.pop(sighting.key, None)
        if before is not None:
            self._drop(before)
        copy = copies[sighting.key] = Copy(slot, object_id, len(sighting.buffer))
        self._keep_source(copy, sighting)
        if len(copies) > _REMEMBERED:
            self._drop(copies.pop(next(iter(copies))))

    def forget_dead(self) -> None:
        """Let go of what can never be found again."""
        for key, copy in list(self._copies.items()):
            if not copy.intact:
                del self._copies[key]
                self._drop(copy)
            elif copy.source is not None and sys.getrefcount(copy.source) <= 2:
                copy.source = None

    def close(self) -> None:
        """Forget everything."""
        self._copies.clear()
        self._watched.clear()
        self._watch.close()

    def _begin_watch(self, copy: Copy, address: int, size: int) -> None:
        whole, left = self._patience.get((address, size), (0, 0))
        if left:
            self._patience[address, size] = whole, left - 1
            return
        self._forget_watch(copy)
        copy.watched = self._watch.begin(address, size)
        copy.watched_address = address
        if copy.watched is not None:
            self._watched[copy] = None
            if len(self._watched) > _WATCHED:
                self._forget_watch(next(iter(self._watched)))

    def _forget_watch(self, copy: Copy) -> None:
        if copy.watched is not None:
            self._watch.end(copy.watched)
            copy.watched = None
            self._watched.pop(copy, None)

    def _be_patient(self, address: int, size: int) -> None:
        whole, _ = self._patience.pop((address, size), (0, 0))
        whole = min(64, 2 * whole or 2)
        self._patience[address, size] = whole, whole
        if len(self._patience) > _REMEMBERED:
            del self._patience[next(iter(self._patience))]

    def _keep_source(self, copy: Copy, sighting: Sighting) -> None:
        if sighting.source is not None and copy.size_bytes >= LEAST_BYTES and not self._watch.usable:
            self.forget_dead()
            copy.source = sighting.source

    def _drop(self, copy: Copy) -> None:
        self._forget_watch(copy)
        copy.source = None
