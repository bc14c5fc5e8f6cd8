"""The event loop of the node process: descriptors, time, and what is to be done next; one thread, no wake-ups when
nothing happens."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable


class Loop:
    """Descriptors are watched for reading until ``stop`` is called."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[Callable[[], float | None], Callable[[float], None]]] = []
        self.running = True

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever ``fd`` is readable, or its other end is gone."""
        self._callbacks[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Before ``fd`` is closed; unknown ones are ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once, after what is going on now."""
        self._soon.append(callback)

    def add_timer(self, deadline: Callable[[], float | None], on_time: Callable[[float], None]) -> None:
        """Call ``on_time`` with the time whenever the time that ``deadline`` then names has come."""
        self._timers.append((deadline, on_time))

    def stop(self) -> None:
        """Make ``run`` return."""
        self.running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        while self.running:
            self.run_once()

    def run_once(self, most_s: float | None = None, *, final: bool = False) -> None:
        """Wait for something, at most ``most_s``, and do all that is to be done; when ``final`` also after ``stop``."""
        self._catch_up()
        if not self.running and not final:
            return
        ready = [(fd, self._callbacks.get(fd)) for fd, _ in self._poll.poll(self._timeout_ms(most_s))]
        for fd, callback in ready:
            # Unless one before it has closed it: then its number may be another one's.
            if callback is not None and self._callbacks.get(fd) is callback:
                callback()
        self._catch_up()

    def _catch_up(self) -> None:
        now = time.monotonic()
        for deadline, on_time in self._timers:
            due = deadline()
            if due is not None and due <= now:
                on_time(now)
        while self._soon:
            self._soon.popleft()()

    def _timeout_ms(self, most_s: float | None) -> float | None:
        deadlines = [due for deadline, _ in self._timers if (due := deadline()) is not None]
        if most_s is not None:
            deadlines.append(time.monotonic() + most_s)
        if not deadlines:
            return None
        # Rounded up: waking a fraction of a millisecond early would mean spinning for it.
        return max(0.0, (min(deadlines) - time.monotonic()) * 1000 + 0.999)
