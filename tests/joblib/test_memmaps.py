"""Arrays mapped from files, in what joblib sends."""

from __future__ import annotations

import copyreg
import pickle
from pathlib import Path

import numpy as np
import pytest

from distpool.joblib_memmaps import by_file_name

# Pytest holds what fixtures made until after the account was taken: here, files that are mapped.
pytestmark = pytest.mark.leaks("descriptors")


def send(array):
    with by_file_name():
        data = pickle.dumps(array, 5)
    return pickle.loads(data), len(data)


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    array = np.memmap(tmp_path / "array", dtype=np.float64, mode="w+", shape=(30, 40), offset=16)
    array[:] = np.arange(1200).reshape(30, 40)
    return array


@pytest.mark.parametrize(
    "part",
    [
        np.s_[:],
        np.s_[3:7],
        np.s_[:, 5],
        np.s_[::-1, ::3],
        np.s_[2:20:5, 7:30:2],
        np.s_[4],
        np.s_[..., None],
    ],
    ids=str,
)
@pytest.mark.parametrize("as_array", [False, True])
def test_tasks_get_the_file(mapped: np.memmap, part: object, as_array: bool) -> None:
    array = np.asarray(mapped)[part] if as_array else mapped[part]
    copy, size = send(array)
    assert size < 600
    assert copy.dtype == array.dtype
    np.testing.assert_array_equal(copy, array)
    copy[...] = -1
    assert (array == -1).all()


def test_transposed_and_one_element(mapped: np.memmap) -> None:
    copy, _ = send(mapped.T)
    assert copy.flags.f_contiguous
    np.testing.assert_array_equal(copy, mapped.T)
    np.testing.assert_array_equal(send(mapped[3:3])[0], mapped[3:3])


def test_a_file_that_is_only_read(mapped: np.memmap) -> None:
    readonly = np.memmap(mapped.filename, dtype=np.float64, mode="r", shape=(30, 40), offset=16)
    copy, size = send(readonly[1:])
    assert size < 600
    assert not copy.flags.writeable
    np.testing.assert_array_equal(copy, mapped[1:])


def test_changes_that_are_not_in_the_file_travel(mapped: np.memmap) -> None:
    private = np.memmap(mapped.filename, dtype=np.float64, mode="c", shape=(30, 40), offset=16)
    private[0] = -5
    np.testing.assert_array_equal(send(private)[0], private)


def test_ordinary_arrays_travel_as_ever(mapped: np.memmap) -> None:
    for array in (np.arange(1000), np.arange(1000)[::2], np.array(["a", None], dtype=object), mapped + 1):
        buffers: list[pickle.PickleBuffer] = []
        with by_file_name():
            data = pickle.dumps(array, 5, buffer_callback=buffers.append)
        copy = pickle.loads(data, buffers=buffers)
        np.testing.assert_array_equal(copy, array)
        assert len(buffers) == (array.flags.c_contiguous and array.dtype != object)


def test_elsewhere_nothing_changes(mapped: np.memmap) -> None:
    with by_file_name():
        with by_file_name():
            pass
        assert np.memmap in copyreg.dispatch_table
    assert np.memmap not in copyreg.dispatch_table
    assert np.ndarray not in copyreg.dispatch_table
    copy = pickle.loads(pickle.dumps(mapped))
    copy[:] = 0
    assert mapped[2, 2] == 82
