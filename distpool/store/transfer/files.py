"""The bytes that sites give each other: pieces of segments, read where they lie, and copies of others' objects.

A copy is a file of its own in the store's folder, or in the spill folder when there is no memory for it.  It is removed
and never used again: whoever has mapped it keeps what was mapped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from distpool.errors import ObjectLostError
from distpool.store.mapping import PAGE
from distpool.store.ownership import maker_of
from distpool.store.spill import NodeFacts, SpillFolder
from distpool.wire.objects import Extent, Place


class Copy:
    """An object of another site, or as much of it as has come.

    :ivar name: of its file, which is a segment to readers.
    """

    __slots__ = ("fd", "in_memory", "name", "object_bytes", "padding", "path", "place", "size_bytes")

    def __init__(self, extent: Extent, path: str, in_memory: bool) -> None:
        #: Buffers stay aligned as they were.
        self.padding = extent.first % PAGE
        self.object_bytes = extent.size_bytes
        self.size_bytes = -(-(self.padding + extent.size_bytes) // PAGE) * PAGE
        self.path = path
        self.name = os.path.basename(path)
        self.in_memory = in_memory
        self.place = Place(extent.object_id, self.name, extent.first - self.padding)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(self.fd, self.size_bytes)
        except BaseException:
            self.remove()
            raise

    def write(self, offset: int, data: memoryview) -> None:
        """:raises OSError: when there is no room."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], self.padding + offset + done)

    def seal(self) -> None:
        """All of it has come."""
        os.close(self.fd)
        self.fd = -1

    def remove(self) -> None:
        """Those who have mapped it keep what they mapped."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(OSError):  # its folder may be gone, or the disk broken: no reason to end a node
            os.unlink(self.path)


class Files:
    """See the module's description.

    :param folder: the store's.
    :param prefix: starts the names of copies.
    """

    def __init__(self, folder: str, prefix: str) -> None:
        self.folder = folder
        self.prefix = prefix
        self.copies: dict[str, Copy] = {}
        self._numbers = 0
        self._buffer = memoryview(bytearray())
        facts = NodeFacts.read(folder)
        self.spill = SpillFolder(facts, prefix) if facts is not None else None

    def new_copy(self, extent: Extent, in_memory: bool) -> Copy:
        """Room for one.

        :raises OSError: when there is none.
        """
        self._numbers += 1
        name = f"{self.prefix}.c{self._numbers:x}"
        folder = self.folder
        if not in_memory:
            if self.spill is None:
                raise OSError("there is no folder on a disk")
            self.spill.prepare()
            folder = self.spill.folder
        copy = self.copies[extent.key] = Copy(extent, os.path.join(folder, name), in_memory)
        return copy

    def key_of(self, name: str) -> str:
        """The copy with this file."""
        return next((key for key, copy in self.copies.items() if copy.name == name), "")

    def has(self, segment: str, *, fetch: bool = False) -> bool:
        """Whether this segment is here, in memory or on disk.

        :param fetch: or was moved on to another file system, from where it is brought back.
        """
        return any(map(os.path.exists, self._paths(segment))) or (fetch and self._fetch(segment))

    def pieces(
        self, extent: Extent, copy: Copy | None, offset: int, size_bytes: int, piece_bytes: int
    ) -> Iterator[memoryview]:
        """The bytes of an object from ``offset`` on, from its segment or a complete copy; fewer when they are not here.

        Each piece is valid until the next is asked for.
        """
        fd = self._open(extent, copy)
        if fd < 0:
            return
        first = extent.first if copy is None else copy.padding
        try:
            # Not mapped: a file that somebody has made shorter, or a disk's error, would kill this process.
            for begin in range(offset, offset + size_bytes, piece_bytes):
                piece = self._piece(min(piece_bytes, offset + size_bytes - begin))
                if os.preadv(fd, (piece,), first + begin) != len(piece):
                    return
                yield piece
        finally:
            os.close(fd)

    def _open(self, extent: Extent, copy: Copy | None) -> int:
        if extent.first < 0:
            return -1
        # Twice, since it may be on its way to disk.
        paths = [copy.path] if copy is not None else [*self._paths(extent.segment)] * 2
        for path in paths:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
        return -1

    def _piece(self, size_bytes: int) -> memoryview:
        """The same memory again and again: what the processor has at hand is written faster."""
        if len(self._buffer) < size_bytes:
            self._buffer = memoryview(bytearray(size_bytes))
        return self._buffer[:size_bytes]

    def size_of(self, segment: str) -> int:
        """Of its file, 0 when it is not here."""
        for path in self._paths(segment):
            try:
                return os.stat(path).st_size
            except OSError:
                continue
        return 0

    def segments(self, maker: str = "") -> list[str]:
        """All that are here, or those of one maker; copies are none."""
        copies = {copy.name for copy in self.copies.values()}
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            names = []
        names += self.spill.names() if self.spill is not None else []
        found = [name for name in names if not name.startswith(".") and name not in copies]
        return [name for name in dict.fromkeys(found) if not maker or maker_of(name) == maker]

    def adopt(self, extent: Extent) -> bool:
        """Make the copy of a whole segment that segment; False when there is no such copy."""
        copy = self.copies.get(extent.key)
        if copy is None:
            return self.has(extent.segment)
        try:
            os.rename(copy.path, os.path.join(os.path.dirname(copy.path), extent.segment))
        except OSError:
            return False
        return True

    def remove(self, segment: str) -> None:
        """Of a dead maker."""
        if os.sep in segment or segment.startswith("."):
            return
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.folder, segment))
        if self.spill is not None:
            self.spill.remove(segment)

    def close(self) -> None:
        """Remove all copies."""
        while self.copies:
            self.copies.popitem()[1].remove()

    def _paths(self, segment: str) -> Iterator[str]:
        if os.sep in segment or segment.startswith(".") or not segment:
            return
        yield os.path.join(self.folder, segment)
        if self.spill is not None:
            yield os.path.join(self.spill.folder, segment)

    def _fetch(self, segment: str) -> bool:
        if self.spill is None or not self.spill.uri or not any(True for _ in self._paths(segment)):
            return False
        try:
            return self.spill.fetch(segment)
        except ObjectLostError:
            return False
