"""What the home of an object does when others want it: says who gives it to whom.

No I/O, no clock: ``handle(event, now)`` returns what must be done; ``site`` is the shell.  Whoever has all of an object
can serve others, but no more than ``FAN_OUT`` at a time.  So the number of those who have it grows by that factor in
every round, and n sites have it after about log(n) rounds, wherever it was made.  Those for whom there is no source yet
wait, in the order in which they asked.

A consumer says again and again that it is still there; one that is not heard of for ``_SILENT_S`` takes no place.
"""

from __future__ import annotations

import msgspec

#: Sites that one site serves with one object at a time.
FAN_OUT = 2
_SILENT_S = 20.0
#: An object that nobody has asked for during so long is forgotten: copies that exist go by themselves.
_FORGET_S = 120.0
#: So many are named as a way out.
_OTHERS = 4


class Asked(msgspec.Struct, frozen=True):
    """A site wants an object; ``failed`` is the source that it was given and cannot use."""

    key: str
    consumer: str
    failed: str = ""


class Received(msgspec.Struct, frozen=True):
    """A site has all of it."""

    key: str
    consumer: str


class SiteLost(msgspec.Struct, frozen=True):
    """A site is no more, or cannot be reached."""

    site: str


class Ended(msgspec.Struct, frozen=True):
    """Nobody needs these objects any more."""

    object_ids: tuple[str, ...]


class TimePassed(msgspec.Struct, frozen=True):
    """A deadline has come."""


Event = Asked | Received | SiteLost | Ended | TimePassed


class NameSource(msgspec.Struct, frozen=True):
    """Tell a consumer from whom to pull."""

    key: str
    consumer: str
    source: str
    others: tuple[str, ...]


class DropCopies(msgspec.Struct, frozen=True):
    """Tell a site to give up its copies."""

    site: str
    object_ids: tuple[str, ...]


Effect = NameSource | DropCopies


class _Object(msgspec.Struct, eq=False):
    #: who has all of it, the home first
    holders: dict[str, None]
    #: consumer -> source
    served: dict[str, str] = msgspec.field(default_factory=dict)
    #: in the order in which they asked
    waiting: dict[str, None] = msgspec.field(default_factory=dict)
    heard_at: dict[str, float] = msgspec.field(default_factory=dict)
    #: consumer -> sources that it cannot use
    failed: dict[str, set[str]] = msgspec.field(default_factory=dict)
    used_at: float = 0.0


class FanoutCore:
    """See the module's description.

    :param home: the site itself.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.objects: dict[str, _Object] = {}
        self._effects: list[Effect] = []

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` must be reported."""
        return min((_deadline(known) for known in self.objects.values()), default=None)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of ``event``; returns what must be done."""
        effects = self._effects = []
        if isinstance(event, Asked):
            self._on_asked(event, now)
        elif isinstance(event, Received):
            self._on_received(event, now)
        elif isinstance(event, SiteLost):
            for key, known in self.objects.items():
                if event.site != self.home:
                    self._leave(known, event.site)
                    known.holders.pop(event.site, None)
                    self._assign(key, known)
        elif isinstance(event, Ended):
            self._on_ended(event.object_ids)
        else:
            self._on_time(now)
        return effects

    def holders(self, key: str) -> tuple[str, ...]:
        """Who has all of it, as far as is known here."""
        known = self.objects.get(key)
        return tuple(known.holders) if known is not None else ()

    def check_invariants(self) -> None:
        """Raise AssertionError when the books are wrong."""
        for known in self.objects.values():
            assert self.home in known.holders
            assert not known.served.keys() & known.waiting.keys()
            assert known.heard_at.keys() == known.served.keys() | known.waiting.keys()
            sources = list(known.served.values())
            assert all(sources.count(source) <= FAN_OUT for source in sources)

    def _on_asked(self, event: Asked, now: float) -> None:
        known = self.objects.setdefault(event.key, _Object({self.home: None}))
        known.used_at = now
        consumer = event.consumer
        if event.failed:
            known.failed.setdefault(consumer, set()).add(event.failed)
            if known.served.get(consumer) == event.failed:
                del known.served[consumer]
                known.heard_at.pop(consumer)
        # It asks because it does not have it, whatever it had before.
        if consumer != self.home:
            known.holders.pop(consumer, None)
        known.heard_at[consumer] = now
        if consumer in known.served:
            self._name(event.key, known, consumer)
            return
        known.waiting.setdefault(consumer)
        self._assign(event.key, known)

    def _on_received(self, event: Received, now: float) -> None:
        known = self.objects.get(event.key)
        if known is None:
            return
        known.used_at = now
        self._leave(known, event.consumer)
        known.holders.setdefault(event.consumer)
        self._assign(event.key, known)

    def _on_ended(self, object_ids: tuple[str, ...]) -> None:
        ended = set(object_ids)
        drops: dict[str, list[str]] = {}
        for key in [key for key in self.objects if key.rpartition(":")[0] in ended]:
            known = self.objects.pop(key)
            for site in dict.fromkeys([*known.holders, *known.served, *known.waiting]):
                if site != self.home:
                    drops.setdefault(site, []).append(key.rpartition(":")[0])
        self._effects += [DropCopies(site, tuple(names)) for site, names in drops.items()]

    def _on_time(self, now: float) -> None:
        for key, known in list(self.objects.items()):
            for consumer in [name for name, heard_at in known.heard_at.items() if heard_at + _SILENT_S <= now]:
                self._leave(known, consumer)
            self._assign(key, known)
            if not known.heard_at and known.used_at + _FORGET_S <= now:
                del self.objects[key]

    def _leave(self, known: _Object, consumer: str) -> None:
        known.served.pop(consumer, None)
        known.waiting.pop(consumer, None)
        known.heard_at.pop(consumer, None)
        known.failed.pop(consumer, None)

    def _assign(self, key: str, known: _Object) -> None:
        busy = dict.fromkeys(known.holders, 0)
        for source in known.served.values():
            busy[source] = busy.get(source, 0) + 1
        for consumer in list(known.waiting):
            refused = known.failed.get(consumer, set())
            # Copies first: the home has the others to think of.
            free = [site for site in known.holders if busy[site] < FAN_OUT and site not in refused]
            if not free and self.home in refused and refused >= known.holders.keys():
                known.failed.pop(consumer)  # all have failed once: once more, from the beginning
                free = [site for site in known.holders if busy[site] < FAN_OUT]
            if not free:
                continue
            source = min(free, key=lambda site: (busy[site], site == self.home))
            busy[source] += 1
            del known.waiting[consumer]
            known.served[consumer] = source
            self._name(key, known, consumer)

    def _name(self, key: str, known: _Object, consumer: str) -> None:
        source = known.served[consumer]
        others = [site for site in known.holders if site not in (source, self.home, consumer)]
        self._effects.append(NameSource(key, consumer, source, tuple(others[:_OTHERS])))


def _deadline(known: _Object) -> float:
    if known.heard_at:
        return min(known.heard_at.values()) + _SILENT_S
    return known.used_at + _FORGET_S
