"""What workers of this node need of processes that are dead, here and elsewhere.

A worker that drives nested work owns what its own workers have left.  When it ends, somebody else may have that, since
results were handed on.  So its claims outlive it for as long as others may take to make theirs.
"""

from __future__ import annotations

from collections.abc import Callable

from distpool.wire.site_to_site import MakerEnded, SegmentsUnneeded

#: As long as what nobody claims is kept.
_LET_GO_AFTER_S = 60.0


class Claims:
    """Books; does no I/O of its own.

    :param let_go: tells a site which segments are not needed here any more.
    """

    def __init__(self, let_go: Callable[[str, SegmentsUnneeded], None]) -> None:
        self._let_go = let_go
        #: worker -> site -> segments
        self._held: dict[str, dict[str, set[str]]] = {}
        self._until: dict[str, float] = {}

    def note(self, worker: str, site: str, message: MakerEnded | SegmentsUnneeded) -> None:
        """A worker has told a site what it needs there, or no longer does."""
        if isinstance(message, MakerEnded):
            if message.keep:
                self._held.setdefault(worker, {}).setdefault(site, set()).update(message.keep)
        elif worker in self._held:
            self._held[worker].get(site, set()).difference_update(message.segments)

    def on_exit(self, worker: str, now: float) -> None:
        """A worker ended."""
        if worker in self._held:
            self._until[worker] = now + _LET_GO_AFTER_S

    def next_deadline(self) -> float | None:
        """When ``expire`` must be called."""
        return min(self._until.values(), default=None)

    def expire(self, now: float) -> None:
        """Let go of what was needed by workers that have ended, and by no others."""
        for worker in [worker for worker, until in self._until.items() if until <= now]:
            del self._until[worker]
            for site, segments in self._held.pop(worker).items():
                others = (held.get(site, set()) for held in self._held.values())
                rest = segments.difference(*others)
                if rest:
                    self._let_go(site, SegmentsUnneeded(sorted(rest)))
