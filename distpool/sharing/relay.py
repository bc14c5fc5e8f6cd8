"""Byte streams between local sockets here and, through the channel that a worker and its driver have, sockets there.

One thread of each process passes on what comes, as long as there are streams.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from distpool.wire.doorbell import Doorbell
from distpool.wire.streams import WINDOW_BYTES, StreamBytes, StreamEnded, StreamMessage, StreamTaken

Tell: TypeAlias = "Callable[[bytes, StreamMessage], None]"

_CHUNK_BYTES = 1 << 16


class _Stream:
    def __init__(self, peer: bytes, number: int, connection: socket.socket) -> None:
        self.peer = peer
        self.number = number
        self.socket = connection
        #: What the other side would still take.
        self.credit = WINDOW_BYTES
        #: What came from there and the socket has not taken.
        self.waiting: deque[memoryview] = deque()
        #: Whether what comes from there, and what comes from the socket, has ended.
        self.ended_there = False
        self.ended_here = False

    @property
    def events(self) -> int:
        """What to wait for at the socket."""
        reads = selectors.EVENT_READ if self.credit > 0 and not self.ended_here else 0
        return reads | (selectors.EVENT_WRITE if self.waiting else 0)


class Relay:
    """The streams of one process.

    :param tell: sends to the process at the other end; called by the relay's thread.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._news: deque[tuple[bytes, StreamMessage | _Stream | None]] = deque()
        self._thread: threading.Thread | None = None
        self._bell: Doorbell | None = None
        self._streams: dict[tuple[bytes, int], _Stream] = {}
        self._selector = selectors.DefaultSelector()
        #: What the selector waits for at each.
        self._awaited: dict[_Stream, int] = {}

    def join(self, peer: bytes, number: int, connection: socket.socket) -> None:
        """Pass on between a local socket, which is the relay's from now on, and the stream ``number`` of ``peer``.

        :raises RuntimeError: when no thread can be started.
        """
        connection.setblocking(False)
        self._put(peer, _Stream(peer, number, connection))

    def take(self, peer: bytes, message: StreamMessage) -> None:
        """A message came."""
        self._put(peer, message)

    def forget(self, peer: bytes) -> None:
        """A process is gone, and so are its streams."""
        self._enqueue(peer, None)

    def _put(self, peer: bytes, news: StreamMessage | _Stream | None) -> None:
        if not self._enqueue(peer, news) and not isinstance(news, _Stream):
            self._refuse(peer, news)

    def _enqueue(self, peer: bytes, news: StreamMessage | _Stream | None) -> bool:
        """Leave it to the thread; False when there are no streams that it could be about."""
        with self._lock:
            if self._thread is None:
                if not isinstance(news, _Stream):
                    return False
                self._bell = Doorbell()
                self._selector = selectors.DefaultSelector()
                thread = threading.Thread(target=self._run, name="distpool-relay", daemon=True)
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:
                    self._stop()
                    raise
            self._news.append((peer, news))
            assert self._bell is not None
            self._bell.ring()
            return True

    def _refuse(self, peer: bytes, news: StreamMessage | None) -> None:
        """Of a stream that has ended here: so that it ends there too."""
        if isinstance(news, StreamBytes) or (isinstance(news, StreamEnded) and not news.broken):
            self._tell(peer, StreamEnded(news.stream, broken=True))

    def _stop(self) -> None:
        assert self._bell is not None
        self._thread = None
        self._selector.close()
        self._bell.close()

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._bell is not None
        self._selector.register(self._bell.fd, selectors.EVENT_READ)
        while True:
            for key, events in self._selector.select():
                stream: _Stream | None = key.data
                if stream is None:
                    self._bell.answer()
                    continue
                if events & selectors.EVENT_WRITE:
                    self._write(stream)
                if events & selectors.EVENT_READ and stream in self._awaited:
                    self._read(stream)
                self._settle(stream)
            while self._news:
                self._attend(*self._news.popleft())
            with self._lock:
                if not self._streams and not self._news:
                    self._stop()
                    return

    def _attend(self, peer: bytes, news: StreamMessage | _Stream | None) -> None:
        if news is None:
            for stream in [stream for stream in self._streams.values() if stream.peer == peer]:
                self._close(stream)
            return
        if isinstance(news, _Stream):
            self._streams[peer, news.number] = news
            self._settle(news)
            return
        found = self._streams.get((peer, news.stream))
        if found is None:
            self._refuse(peer, news)
            return
        if isinstance(news, StreamTaken):
            found.credit += news.size
        elif isinstance(news, StreamBytes):
            if not found.ended_there:
                found.waiting.append(memoryview(news.data))
        else:
            found.ended_there = True
            found.ended_here |= news.broken
            if not found.waiting:
                self._shut(found)
        self._settle(found)

    def _read(self, stream: _Stream) -> None:
        try:
            data = stream.socket.recv(min(_CHUNK_BYTES, stream.credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            stream.credit -= len(data)
            self._tell(stream.peer, StreamBytes(stream.number, data))
        else:
            stream.ended_here = True
            self._tell(stream.peer, StreamEnded(stream.number))

    def _write(self, stream: _Stream) -> None:
        try:
            size = stream.socket.send(stream.waiting[0])
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads here any more.
            stream.waiting.clear()
            stream.ended_here = stream.ended_there = True
            self._tell(stream.peer, StreamEnded(stream.number, broken=True))
            return
        rest = stream.waiting.popleft()[size:]
        if rest:
            stream.waiting.appendleft(rest)
        self._tell(stream.peer, StreamTaken(stream.number, size))
        if stream.ended_there and not stream.waiting:
            self._shut(stream)

    @staticmethod
    def _shut(stream: _Stream) -> None:
        with contextlib.suppress(OSError):
            stream.socket.shutdown(socket.SHUT_WR)

    def _settle(self, stream: _Stream) -> None:
        """Wait for what is to be waited for."""
        if (stream.peer, stream.number) not in self._streams:
            return
        if stream.ended_here and stream.ended_there and not stream.waiting:
            self._close(stream)
            return
        wanted, awaited = stream.events, self._awaited.get(stream, 0)
        if wanted == awaited:
            return
        if not awaited:
            self._selector.register(stream.socket, wanted, stream)
        elif not wanted:
            self._selector.unregister(stream.socket)
        else:
            self._selector.modify(stream.socket, wanted, stream)
        if wanted:
            self._awaited[stream] = wanted
        else:
            del self._awaited[stream]

    def _close(self, stream: _Stream) -> None:
        if self._awaited.pop(stream, 0):
            self._selector.unregister(stream.socket)
        del self._streams[stream.peer, stream.number]
        stream.socket.close()
