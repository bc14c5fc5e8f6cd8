"""Which deaths the kernel's out-of-memory killer explains, without I/O.

The kernel counts its kills and does not tell whom it killed.  So each kill that was counted explains one death by
SIGKILL that nobody here ordered, if that is heard soon afterwards: the counter rises before the process has given back
its memory, which for a large one takes seconds, and others may end in between.
"""

from __future__ import annotations

#: From the kill to the news of the death: a process gives back some ten GB a second.
_NEWS_WITHIN_S = 10.0


class KernelKills:
    """See the module's description."""

    def __init__(self) -> None:
        self._counted = 0
        #: when each of those was first seen that have explained nothing yet, oldest first
        self._unexplained: list[float] = []

    def on_count(self, kills: int, now: float) -> None:
        """So many there have been since the beginning."""
        self._unexplained += [now] * (kills - self._counted)
        self._counted = max(self._counted, kills)

    def explain_death(self, now: float) -> bool:
        """Whether one of them was this death, of which the news has come now."""
        self._unexplained = [seen for seen in self._unexplained if now <= seen + _NEWS_WITHIN_S]
        if self._unexplained:
            del self._unexplained[0]
            return True
        return False
