"""A node leaves: what lies in its store and is still needed moves to another node, which stands in for it.

Its workers have ended by then.  Segments move as a whole and keep their names, so whoever knows where something was
finds it again: the scheduler says which node stands in for one that has left.  Where there is no other node, this one
stays until nothing of it is needed any more, or another node has joined.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from distpool import crashpoints
from distpool.store.transfer.custody import Custody
from distpool.store.transfer.site import Site
from distpool.wire.objects import Extent, Place
from distpool.wire.site_to_site import SegmentClaim, TakenOver, TakeOver

log = logging.getLogger("distpool.node")

#: How long owners may take to say what they need of workers that have ended; what is unclaimed then moves too.
_SETTLE_S, _LOOK_S = 10.0, 0.1
#: Without a successor it is looked so often whether anything is still needed.
_STAY_LOOK_S = 0.5
#: A node that cannot get rid of its objects leaves all the same after so long without any progress.
_STUCK_S = 60.0


class Evacuation:
    """Both sides of it: that of the node that leaves, and that of the one that stands in."""

    def __init__(self, site: Site, custody: Custody) -> None:
        self._site = site
        self._custody = custody
        self._successor = ""
        self._done: Callable[[], None] | None = None
        self._missing: set[str] = set()
        self._until = self._look_at = 0.0
        self._asked = self._stays = False
        site.handles(TakeOver, self._on_take_over)
        site.handles(TakenOver, self._on_taken_over)

    def next_deadline(self) -> float | None:
        """When ``on_time`` is due."""
        return None if self._done is None else self._look_at

    def begin(self, successor: str, endpoint: str, done: Callable[[], None]) -> None:
        """Move everything to ``successor``, then call ``done``; also when that does not succeed.

        Said again when there is one, if there was none.
        """
        if self._successor or (self._done is not None and not successor):
            return
        self._done = done
        self._successor = successor
        self._until = time.monotonic() + _SETTLE_S
        self._stays = False
        if successor:
            self._site.connections.found(successor, successor, endpoint)
        self.on_time(time.monotonic())

    def on_time(self, now: float) -> None:
        """Go on if it is time."""
        if self._done is None:
            return
        self._look_at = min(self._until, now + _LOOK_S)
        if not self._asked:
            if self._custody.settled or now >= self._until:
                self._ask(now)
        elif now >= self._until:
            log.warning("%d segments could not be moved to node %s in time", len(self._missing), self._successor)
            self._finish()

    def _ask(self, now: float) -> None:
        files = self._site.files
        claims = [
            SegmentClaim(name, files.size_of(name), tuple(self._custody.keepers.get(name, ())))
            for name in files.segments()
        ]
        claims = [claim for claim in claims if claim.size_bytes]
        if not claims:
            self._finish()
            return
        if not self._successor:
            if not self._stays:
                log.warning(
                    "this node stays: programs still need %d segments of its store, and there is no other node to take "
                    "them over; it leaves when they are not needed any more, or when another node has joined",
                    len(claims),
                )
            self._stays = True
            self._look_at = now + _STAY_LOOK_S
            return
        self._asked = True
        self._missing = {claim.segment for claim in claims}
        self._until = self._look_at = now + _STUCK_S
        log.info("%d segments move to node %s", len(claims), self._successor)
        crashpoints.reach("evacuation.asking")
        self._site.connections.ask(self._successor, TakeOver(claims))
        crashpoints.reach("evacuation.asked")

    def _on_taken_over(self, site: str, message: TakenOver) -> None:
        if not message.ok:
            log.warning("node %s could not take over segment %s", site, message.segment)
        crashpoints.reach("evacuation.taken_over")
        self._missing.discard(message.segment)
        self._until = time.monotonic() + _STUCK_S
        if self._asked and not self._missing:
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        crashpoints.reach("evacuation.finished")
        if done is not None:
            done()

    # -- the other side -------------------------------------------------------------------------------------------

    def _on_take_over(self, site: str, message: TakeOver) -> None:
        for claim in message.claims:
            self._take_over(site, claim)

    def _take_over(self, site: str, claim: SegmentClaim) -> None:
        name = claim.segment
        if os.sep in name or name.startswith("."):
            return
        extent = Extent(f"segment {name}", site, name, 0, claim.size_bytes)

        def done(places: list[Place], lost: dict[str, str]) -> None:
            crashpoints.reach("evacuation.taking")
            ok = not lost and self._site.files.adopt(extent)
            if ok:
                self._custody.take(claim)
                self._site.on_ended([extent.object_id])  # as a copy; it is a segment now
            crashpoints.reach("evacuation.took")
            self._site.connections.reply(site, TakenOver(name, ok))

        self._site.want([extent], done)
