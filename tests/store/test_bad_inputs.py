"""What is odd arrives all the same, as the standard library would deliver it, or is a clear error; nothing is lost."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from distpool.errors import ObjectStoreFullError, SerializationError
from distpool.store.client import ObjectStore

SIZE = 1 << 20


@pytest.fixture
def store(tmp_path: Path):
    store = ObjectStore(tmp_path, "d-1")
    yield store
    store.close()


def through(store, value):
    packed = store.pack(value)
    return store.unpack(packed.value)


@pytest.mark.parametrize("size", [10, SIZE])
def test_read_only_arrays_arrive_writable(store, size):
    array = np.arange(size)
    array.flags.writeable = False
    from_bytes = np.frombuffer(b"x" * size, "u1")
    for value in (array, from_bytes, array[5:], array.reshape(2, -1), np.asfortranarray(array.reshape(2, -1))):
        [arrived], again = through(store, ([value], {"k": value}))
        assert (arrived == value).all()
        assert arrived.flags.writeable == pickle.loads(pickle.dumps(value, 4)).flags.writeable
        assert arrived.flags.f_contiguous == value.flags.f_contiguous
        assert again["k"] is arrived
        arrived[...] = 1


def test_read_only_arrays_in_closures_arrive_writable(store):
    pytest.importorskip("distpool.code.pickler")
    array = np.arange(SIZE)
    array.flags.writeable = False

    def function():
        array[0] = 5
        return array[0]

    assert through(store, function)() == 5


def test_read_only_option_is_not_undone(store):
    array = store.unpack(store.pack(np.zeros(SIZE)).value, readonly=True)
    assert not array.flags.writeable


@pytest.mark.parametrize("size", [1000, SIZE])
def test_memoryviews_arrive_as_such(store, size):
    for view in (
        memoryview(bytearray(b"x" * size)),
        memoryview(b"y" * size),
        memoryview(np.arange(size, dtype=float)),
        memoryview(np.arange(size, dtype="i4")).cast("B").cast("i", (2, size // 2)),
        memoryview(np.arange(size))[::2],
    ):
        arrived, [same] = through(store, (view, [view]))
        assert type(arrived) is memoryview
        assert (arrived.format, arrived.shape, arrived.readonly) == (view.format, view.shape, view.readonly)
        assert arrived.tobytes() == view.tobytes()
        assert same is arrived
    with pytest.raises(SerializationError):
        store.pack(memoryview(np.zeros(3, dtype=[("a", "i4")])))


class Liar:
    """Says that it has a size that it does not have."""

    def __init__(self, claimed):
        self.claimed = claimed

    def __len__(self):
        return self.claimed

    def __sizeof__(self):
        return self.claimed

    def __reduce_ex__(self, protocol):
        return bytearray, (pickle.PickleBuffer(bytearray(b"z" * SIZE)),)


class Shrinking:
    """Its reducer gives a buffer and then changes its mind."""

    def __reduce_ex__(self, protocol):
        data = bytearray(b"z" * SIZE)
        buffer = pickle.PickleBuffer(data)
        buffer.release()
        return bytearray, (buffer,)


def test_a_reducer_that_lies_about_its_size(store):
    for claimed in (0, 5, SIZE * 100):
        assert through(store, Liar(claimed)) == b"z" * SIZE
    with pytest.raises(SerializationError):
        store.pack(Shrinking())
    assert through(store, [1]) == [1]


def test_an_array_whose_elements_fail(store):
    class Bad:
        def __reduce__(self):
            raise ZeroDivisionError

    with pytest.raises(SerializationError):
        store.pack([np.zeros(SIZE), np.array([Bad()], dtype=object)])
    store.trim()
    assert store.backed_bytes == 0


def test_bytes_that_look_like_a_pickle(store):
    inner = pickle.dumps([b"a" * 70_000, bytearray(b"b" * 70_000)], 5)
    tail = b"B" + (100_000).to_bytes(4, "little")
    values = [inner, b"c" * 90_000 + tail, b"d" * 100_000, tail, b"e" * 100_000, b"B" * 65_535, b"", bytearray()]
    assert through(store, values) == values
    assert through(store, [tuple(values), dict(enumerate(values))]) == [tuple(values), dict(enumerate(values))]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145])
def test_sizes_at_the_edges(store, size):
    values = [b"x" * size, bytearray(b"y" * size), np.full(size, 3, "u1"), "z" * size]
    for value in values:
        arrived = through(store, value)
        assert type(arrived) is type(value)
        assert bytes(arrived.encode() if isinstance(arrived, str) else arrived) == bytes(
            value.encode() if isinstance(value, str) else value
        )
    arrived = through(store, values)
    assert arrived[0] == values[0]
    assert arrived[1] == values[1]
    assert (arrived[2] == values[2]).all()
    assert arrived[3] == values[3]


def test_a_hundred_thousand_objects(tmp_path):
    """Of 100 kB each; a tenth of them here, so that it fits anywhere."""
    store = ObjectStore(tmp_path, "d-1")
    base = np.arange(12_500)
    kept = [store.pack(base + i) for i in range(10_000)]
    assert len(os.listdir(tmp_path)) < 200
    descriptors = len(os.listdir("/proc/self/fd"))
    for i in (0, 77, 9_999):
        assert store.unpack(kept[i].value)[5] == 5 + i
    views = [store.unpack(packed.value) for packed in kept[:1000]]
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    del views, kept
    store.trim()
    assert os.listdir(tmp_path) == []
    store.close()


@pytest.fixture
def small_file_system(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system(small_file_system):
    store = ObjectStore(small_file_system, "d-1")
    kept = []
    with pytest.raises(ObjectStoreFullError, match=r"no room for 3,000,000 bytes .* bytes are free"):
        for i in range(100):
            kept.append(store.pack(np.full(3_000_000, i, "u1")))
    assert 3 <= len(kept) <= 5
    for i, packed in enumerate(kept):
        assert (store.unpack(packed.value) == i).all()
    del packed
    kept.pop()
    assert (through(store, np.full(3_000_000, 99, "u1")) == 99).all()
    store.close()
