"""The node's books on shared memory: who may use how much, and what goes to disk when it runs short.

No I/O, no clock: ``handle(event, now)`` returns what must be done; ``service`` is the shell in the agent.

A *client* is one process' store.  It may use ``allowed_bytes``, and so much is charged to it, used or not; charges
never exceed the budget, except by what cannot be charged to anyone alive (``orphaned_bytes``).  Clients take objects
out of their allowance without asking; only one that has none left asks, and waits.  Requests are served in the order
in which they came.  While there is not enough:

1. *reclaim*: all clients give back what they do not use, and report what they hold;
2. *spill*: of the segments that nobody views, the least recently used go to disk, as many as are needed; the owners of
   what dead clients left see to theirs;
3. *wait*: tasks that end free memory, and that is all that is needed if producers are merely too fast.  Reclaiming is
   tried again every ``RECLAIM_EVERY_S``;
4. *use disk*: when nothing has come free for ``PATIENCE_S``, or after ``LONGEST_WAIT_S`` in any case, the value is
   written to disk by its producer.  So nobody waits for ever, also when those who hold the memory wait themselves.

Objects are pinned by being viewed.  A view that begins after the report is no danger: readers of a spilled segment keep
the memory that they mapped, it is merely not free as soon as was thought.
"""

from __future__ import annotations

import enum
from collections import deque

import msgspec

#: On top of what was asked for, while there is plenty: so that the next objects need not ask.
CREDIT_BYTES = 64 << 20
RECLAIM_EVERY_S = 0.05
#: A client that is in the middle of something may take so long to report; then it is left out.
REPORT_WITHIN_S = 1.0
SPILL_WITHIN_S = 60.0
PATIENCE_S = 0.3
LONGEST_WAIT_S = 5.0


class ClientJoined(msgspec.Struct, frozen=True):
    """A process uses the store; it could take ``allowed_bytes`` without asking."""

    client: str
    allowed_bytes: int


class MemoryAsked(msgspec.Struct, frozen=True):
    """A client waits for memory."""

    client: str
    request: int
    size_bytes: int


class MemoryNotNeeded(msgspec.Struct, frozen=True):
    """A client waits no longer."""

    client: str
    request: int


class MemoryCameBack(msgspec.Struct, frozen=True):
    """A client is allowed less from now on."""

    client: str
    size_bytes: int


class Segment(msgspec.Struct, frozen=True):
    """What can be spilled, as a whole."""

    name: str
    size_bytes: int
    last_used: float


class ClientReported(msgspec.Struct, frozen=True):
    """A client answered a reclaim."""

    client: str
    round: int
    segments: tuple[Segment, ...]
    viewed: frozenset[str]


class SpillEnded(msgspec.Struct, frozen=True):
    """A client answered a spill."""

    client: str
    segment: str
    ok: bool


class ClientLeft(msgspec.Struct, frozen=True):
    """The process is gone."""

    client: str


class OrphansMeasured(msgspec.Struct, frozen=True):
    """So much memory is held by segments whose makers are no clients: dead, or too small to have joined."""

    size_bytes: int


class TimePassed(msgspec.Struct, frozen=True):
    """A deadline has come."""


Event = (
    ClientJoined
    | MemoryAsked
    | MemoryNotNeeded
    | MemoryCameBack
    | ClientReported
    | SpillEnded
    | ClientLeft
    | OrphansMeasured
    | TimePassed
)


class Grant(msgspec.Struct, frozen=True):
    """Allow a client so much more."""

    client: str
    request: int
    size_bytes: int


class SendToDisk(msgspec.Struct, frozen=True):
    """Tell a client to write to disk."""

    client: str
    request: int


class MeasureOrphans(msgspec.Struct, frozen=True):
    """Find out about ``OrphansMeasured``."""


class AskToReclaim(msgspec.Struct, frozen=True):
    """Have a client give back what it does not use, and report."""

    client: str
    round: int


class SpillSegments(msgspec.Struct, frozen=True):
    """Have a client move segments to disk."""

    client: str
    segments: tuple[str, ...]


Effect = Grant | SendToDisk | MeasureOrphans | AskToReclaim | SpillSegments


