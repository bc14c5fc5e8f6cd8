"""Tables whose own pickled form would carry more than the table, or copy it on the way: how they are pickled instead.

Called by ``serialization`` when pyarrow or polars is loaded.

* A slice of an Arrow table, batch or array: pyarrow pickles the whole buffers of which it shows a part.  Here only the
  part travels, in Arrow's own stream format, as one buffer from which the receiver reads without copying.
* A polars frame or series: its own pickled form is one string of bytes, which the receiver must decode.  Here its
  columns travel as Arrow buffers, which the receiver's columns are then made of, where pyarrow is installed and all
  types of columns are such that nothing is lost.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

_Reducers = dict[type, Callable[[Any], Any]]

#: Less than this is not worth any effort.
_LEAST_BYTES = 1 << 16
#: Types of polars columns that are the same after a journey through Arrow.
_PLAIN_COLUMNS = frozenset(
    {
        "Boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64",
        "String", "Binary", "Date", "Datetime", "Duration", "Time",
    }
)  # fmt: skip

_reducers: _Reducers = {}
_seen: set[str] = set()


def reducers() -> _Reducers:
    """Those for the types of the libraries that are loaded; the same object as long as these are the same."""
    global _reducers
    for name, find in _FINDERS:
        if name in _seen or name not in sys.modules:
            continue
        module = sys.modules[name]
        # While another thread is importing it, not all of it is there.
        if not getattr(module.__spec__, "_initializing", False):
            _seen.add(name)
            _reducers = {**_reducers, **find(module)}
    return _reducers


def _for_arrow(pyarrow: Any) -> _Reducers:
    kinds = [pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray, *_subclasses(pyarrow.Array)]
    return dict.fromkeys(kinds, _reduce_arrow)


def _subclasses(kind: type) -> Iterator[type]:
    found: type
    for found in kind.__subclasses__():
        if found.__module__ == "pyarrow.lib":  # what others derive reduces itself
            yield found
            yield from _subclasses(found)


def _reduce_arrow(value: Any) -> Any:
    try:
        needed = value.nbytes
        wasted = value.get_total_buffer_size() - needed
    except Exception:  # types whose size pyarrow cannot tell
        return value.__reduce_ex__(5)
    if wasted < _LEAST_BYTES or wasted < needed // 4:
        return value.__reduce_ex__(5)
    import pyarrow

    whole = value
    if isinstance(value, pyarrow.Array):
        value = pyarrow.record_batch([value], names=[""])
    elif isinstance(value, pyarrow.ChunkedArray):
        value = pyarrow.table([value], names=[""])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as stream:
        stream.write(value)
    return load_arrow, (_kind(whole), pickle.PickleBuffer(sink.getvalue()))


def _kind(value: Any) -> str:
    import pyarrow

    kinds = (pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray)
    return next((kind.__name__ for kind in kinds if isinstance(value, kind)), "Array")


def load_arrow(kind: str, memory: Any) -> Any:
    """The counterpart of ``_reduce_arrow``."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(memory)) as stream:
        if kind in ("RecordBatch", "Array"):
            batch = stream.read_next_batch()
            return batch.column(0) if kind == "Array" else batch
        table = stream.read_all()
        return table.column(0) if kind == "ChunkedArray" else table


def _for_polars(polars: Any) -> _Reducers:
    try:
        import pyarrow  # noqa: F401 - polars' way to Arrow needs it
    except ImportError:
        return {}
    return {polars.DataFrame: _reduce_polars, polars.Series: _reduce_polars}


def _reduce_polars(value: Any) -> Any:
    columns = value.get_columns() if hasattr(value, "get_columns") else [value]
    plain = all(column.dtype.base_type().__name__ in _PLAIN_COLUMNS for column in columns)
    if not plain or value.estimated_size() < _LEAST_BYTES:
        return value.__reduce_ex__(5)
    return load_polars, (value.to_arrow(), getattr(value, "name", None))


def load_polars(arrow: Any, name: str | None) -> Any:
    """The counterpart of ``_reduce_polars``."""
    import polars

    value: Any = polars.from_arrow(arrow, rechunk=False)
    return value if name is None else value.alias(name)


_FINDERS = (("pyarrow", _for_arrow), ("polars", _for_polars))
