"""Segments whose store is closed while another thread writes into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distpool.store.segments import SegmentAllocator, Slot

_SIZE = 4 << 20


def _recycled(folder: Path) -> tuple[SegmentAllocator, Slot]:
    allocator = SegmentAllocator(folder, "w-1", recycle_bytes=1 << 30)
    slot = allocator.allocate(_SIZE)
    allocator.write(slot, [(0, memoryview(bytes(_SIZE)))], _SIZE)
    allocator.seal(slot, _SIZE)
    allocator.free(slot)
    assert allocator.allocate(_SIZE) is slot
    return allocator, slot


def test_closing_while_something_is_written_leaves_the_writer_its_memory(tmp_path: Path) -> None:
    allocator, slot = _recycled(tmp_path)

    def pieces() -> Iterator[tuple[int, memoryview]]:
        allocator.close()
        yield 0, memoryview(b"x" * _SIZE)  # a fatal signal, were it unmapped

    allocator.write(slot, pieces(), _SIZE)
    assert list(tmp_path.iterdir()) == []
    allocator.discard(slot)


def test_writing_after_closing_is_an_error_and_not_a_fatal_signal(tmp_path: Path) -> None:
    allocator, slot = _recycled(tmp_path)
    allocator.close()
    with pytest.raises(ValueError, match="closed meanwhile"):
        allocator.write(slot, [(0, memoryview(b"x" * _SIZE))], _SIZE)
    allocator.discard(slot)
    assert allocator.backed_bytes == allocator.freed_bytes == 0
