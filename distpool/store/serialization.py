"""Values to pickles with their large buffers beside them, and back.

Called by ``client``; knows nothing of shared memory.  Plain C ``pickle`` (protocol 5) comes first; what it cannot carry
(lambdas, closures, local classes) is tried again by ``distpool.code.pickler``; what that cannot carry either is a
``SerializationError`` that names the path to the culprit.

Each thread keeps a pickler that writes into a list.  That is as fast as ``pickle.dumps`` for small values and ten times
as fast for large ones, because a large ``bytes`` or ``bytearray``, wherever it is inside the value, arrives in the list
as the object itself, without a copy.  Such a piece is then taken out of the pickle and goes beside it like any other
buffer (``_take_out_large``), so that a constant among changing arguments can be recognised.
"""

from __future__ import annotations

import pickle
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from distpool.errors import DistpoolError, SerializationError
from distpool.sharing.reducers import dispatch_table

Chunk: TypeAlias = "bytes | bytearray | memoryview"
#: What ``reduce_dependency`` meets: futures and references.
Handle: TypeAlias = Any

#: A pickler that met more than this is not kept: its memo never shrinks, and clearing it takes time in its size.
_KEEP_PICKLER_BYTES = 1 << 16
_PROTOCOL = 5
#: While none of these is loaded, no object exists that needs another table than the usual one.
_REDUCTION, _ARROW, _POLARS = "multiprocessing.reduction", "pyarrow", "polars"


class Serialized:
    """A pickle in ``chunks``, whose total is ``size_bytes``; the buffers that go beside it; the handles it refers to by
    position (``dependencies``), or which are in it as references.

    Chunks and buffers are the value's own memory: whoever changes the value changes them.
    """

    __slots__ = ("buffers", "chunks", "dependencies", "references", "size_bytes")

    def __init__(
        self,
        chunks: list[Chunk],
        size_bytes: int,
        buffers: list[memoryview],
        dependencies: list[Handle],
        references: list[Handle],
    ) -> None:
        self.chunks = chunks
        self.size_bytes = size_bytes
        self.buffers = buffers
        self.dependencies = dependencies
        self.references = references


