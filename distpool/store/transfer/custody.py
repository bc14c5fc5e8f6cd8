"""What dead processes of a node have left, and who still needs it.

When a worker ends, its owners say which of its segments are still needed; until then, and for a while, all stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from distpool.store.ownership import maker_of
from distpool.wire.site_to_site import SegmentClaim

#: What no owner has claimed by then was nobody's, or its owner is dead too.
_CLAIM_WITHIN_S = 60.0


class Custody:
    """Books; does no I/O of its own.

    :param segments: names the segments of a maker that are here.
    :param remove: removes one.
    """

    def __init__(self, segments: Callable[[str], list[str]], remove: Callable[[str], None]) -> None:
        self._segments = segments
        self._remove = remove
        #: segment -> for whom it is kept
        self.keepers: dict[str, set[str]] = {}
        #: dead makers of whom nobody has spoken -> until when what they left stays
        self._unclaimed: dict[str, float] = {}

    @property
    def settled(self) -> bool:
        """Whether it is known of all that is left for whom it is kept."""
        return not self._unclaimed

    def next_deadline(self) -> float | None:
        """When ``expire`` must be called."""
        return min(self._unclaimed.values(), default=None)

    def on_death(self, maker: str, now: float) -> None:
        """A process of the node ended."""
        if any(segment not in self.keepers for segment in self._segments(maker)):
            self._unclaimed[maker] = now + _CLAIM_WITHIN_S

    def on_claim(self, maker: str, keep: Iterable[str], keeper: str) -> None:
        """An owner said what of a dead process it needs."""
        self._unclaimed.pop(maker, None)
        # Also of other makers: what a dead process had been handed by its own workers, which had ended before.
        for segment in keep:
            if segment in self._segments(maker_of(segment)):
                self.keepers.setdefault(segment, set()).add(keeper)
        for segment in self._segments(maker):
            if segment not in self.keepers:
                self._remove(segment)

    def take(self, claim: SegmentClaim) -> None:
        """A segment came from a node that leaves."""
        self.keepers.setdefault(claim.segment, set()).update(claim.keepers)

    def drop(self, segment: str) -> None:
        """A segment that was taken is somebody else's after all."""
        if self.keepers.pop(segment, None) is not None:
            self._remove(segment)

    def let_go(self, segments: Iterable[str], keeper: str) -> None:
        """An owner no longer needs these."""
        for segment in list(segments):
            keepers = self.keepers.get(segment)
            if keepers is None:
                continue
            keepers.discard(keeper)
            if not keepers:
                del self.keepers[segment]
                self._remove(segment)

    def on_keeper_gone(self, keeper: str) -> None:
        """An owner is no more."""
        self.let_go([segment for segment, keepers in self.keepers.items() if keeper in keepers], keeper)

    def drivers(self) -> set[str]:
        """For whom anything is kept."""
        return set().union(*self.keepers.values())

    def expire(self, now: float) -> None:
        """Remove what nobody has claimed in time."""
        for maker in [maker for maker, until in self._unclaimed.items() if until <= now]:
            del self._unclaimed[maker]
            for segment in self._segments(maker):
                if segment not in self.keepers:
                    self._remove(segment)
