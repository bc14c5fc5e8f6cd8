"""Moving segments to disk when the agent asks for it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from distpool import crashpoints
from distpool.store.node_folder import NodeFolder
from distpool.store.segments import Segment, SegmentAllocator, Slot
from distpool.wire.store_client_to_agent import SegmentFacts


class Spiller:
    """Moves what this process has made, and what the dead have left in which it owns objects.

    :param lock: the client's.
    :param busy: slots that are being written or compared: their segments cannot leave.
    :param orphaned: names the segments of the dead (called under the lock).
    :param on_moved: told, under the lock, how much memory came free for others; 0: all objects of a segment ended while
        it was copied, and its memory is this process' to use.
    """

    def __init__(
        self,
        lock: threading.Lock,
        folder: NodeFolder,
        memory: SegmentAllocator,
        busy: set[Slot],
        orphaned: Callable[[], list[str]],
        on_moved: Callable[[int], None],
    ) -> None:
        self._lock = lock
        self._folder = folder
        self._memory = memory
        self._busy = busy
        self._orphaned_here = orphaned
        self._on_moved = on_moved

    def candidates(self) -> list[SegmentFacts]:
        """What could be moved (caller holds the lock)."""
        busy = {slot.segment for slot in self._busy}
        facts = [
            SegmentFacts(segment.name, _backed(segment), segment.last_used)
            for segment in self._memory.used_segments()
            if segment not in busy
        ]
        # Nobody else can move what the dead have left; it has been there for longest.
        return facts + [SegmentFacts(name, _held_by(self._folder.path_of(name)), 0.0) for name in self._orphaned()]

    def spill(self, name: str) -> tuple[int, str]:
        """Move a segment; returns how many bytes of memory came free, and why that failed."""
        with self._lock:
            segment = next((segment for segment in self._memory.used_segments() if segment.name == name), None)
            orphaned = segment is None and name in self._orphaned()
        if orphaned:
            return 0, self._spill_orphan(name)
        with self._lock:
            if segment is None or self._is_busy(segment) or self._folder.spill is None:
                return 0, ""
            slots = self._memory.withdraw(segment) or []
        try:
            path = self._folder.spill.store(name, segment.size_bytes, segment.address, slots)
        except OSError as error:
            with self._lock:
                self._memory.stay(segment)
            return 0, str(error)
        crashpoints.reach("store.spilled")
        with self._lock:
            if self._is_busy(segment):
                self._memory.stay(segment)
                moved = 0
            else:
                moved = self._memory.move(segment, path)
                self._on_moved(moved)
        if not moved:
            self._folder.spill.remove(name)
        crashpoints.reach("store.moved")
        return moved, ""

    def _orphaned(self) -> list[str]:
        return [name for name in self._orphaned_here() if os.path.exists(self._folder.path_of(name))]

    def _spill_orphan(self, name: str) -> str:
        """Move the segment of a dead maker to disk; returns why that failed."""
        assert self._folder.spill is not None
        try:
            self._folder.spill.store_file(self._folder.path_of(name))
        except OSError as error:
            return str(error)
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder.path_of(name))
            if name not in self._orphaned_here():
                self._folder.spill.remove(name)  # its last owner let go of it meanwhile
        return ""

    def _is_busy(self, segment: Segment) -> bool:
        return any(slot.segment is segment for slot in self._busy)


def _backed(segment: Segment) -> int:
    return sum(slot.backed_bytes for slot in segment.slots)


def _held_by(path: str) -> int:
    """Memory that a file takes."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
