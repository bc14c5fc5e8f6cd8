"""What tasks printed and logged, on its way to this program's streams and log handlers.

The loop takes messages in while it holds the session's lock, and has them shown, in whatever thread it happens to run,
before the futures of the results that came after them are settled: whoever learns that a task has ended has seen what
it wrote.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TypeAlias

from distpool.driver.interrupts import shield
from distpool.wire.worker_to_driver import LogRecords, Notice, Output

Written: TypeAlias = "Output | LogRecords | Notice"

#: How long a thread with results waits for another one that writes output.
_PATIENCE_S = 0.5


class TaskOutput:
    """One per session."""

    def __init__(self) -> None:
        #: What has not been shown, in the order in which it came; may be looked at without a lock.
        self.waiting: deque[tuple[Written, str]] = deque()
        self._noticed: set[str] = set()
        # Re-entrant: a stream or handler of the user's may itself use a pool.
        self._showing = threading.RLock()

    def take(self, message: Written, label: str) -> None:
        """Take a message of a worker in.

        :param label: where it was written, to stand before each line; empty: lines appear as they are.
        """
        if isinstance(message, Notice):
            if message.text in self._noticed:
                return
            self._noticed.add(message.text)
        self.waiting.append((message, label))

    def show(self) -> None:
        """Write what waits (caller holds no lock, since code of the user's runs here).

        Another thread may have taken a task's output in, and this one its result: whoever comes here waits for what is
        being written.
        """
        # Not for good: the handler that is at work there may want a lock of the user's, which this thread holds.
        if not self._showing.acquire(timeout=_PATIENCE_S):
            return
        try:
            while self.waiting:
                message, label = self.waiting.popleft()
                lifted = shield.lift()
                try:
                    _write(message, label)
                finally:
                    shield.lower(lifted)
        finally:
            self._showing.release()


def _write(message: Written, label: str) -> None:
    if isinstance(message, LogRecords):
        from distpool.driver.environment import replay_log_records

        replay_log_records(message.records, label)
        return
    if isinstance(message, Notice):
        stream, text = sys.stderr, f"distpool: {message.text}\n"
    else:
        stream, text = sys.stdout if message.stream == 1 else sys.stderr, message.text
        if label:
            text = labelled(text, label)
    try:
        stream.write(text)
        stream.flush()
    except Exception:  # the program closed or replaced its stream; its own prints would fail as well
        pass


def labelled(text: str, label: str) -> str:
    """Each line with the label before it; a last line without an end gets one, since another worker's may follow."""
    lines = [line if line.endswith(("\n", "\r")) else f"{line}\n" for line in text.splitlines(keepends=True)]
    return "".join(f"[{label}] {line}" for line in lines)
