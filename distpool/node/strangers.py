"""Callers that could not authenticate: a line in the log, and another each minute in which there are more."""

from __future__ import annotations

import logging
from collections import Counter

from distpool.node.loop import Loop

log = logging.getLogger("distpool.node")

_LINE_S = 60.0


class Strangers:
    """One per node of a cluster."""

    def __init__(self, loop: Loop) -> None:
        self._refused: Counter[str] = Counter()
        self._line_at: float | None = None
        loop.add_timer(lambda: self._line_at, self._tell)

    def refused(self, endpoint: str, now: float) -> None:
        """Somebody who dialled this endpoint of ours was turned away."""
        self._refused[endpoint.removeprefix("tcp://")] += 1
        if self._line_at is None:
            self._tell(now)

    def _tell(self, now: float) -> None:
        self._line_at = now + _LINE_S if self._refused else None
        if self._refused:
            log.warning(
                "%d connection attempt(s) to %s did not authenticate: another key, or no distpool program",
                sum(self._refused.values()),
                ", ".join(sorted(self._refused)),
            )
        self._refused.clear()
