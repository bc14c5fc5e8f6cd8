"""Virtual time and a virtual network: messages are delayed and, while a link is cut, held back, as TCP does.

Everything is decided by one seeded generator, so that a run can be repeated exactly.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

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


class Network:
    """Links between named parties.  Each direction keeps the order of its messages.

    A party is *up* under an incarnation number.  What was sent to an incarnation that is no more is lost; what a party
    sent before it died still arrives.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receivers: dict[str, tuple[int, Callable[[str, object], None]]] = {}
        self._incarnations = 0
        #: when the last message on a link arrives: none may overtake it
        self._last: dict[tuple[str, str], float] = {}
        #: until when a party is cut off
        self._cut_until: dict[str, float] = {}

    def up(self, name: str, receive: Callable[[str, object], None]) -> None:
        self._incarnations += 1
        self._receivers[name] = (self._incarnations, receive)

    def down(self, name: str) -> None:
        self._receivers.pop(name, None)

    def cut(self, name: str, duration_s: float) -> None:
        """Hold all messages from and to a party for a while."""
        self._cut_until[name] = max(self._cut_until.get(name, 0.0), self._clock.now + duration_s)

    def heal(self) -> None:
        self._cut_until.clear()

    def send(self, source: str, target: str, message: object) -> None:
        known = self._receivers.get(target)
        if known is None:
            return  # unreachable: the sender is not told either, when the other side died a moment ago
        delay_s = 0.0002 + self._clock.random.expovariate(1000)
        held_until = max(self._cut_until.get(source, 0.0), self._cut_until.get(target, 0.0))
        arrival = max(self._clock.now + delay_s, held_until, self._last.get((source, target), 0.0))
        self._last[source, target] = arrival
        self._clock.at(arrival, lambda: self._arrive(source, target, known[0], message))

    def _arrive(self, source: str, target: str, incarnation: int, message: object) -> None:
        held_until = max(self._cut_until.get(source, 0.0), self._cut_until.get(target, 0.0))
        if held_until > self._clock.now:  # cut while it was under way
            self._last[source, target] = max(self._last[source, target], held_until)
            self._clock.at(held_until, lambda: self._arrive(source, target, incarnation, message))
            return
        known = self._receivers.get(target)
        if known is not None and known[0] == incarnation:
            known[1](source, message)
