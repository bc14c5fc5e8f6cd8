"""Shared-memory files: where they live, and how their writer hands out, recycles and gives back room in them.

A *segment* is a file below the node's store folder, made, kept mapped and removed by one process, its maker; its name
``<maker>.<number>`` tells whose it is and is never used again.  It is divided into equal *slots*; an object occupies
one slot.  Values up to ``_LARGE_BYTES`` share a segment with others of their size, so that a hundred thousand of them
need neither as many files nor as many mappings; larger ones have a segment to themselves.

Written pages are precious: the kernel takes ten times as long to provide a fresh page as to overwrite one that is
there.  So freed slots are used again, the last freed first, and segments go back to the system only over a limit, on
``trim`` and at the end.  Fresh pages are huge where the kernel gives such, and otherwise provided by ``pwrite`` (faster
than page faults by half, and a full file system is an error there, where a store to mapped memory would be a fatal
SIGBUS); pages that exist are overwritten through the mapping, which learns of them when they are first overwritten.

Not thread-safe, except that distinct slots may be written at the same time; ``client`` holds the lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from distpool import crashpoints
from distpool.store.file_system import free_bytes
from distpool.store.mapping import HUGE_PAGE, PAGE, copy, enter_pages, export, map_shared, provide_huge_pages, unmap

#: Buffers inside a segment start at multiples of this (a cache line; what Arrow and vector instructions like).
ALIGNMENT = 64

_LARGE_BYTES = 1 << 20
_SHARED_SEGMENT_BYTES = 8 << 20
#: From here on a copy lets other threads have the interpreter meanwhile.
_LONG_COPY_BYTES = 1 << 20
#: When the kernel had no huge pages at hand, it is not asked again for so many segments.
_UNTIL_HUGE_AGAIN = 8


def align(size_bytes: int, unit: int = ALIGNMENT) -> int:
    """``size_bytes`` rounded up to a multiple of ``unit``, a power of two."""
    return (size_bytes + unit - 1) & -unit


def slot_bytes_for(size_bytes: int) -> int:
    """The size class: whole pages, eight classes per doubling, at least 16 pages."""
    pages = max(16, -(-size_bytes // PAGE))
    step = 1 << max(0, pages.bit_length() - 4)
    return align(pages, step) * PAGE


class Segment:
    """One file of this maker."""

    __slots__ = ("address", "last_used", "leaving", "name", "path", "size_bytes", "slot_bytes", "slots", "used_slots")

    def __init__(self, path: str, slot_bytes: int, slots: int) -> None:
        #: On its way to disk, or there already: nothing is put into it any more.
        self.leaving = False
        #: By the machine's monotonic clock.
        self.last_used = 0.0
        self.path = path
        self.name = os.path.basename(path)
        self.slot_bytes = slot_bytes
        self.size_bytes = slot_bytes * slots
        self.used_slots = 0
        self.slots: list[Slot] = []
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        crashpoints.reach("store.file_made")
        try:
            os.ftruncate(fd, self.size_bytes)
            self.address = map_shared(fd, self.size_bytes)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)


class Slot:
    """Room for one object.  The first ``backed_bytes`` of it have pages; that many as ``entered_bytes`` are mapped.

    ``version`` changes whenever what is in it can no longer be relied on.
    """

    __slots__ = ("accessed", "backed_bytes", "entered_bytes", "offset", "segment", "used_bytes", "version")

    def __init__(self, segment: Segment, offset: int) -> None:
        self.segment = segment
        self.offset = offset
        self.backed_bytes = 0
        self.entered_bytes = 0
        self.used_bytes = 0
        self.version = 0
        #: Written or compared without the lock, at this moment; set before the segment's address is looked at.
        self.accessed = 0


class SegmentAllocator:
    """The segments of one maker.

    :param folder: the node's store folder.
    :param maker: the process' name; must be usable in a file name.
    :param recycle_bytes: how much memory freed slots may keep; ``None``: an eighth of the file system's room, at most
        1 GiB.
    :param mark: distinguishes segments of several allocators of one maker.
    """

    def __init__(self, folder: str, maker: str, recycle_bytes: int | None = None, mark: str = "") -> None:
        if "/" in maker or not maker:
            raise ValueError(f"{maker!r} cannot be part of a file name")
        self._folder = folder
        self._maker = maker
        self._recycle_bytes = recycle_bytes
        self._mark = mark
        self._segments: set[Segment] = set()
        self._numbers = 0
        #: Slots never used so far, and freed ones, by size class; the last freed is taken first.
        self._unused: dict[int, dict[Slot, None]] = {}
        self._freed: dict[int, dict[Slot, None]] = {}
        #: Segments without any object, those that have been so for longest first.
        self._empty: dict[Segment, None] = {}
        #: Memory that has pages, in all and in freed slots.
        self.backed_bytes = 0
        self.freed_bytes = 0
        #: So many segments are filled without trying to have huge pages.
        self._without_huge_pages = 0

    def allocate(self, size_bytes: int) -> Slot:
        """A slot of at least ``size_bytes``, recycled if possible.  It has no pages yet where it is fresh."""
        wanted = slot_bytes_for(size_bytes)
        slot = self._take_freed(wanted) or self._take_unused(wanted) or self._take_new(wanted)
        slot.version += 1
        slot.segment.used_slots += 1
        self._empty.pop(slot.segment, None)
        return slot

    def revive(self, slot: Slot) -> bool:
        """Take back a slot that was freed, with what is in it; False when it is not to be had."""
        freed = self._freed.get(slot.segment.slot_bytes)
        if not freed or slot not in freed:
            return False
        del freed[slot]
        self.freed_bytes -= slot.backed_bytes
        slot.segment.used_slots += 1
        self._empty.pop(slot.segment, None)
        return True

    def write(self, slot: Slot, pieces: Iterable[tuple[int, memoryview]], end: int) -> None:
        """Copy ``pieces``, pairs of an offset in the slot and a contiguous buffer of bytes; none goes beyond ``end``.

        May run without the lock.

        :raises OSError: when the file system is full; the slot can be freed or written again.
        """
        segment = slot.segment
        backed = min(slot.backed_bytes, end)
        fd = -1
        slot.accessed += 1
        try:
            if not (address := segment.address):
                raise ValueError("the object store of this process was closed meanwhile")
            start_address = address + slot.offset
            if end >= HUGE_PAGE and not slot.backed_bytes:
                fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                backed = self._provide_huge_pages(start_address, fd, end & -HUGE_PAGE)
                slot.entered_bytes = backed
            elif backed > slot.entered_bytes:
                enter_pages(start_address + slot.entered_bytes, slot.backed_bytes - slot.entered_bytes)
                slot.entered_bytes = slot.backed_bytes
            target = export(start_address, backed) if backed else memoryview(b"")
            for offset, piece in pieces:
                size = len(piece)
                mapped = max(0, min(size, backed - offset))
                if mapped >= _LONG_COPY_BYTES:
                    copy(start_address + offset, piece, mapped)
                elif mapped:
                    target[offset : offset + mapped] = piece[:mapped]
                while mapped < size:
                    if fd < 0:
                        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                    mapped += os.pwrite(fd, piece[mapped:], slot.offset + offset + mapped)
                    crashpoints.reach("store.writing")
        finally:
            slot.accessed -= 1
            if fd >= 0:
                os.close(fd)

    def seal(self, slot: Slot, end: int) -> None:
        """Account for what ``write`` gave pages to.  Gaps between pieces are smaller than a page."""
        backed = min(align(end, PAGE), slot.segment.slot_bytes)
        if backed > slot.backed_bytes:
            self.backed_bytes += backed - slot.backed_bytes
            slot.backed_bytes = backed

    def discard(self, slot: Slot) -> None:
        """Take back a slot whose writing failed half-way: nobody knows how many pages it has got."""
        self.free(slot)
        if slot.segment in self._empty:
            self._remove(slot.segment)

    def free(self, slot: Slot) -> None:
        """Nobody looks at the slot any more, in any process."""
        segment = slot.segment
        if segment not in self._segments:
            return  # closed before
        segment.used_slots -= 1
        if segment.leaving:
            if not segment.used_slots and not segment.address:  # else it is being copied, see ``withdraw``
                self._remove(segment)
            return
        self._freed.setdefault(segment.slot_bytes, {})[slot] = None
        self.freed_bytes += slot.backed_bytes
        if not segment.used_slots:
            self._empty[segment] = None
        if self.freed_bytes > self._limit():
            self.trim(self._limit())

    def trim(self, keep_bytes: int = 0) -> int:
        """Give empty segments back to the system until freed slots hold no more than ``keep_bytes``.

        :returns: how many bytes were given back.
        """
        before = self.backed_bytes
        while self.freed_bytes > keep_bytes and self._empty:
            self._remove(next(iter(self._empty)))
        return before - self.backed_bytes

    @property
    def folder(self) -> str:
        """Where its segments are."""
        return self._folder

    def segments(self) -> list[Segment]:
        """All that there are."""
        return list(self._segments)

    def used_segments(self) -> list[Segment]:
        """Those with objects in them, and not leaving."""
        return [segment for segment in self._segments if segment.used_slots and not segment.leaving]

    def withdraw(self, segment: Segment) -> list[Slot] | None:
        """Begin to move a segment to disk: nothing is put into it any more.  Until ``move`` or ``stay`` its memory
        stays, also when its objects end: something else, in which reading makes pages, would come to its address.

        :returns: the slots that are in use; None when it is gone or leaving already.
        """
        if segment not in self._segments or segment.leaving:
            return None
        segment.leaving = True
        freed = self._freed.get(segment.slot_bytes, {})
        unused = self._unused.get(segment.slot_bytes, {})
        used = []
        for slot in segment.slots:
            if slot in freed:
                del freed[slot]
                self.freed_bytes -= slot.backed_bytes
            elif slot in unused:
                del unused[slot]
            else:
                used.append(slot)
        return used

    def stay(self, segment: Segment) -> None:
        """It could not be moved.  Its unused slots stay unused."""
        segment.leaving = False
        if segment in self._segments and not segment.used_slots:
            self._remove(segment)

    def move(self, segment: Segment, path: str) -> int:
        """Its objects now lie at ``path``; the memory goes back.

        :returns: how many bytes, 0 when nothing in it is used any more (then the file is not needed).
        """
        if segment not in self._segments or not segment.used_slots:
            self.stay(segment)
            return 0
        before = self.backed_bytes
        for slot in segment.slots:
            slot.version += 1
            self.backed_bytes -= slot.backed_bytes
            slot.backed_bytes = slot.entered_bytes = 0
        unmap(segment.address, segment.size_bytes)
        os.unlink(segment.path)
        segment.address = 0
        segment.path = path
        return before - self.backed_bytes

    def close(self) -> None:
        """Remove all segments, used or not."""
        for segment in list(self._segments):
            self._remove(segment)

    def abandon(self) -> None:
        """Forget all segments without touching the files: after a fork they are the parent's."""
        for segment in self._segments:
            for slot in segment.slots:
                slot.version += 1
        self._segments.clear()
        self._unused.clear()
        self._freed.clear()
        self._empty.clear()
        self.backed_bytes = self.freed_bytes = 0

    def _provide_huge_pages(self, address: int, fd: int, size_bytes: int) -> int:
        """For the beginning of an empty segment of ``size_bytes``; returns how many of these have got some."""
        if self._without_huge_pages:
            self._without_huge_pages -= 1
            return 0
        provided = provide_huge_pages(address, fd, size_bytes)
        if provided < size_bytes:
            self._without_huge_pages = _UNTIL_HUGE_AGAIN
        return provided

    def _limit(self) -> int:
        if self._recycle_bytes is None:
            self._recycle_bytes = min(1 << 30, (free_bytes(self._folder) + self.backed_bytes) // 8)
        return self._recycle_bytes

    def _take_freed(self, wanted: int) -> Slot | None:
        # A slot of half as much again is better than fresh pages; objects that share a segment stay in their class.
        most = wanted if wanted <= _LARGE_BYTES else wanted + wanted // 2
        while wanted <= most:
            slots = self._freed.get(wanted)
            if slots:
                slot, _ = slots.popitem()
                self.freed_bytes -= slot.backed_bytes
                return slot
            wanted = slot_bytes_for(wanted + 1)
        return None

    def _take_unused(self, wanted: int) -> Slot | None:
        slots = self._unused.get(wanted)
        return slots.popitem()[0] if slots else None

    def _take_new(self, wanted: int) -> Slot:
        slots = 1 if wanted > _LARGE_BYTES else _SHARED_SEGMENT_BYTES // wanted
        self._numbers += 1
        segment = Segment(os.path.join(self._folder, f"{self._maker}.{self._mark}{self._numbers:x}"), wanted, slots)
        self._segments.add(segment)
        segment.slots = [Slot(segment, wanted * i) for i in range(slots)]
        if slots > 1:
            self._unused.setdefault(wanted, {}).update(dict.fromkeys(reversed(segment.slots[1:])))
        return segment.slots[0]

    def _remove(self, segment: Segment) -> None:
        # Never twice: by then something else may be mapped at the address.
        self._segments.remove(segment)
        self._empty.pop(segment, None)
        # Closed while another thread stores or moves something: that mapping stays until the process ends.  In this
        # order, since whoever still found the address had said so before.
        address, segment.address = segment.address, 0
        accessed = segment.leaving or any(slot.accessed for slot in segment.slots)
        freed = self._freed.get(segment.slot_bytes, {})
        unused = self._unused.get(segment.slot_bytes, {})
        for slot in segment.slots:
            slot.version += 1
            unused.pop(slot, None)
            if slot in freed:
                del freed[slot]
                self.freed_bytes -= slot.backed_bytes
            self.backed_bytes -= slot.backed_bytes
        segment.slots.clear()  # a cycle otherwise
        if address and not accessed:
            unmap(address, segment.size_bytes)
        crashpoints.reach("store.removing")
        try:
            os.unlink(segment.path)
        except FileNotFoundError:
            pass  # the node removed its folder first
        crashpoints.reach("store.removed")
