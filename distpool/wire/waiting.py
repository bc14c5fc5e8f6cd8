"""What one thread waits for, all at once: the descriptors of a channel and a doorbell of its own.

With ``epoll`` the kernel remembers them, so that waiting costs the same with one connection and with a thousand, and a
connection that is made while a thread waits is waited for at once.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

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

    def wait(self, timeout_s: float | None) -> list[int]:
        """The descriptors that are ready, those of the doorbell among them.  Empty when the time ran out."""
        if timeout_s is None:
            events = self._poll.poll()
        elif timeout_s <= 0:
            events = self._poll.poll(0)
        else:
            events = self._poll.poll(timeout_s if _HAS_EPOLL else timeout_s * 1000)
        ready = [fd for fd, _ in events]
        for fd in self._own:
            if fd in ready:
                assert self._doorbell is not None
                self._doorbell.note(fd, self._poll)
        return ready

    def close(self) -> None:
        """Nobody waits any more."""
        if _HAS_EPOLL:
            self._poll.close()  # type: ignore[union-attr]
