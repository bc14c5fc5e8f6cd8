"""Values whose own pickled form would not give a task what the standard library gives it.

Called by ``serialization``, when it met such a value.

* A read-only array: ``multiprocessing`` delivers it writable (it copies), so code that works on its arguments in place
  relies on that.  Pickled with a buffer beside it, it would stay read-only.
* A bare ``memoryview``: no pickler takes it; here it arrives as a ``memoryview`` of the same format and shape.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from distpool.store.mapping import export

_registered: set[type] = set()


class WritableArrays(pickle.Pickler):
    """A pickler that forgets that arrays are read-only."""

    def reducer_override(self, obj: Any) -> Any:
        """See ``pickle.Pickler``."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(obj) is numpy.ndarray and not obj.flags.writeable:
            return reduce_array(obj)
        return NotImplemented


def register(register_by_value: Callable[[type, Callable[[Any], Any]], None]) -> None:
    """Teach the by-value pickler the same (``distpool.code.pickler.register``)."""
    if memoryview not in _registered:
        _registered.add(memoryview)
        register_by_value(memoryview, reduce_memoryview)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "ndarray") and numpy.ndarray not in _registered:
        _registered.add(numpy.ndarray)
        register_by_value(numpy.ndarray, reduce_array)


def reduce_array(array: Any) -> Any:
    """numpy's own reduction, with its buffer, if it has one, presented as writable."""
    reduced = array.__reduce_ex__(5)
    if array.flags.writeable or type(reduced) is not tuple or not reduced[1]:
        return reduced
    first = reduced[1][0]
    if type(first) is not pickle.PickleBuffer:
        return reduced
    raw = first.raw()
    if not raw.readonly or not raw.nbytes:
        return reduced
    # The memory is only read from.
    writable = export(array.ctypes.data, raw.nbytes, _Keep(array))
    return (reduced[0], (pickle.PickleBuffer(writable), *reduced[1][1:]), *reduced[2:])


class _Keep:
    """Keeps an array alive as long as a buffer over its memory."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def on_last_view_gone(self) -> None:
        """See ``mapping.Watcher``."""


def reduce_memoryview(view: Any) -> Any:
    """Its bytes beside the pickle if it is contiguous; otherwise a copy of them."""
    try:
        memoryview(b"").cast(view.format)
    except ValueError as error:
        raise TypeError(f"cannot pickle a memoryview of format {view.format!r}; pass bytes, or an array") from error
    if view.ndim and view.c_contiguous:
        memory: Any = pickle.PickleBuffer(view)
    else:
        memory = bytearray(view.tobytes())
    return load_memoryview, (memory, view.format, list(view.shape), view.readonly)


def load_memoryview(memory: Any, view_format: Any, shape: list[int], readonly: bool) -> memoryview:
    """The counterpart of ``reduce_memoryview``."""
    view = memoryview(memory).cast("B").cast(view_format)
    if len(shape) != 1 and view.nbytes:  # of nothing, no other shape can be made
        view = view.cast("B").cast(view_format, shape)
    return view.toreadonly() if readonly else view
