"""Values through the store: what arrives, who sees which change, and when memory is used again."""

from __future__ import annotations

import functools
import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from distpool.errors import ObjectLostError, ObjectStoreFullError, SerializationError
from distpool.store.client import ObjectStore
from distpool.store.serialization import reduce_dependency

LARGE = 1 << 20


class Pair:
    """A driver's and a worker's store on one folder, and what their callbacks were told."""

    def __init__(self, folder: Path) -> None:
        self.unpinned: list[str] = []
        self.freed: list[tuple[str, list[str]]] = []
        self.driver = ObjectStore(folder, "d-1", on_free=lambda maker, ids: self.freed.append((maker, ids)))
        self.worker = ObjectStore(folder, "w-1", on_unpinned=self.unpinned.extend)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(tmp_path)
    yield pair
    pair.driver.close()
    pair.worker.close()


def ids_of(value):
    return [location.object_id for location in value.objects]


def values():
    grid = np.arange(LARGE // 8, dtype=float).reshape(256, -1)
    return {
        "small": ((1, "a"), {"k": None}),
        "array": grid,
        "fortran": np.asfortranarray(grid),
        "strided": grid[::2, ::3],
        "window": grid[10:200],
        "empty": np.empty((0, 5)),
        "structured": np.zeros(LARGE // 16, dtype=[("a", "i8"), ("b", "f8")]),
        "objects": np.array([None, "x", 3] * 10, dtype=object),
        "readonly": _frozen(grid.copy()),
        "bytes": {"a": b"x" * LARGE},
        "bytearray": [bytearray(b"y") * LARGE],
        "text": "\N{SNOWMAN}" * LARGE,
        "many": [np.full(70_000, i, dtype="u1") for i in range(20)],
        "mixed": (grid, b"z" * LARGE, [grid[5:9], "t"]),
        "tuples": [(i, str(i)) for i in range(50_000)],
    }


def _frozen(array):
    array.flags.writeable = False
    return array


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", list(values()))
def test_value_arrives_as_it_was(pair, name):
    value = values()[name]
    packed = pair.driver.pack(value)
    assert same(pair.worker.unpack(packed.value), value)


def test_large_buffers_do_not_travel_in_the_payload(pair):
    for value in (np.zeros(LARGE), b"x" * LARGE, [bytearray(LARGE)], functools.partial(print, np.zeros(LARGE))):
        packed = pair.driver.pack(value)
        assert packed.value.objects
        assert len(packed.value.payload) < 1000
        assert packed.stored_bytes >= LARGE
    small = pair.driver.pack(np.zeros(10))
    assert not small.value.objects
    assert small.stored_bytes == 0


def test_only_the_window_of_an_array_is_stored(pair):
    packed = pair.driver.pack(np.zeros((1000, 10_000))[5:7])
    assert sum(location.size_bytes for location in packed.value.objects) == 2 * 10_000 * 8


def test_buffers_are_aligned(pair):
    packed = pair.driver.pack([np.zeros(70_001, "u1"), np.zeros(70_003, "u1")])
    assert [location.offset % 64 for location in packed.value.objects] == [0, 0]


def test_a_reader_writes_for_itself_alone(pair):
    packed = pair.driver.pack(np.zeros(LARGE))
    first, second = pair.worker.unpack(packed.value), pair.worker.unpack(packed.value)
    first[:] = 1
    assert not second.any()
    assert not pair.driver.unpack(packed.value).any()
    del first
    gc.collect()
    assert not pair.worker.unpack(packed.value).any()


def test_readonly_views_refuse_writing(pair):
    array = pair.worker.unpack(pair.driver.pack(np.zeros(LARGE)).value, readonly=True)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_the_sender_may_change_its_value_afterwards(pair):
    array = np.zeros(LARGE)
    packed = pair.driver.pack(array)
    array[:] = 1
    assert not pair.worker.unpack(packed.value).any()


def test_a_slot_is_used_again_only_without_handle_pin_and_view(pair):
    store = pair.driver
    packed = store.pack(np.zeros(LARGE))
    [object_id] = ids_of(packed.value)
    array = pair.worker.unpack(packed.value)
    hidden = memoryview(array[3:])[5:9]
    del array
    assert pair.worker.pinned([object_id, "d-1.ff"]) == (object_id,)
    store.pin("w-1", [object_id])
    del packed
    assert store.recyclable_bytes == 0
    assert not pair.unpinned
    del hidden
    assert pair.unpinned == [object_id]
    assert pair.worker.pinned([object_id]) == ()
    store.unpin("w-1", [object_id])
    assert store.recyclable_bytes == store.backed_bytes > 0
    again = store.pack(np.ones(LARGE))
    assert store.recyclable_bytes == 0
    assert pair.worker.unpack(again.value).all()


def test_what_was_never_reported_is_not_announced(pair):
    packed = pair.driver.pack(np.zeros(LARGE))
    array = pair.worker.unpack(packed.value)
    del array
    assert not pair.unpinned


def test_pins_end_with_the_process(pair):
    packed = pair.driver.pack(np.zeros(LARGE))
    pair.driver.pin("w-1", ids_of(packed.value))
    packed.release()
    assert pair.driver.recyclable_bytes == 0
    pair.driver.process_died("w-1")
    assert pair.driver.recyclable_bytes > 0


def test_results_live_as_long_as_their_owner_needs_them(pair):
    value = pair.worker.pack(np.arange(LARGE)).hand_over()
    gc.collect()
    assert pair.worker.recyclable_bytes == 0
    stored = pair.driver.adopt(value)
    view = pair.driver.unpack(value, owner=stored)[7:9]
    del stored
    assert not pair.freed
    assert view.tolist() == [7, 8]
    del view
    assert pair.freed == [("w-1", ids_of(value))]
    pair.worker.release(ids_of(value))
    assert pair.worker.recyclable_bytes > 0


def test_a_dead_makers_objects_stay_while_they_are_owned(pair, tmp_path):
    lost = pair.worker.pack(np.zeros(LARGE)).hand_over()
    value = pair.worker.pack(np.arange(LARGE)).hand_over()
    stored = pair.driver.adopt(value)
    pair.driver.process_died("w-1")
    assert os.listdir(tmp_path) == [value.objects[0].segment]
    assert pair.driver.unpack(value)[9] == 9
    with pytest.raises(ObjectLostError):
        pair.driver.unpack(lost)
    del stored
    assert os.listdir(tmp_path) == []
    assert not pair.freed


def test_small_objects_share_files(pair, tmp_path):
    packed = [pair.driver.pack(np.full(100_000, i % 256, "u1")) for i in range(500)]
    assert len(os.listdir(tmp_path)) < 20
    arrays = [pair.worker.unpack(p.value) for p in packed]
    assert [int(a[-1]) for a in arrays] == [i % 256 for i in range(500)]
    arrays[3][:] = 77
    assert int(arrays[2][-1]), int(arrays[4][0]) == (2, 4)


def test_memory_goes_back(pair, tmp_path):
    packed = [pair.driver.pack(np.full(LARGE, i)) for i in range(3)]
    pair.driver.trim()
    assert len(os.listdir(tmp_path)) == 3
    del packed
    assert pair.driver.trim() >= 3 * LARGE
    assert os.listdir(tmp_path) == []
    pair.driver.pack(b"x" * LARGE)
    pair.driver.close()
    assert os.listdir(tmp_path) == []


def test_freed_memory_is_bounded(tmp_path):
    store = ObjectStore(tmp_path, "d-1", recycle_bytes=20 * LARGE)
    packed = [store.pack(np.full(4 * LARGE, i, "u1")) for i in range(20)]
    del packed
    assert store.backed_bytes == store.recyclable_bytes <= 20 * LARGE
    store.close()


def test_handles_may_outlive_the_store(pair):
    packed = pair.driver.pack(np.zeros(LARGE))
    array = pair.worker.unpack(packed.value)
    pair.driver.close()
    pair.worker.close()
    packed.release()
    assert not array.any()
    with pytest.raises(ValueError, match="closed"):
        pair.driver.pack(np.zeros(LARGE))


def test_full_file_system_is_a_clear_error_and_the_store_goes_on(pair, monkeypatch):
    real = os.pwrite

    def full(fd, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ObjectStoreFullError, match="no room for 8,388,608 bytes"):
        pair.driver.pack(np.zeros(LARGE))
    monkeypatch.setattr(os, "pwrite", real)
    assert pair.driver.backed_bytes == 0
    assert not pair.worker.unpack(pair.driver.pack(np.zeros(LARGE)).value).any()


class Handle:
    """Stands for a future."""

    def __reduce__(self):
        return reduce_dependency(self)


def test_dependencies_are_named_by_position_and_loaded_once(pair):
    one, two = Handle(), Handle()
    packed = pair.driver.pack(((one, [two, one]), {"k": {"d": two}}))
    assert packed.dependencies == [one, two]
    results = [pair.worker.pack(np.full(LARGE, i)).hand_over() for i in (1, 2)]
    (a, [b, c]), kwargs = pair.worker.unpack(packed.value, results)
    assert a is c
    assert b is kwargs["k"]["d"]
    assert (a[0], b[0]) == (1, 2)
    with pytest.raises(SerializationError):
        pickle.dumps(one)


class Nested:
    """Its reducer packs something in its turn."""

    def __init__(self, store):
        self.store = store

    def __reduce__(self):
        return bytes, (self.store.pack([1]).value.payload,)


def test_a_reducer_may_use_the_store(pair):
    value = [Handle(), Nested(pair.driver), Handle()]
    packed = pair.driver.pack(value)
    assert packed.dependencies == [value[0], value[2]]


def test_other_libraries_buffers_are_stored(pair):
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    table = pa.table({"x": np.arange(LARGE)})
    frame = pd.DataFrame({"x": np.arange(LARGE), "y": np.arange(LARGE) * 0.5})
    packed = pair.driver.pack({"t": table, "b": table.to_batches()[0], "f": frame})
    assert len(packed.value.payload) < 10_000
    loaded = pair.worker.unpack(packed.value)
    assert loaded["t"].equals(table)
    assert loaded["b"].equals(table.to_batches()[0])
    pd.testing.assert_frame_equal(loaded["f"], frame)
