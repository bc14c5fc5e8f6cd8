"""A descriptor that one thread waits for and any thread, finalizer or signal handler may ring."""

from __future__ import annotations

import os
import select


class Doorbell:
    """Rings until it is ``answer``ed; ringing twice is ringing once.

    :param lifeline: a descriptor of somebody's whose end is to wake the waiting thread as well; ``broken`` tells.
    :ivar fd: readable while it rings.
    :ivar broken: whether the lifeline was seen to end; it is not waited for any more.
    """

    def __init__(self, lifeline: int = -1) -> None:
        self.lifeline = lifeline
        self.broken = False
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)
        self._closed = False

    def ring(self) -> None:
        """Make the descriptor readable.  Takes no lock."""
        if self._closed:
            return
        try:
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass  # full: it rings already

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until it rings, and answer; False when the time ran out."""
        poll = select.poll()
        self.register_with(poll)
        ready = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        for fd, _ in ready:
            self.note(fd, poll)
        return bool(ready)

    def register_with(self, poll: select.epoll | select.poll) -> None:
        """Let ``poll`` wait for it, too."""
        poll.register(self.fd, select.POLLIN)
        if self.lifeline >= 0 and not self.broken:
            poll.register(self.lifeline, select.POLLIN)

    def note(self, fd: int, poll: select.epoll | select.poll) -> None:
        """``poll`` found ``fd`` ready: if it is one of ours, take notice."""
        if fd == self.fd:
            self.answer()
        elif fd == self.lifeline:
            self.broken = True
            poll.unregister(fd)

    def answer(self) -> None:
        """Stop it ringing."""
        try:
            os.read(self.fd, 4096)
        except OSError:
            pass  # it did not ring

    def close(self) -> None:
        """No thread may wait for it any more."""
        if self._closed:
            return
        self._closed = True
        os.close(self._write_fd)
        if self.fd != self._write_fd:
            os.close(self.fd)