class _Serializer:
    """One thread's pickler."""

    __slots__ = (
        "_buffers", "_chunks", "_find_tables", "_marks", "_pickler", "_readonly", "_shared", "_table", "_tables",
        "busy", "by_reference", "dependencies", "inline_bytes", "references",
    )  # fmt: skip

    def __init__(self) -> None:
        self.busy = False
        self.inline_bytes = 0
        self._readonly = False
        self._table: Any = None
        #: What it was made of.
        self._shared: Any = None
        self._tables: Any = None
        self._find_tables: Callable[[], Any] | None = None
        self.by_reference = False
        self.dependencies: list[Handle] = []
        self.references: list[Handle] = []
        self._renew()

    def _renew(self) -> None:
        self.dependencies.clear()
        self.references.clear()
        self._chunks: list[Chunk] = []
        self._buffers: list[memoryview] = []
        #: For each buffer, how many chunks came before it.
        self._marks: list[int] = []
        self._pickler = pickle.Pickler(_ListWriter(self._chunks), _PROTOCOL, buffer_callback=self._on_buffer)
        if self._table is not None:
            self._pickler.dispatch_table = self._table

    def _on_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """True: the pickle takes it in."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous
        if raw.readonly and type(raw.obj).__name__ == "ndarray":
            self._readonly = True
        if raw.nbytes < self.inline_bytes:
            return True
        self._buffers.append(raw)
        self._marks.append(len(self._chunks))
        return False

    def serialize(self, value: Any, inline_bytes: int, by_reference: bool) -> Serialized | bytes:
        self.busy = True
        self.by_reference = by_reference
        self.inline_bytes = inline_bytes
        self._readonly = False
        try:
            try:
                modules = sys.modules
                if _REDUCTION in modules or _ARROW in modules or _POLARS in modules:
                    self._choose_table()
                self._pickler.dump(value)
                if self._readonly and "numpy" in sys.modules:
                    self._renew()
                    self._writable_pickler().dump(value)
            except Exception as error:
                self._renew()
                if isinstance(error, (MemoryError, DistpoolError)):
                    raise
                self._chunks.append(self._by_value(value, error))
            chunks = self._chunks
            if len(chunks) == 1 and not self._buffers and not self.dependencies and not self.references:
                only = chunks[0]
                if type(only) is bytes and len(only) < inline_bytes:
                    chunks.clear()
                    self._pickler.clear_memo()
                    return only
            if inline_bytes > _LEAST_LARGE_BYTES:
                # Large buffers that the pickle takes in are written as they are.
                chunks[:] = [chunk.raw() if isinstance(chunk, pickle.PickleBuffer) else chunk for chunk in chunks]
            size_bytes = sum(map(len, chunks))
            kept, buffers, pickled_bytes = chunks[:], self._buffers[:], size_bytes
            if size_bytes >= inline_bytes and len(chunks) > 1:
                kept, buffers = _take_out_large(kept, buffers, self._marks, inline_bytes)
                pickled_bytes = sum(map(len, kept))
            result = Serialized(kept, pickled_bytes, buffers, self.dependencies[:], self.references[:])
            if size_bytes < _KEEP_PICKLER_BYTES:
                chunks.clear()
                self._buffers.clear()
                self._marks.clear()
                self.dependencies.clear()
                self.references.clear()
                self._pickler.clear_memo()
            else:
                self._renew()
            return result
        finally:
            self.busy = False

    def _choose_table(self) -> None:
        if self._find_tables is None and (_ARROW in sys.modules or _POLARS in sys.modules):
            import multiprocessing.reduction  # noqa: F401 - without it there is no copy of the usual reducers to add to

            from distpool.store.tables import reducers

            self._find_tables = reducers
        shared = dispatch_table()
        tables = self._find_tables() if self._find_tables is not None else None
        if shared is not self._shared or tables is not self._tables:
            self._shared, self._tables = shared, tables
            self._table = {**shared, **tables} if shared is not None and tables else shared
            self._pickler.dispatch_table = self._table

    def _writable_pickler(self) -> pickle.Pickler:
        from distpool.store.reducers import WritableArrays

        writable = WritableArrays(_ListWriter(self._chunks), _PROTOCOL, buffer_callback=self._on_buffer)
        if self._table is not None:
            writable.dispatch_table = self._table
        return writable

    def _by_value(self, value: Any, error: Exception) -> bytes:
        from distpool.code import pickler
        from distpool.store import reducers

        reducers.register(pickler.register)
        for kind, reducer in (self._tables or {}).items():
            pickler.register(kind, reducer)

        try:
            by_value: bytes = pickler.dumps(value, self._on_buffer)
            return by_value
        except Exception as second:
            self._renew()
            if isinstance(second, (MemoryError, DistpoolError)):
                raise
            from distpool.code.diagnosis import explain

            explanation = explain(value, second)
            self._renew()  # it may have met handles as well
            raise SerializationError(explanation) from error


class _ListWriter:
    __slots__ = ("write",)

    def __init__(self, chunks: list[Chunk]) -> None:
        self.write = chunks.append


#: What precedes a large ``bytes`` or ``bytearray`` in a pickle, and what takes its place there: a call that copies the
#: next buffer.  (A large ``str`` is encoded for the pickle; there is no such object to be found again.)
_HEADERS = {
    b"B": ("<I", b"cbuiltins\nbytes\n\x97\x85R"),
    b"\x8e": ("<Q", b"cbuiltins\nbytes\n\x97\x85R"),
    b"\x96": ("<Q", b"cbuiltins\nbytearray\n\x97\x85R"),
}
_FRAME = 0x95
#: The pickle is cut here; smaller pieces are always inside a chunk.
_LEAST_LARGE_BYTES = 1 << 16


def _take_out_large(
    chunks: list[Chunk], buffers: list[memoryview], marks: list[int], inline_bytes: int
) -> tuple[list[Chunk], list[memoryview]]:
    """Turn large ``bytes`` and ``bytearray`` inside the pickle into buffers beside it, in their place among the others.

    The C pickler writes such an object as a chunk of its own, behind a chunk that ends with the opcode and the size and
    that, but for these and perhaps the pickle's first two bytes, is exactly one frame.
    """
    least = max(inline_bytes, _LEAST_LARGE_BYTES)
    kept: list[Chunk] = []
    merged: list[memoryview] = []
    taken = 0
    for index, chunk in enumerate(chunks):
        substitute = _substitute(kept[-1], chunk) if kept and len(chunk) >= least else None
        if substitute is None:
            kept.append(chunk)
            continue
        while taken < len(marks) and marks[taken] <= index:
            merged.append(buffers[taken])
            taken += 1
        merged.append(memoryview(chunk))
        kept[-1] = substitute
        # An empty chunk, so that nothing takes what was put together here for a header.
        kept.append(b"")
    return kept, merged + buffers[taken:]


def _substitute(header: Chunk, chunk: Chunk) -> bytes | None:
    """``header`` without the opcode and size of ``chunk``, and with a call instead; None when it is no header."""
    start = 2 if bytes(header[:2]) == b"\x80\x05" else 0
    if len(header) >= start + 9 and header[start] == _FRAME:
        start += 9 + int.from_bytes(header[start + 1 : start + 9], "little")
    elif len(header) > start + 12:
        return None
    for opcode, (size_format, call) in _HEADERS.items():
        if size_format == "<I" and len(chunk) >> 32:
            continue
        tail = opcode + struct.pack(size_format, len(chunk))
        if bytes(header[-len(tail) :]) != tail:
            continue
        if len(header) - len(tail) == start or (start <= 2 and len(header) - len(tail) - start < 4):
            return bytes(header[: -len(tail)]) + call
    return None


#: Types of which nothing else than ``pickle`` decides how they are pickled.
_PLAIN = frozenset({int, float, bool, type(None)})
_PLAIN_IF_SHORT = frozenset({str, bytes})
_SHORT = 1024


class _Thread(threading.local):
    serializer: _Serializer | None = None
    load: Callable[[int], Any] | None = None
    store: Any = None


_thread = _Thread()


def serialize(value: Any, inline_bytes: int, by_reference: bool = False) -> Serialized | bytes:
    """The value's pickle: plain bytes when it is smaller than ``inline_bytes`` and stands for itself.

    :param inline_bytes: buffers of at least this size go beside the pickle.
    :param by_reference: futures and references stay references, instead of standing for their values.
    :raises SerializationError: when the value, or a part of it, cannot be carried.
    """
    serializer = _thread.serializer
    if serializer is None:
        serializer = _thread.serializer = _Serializer()
    elif serializer.busy:
        # A reducer that serializes something in its turn.
        inner = _thread.serializer = _Serializer()
        try:
            return inner.serialize(value, inline_bytes, by_reference)
        finally:
            _thread.serializer = serializer
    return serializer.serialize(value, inline_bytes, by_reference)


def serialize_plain_call(args: tuple[Any, ...], inline_bytes: int) -> bytes | None:
    """The pickle of ``(args, {})`` if ``args`` are numbers and short texts, of which ``serialize`` makes the same in
    four times the time, and it is smaller than ``inline_bytes``; otherwise None."""
    for each in args:
        if type(each) not in _PLAIN and (type(each) not in _PLAIN_IF_SHORT or len(each) > _SHORT):
            return None
    payload = pickle.dumps((args, {}), _PROTOCOL)
    return payload if len(payload) < inline_bytes else None


def reduce_dependency(handle: Handle) -> tuple[Any, ...]:
    """What the ``__reduce__`` of a future or reference returns.

    In the arguments of a task the pickle names it by position, and the message beside it says what it stands for.  In a
    stored object or a result it becomes an ``ObjectRef``; a future is waited for.

    :raises SerializationError: outside of a task's arguments or result, where nobody could say that.
    """
    serializer = _thread.serializer
    if serializer is None or not serializer.busy:
        raise SerializationError(
            f"a {type(handle).__name__} can only be pickled as (part of) an argument or result of a task"
        )
    if serializer.by_reference:
        from distpool.store.references import reduce_reference

        serializer.references.append(handle)
        return reduce_reference(handle)
    dependencies = serializer.dependencies
    # By identity: a handle may define equality.
    index = next((index for index, known in enumerate(dependencies) if known is handle), len(dependencies))
    if index == len(dependencies):
        dependencies.append(handle)
    return load_dependency, (index,)


def load_dependency(index: int) -> Any:
    """The counterpart of ``reduce_dependency``, called by the unpickler."""
    load = _thread.load
    if load is None:
        raise pickle.UnpicklingError("this pickle refers to results of tasks and is only valid inside distpool")
    return load(index)


def current_store() -> Any:
    """The store for which this thread unpickles, if it does."""
    return _thread.store


def deserialize(
    payload: Chunk, buffers: Sequence[memoryview], load: Callable[[int], Any] | None, store: Any = None
) -> Any:
    """The value; ``load`` gives the dependency at a position, ``store`` takes in the references inside."""
    outer = _thread.load, _thread.store
    _thread.load, _thread.store = load, store
    try:
        return pickle.loads(payload, buffers=buffers)
    finally:
        _thread.load, _thread.store = outer
