"""Segments whose store is closed while another thread writes into them, and those that get huge pages, or do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.store import file_system, mapping, segments
from distpool.store.mapping import HUGE_PAGE, PAGE, map_private, map_shared, provide_huge_pages, unmap
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


def test_closing_while_a_segment_is_copied_leaves_whoever_copies_it_its_memory(tmp_path: Path) -> None:
    allocator, slot = _recycled(tmp_path)
    memory = mapping.export(slot.segment.address, _SIZE)
    assert allocator.withdraw(slot.segment) == [slot]
    allocator.close()
    with (tmp_path / "copy").open("wb") as copy:
        assert os.write(copy.fileno(), memory) == _SIZE  # "bad address", were it unmapped
    assert allocator.move(slot.segment, "") == 0
    assert allocator.backed_bytes == 0


def test_writing_after_closing_is_an_error_and_not_a_fatal_signal(tmp_path: Path) -> None:
    allocator, slot = _recycled(tmp_path)
    allocator.close()
    with pytest.raises(ValueError, match="closed meanwhile"):
        allocator.write(slot, [(0, memoryview(b"x" * _SIZE))], _SIZE)
    allocator.discard(slot)
    assert allocator.backed_bytes == allocator.freed_bytes == 0


@pytest.mark.parametrize("map_file", [map_shared, map_private])
@pytest.mark.parametrize("size_bytes", [HUGE_PAGE - PAGE, HUGE_PAGE, _SIZE + 3 * PAGE])
def test_what_is_mapped_starts_where_huge_pages_do_and_nothing_else_stays_reserved(
    tmp_path: Path, map_file: Any, size_bytes: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size_bytes)
    before = _reserved_bytes()
    with path.open("r+b") as file:
        address = map_file(file.fileno(), size_bytes)
    assert _reserved_bytes() == before
    assert size_bytes < HUGE_PAGE or address % HUGE_PAGE == 0
    assert bytes(mapping.export(address, size_bytes)) == b"x" * size_bytes
    with open("/proc/self/maps", encoding="utf-8") as lines:
        ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines if str(path) in line]
    assert ranges == [(address, address + size_bytes)]
    unmap(address, size_bytes)


def _reserved_bytes() -> int:
    """Address space of this process to which there is no access."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        ranges = [line.split()[0].split("-") for line in lines if line.split()[1] == "---p"]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def _write(allocator: SegmentAllocator, content: bytes) -> Slot:
    slot = allocator.allocate(len(content))
    allocator.write(slot, [(0, memoryview(content))], len(content))
    allocator.seal(slot, len(content))
    assert Path(slot.segment.path).read_bytes()[: len(content)] == content
    assert slot.backed_bytes == -(-len(content) // PAGE) * PAGE
    return slot


@pytest.mark.parametrize("provided", [0, HUGE_PAGE, 2 * HUGE_PAGE])
def test_a_value_is_whole_however_many_huge_pages_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provided: int
) -> None:
    asked = []

    def provide(address: int, fd: int, size_bytes: int) -> int:
        asked.append(size_bytes)
        return provided

    monkeypatch.setattr(segments, "provide_huge_pages", provide)
    allocator = SegmentAllocator(os.fspath(tmp_path), "w-1", recycle_bytes=1 << 30)
    content = bytes(range(256)) * (2 * HUGE_PAGE // 256) + b"the end"
    slot = _write(allocator, content)
    assert asked == [2 * HUGE_PAGE]
    allocator.free(slot)
    assert _write(allocator, content[::-1]) is slot  # over what it had, which is not asked for again
    assert asked == [2 * HUGE_PAGE]
    allocator.close()


def test_huge_pages_are_not_asked_for_again_at_once_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def provide(address: int, fd: int, size_bytes: int) -> int:
        asked.append(size_bytes)
        return 0

    monkeypatch.setattr(segments, "provide_huge_pages", provide)
    monkeypatch.setattr(segments, "_UNTIL_HUGE_AGAIN", 2)
    allocator = SegmentAllocator(os.fspath(tmp_path), "w-1", recycle_bytes=1 << 30)
    known = []
    for _ in range(4):
        _write(allocator, b"x" * HUGE_PAGE)
        known.append(len(asked))
    assert known == [1, 1, 1, 2]
    allocator.close()


def test_small_values_have_no_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "provide_huge_pages", lambda *_: pytest.fail("asked for"))
    allocator = SegmentAllocator(os.fspath(tmp_path), "w-1", recycle_bytes=1 << 30)
    _write(allocator, b"x" * (HUGE_PAGE - 1))
    allocator.close()


@pytest.mark.parametrize(("took_s", "provided"), [(0.0, 3), (0.1, 1)])
def test_huge_pages_end_where_they_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took_s: float, provided: int
) -> None:
    class Clock:
        now = 0.0

        @staticmethod
        def monotonic() -> float:
            return Clock.now

    class Kernel:
        @staticmethod
        def madvise(address: int, size_bytes: int, advice: int) -> int:
            Clock.now += took_s
            return 0

    monkeypatch.setattr(mapping, "time", Clock)
    monkeypatch.setattr(mapping, "_libc", Kernel)
    path = tmp_path / "file"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        assert provide_huge_pages(0, file.fileno(), 3 * HUGE_PAGE) == provided * HUGE_PAGE


def test_huge_pages_are_those_of_the_kernel_or_none(tmp_path: Path) -> None:
    path = Path(file_system.shared_memory() or tmp_path) / f"distpool-test-{tmp_path.name}-{id(tmp_path)}"
    try:
        with path.open("x+b") as file:
            file.truncate(_SIZE)
            address = map_shared(file.fileno(), _SIZE)
            provided = provide_huge_pages(address, file.fileno(), _SIZE)
            assert provided in (0, HUGE_PAGE, _SIZE)
            assert bytes(mapping.export(address, provided)) == bytes(provided)
            # All of them are there: nothing more is needed to write to them.
            assert provided <= path.stat().st_blocks * 512 <= _SIZE
            unmap(address, _SIZE)
    finally:
        path.unlink(missing_ok=True)


def test_what_a_reader_wrote_over_huge_pages_is_forgotten() -> None:
    folder = file_system.shared_memory()
    if folder is None:
        pytest.skip("no shared memory of a useful size here")
    path = Path(folder) / f"distpool-test-{os.getpid()}-reader"
    changes = mapping.PrivateChanges()
    try:
        with path.open("x+b") as file:
            file.truncate(_SIZE)
            written, read = map_shared(file.fileno(), _SIZE), map_private(file.fileno(), _SIZE)
            provide_huge_pages(written, file.fileno(), _SIZE)
            file.write(b"m" * _SIZE)
        view = mapping.export(read, _SIZE)
        assert bytes(view) == b"m" * _SIZE
        view[5] = view[HUGE_PAGE + 5] = view[_SIZE - 1] = 0
        assert bytes(mapping.export(written, _SIZE)) == b"m" * _SIZE
        changes.forget(read, _SIZE)
        assert bytes(view) == b"m" * _SIZE
        view.release()
        unmap(written, _SIZE)
        unmap(read, _SIZE)
    finally:
        changes.close()
        path.unlink(missing_ok=True)
