"""The same large value sent again is stored once, and what was changed in between is seen, however it was changed."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from distpool.store import broadcast as broadcast_module
from distpool.store import memory_watch
from distpool.store.client import ObjectStore
from distpool.store.memory_watch import MemoryWatch
from distpool.store.segments import SegmentAllocator

#: Enough to be watched.
SIZE = 6 << 20


@pytest.fixture(params=["watching", "comparing"])
def store(request, tmp_path: Path):
    store = ObjectStore(tmp_path, "d-1")
    if request.param == "comparing":
        store._parts.writer._broadcast._watch._usable = False
    elif not store._parts.writer._broadcast._watch.usable:
        pytest.skip("this kernel does not tell what was written")
    yield store
    store.close()


@pytest.fixture
def writes(monkeypatch):
    """Sizes of what was really written."""
    sizes: list[int] = []
    real = SegmentAllocator.write

    def write(self, slot, pieces, end):
        sizes.append(end)
        real(self, slot, pieces, end)

    monkeypatch.setattr(SegmentAllocator, "write", write)
    return sizes


def ids(packed):
    return [location.object_id for location in packed.value.objects]


def test_a_constant_is_stored_once(store, writes):
    big = np.random.default_rng(1).random(SIZE // 8)
    kept = [store.pack(((functools.partial(print, big), i), {})) for i in range(20)]
    assert len({tuple(ids(packed)) for packed in kept}) == 1
    assert writes == [SIZE]
    for i, packed in enumerate(kept):
        (function, number), _ = store.unpack(packed.value)
        assert number == i
        assert (function.args[0] == big).all()


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_among_changing_arguments_are_stored_once(store, writes, kind):
    constant = kind(os.urandom(SIZE))
    kept = [store.pack(([constant, i, np.full(10, i)], constant)) for i in range(5)]
    assert writes == [SIZE]
    for i, packed in enumerate(kept):
        [first, number, array], second = store.unpack(packed.value)
        assert type(first) is kind
        assert first is second
        assert first == constant
        assert (number, array[0]) == (i, i)


def test_one_at_a_time_is_written_once(store, writes):
    big = np.random.default_rng(1).random(SIZE // 8)
    seen = set()
    for _ in range(5):
        packed = store.pack(big)
        assert (store.unpack(packed.value) == big).all()
        seen.update(ids(packed))
        packed.release()
    assert writes == [SIZE]
    assert len(seen) == 5


def test_a_recycled_slot_is_not_taken_for_what_was_in_it(store):
    one, two = np.full(SIZE, 1, "u1"), np.full(SIZE, 2, "u1")
    for array in (one, two, one, one, two, two, one):
        packed = store.pack(array)
        assert (store.unpack(packed.value) == array).all()
        packed.release()


CHANGES = {
    "itself": lambda a: a.__setitem__(SIZE // 2, 9),
    "first byte": lambda a: a.__setitem__(0, 9),
    "last byte": lambda a: a.__setitem__(-1, 9),
    "another view": lambda a: a.reshape(2, -1)[1, 5:].__setitem__(0, 9),
    "memoryview": lambda a: memoryview(a).__setitem__(SIZE // 3, 9),
    "C code": lambda a: ctypes.memset(a.ctypes.data + SIZE // 3, 9, 100),
    "system call": lambda a: _read_into(memoryview(a)[SIZE // 3 : SIZE // 3 + 50_000]),
    "thread": lambda a: _in_thread(lambda: a.__setitem__(SIZE // 2 + 1, 9)),
    "discarded": lambda a: _discard(a),
}


def _read_into(memory):
    with open("/dev/urandom", "rb", buffering=0) as file:
        file.readinto(memory)


def _in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def _discard(array):
    libc = ctypes.CDLL(None)
    start = (array.ctypes.data + SIZE // 2) & -mmap.PAGESIZE
    assert libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 4) == 0


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("times_before", [1, 2, 3])
def test_a_change_is_seen(store, change, times_before):
    array = np.full(SIZE, 5, "u1")
    before = array.copy()
    kept = [store.pack(array) for _ in range(times_before)]
    for _ in range(3):
        CHANGES[change](array)
        now = array.copy()
        kept.append(store.pack(array))
        assert (store.unpack(kept[-1].value) == now).all()
        kept.append(store.pack(array))
        assert (store.unpack(kept[-1].value) == now).all()
        array[:] = before
    for packed in kept[:times_before]:
        assert (store.unpack(packed.value) == before).all()


def test_a_child_writes_for_itself(store):
    array = np.full(SIZE, 5, "u1")
    kept = [store.pack(array) for _ in range(3)]
    child = os.fork()
    if not child:
        array[:] = 7
        os._exit(0)
    os.waitpid(child, 0)
    kept.append(store.pack(array))
    assert len({tuple(ids(packed)) for packed in kept}) == 1
    array[77] = 1
    assert store.unpack(store.pack(array).value)[77] == 1


def test_other_memory_at_the_same_address(store):
    with_first = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(with_first, "u1")
    address = array.ctypes.data
    kept = [store.pack(array) for _ in range(3)]
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    # Over it, at the same address; the sample stays the same.
    fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
    mapped = libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(SIZE), 3, fixed, -1, ctypes.c_long(0))
    assert mapped == address
    array[12345] = 3
    assert store.unpack(store.pack(array).value)[12345] == 3
    assert not store.unpack(kept[0].value).any()


def test_shared_memory_and_files_are_compared(store, tmp_path):
    with open(tmp_path / "f", "wb") as file:
        file.truncate(SIZE)
    with open(tmp_path / "f", "r+b") as file:
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            array = np.frombuffer(mmap.mmap(file.fileno(), SIZE, flags), "u1")
            for value in (1, 2):
                kept = [store.pack(array) for _ in range(3)]
                os.pwrite(file.fileno(), bytes([value]), SIZE // 2 + 1)
                packed = store.pack(array)
                assert store.unpack(packed.value)[SIZE // 2 + 1] == value
                del kept
    os.unlink(tmp_path / "f")
    shared = mmap.mmap(-1, SIZE)
    array = np.frombuffer(shared, "u1")
    kept = [store.pack(array) for _ in range(3)]
    assert kept
    child = os.fork()
    if not child:
        array[SIZE // 2 + 1] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert store.unpack(store.pack(array).value)[SIZE // 2 + 1] == 7


def test_a_view_and_the_whole(store):
    whole = np.random.default_rng(2).integers(0, 255, 2 * SIZE, "u1")
    part = whole[: SIZE + 5]
    kept = []
    for i in range(4):
        kept += [store.pack(whole), store.pack(part)]
        whole[SIZE - i * 5000] ^= 1
        assert (store.unpack(store.pack(part).value) == part).all()
        assert (store.unpack(store.pack(whole).value) == whole).all()


def test_bytes_are_let_go_of(tmp_path):
    store = ObjectStore(tmp_path, "d-1")
    store._parts.writer._broadcast._watch._usable = False
    constant = os.urandom(SIZE)
    kept = [store.pack([constant]) for _ in range(3)]
    [copy] = store._parts.writer._broadcast._copies.values()
    assert copy.source is constant
    del constant
    store._parts.writer._broadcast.forget_dead()
    assert copy.source is None
    del kept
    store.close()


def test_what_a_kernel_lacks_is_found_out(monkeypatch):
    watch = MemoryWatch()
    if not watch.usable:
        pytest.skip("this kernel does not tell what was written")
    watch.close()
    monkeypatch.setattr(memory_watch, "_SYSTEM_CALL", 100_000)
    assert not MemoryWatch().usable


def test_pinned_memory_is_not_trusted(monkeypatch):
    array = np.zeros(SIZE, "u1")
    watch = MemoryWatch()
    if watch.begin(array.ctypes.data, SIZE) is None:
        pytest.skip("this kernel does not tell what was written")
    with open("/dev/zero", "r+b") as device, mmap.mmap(device.fileno(), 4096, mmap.MAP_PRIVATE):
        monkeypatch.setattr(memory_watch, "_DEVICES", ("/dev/zero",))
        assert watch.begin(array.ctypes.data, SIZE) is None
    watch.close()


def test_two_compare_with_the_same_copy(store):
    packed = store.pack(bytes(1 << 20))
    (object_id,) = ids(packed)
    slot, room = store._parts.endings.slots[object_id], store._parts.room
    for _ in range(2):
        room.begin_use(slot)
    room.end_use(slot)
    assert slot.accessed
    assert slot in room.busy
    room.end_use(slot)
    assert not slot.accessed
    assert slot not in room.busy


def test_nothing_is_kept_for_good(store):
    for i in range(600):
        store.pack(np.full(70_000, i % 251, "u1") + np.arange(70_000, dtype="u1") * (i // 251)).release()
    assert len(store._parts.writer._broadcast._copies) <= 512


@pytest.mark.parametrize("first_closed", ["then compared", "compared meanwhile"])
def test_closing_while_a_buffer_is_compared_leaves_the_comparison_its_memory(
    store, tmp_path, monkeypatch, first_closed
):
    big = np.random.default_rng(1).random(SIZE // 8)
    kept = store.pack(big)
    removed, unmapped = threading.Event(), []
    closing = threading.Thread(target=store.close)
    broadcast = store._parts.writer._broadcast
    real_same, real_compare, real_close = broadcast.same, broadcast_module._memcmp, store._parts.writer.close

    def close() -> None:
        removed.set()
        real_close()

    def close_all() -> None:
        closing.start()
        assert removed.wait(20)

    def same(sighting, copy):
        close_all()
        return real_same(sighting, copy)

    def compare(address, other, size):
        if not closing.ident:
            close_all()
        if not _mapped(other, size):  # a fatal signal otherwise
            unmapped.append(other)
            return 1
        return real_compare(address, other, size)

    monkeypatch.setattr(store._parts.writer, "close", close)
    monkeypatch.setattr(broadcast_module, "_memcmp", compare)
    if first_closed == "then compared":
        monkeypatch.setattr(broadcast, "same", same)
        with pytest.raises(ValueError, match="closed"):
            store.pack(big)
    else:
        store.pack(big)
    closing.join()
    assert not unmapped
    assert not any(tmp_path.iterdir())
    kept.release()


def _mapped(address: int, size_bytes: int) -> bool:
    with open("/proc/self/maps", encoding="utf-8") as lines:
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return any(first <= address and address + size_bytes <= end for first, end in ranges)
