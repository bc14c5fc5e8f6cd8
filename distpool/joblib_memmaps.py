"""Arrays that are mapped from a file go to joblib tasks as the name of the file.

Programs that use joblib rely on it: tasks fill an ``np.memmap`` that the caller opened, and the caller reads it.  Other
front doors pass such arrays by value, as ``multiprocessing`` does.
"""

from __future__ import annotations

import contextlib
import copyreg
import mmap
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class _Thread(threading.local):
    active = False


_thread = _Thread()
_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def by_file_name() -> Iterator[None]:
    """In this block what this thread pickles refers to the files of mapped arrays.

    The table of reducers belongs to the whole process, so it is changed only for as long as somebody is in the block;
    what other threads pickle meanwhile goes by value, as ever.
    """
    global _users
    numpy = sys.modules.get("numpy")
    if numpy is None:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            copyreg.dispatch_table[numpy.ndarray] = copyreg.dispatch_table[numpy.memmap] = _reduce
    outer, _thread.active = _thread.active, True
    try:
        yield
    finally:
        _thread.active = outer
        with _lock:
            _users -= 1
            if _users == 0:
                for array_type in (numpy.ndarray, numpy.memmap):
                    copyreg.dispatch_table.pop(array_type, None)


def _reduce(array: Any) -> Any:
    if not _thread.active:
        return array.__reduce_ex__(4)  # a form that every protocol takes
    mapped = _mapping_of(array)
    # Changes to a private mapping ("c") are not in the file.
    if mapped is None or mapped.filename is None or mapped.mode == "c":
        return array.__reduce_ex__(5)
    low, high = _bounds(array)
    offset = mapped.offset + low - _bounds(mapped)[0]
    # "w+" would empty the file.
    mode = "r+" if mapped.mode == "w+" else mapped.mode
    filename = str(mapped.filename)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        order = "C" if array.flags.c_contiguous else "F"
        return _map, (filename, mode, offset, array.dtype, array.shape, order)
    first = array.__array_interface__["data"][0] - low
    return _map_strided, (filename, mode, offset, high - low, first, array.dtype, array.shape, array.strides)


def _mapping_of(array: Any) -> Any:
    """The memmap, opened from a file, whose memory the array lies in; or None."""
    numpy = sys.modules["numpy"]
    while isinstance(array, numpy.ndarray):
        if isinstance(array.base, mmap.mmap):
            return array if isinstance(array, numpy.memmap) else None
        array = array.base
    return None


def _bounds(array: Any) -> tuple[int, int]:
    """The lowest address of the array's memory and the one after the highest."""
    low = high = array.__array_interface__["data"][0]
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size == 0:
            return low, low
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + array.itemsize


def _map(filename: str, mode: Any, offset: int, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    """Runs in the worker."""
    import numpy

    with _explained(filename):
        return numpy.memmap(filename, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)


def _map_strided(
    filename: str,
    mode: Any,
    offset: int,
    size_bytes: int,
    first: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> np.ndarray[Any, Any]:
    """Runs in the worker; such an array is a view, and not itself a memmap."""
    import numpy

    with _explained(filename):
        raw = numpy.memmap(filename, dtype=numpy.uint8, mode=mode, offset=offset, shape=(size_bytes,))
    return numpy.ndarray(shape, dtype, raw, first, strides)


@contextlib.contextmanager
def _explained(filename: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno,
            f"an argument is an array that is mapped from this file, which {socket.gethostname()} does not have; keep "
            "it in a folder that the machines share, or pass a copy of the array, as numpy.array(x) makes one",
            filename,
        ) from None
