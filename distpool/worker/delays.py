"""How long the main thread was ready to run and had no processor.

With more busy processes than processors, one that loses its turn has it again after some milliseconds.  A task during
which that happens has taken long by the clock; if its driver took it for a long one, it would deal out all that are
like it one by one.
"""

from __future__ import annotations

import os

#: Shorter delays do not make a task long; looking for them after each answer would lengthen every call.
_MARK_S = 0.001


class Delays:
    """Those of the thread that makes it."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._marked = 0.0
        try:
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not every kernel counts
            self._fd = -1
        self.more()

    def mark(self, now: float) -> None:
        """Begin to count anew, between tasks."""
        if now - self._marked > _MARK_S:
            self._marked = now
            self.more()

    def more(self) -> float:
        """Seconds since the last call; 0 where they are not counted."""
        if self._fd < 0:
            return 0.0
        before = self._total_s
        try:
            self._total_s = int(os.pread(self._fd, 80, 0).split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):  # a task closed whatever is open, and may have opened something else
            self._fd = -1
        return self._total_s - before
