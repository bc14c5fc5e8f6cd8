"""The standard error of workers: passed on to ours, its last lines kept for the report of the worker's death.

What Python code writes to ``sys.stderr`` goes to the driver by another way; here comes what native code and crash
reports write to descriptor 2.
"""

from __future__ import annotations

import os

from distpool.node.loop import Loop

#: A crash report may have a hundred frames of each thread.
_TAIL_BYTES = 16384


class _Pipe:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.tail = b""


class StandardErrors:
    """One pipe per worker."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pipes: dict[str, _Pipe] = {}

    def open(self, worker: str) -> int:
        """A descriptor for the worker to write to; the caller closes it."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        pipe = self._pipes[worker] = _Pipe(read)
        self._loop.watch(read, lambda: self._on_readable(pipe))
        return write

    def take_tail(self, worker: str) -> str:
        """The last lines that the worker wrote, now that it has ended.

        The pipe stays open for as long as something that the worker started goes on writing to it.
        """
        pipe = self._pipes.pop(worker, None)
        if pipe is None:
            return ""
        while self._read(pipe):
            pass
        return pipe.tail.decode(errors="replace")

    def _on_readable(self, pipe: _Pipe) -> None:
        self._read(pipe)

    def _read(self, pipe: _Pipe) -> bool:
        if pipe.fd < 0:
            return False
        try:
            data = os.read(pipe.fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._loop.unwatch(pipe.fd)
            os.close(pipe.fd)
            pipe.fd = -1
            return False
        pipe.tail = (pipe.tail + data)[-_TAIL_BYTES:]
        try:
            os.write(2, data)
        except OSError:
            pass  # ours is closed
        return True
