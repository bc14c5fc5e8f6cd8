"""Virtual time and a virtual network: messages are delayed and, while a link is cut, held back, as TCP does.

Everything is decided by one seeded generator, so that a run can be repeated exactly.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

from distpool.wire.scheduler_to_driver import LeaseEnded

Action = Callable[[], None]


class Clock:
    """Actions in the order of their times; equal times in the order in which they were asked for."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._queue: list[tuple[float, int, Action]] = []
        self._sequence = 0

    def at(self, time: float, action: Action) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (max(time, self.now), self._sequence, action))

    def after(self, delay_s: float, action: Action) -> None:
        self.at(self.now + delay_s, action)

    def step(self) -> bool:
        """Do the next action; False when there is none."""
        if not self._queue:
            return False
        self.now, _, action = heapq.heappop(self._queue)
        action()
        return True


class Timer:
    """Tells a core that the deadline it named has come."""

    def __init__(self, clock: Clock, deadline: Callable[[], float | None], on_time: Callable[[], None]) -> None:
        self._clock = clock
        self._deadline = deadline
        self._on_time = on_time
        self._set_for: float | None = None
        self.stopped = False

    def update(self) -> None:
        deadline = self._deadline()
        if deadline is not None and (self._set_for is None or deadline < self._set_for):
            self._set_for = deadline
            self._clock.at(deadline, lambda: self._fire(deadline))

    def _fire(self, deadline: float) -> None:
        if self.stopped or self._set_for != deadline:
            return
        self._set_for = None
        due = self._deadline()
        if due is not None and due <= self._clock.now:
            self._on_time()
        self.update()


class Network:
    """Links between named parties.  Each direction of a link keeps the order of its messages.

    A party is *up* under an incarnation number.  What was sent to an incarnation that is no more is lost; what a party
    sent before it died still arrives.  Parties on one *site* (a node and its workers) share its fate: what they say to
    each other is never held back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receivers: dict[str, tuple[int, Callable[[str, object], None]]] = {}
        self._sites: dict[str, str] = {}
        self._incarnations = 0
        self._under_way: dict[tuple[str, str], deque[tuple[int, object, float]]] = {}
        #: when the last message on a link arrives: none may overtake it
        self._last: dict[tuple[str, str], float] = {}
        #: until when a site is cut off
        self._cut_until: dict[str, float] = {}
        #: links whose messages under way were lost: what was sent before then does not arrive
        self._reset_at: dict[frozenset[str], float] = {}
        #: how often a message between the scheduler and somebody else arrives twice in a row
        self.duplicates = 0.0

    def up(self, name: str, receive: Callable[[str, object], None], site: str = "") -> None:
        self._incarnations += 1
        self._receivers[name] = (self._incarnations, receive)
        self._sites[name] = site or name

    def down(self, name: str) -> None:
        self._receivers.pop(name, None)

    def is_up(self, name: str) -> bool:
        return name in self._receivers

    def cut(self, name: str, duration_s: float) -> None:
        """Hold all messages from and to a site for a while."""
        self._cut_until[name] = max(self._cut_until.get(name, 0.0), self._clock.now + duration_s)

    def reset(self, one: str, other: str) -> None:
        """Lose what is under way between two parties; both stay up."""
        self._reset_at[frozenset((one, other))] = self._clock.now

    def heal(self) -> None:
        self._cut_until.clear()

    def send(self, source: str, target: str, message: object) -> None:
        known = self._receivers.get(target)
        if known is None:
            return  # unreachable: the sender is not told either, when the other side died a moment ago
        now = self._clock.now
        link = source, target
        delay_s = 0.0002 + self._clock.random.expovariate(1000)
        arrival = max(now + delay_s, self._held_until(source, target), self._last.get(link, 0.0))
        self._last[link] = arrival
        under_way = self._under_way.setdefault(link, deque())
        copies = 1
        if self.duplicates and "s" in link and self._clock.random.random() < self.duplicates:
            # The one message that counts; no transport of ours says anything twice.
            copies = 1 if isinstance(message, LeaseEnded) else 2
        for _ in range(copies):
            under_way.append((known[0], message, now))
            self._clock.at(arrival, lambda: self._arrive(source, target))

    def _held_until(self, source: str, target: str) -> float:
        one, other = self._sites.get(source, source), self._sites.get(target, target)
        if one == other or not self._cut_until:
            return 0.0
        return max(self._cut_until.get(one, 0.0), self._cut_until.get(other, 0.0))

    def _arrive(self, source: str, target: str) -> None:
        held_until = self._held_until(source, target)
        if held_until > self._clock.now:  # cut while it was under way
            self._last[source, target] = max(self._last[source, target], held_until)
            self._clock.at(held_until, lambda: self._arrive(source, target))
            return
        # The oldest: of those that wait for the end of a cut, any may be called first.
        incarnation, message, sent_at = self._under_way[source, target].popleft()
        if self._reset_at and sent_at <= self._reset_at.get(frozenset((source, target)), -1.0):
            return
        known = self._receivers.get(target)
        if known is not None and known[0] == incarnation:
            known[1](source, message)
