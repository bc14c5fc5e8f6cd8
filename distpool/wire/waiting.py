"""What one thread waits for, all at once: the descriptors of a channel and a doorbell of its own.

With ``epoll`` the kernel remembers them, so that waiting costs the same with one connection and with a thousand, and a
connection that is made while a thread waits is waited for at once.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable

from distpool.wire.doorbell import Doorbell

_HAS_EPOLL = hasattr(select, "epoll")
_IN = select.POLLIN


class Waiter:
    """For one thread at a time.

    :param fds: what it waits for from the start.
    :param doorbell: rung by whoever must reach the thread that waits.
    """

    def __init__(self, fds: Iterable[int], doorbell: Doorbell | None) -> None:
        self._poll: select.epoll | select.poll = select.epoll() if _HAS_EPOLL else select.poll()
        #: Blocks for so many seconds (-1: for ever), and returns what is ready as pairs of descriptor and events.
        self.poll: Callable[[float], list[tuple[int, int]]] = self._poll.poll if _HAS_EPOLL else self._poll_ms
        self._doorbell = doorbell
        self._own: tuple[int, ...] = ()
        for fd in fds:
            self.add(fd)
        if doorbell is not None:
            doorbell.register_with(self._poll)
            self._own = tuple(fd for fd in (doorbell.fd, doorbell.lifeline) if fd >= 0)

    def add(self, fd: int) -> None:
        """Wait for this descriptor, too."""
        self._poll.register(fd, _IN)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed: a process that the user forked may have the same file."""
        self._poll.unregister(fd)

    def answer(self, ready: Iterable[int]) -> None:
        """These descriptors are ready: if the doorbell is among them, take notice."""
        for fd in ready:
            if fd in self._own:
                assert self._doorbell is not None
                self._doorbell.note(fd, self._poll)

    def close(self) -> None:
        """Nobody waits any more."""
        if _HAS_EPOLL:
            self._poll.close()  # type: ignore[union-attr]

    def _poll_ms(self, timeout_s: float) -> list[tuple[int, int]]:
        return self._poll.poll(timeout_s * 1000 if timeout_s >= 0 else None)
