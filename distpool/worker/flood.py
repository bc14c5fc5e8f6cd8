"""A limit to what a worker prints over the network: a loop of prints on a hundred workers must not drown the driver."""

from __future__ import annotations


class Flood:
    """Lets a burst through and then so many characters a second; counts the lines that it drops.

    :param per_s: characters a second; 0: no limit.
    """

    #: So many seconds' worth may come at once.
    BURST_S = 4.0

    def __init__(self, per_s: int = 0) -> None:
        self._per_s = per_s
        self._credit = per_s * self.BURST_S
        self._at = 0.0
        self._dropped = 0

    def admit(self, text: str, now: float) -> str:
        """What of some whole lines may go out: all or none, and what to say about those that did not."""
        if not self._per_s:
            return text
        self._credit = min(self._per_s * self.BURST_S, self._credit + (now - self._at) * self._per_s)
        self._at = now
        # What was dropped is followed by a pause, or every second line would come through.
        if self._credit < len(text) or (self._dropped and self._credit < self._per_s):
            self._dropped += text.count("\n") or 1
            return ""
        self._credit -= len(text)
        return self.tell() + text

    def tell(self) -> str:
        """A line on what was dropped since the last one; empty if nothing was."""
        dropped, self._dropped = self._dropped, 0
        if not dropped:
            return ""
        return f"[distpool: {dropped} lines dropped, more than {self._per_s:,} characters a second]\n"
