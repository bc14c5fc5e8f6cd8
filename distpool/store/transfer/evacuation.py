"""A node leaves: what lies in its store and is still needed moves to another node, which stands in for it.

Its workers have ended by then.  Segments move as a whole and keep their names, so whoever knows where something was
finds it again: the scheduler says which node stands in for one that has left.  So one node has all of it or none: where
one has no room, the scheduler names another.  Where no node can take it, this one stays until nothing of it is needed
any more, or asks again.
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
from distpool.wire.site_to_site import SegmentClaim, TakeBack, TakenOver, TakeOver

log = logging.getLogger("distpool.node")

#: How long owners may take to say what they need of workers that have ended; what is unclaimed then moves too.
_SETTLE_S, _LOOK_S = 10.0, 0.1
#: A node that stays looks so often whether anything is still needed, and asks for a successor so often.
_STAY_LOOK_S, _ASK_AGAIN_S = 0.5, 15.0
#: A successor is given up after so long without any progress.
_STUCK_S = 60.0
#: The scheduler tells of a successor that is lost.  One that was restarted meanwhile must be asked.
_FIND_S = 5.0


class Evacuation:
    """Both sides of it: that of the node that leaves, and that of the one that stands in.

    :param stands_for: told of all nodes whose segments are here.
    """

    def __init__(self, site: Site, custody: Custody, stands_for: Callable[[tuple[str, ...]], None]) -> None:
        self._site = site
        self._custody = custody
        self._tell_stands_for = stands_for
        self._successor = ""
        self._done: Callable[[bool], None] | None = None
        self._missing: set[str] = set()
        self._until = self._look_at = 0.0
        self._asked = self._stays = False
        self._number = 0
        #: Of nodes that leave: what is still to be taken over, what is here, and for whom else they stood.
        self._taking: dict[str, set[str]] = {}
        self._taken: dict[str, set[str]] = {}
        self._standing: dict[str, tuple[str, ...]] = {}
        site.on_served = self._on_served
        site.on_gone = self._on_gone
        site.handles(TakeOver, self._on_take_over)
        site.handles(TakenOver, self._on_taken_over)
        site.handles(TakeBack, self._on_take_back)

    def next_deadline(self) -> float | None:
        """When ``on_time`` is due."""
        return None if self._done is None else self._look_at

    def begin(self, successor: str, endpoint: str, done: Callable[[bool], None]) -> None:
        """Move everything to ``successor``, then call ``done`` with whether that succeeded; until then, and if it does
        not, all stays here.  Without a successor, ``done`` comes when nothing is needed any more, or when it is time to
        ask for one again.

        Said again while a successor takes over, it is ignored.
        """
        if self._successor:
            return
        self._done = done
        self._successor = successor
        self._asked = False
        self._until = time.monotonic() + (_SETTLE_S if successor else _ASK_AGAIN_S)
        if successor:
            self._site.connections.found(successor, successor, endpoint)
        self.on_time(time.monotonic())

    def on_time(self, now: float) -> None:
        """Go on if it is time."""
        if self._done is None:
            return
        if self._asked:
            self._look_at = min(self._until, now + _FIND_S)
            if now >= self._until:
                self._fail(f"it said nothing for {_STUCK_S:g} s")
            else:
                self._site.connections.find(self._successor)
            return
        self._look_at = min(self._until, now + (_LOOK_S if self._successor else _STAY_LOOK_S))
        if not self._taking and (self._custody.settled or now >= self._until):
            self._ask(now)

    def _ask(self, now: float) -> None:
        files = self._site.files
        claims = [
            SegmentClaim(name, files.size_of(name), tuple(self._custody.keepers.get(name, ())))
            for name in files.segments()
        ]
        claims = [claim for claim in claims if claim.size_bytes]
        if not claims:
            self._finish(True)
        elif not self._successor:
            self._stay(claims, now)
        else:
            self._asked = True
            self._number += 1
            self._missing = {claim.segment for claim in claims}
            self._until, self._look_at = now + _STUCK_S, now + _FIND_S
            log.info("%d segments move to node %s", len(claims), self._successor)
            crashpoints.reach("evacuation.asking")
            self._site.connections.ask(self._successor, TakeOver(self._number, claims, self._stood_for()))
            crashpoints.reach("evacuation.asked")

    def _stay(self, claims: list[SegmentClaim], now: float) -> None:
        if not self._stays:
            self._stays = True
            log.warning(
                "this node stays: programs still need %d segments (%.1f MB) of its store, and no other node can take "
                "them over; it leaves when they are not needed any more, or when another node has joined or has room",
                len(claims),
                sum(claim.size_bytes for claim in claims) / 1e6,
            )
        if now >= self._until:
            self._finish(False)

    def _on_served(self, site: str) -> None:
        # A large segment over a slow link takes its time.
        if self._asked and site == self._successor:
            self._until = time.monotonic() + _STUCK_S

    def _on_gone(self, site: str) -> None:
        if self._done is not None and site == self._successor:
            self._fail("it is gone")

    def _on_taken_over(self, site: str, message: TakenOver) -> None:
        if not self._asked or message.number != self._number:
            return  # of somebody who was given up
        crashpoints.reach("evacuation.taken_over")
        if message.problem and self._site.files.size_of(message.segment):  # and not because it is needed no more
            self._fail(f"segment {message.segment}: {message.problem}")
            return
        self._missing.discard(message.segment)
        self._until = time.monotonic() + _STUCK_S
        if not self._missing:
            self._finish(True)

    def _fail(self, why: str) -> None:
        log.warning("node %s cannot take over what this node has (%s): another is asked", self._successor, why)
        self._site.connections.ask(self._successor, TakeBack())
        self._finish(False)

    def _finish(self, ok: bool) -> None:
        done, self._done = self._done, None
        self._successor = ""
        self._asked = False
        self._missing.clear()
        crashpoints.reach("evacuation.finished")
        if done is not None:
            done(ok)

    # -- the other side -------------------------------------------------------------------------------------------

    def _on_take_over(self, site: str, message: TakeOver) -> None:
        claims = {claim.segment: claim for claim in message.claims if _is_name(claim.segment)}
        self._taking[site] = set(claims)
        self._taken[site] = set()
        self._standing[site] = message.stands_for
        for claim in claims.values():
            self._take_over(site, message.number, claim)

    def _take_over(self, site: str, number: int, claim: SegmentClaim) -> None:
        name = claim.segment
        extent = Extent(_object(name), site, name, 0, claim.size_bytes)

        def done(places: list[Place], lost: dict[str, str]) -> None:
            if name not in self._taking.get(site, ()):
                return  # it was taken back meanwhile
            crashpoints.reach("evacuation.taking")
            problem = next(iter(lost.values()), "")
            if not problem and not self._site.files.adopt(extent):
                problem = "its copy is gone"
            if problem:
                self._standing.pop(site, None)
            else:
                self._custody.take(claim)
                self._taken[site].add(name)
                self._site.on_ended([extent.object_id])  # as a copy; it is a segment now
            self._note_taken(site, name)
            crashpoints.reach("evacuation.took")
            self._site.connections.reply(site, TakenOver(number, name, problem))

        self._site.want([extent], done)

    def _note_taken(self, site: str, segment: str) -> None:
        self._taking[site].discard(segment)
        if not self._taking[site]:
            del self._taking[site]
            self._tell_stands_for(self._stood_for())

    def _on_take_back(self, site: str, message: TakeBack) -> None:
        self._standing.pop(site, None)
        self._site.on_ended(map(_object, self._taking.pop(site, ())))
        for segment in self._taken.pop(site, ()):
            self._custody.drop(segment)
        self._tell_stands_for(self._stood_for())

    def _stood_for(self) -> tuple[str, ...]:
        """Nodes all of whose segments are here."""
        whole = [site for site in self._standing if site not in self._taking]
        return tuple(dict.fromkeys(name for site in whole for name in (site, *self._standing[site])))


def _object(segment: str) -> str:
    """What a segment is called while it comes as an object."""
    return f"segment {segment}"


def _is_name(segment: str) -> bool:
    return bool(segment) and os.sep not in segment and not segment.startswith(".")
