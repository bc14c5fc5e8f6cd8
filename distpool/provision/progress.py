"""What is shown while nodes are waited for."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from distpool.wire.supervisor_to_driver import News

#: What takes no longer than this is not worth a word.
_QUIET_S = 2.0
#: Where lines stay, how often there is another one, at first; each time twice as long.
_LINE_S = 10.0


def describe(news: News) -> str:
    """As in ``4 of 8 nodes up, 3 queued in Slurm since 40 s, 1 starting``."""
    parts = [f"{news.up} of {news.wanted} nodes up"]
    for one in news.waiting:
        reason = f" {one.reason}" if one.reason else ""
        parts.append(f"{one.count} {one.phase}{reason}{f' since {one.since_s:.0f} s' if one.since_s >= 1 else ''}")
    return ", ".join(parts)


class Progress:
    """Shows it: on a terminal one line that changes while the program waits, elsewhere now and then a line.

    :param stream: default: standard error as it is at that moment.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._since: float | None = None
        self._last = ""
        self._next_line_at = 0.0
        self._pause_s = _LINE_S
        self._open = False
        #: whether the program waits for this, so that nothing else is written meanwhile
        self.blocking = True

    def take(self, news: News) -> None:
        """How things stand."""
        now = time.monotonic()
        if news.up >= news.wanted:
            if self._last:
                self._show(describe(news), now, last=True)
            self._since, self._last, self._pause_s = None, "", _LINE_S
            return
        if self._since is None:
            self._since, self._next_line_at = now, now + _QUIET_S
        if now - self._since >= _QUIET_S:
            self._show(describe(news), now)

    def say(self, line: str) -> None:
        """A line that stays."""
        self._write(f"{self._erased()}distpool: {line}\n")

    def end(self) -> None:
        """Nothing is waited for any more."""
        self.blocking = False
        if self._open:
            self._open = False
            self._write("\n")

    def _show(self, text: str, now: float, last: bool = False) -> None:
        stream = self._stream or sys.stderr
        if self.blocking and stream is not None and stream.isatty():
            if text != self._last:
                width = os.get_terminal_size(stream.fileno()).columns if stream.fileno() >= 0 else 80
                self._write(f"\r\x1b[Kdistpool: {text}"[: max(20, width + 3)])
                self._open = True
        elif last or now >= self._next_line_at:
            self._next_line_at = now + self._pause_s
            self._pause_s *= 2
            self._write(f"distpool: {text}\n")
        self._last = text
        if last:
            self._open, opened = False, self._open
            if opened:
                self._write("\n")

    def _erased(self) -> str:
        self._open, opened = False, self._open
        return "\r\x1b[K" if opened else ""

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        try:
            if stream is not None:
                stream.write(text)
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody listens
