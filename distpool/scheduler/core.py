"""The scheduler's decisions: which driver gets a worker, on which node, and which are wanted back.  Never a task.

No I/O, no clock, no randomness: ``handle(event, now)`` returns what must be done, ``next_deadline()`` when time itself
is an event.  ``server`` is the shell around it.  Who may have what:

* a pool's leases that are not blocked use at most ``slots`` CPUs (a lease that *unblocks* may exceed that);
* a node's leases use at most its capacity (``elastic_cpus``: CPUs are not counted there);
* when that is not enough for all, whoever holds least is served first: among top-level drivers, then among the pools
  of one, then among the drivers in a pool (its owner, and the workers in it that submit nested work).

Serving one demand costs logarithmic time: whatever cannot be served is parked where the event that changes that finds
it, instead of being looked at again and again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from distpool.scheduler.book import Book
from distpool.scheduler.checks import check_book
from distpool.scheduler.desk import Desk
from distpool.scheduler.drivers import DriverSide
from distpool.scheduler.events import (
    AgentSaid,
    DriverLost,
    DriverSaid,
    Effect,
    Event,
    NodeLost,
    OperatorSaid,
    TimePassed,
)
from distpool.scheduler.nodes import NodeSide
from distpool.scheduler.operators import OperatorSide
from distpool.scheduler.reservation import Reservation
from distpool.scheduler.sites import SiteSide
from distpool.scheduler.state import Driver
from distpool.wire import codec

#: Whoever looks so much later than it was to has not been looking (the process was stopped, the machine asleep).  That
#: nobody was heard by it says little then: they get some seconds more to be heard, or to connect anew.
_LATE_S, _GRACE_S = 0.2, 3.0


class SchedulerCore:
    """See the module's description.

    :param cluster: the cluster's name, for people.
    :param lease_prefix: starts the names of all leases; differs from scheduler to scheduler, so that one that was
        restarted can tell its own leases from those of its predecessor.
    :param python: the Python minor version of the cluster; nodes of another one are refused.
    :param silence_s: a driver or node that is not watched and silent for so long is lost.
    :param gathers: nodes come one by one, and perhaps back from a scheduler before this one: for the first
        ``silence_s``, what none of those that are there could serve waits.
    """

    def __init__(
        self,
        cluster: str,
        lease_prefix: str,
        python: str = codec.PYTHON,
        silence_s: float = 10.0,
        *,
        gathers: bool = False,
    ) -> None:
        desk = self._desk = Desk(cluster, lease_prefix, python, silence_s)
        self._gathers = gathers
        sites = SiteSide(desk)
        self._drivers = DriverSide(desk, sites)
        self._nodes = NodeSide(desk, sites)
        self._operators = OperatorSide(desk)
        self._reservation = Reservation(desk)
        self._on: dict[type, Callable[[Any], None]] = {
            DriverSaid: self._drivers.on_driver_said,
            AgentSaid: self._nodes.on_agent_said,
            OperatorSaid: self._operators.on_operator_said,
            DriverLost: lambda event: desk.driver_lost(event.driver, kill=True),
            NodeLost: lambda event: self._nodes.node_lost(event.node, "its agent ended"),
            TimePassed: lambda event: None,
        }
        self._on_timer: dict[str, Callable[[str], None]] = {
            "pool": self._unpark,
            "lease": desk.settle_doubt,
            "operator": self._operators.on_time,
            "return": desk.give_up_on,
            "memory": desk.grow_bolder,
            "lend": desk.lend,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What must be done because of ``event``."""
        desk = self._desk
        desk.now = desk.book.now = now
        if desk.began > now:
            desk.began = now
            if self._gathers:
                desk.expect_nodes(desk.silence_s)
        effects = desk.effects = []
        self._on[type(event)](event)
        if desk.timers and desk.timers[0][0] <= now:
            self._on_timers(now)
        self._serve()
        if (desk.book.wide or self._reservation.deadline is not None) and self._reservation.update(now):
            self._serve()
        for driver, message in desk.reclaim.due(now):
            desk.tell(driver, message)
        return effects

    def _serve(self) -> None:
        while (found := self._desk.book.next_to_serve()) is not None:
            self._desk.start(*found)

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` is due."""
        timer = self._desk.timers[0][0] if self._desk.timers else None
        deadlines = (timer, self._desk.reclaim.deadline, self._reservation.deadline)
        return min((at for at in deadlines if at is not None), default=None)

    def check_invariants(self) -> None:
        """Recount everything; for tests."""
        check_book(self._desk.book)

    @property
    def book(self) -> Book:
        """The state, for tests and for people."""
        return self._desk.book

    def _unpark(self, pool: str) -> None:
        known = self._desk.book.pools.get(pool)
        if known is not None:
            self._desk.book.unpark(known)

    def _on_timers(self, now: float) -> None:
        desk = self._desk
        while desk.timers and desk.timers[0][0] <= now:
            due, kind, name = heapq.heappop(desk.timers)
            if kind in self._on_timer:
                self._on_timer[kind](name)
                continue
            party = desk.book.drivers.get(name) if kind == "driver" else desk.book.nodes.get(name)
            if party is None or (isinstance(party, Driver) and party.watched):
                desk.armed.discard((kind, name))
                continue
            # One timer per party: it moves on when it finds that the party has spoken meanwhile.
            desk.armed.discard((kind, name))
            if party.heard_at + desk.silence_s > now:
                desk.arm(kind, name, party.heard_at)
            elif now - due > _LATE_S:
                desk.arm(kind, name, now + _GRACE_S - desk.silence_s)
            elif kind == "driver":
                desk.driver_lost(name, kill=True)
            else:
                self._nodes.node_lost(name, f"nothing was heard of it for {desk.silence_s:g} s")
