"""Connections of a driver to other machines: what follows when one comes up, breaks, or cannot be made."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING

from distpool.wire import driver_to_scheduler, worker_to_driver
from distpool.wire.links import CallerRefused, LinkDown, LinkEvent, LinkFailed, LinkUp
from distpool.wire.streams import OpenStream, StreamBytes, StreamEnded, StreamMessage, StreamTaken

if TYPE_CHECKING:
    from distpool.driver.loop import Loop
    from distpool.driver.session import Session
    from distpool.driver.shell import Settled
    from distpool.driver.streams import Streams

SCHEDULER = b"s"
STREAM_MESSAGES = (OpenStream, StreamBytes, StreamTaken, StreamEnded)
#: For how long a worker may be out of reach from the start, until it is given up.
_UNREACHABLE_S = 15.0
#: A worker whose connection broke has most often died.  Its agent has so long to find out why before it ends it itself.
_DYING_S = 0.5
#: After so many seconds without the scheduler a line says so; after so many nothing waits for it any more.
_SCHEDULER_NOTICE_S = 10.0
SCHEDULER_LOST_S = 600.0
#: Why a worker is given up that never could be called, and what to do about it.
_UNREACHABLE = (
    "it cannot be reached from here: {}; this machine must be able to call the ports of the nodes: open them "
    "(distpool start --worker-ports), or run the program on one of the nodes"
)
_monotonic = time.monotonic


class Links:
    """One per session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._scheduler_lost_at: float | None = None
        self._unreachable_since: dict[bytes, float] = {}
        #: What workers are connected with here; made for the first of them.
        self._streams: Streams | None = None

    def on_news(self) -> None:
        """There are events at the channel (called in any thread): see that ``attend`` is called."""
        session = self._session
        session.channel.wake()
        loop: Loop | None = getattr(session, "loop", None)
        if loop is not None:
            loop.wake()

    def attend(self) -> None:
        """Connections came up or broke (in the loop's thread)."""
        session = self._session
        events = session.channel.link_events
        settled: Settled = []
        while events:
            event = events.popleft()
            if isinstance(event, CallerRefused):
                continue
            with session.lock:
                if event.peer == SCHEDULER:
                    self._on_scheduler(event, settled)
                    continue
                if isinstance(event, LinkUp):
                    self._unreachable_since.pop(event.peer, None)
                elif isinstance(event, LinkDown):
                    self.give_up_worker(event.peer, "the connection to it broke", settled)
                else:
                    since = self._unreachable_since.setdefault(event.peer, _monotonic())
                    if _monotonic() - since > _UNREACHABLE_S:
                        self.give_up_worker(event.peer, _UNREACHABLE.format(event.reason), settled)
        if settled:
            session.settle(settled)

    def _on_scheduler(self, event: LinkEvent, settled: Settled) -> None:
        """News of the connection to the scheduler (caller holds the lock).  While it is down, news comes with each
        attempt to make it again."""
        session = self._session
        if isinstance(event, LinkUp):
            # What was under way was lost; the scheduler says what became of the leases.
            self._scheduler_lost_at = None
            session.introduction.repeat(settled)
            return
        now = _monotonic()
        if self._scheduler_lost_at is None:
            self._scheduler_lost_at = now
        lost_s = now - self._scheduler_lost_at
        where = session.endpoint.removeprefix("tcp://")
        if lost_s > SCHEDULER_LOST_S:
            reason = f"the scheduler of the cluster at {where} has been out of reach for {lost_s:.0f} s"
            session.lifeline.on_refused(reason, settled)
        elif lost_s > _SCHEDULER_NOTICE_S:
            session.loop.notice(f"the scheduler at {where} is out of reach: what needs it waits, the rest goes on")

    def cannot_reach(self, peer: bytes, reason: str) -> None:
        """A worker that was granted has an address that is unknown here (caller holds the lock)."""
        self._unreachable_since[peer] = -math.inf
        self._session.channel.link_events.append(LinkFailed(peer, reason))
        self._session.loop.wake()

    def give_up_worker(self, peer: bytes, reason: str, settled: Settled) -> None:
        """As if the worker had ended; the scheduler sees to it that it does (caller holds the lock)."""
        session = self._session
        self._unreachable_since.pop(peer, None)
        known = session.leases.of_worker(peer)
        if known is None or not session.leases.holds(known[1]):
            return
        pool, lease = known
        session.tell_scheduler(driver_to_scheduler.ReturnLease(lease, _DYING_S))
        session.lease_ended(lease)
        settled += pool.shell.handle(functools.partial(pool.shell.leases.on_link_lost, lease, reason), _monotonic())

    def on_silent(self, peer: bytes, now: float, settled: Settled) -> None:
        """A worker of this machine has broken its shortcut, and all that it said has been heard (caller holds the
        lock)."""
        known = self._session.leases.of_worker(peer)
        if known is not None:
            pool, lease = known
            settled += pool.shell.handle(functools.partial(pool.shell.core.on_silent, lease), now)

    def carry(self, peer: bytes, message: OpenStream | StreamMessage) -> None:
        """A worker asks for a socket of this machine, or speaks to one (caller holds the lock)."""
        if self._streams is None:
            from distpool.driver.streams import Streams

            self._streams = Streams(self._session)
        self._streams.take(peer, message)

    def answer(self, peer: bytes, message: worker_to_driver.Message) -> None:
        """Questions about code: in the loop's thread, without the lock, since user code (the pickling of user objects)
        may run here."""
        session = self._session
        if isinstance(message, (worker_to_driver.FetchDefinitions, worker_to_driver.FetchModule)):
            session.send(peer, session.definitions.answer(peer, message))
        elif isinstance(message, worker_to_driver.Unpinned):
            session.store.unpin(peer.decode(), message.objects)

    def hang_up(self, peer: bytes) -> None:
        """Close the connection to a worker that is gone."""
        self._session.channel.disconnect(peer)
        if self._streams is not None:
            self._streams.forget(peer)

    def hang_up_on_the_gone(self) -> None:
        """Before the session's end: nothing that was meant for workers whose leases have ended is waited for."""
        for peer in self._session.leases.gone():
            self._session.channel.disconnect(peer)