class Phase(enum.Enum):
    """What is being done about memory running short."""

    CALM = "calm"
    RECLAIMING = "reclaiming"
    SPILLING = "spilling"
    WAITING = "waiting"


#: Legal transitions; anything else is a bug.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.CALM: frozenset({Phase.RECLAIMING}),
    Phase.RECLAIMING: frozenset({Phase.SPILLING, Phase.WAITING, Phase.CALM}),
    Phase.SPILLING: frozenset({Phase.WAITING, Phase.CALM}),
    Phase.WAITING: frozenset({Phase.RECLAIMING, Phase.CALM}),
}


class _Client(msgspec.Struct, eq=False):
    allowed_bytes: int
    segments: tuple[Segment, ...] = ()
    viewed: frozenset[str] = frozenset()


class _Wish(msgspec.Struct, eq=False):
    client: str
    request: int
    size_bytes: int
    since: float


class StoreCore:
    """See the module's description.

    :param budget_bytes: how much shared memory the node's objects may take.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.clients: dict[str, _Client] = {}
        self.allowed_bytes = 0
        self.orphaned_bytes = 0
        self.phase = Phase.CALM
        #: Of reclaiming; a report of an earlier one is out of date.
        self.round = 0
        self._wishes: deque[_Wish] = deque()
        self._missing_reports: set[str] = set()
        #: Segments on their way to disk, and whose they are.
        self._spilling: dict[str, str] = {}
        self._unspillable: set[str] = set()
        self._phase_until = 0.0
        self._last_progress = 0.0

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` must be reported."""
        if not self._wishes:
            return None
        return min(self._phase_until, self._patience_ends(self._wishes[0]))

    @property
    def free_bytes(self) -> int:
        """What can still be allowed."""
        return self.budget_bytes - self.allowed_bytes - self.orphaned_bytes

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of ``event``; returns what must be done."""
        effects: list[Effect] = []
        if isinstance(event, ClientJoined):
            self.clients[event.client] = _Client(event.allowed_bytes)
            self.allowed_bytes += event.allowed_bytes
        elif isinstance(event, MemoryAsked):
            if event.client in self.clients:
                if not self._wishes:
                    self._last_progress = now
                self._wishes.append(_Wish(event.client, event.request, event.size_bytes, now))
        elif isinstance(event, MemoryNotNeeded):
            self._wishes = deque(
                wish for wish in self._wishes if (wish.client, wish.request) != (event.client, event.request)
            )
            self._last_progress = now
        elif isinstance(event, MemoryCameBack):
            self._take_back(event.client, event.size_bytes)
            self._last_progress = now
        elif isinstance(event, ClientReported):
            self._on_reported(event)
        elif isinstance(event, SpillEnded):
            self._spilling.pop(event.segment, None)
            if event.ok:
                self._last_progress = now
                if not event.segment.startswith(f"{event.client}."):
                    effects.append(MeasureOrphans())  # it was a dead client's, and charged to nobody
            else:
                self._unspillable.add(event.segment)
        elif isinstance(event, ClientLeft):
            self._on_left(event.client)
            effects.append(MeasureOrphans())
        elif isinstance(event, OrphansMeasured):
            self.orphaned_bytes = event.size_bytes
        self._serve(now, effects)
        return effects

    def check_invariants(self) -> None:
        """Raise AssertionError when the books are wrong."""
        assert self.allowed_bytes == sum(client.allowed_bytes for client in self.clients.values())
        assert all(client.allowed_bytes >= 0 for client in self.clients.values())
        assert (self.phase is Phase.CALM) == (not self._wishes)
        assert (self.phase is Phase.RECLAIMING) == bool(self._missing_reports)
        assert (self.phase is Phase.SPILLING) <= bool(self._spilling)
        assert self._missing_reports <= self.clients.keys()
        assert all(wish.client in self.clients for wish in self._wishes)
        assert all(client in self.clients for client in self._spilling.values())

    def _take_back(self, name: str, size_bytes: int) -> None:
        client = self.clients.get(name)
        if client is not None:
            size_bytes = min(size_bytes, client.allowed_bytes)
            client.allowed_bytes -= size_bytes
            self.allowed_bytes -= size_bytes

    def _on_reported(self, event: ClientReported) -> None:
        client = self.clients.get(event.client)
        if client is not None and event.round == self.round:
            client.segments = event.segments
            client.viewed = event.viewed
            self._missing_reports.discard(event.client)

    def _on_left(self, name: str) -> None:
        client = self.clients.pop(name, None)
        if client is None:
            return
        self.allowed_bytes -= client.allowed_bytes
        self._missing_reports.discard(name)
        self._wishes = deque(wish for wish in self._wishes if wish.client != name)
        for segment in [segment for segment, maker in self._spilling.items() if maker == name]:
            del self._spilling[segment]

    def _serve(self, now: float, effects: list[Effect]) -> None:
        while self._wishes:
            wish = self._wishes[0]
            if wish.size_bytes <= self.free_bytes:
                self._grant(wish, effects)
            elif wish.size_bytes > self.budget_bytes or now >= self._patience_ends(wish):
                effects.append(SendToDisk(wish.client, wish.request))
                self._last_progress = now
            else:
                break
            self._wishes.popleft()
        if not self._wishes:
            self._enter(Phase.CALM)
            self._missing_reports.clear()
            return
        if self.phase is Phase.CALM or (self.phase is Phase.WAITING and now >= self._phase_until):
            self._reclaim(now, effects)
        if self.phase is Phase.RECLAIMING and (not self._missing_reports or now >= self._phase_until):
            self._missing_reports.clear()
            self._spill(now, effects)
        if self.phase is Phase.SPILLING and (not self._spilling or now >= self._phase_until):
            self._enter(Phase.WAITING)
            self._phase_until = now + RECLAIM_EVERY_S

    def _grant(self, wish: _Wish, effects: list[Effect]) -> None:
        size_bytes = wish.size_bytes
        # Credit is for calm times: what is lent without need must be fetched back later.
        if self.phase is Phase.CALM:
            size_bytes += max(0, min(CREDIT_BYTES, self.free_bytes - size_bytes - self.budget_bytes // 4))
        self.clients[wish.client].allowed_bytes += size_bytes
        self.allowed_bytes += size_bytes
        effects.append(Grant(wish.client, wish.request, size_bytes))

    def _reclaim(self, now: float, effects: list[Effect]) -> None:
        self.round += 1
        self._enter(Phase.RECLAIMING)
        self._phase_until = now + REPORT_WITHIN_S
        self._missing_reports = set(self.clients)
        for client in self.clients.values():
            client.segments, client.viewed = (), frozenset()
        effects.append(MeasureOrphans())
        effects += [AskToReclaim(client, self.round) for client in self.clients]

    def _spill(self, now: float, effects: list[Effect]) -> None:
        # Some more than is needed at the moment: the next objects are under way.
        short = sum(wish.size_bytes for wish in self._wishes) - self.free_bytes + self.budget_bytes // 8
        pinned = frozenset().union(*(client.viewed for client in self.clients.values()))
        candidates = [
            (segment.last_used, segment.name, segment.size_bytes, name)
            for name, client in self.clients.items()
            for segment in client.segments
            if segment.name not in pinned and segment.name not in self._unspillable
        ]
        chosen: dict[str, list[str]] = {}
        for _, segment, size_bytes, name in sorted(candidates):
            if short <= 0:
                break
            short -= size_bytes
            self._spilling[segment] = name
            chosen.setdefault(name, []).append(segment)
        effects += [SpillSegments(name, tuple(segments)) for name, segments in chosen.items()]
        self._enter(Phase.SPILLING if self._spilling else Phase.WAITING)
        self._phase_until = now + (SPILL_WITHIN_S if self._spilling else RECLAIM_EVERY_S)

    def _patience_ends(self, wish: _Wish) -> float:
        if self.phase in (Phase.RECLAIMING, Phase.SPILLING):
            return wish.since + SPILL_WITHIN_S
        return min(max(wish.since, self._last_progress) + PATIENCE_S, wish.since + LONGEST_WAIT_S)

    def _enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            assert phase in TRANSITIONS[self.phase], f"{self.phase} -> {phase}"
            self.phase = phase
