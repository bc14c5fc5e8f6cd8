"""Which generations of the zygote there are, and when a new one is worth making; part of the agent core.

A generation is made when workers came to import modules that the newest one has not loaded, and the machine has time
for it.  Old ones stay until their last worker is gone; number 0, the first zygote, stays for good, because all others
are forked from it.
"""

from __future__ import annotations

from distpool.node.events import (
    Effect,
    EndGeneration,
    GenerationEnded,
    GenerationReady,
    LookAtIdleTime,
    MakeGeneration,
)

#: Learned modules are loaded when no news has come for so long: the workers of a pool report at about the same time.
_LEARN_PAUSE_S = 0.1
#: Each generation loads everything anew, so a program that always comes up with more waits twice as long each time.
_LONGEST_PAUSE_S = 3.0
#: So many CPUs must have had nothing to do since the last look: where tasks keep them all busy, loading would be at
#: their expense, and for workers that may never come...
_IDLE_CPUS = 0.7
#: ... which is looked at so often...
_LOOK_S = 0.25
#: ... and for so long: a program that goes on for longer can bear it.
_PATIENCE_S = 5.0
#: A generation that has not come up by then hangs in an import; tasks that keep all cores busy leave it little time.
_TIMEOUT_S = 600.0


class Generations:
    """See the module's description.

    :ivar current: the one to fork from.
    :ivar workers: how many workers each has.
    :param preload: whether to make any but the first.
    """

    def __init__(self, *, preload: bool) -> None:
        self._preload = preload
        self.current = 0
        self.workers: dict[int, int] = {0: 0}
        self._loaded: frozenset[str] = frozenset()
        self._learned: dict[str, None] = {}
        self._unloadable: set[str] = set()
        self._learn_at: float | None = None
        self._patient_until = 0.0
        #: When the idle time was last looked at, and what was seen; whether that is being done now.
        self._seen: tuple[float, float | None] | None = None
        self._looking = False
        self._making: int | None = None
        self._making_until = 0.0
        self._last = 0

    def next_deadline(self) -> float | None:
        """When ``on_time`` is due."""
        if self._making is not None:
            return self._making_until
        return None if self._looking else self._learn_at

    def learn(self, names: tuple[str, ...], now: float) -> None:
        """Workers came to import these modules."""
        new = [name for name in names if name not in self._learned and name not in self._unloadable]
        if new and self._preload:
            self._learned.update(dict.fromkeys(new))
            self._load_soon(now)

    def on_time(self, now: float) -> list[Effect]:
        """Time has passed."""
        effects: list[Effect] = []
        if self._making is not None and self._making_until <= now:
            effects.append(EndGeneration(self._making))
            self.on_ended(GenerationEnded(self._making), now)
        if self._learn_at is not None and self._making is None and not self._looking:
            if not self._news():
                self._learn_at = None
            elif self._seen is None or self._learn_at <= now:
                self._looking = True
                effects.append(LookAtIdleTime())
        return effects

    def on_idle_time(self, idle_s: float | None, now: float) -> list[Effect]:
        """How long CPUs have been idle (see ``IdleTimeSeen``): load what was learned, or look again."""
        self._looking = False
        before, self._seen = self._seen, (now, idle_s)
        if self._making is not None or self._learn_at is None or self._learn_at > now:
            return []
        if now < self._patient_until and not _have_been_idle(before, self._seen):
            self._learn_at = now + _LOOK_S
            return []
        self._learn_at = None
        self._last += 1
        self._making = self._last
        self._making_until = now + _TIMEOUT_S
        return [MakeGeneration(self._making, tuple(name for name in self._learned if name not in self._unloadable))]

    def on_ready(self, event: GenerationReady, now: float) -> list[Effect]:
        """A generation can fork; it is the one to fork from, unless it had been given up."""
        if event.generation != self._making:
            return [EndGeneration(event.generation)]
        self._making = None
        self._unloadable.update(event.unloadable)
        self._loaded = frozenset(event.modules)
        self.workers[event.generation] = 0
        self.current = event.generation
        if self._news():
            self._load_soon(now)
        return self.end_unused()

    def on_ended(self, event: GenerationEnded, now: float) -> None:
        """A generation is gone; its workers have been counted out."""
        number = event.generation
        if number == self._making:
            # What made it fail is named; when nothing is, trying again would fail again.
            self._making = None
            self._unloadable.update(event.unloadable or self._learned)
            self._learn_at = self._patient_until = now
        elif number == self.current and number:
            self.current, self._loaded = 0, frozenset()
            self._load_soon(now)
        if number:
            self.workers.pop(number, None)

    def _news(self) -> bool:
        return not self._unloadable.union(self._loaded).issuperset(self._learned)

    def _load_soon(self, now: float) -> None:
        if self._learn_at is None:
            self._patient_until = now + _PATIENCE_S
        self._learn_at = now + self._pause_s()
        self._seen = None

    def _pause_s(self) -> float:
        return min(_LEARN_PAUSE_S * 2.0 ** min(self._last, 10), _LONGEST_PAUSE_S)

    def end_unused(self) -> list[Effect]:
        """End those that have no workers and will get none."""
        unused = [number for number, count in self.workers.items() if not count and number not in (0, self.current)]
        for number in unused:
            del self.workers[number]
        return [EndGeneration(number) for number in unused]


def _have_been_idle(before: tuple[float, float | None] | None, now: tuple[float, float | None]) -> bool:
    """Whether CPUs had time to spare between two looks; also where that cannot be told."""
    if before is None:
        return False
    (began, idle_before_s), (ended, idle_s) = before, now
    return idle_before_s is None or idle_s is None or idle_s - idle_before_s >= _IDLE_CPUS * (ended - began)
