"""``sys.stdout``, ``sys.stderr`` and log records of tasks, forwarded to the driver.

Text goes out as whole lines and in the order in which it was written, across both streams and the log.  While a short
task runs it is gathered and sent before the task's result; otherwise it goes out line by line.
"""

from __future__ import annotations

import codecs
import io
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from distpool.wire.worker_to_driver import LogRecords, Output
from distpool.worker.flood import Flood

if TYPE_CHECKING:
    import logging

_STDOUT, _STDERR, _LOG = 1, 2, 3
#: Gathered text is sent when it is this long, also while a task runs.
_GATHER_CHARACTERS = 1 << 16


class Forwarder:
    """Gathers what tasks write and sends it.  Any thread may write; ``send`` must not raise.

    :param send: sends one message to the driver.
    :param may_gather: whether somebody will call ``flush`` soon.
    """

    def __init__(self, send: Callable[[Any], None], may_gather: Callable[[], bool]) -> None:
        self._send = send
        self._may_gather = may_gather
        # Re-entrant: a finalizer or signal handler may print while this very thread prints.
        self._lock = threading.RLock()
        self._ready: list[tuple[int, Any]] = []
        self._ready_characters = 0
        #: Unfinished lines by stream and thread: ``print`` writes the text and the line's end separately.
        self._unfinished: dict[tuple[int, int], str] = {}
        self._forked = False
        self._flood = Flood()
        #: Whether ``flush`` has something to do; read without the lock.
        self.pending = False

    def limit(self, per_s: int) -> None:
        """Let so many characters a second through; 0: all."""
        self._flood = Flood(per_s)

    def write(self, stream: int, text: str) -> None:
        """Take text that was written to a stream."""
        if not text:
            return
        if self._forked:
            _write_directly(stream, text)
            return
        with self._lock:
            self.pending = True
            key = (stream, threading.get_ident())
            head, end, tail = text.rpartition("\n")
            before = self._unfinished.pop(key, "")
            if not end:
                self._unfinished[key] = before + tail
                return
            if tail:
                self._unfinished[key] = tail
            admitted = self._flood.admit(before + head + end, time.monotonic())
            if admitted:
                self._add(stream, admitted)

    def write_record(self, record: bytes) -> None:
        """Take a pickled log record."""
        if self._forked:
            return
        with self._lock:
            self.pending = True
            self._add(_LOG, record)

    def show(self, stream: int) -> None:
        """The user flushed a stream: what ends in a carriage return (a progress bar) is as good as a line."""
        key = (stream, threading.get_ident())
        with self._lock:
            text = self._unfinished.get(key, "")
            head, end, tail = text.rpartition("\r")
            if end:
                self._unfinished.pop(key)
                if tail:
                    self._unfinished[key] = tail
                self._add(stream, head + end)

    def flush(self, unfinished: bool = True) -> None:
        """Send everything.

        :param unfinished: also lines that have no end yet, because the task that wrote them has ended.
        """
        if self._forked:
            return
        with self._lock:
            if unfinished:
                for (stream, _), text in self._unfinished.items():
                    self._ready.append((stream, text))
                self._unfinished.clear()
                dropped = self._flood.tell()
                if dropped:
                    self._ready.append((_STDERR, dropped))
            ready, self._ready = self._ready, []
            self._ready_characters = 0
            self.pending = bool(self._unfinished)
            for message in _messages(ready):
                self._send(message)

    def forget_in_child(self) -> None:
        """In a process that a task forked: the channel is its parent's, so its text goes to the inherited descriptors,
        as it would with plain ``multiprocessing``."""
        self._forked = True
        self._lock = threading.RLock()
        self._ready.clear()
        self._unfinished.clear()
        self.pending = False

    def _add(self, kind: int, item: Any) -> None:
        self._ready.append((kind, item))
        self._ready_characters += len(item)
        # Standard error is not gathered: nobody sends it when the task ends the process.
        if kind == _STDERR or self._ready_characters >= _GATHER_CHARACTERS or not self._may_gather():
            self.flush(unfinished=False)


def _messages(ready: Iterable[tuple[int, Any]]) -> list[Any]:
    """Neighbours of one kind become one message."""
    groups: list[tuple[int, list[Any]]] = []
    for kind, item in ready:
        if not groups or groups[-1][0] != kind:
            groups.append((kind, []))
        groups[-1][1].append(item)
    return [LogRecords(items) if kind == _LOG else Output(kind, _encodable("".join(items))) for kind, items in groups]


def _encodable(text: str) -> str:
    """Lone surrogates (undecodable file names) cannot be encoded; they are shown escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _write_directly(fd: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass  # closed by the task


class ForwardedStream(io.TextIOBase):
    """Stands in for ``sys.stdout`` or ``sys.stderr``.  ``fileno`` is the descriptor of that number, which the worker
    inherits from the driver."""

    def __init__(self, forwarder: Forwarder, stream: int, tty: bool) -> None:
        self._forwarder = forwarder
        self._stream = stream
        self._tty = tty
        self._buffer = _ForwardedBytes(self)
        self.name = "<stdout>" if stream == _STDOUT else "<stderr>"
        self.mode = "w"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def newlines(self) -> None:  # type: ignore[override]
        return None

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Takes bytes, as the standard streams' does."""
        return self._buffer

    @property
    def line_buffering(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        self._forwarder.write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            self._forwarder.show(self._stream)

    def reconfigure(self, **_: Any) -> None:
        """Accepted, as programs call it for their own streams; encoding and line ends are the driver's business."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._tty

    def fileno(self) -> int:
        return self._stream


class _ForwardedBytes(io.BufferedIOBase):
    def __init__(self, text: ForwardedStream) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._text.name

    @property
    def mode(self) -> str:
        return "wb"

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        with self._lock:
            text = self._decoder.decode(bytes(view))
        self._text.write(text)
        return view.nbytes

    def flush(self) -> None:
        if not self._text.closed:
            self._text.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._text.isatty()

    def fileno(self) -> int:
        return self._text.fileno()


def make_log_handler(forwarder: Forwarder, level: int) -> logging.Handler:
    """A handler that hands records to the driver's handlers."""
    import logging

    class ForwardingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                forwarder.write_record(pickle_record(record))
            except Exception:
                self.handleError(record)

    return ForwardingHandler(level)


def pickle_record(record: logging.LogRecord) -> bytes:
    """The record's dictionary with message and exception as text, since their parts may not pickle."""
    import logging
    import pickle

    values = dict(record.__dict__)
    values["msg"] = record.getMessage()
    values["args"] = None
    if record.exc_info and not record.exc_text:
        values["exc_text"] = logging.Formatter().formatException(record.exc_info)
    values["exc_info"] = None
    try:
        return pickle.dumps(values, 5)
    except Exception:
        return pickle.dumps({name: _picklable(value) for name, value in values.items()}, 5)


def _picklable(value: Any) -> Any:
    import pickle

    try:
        pickle.dumps(value, 5)
    except Exception:
        return repr(value)
    return value
