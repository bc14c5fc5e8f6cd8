"""Sites that give each other objects, in one thread on a virtual clock: the real cores, and a network that delays,
breaks connections, and loses sites.

A broken connection loses what is under way on it; both ends learn of that after a while.  What is checked: everybody
who asks is answered; who is told that an object is here has every byte of it; nobody is told that it is lost while its
home lives, or, where no connection breaks, while somebody has a copy; no site serves more others at a time than it
should; and what came once is not asked for again.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from distpool.store.transfer import fanout_core, pull_events
from distpool.store.transfer.fanout_core import FanoutCore
from distpool.store.transfer.pull_core import PullCore
from distpool.store.transfer.pull_state import CHUNK_BYTES, WINDOW
from distpool.wire.objects import Extent

_MOST_STEPS = 40_000


class Violation(AssertionError):
    """A promise was broken."""


class SimulatedSite:
    """A site with its cores; messages are calls, delayed."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.pulls = PullCore()
        self.fanout = FanoutCore(name)
        self.extents: dict[str, Extent] = {}
        self.pieces: dict[str, set[int]] = {}
        self.chunks_received = 0
        self.chunks_lost = 0
        self.asked: dict[int, Extent] = {}
        self.had_at: dict[str, float] = {}

    def want(self, extent: Extent) -> None:
        asker = next(self.world.numbers)
        self.asked[asker] = extent
        self.extents[extent.key] = extent
        self.pull(pull_events.Wanted(extent, asker))

    # -- messages ---------------------------------------------------------------------------------------------------

    def on_source_wanted(self, site: str, extent: Extent, failed: str) -> None:
        if extent.home != self.name:
            return
        self.share(fanout_core.Asked(extent.key, site, failed))

    def on_source_named(self, site: str, key: str, source: str, others: tuple[str, ...]) -> None:
        self.pull(pull_events.SourceNamed(key, source, others))

    def on_unknown(self, site: str, key: str) -> None:
        self.pull(pull_events.SourceUnknown(key, site))

    def on_received(self, site: str, key: str) -> None:
        self.share(fanout_core.Received(key, site))

    def on_chunks_wanted(self, site: str, extent: Extent, offset: int, size_bytes: int) -> None:
        if extent.home == self.name or extent.key in self.pulls.copies:
            self.world.uploads.setdefault((self.name, extent.key), {})[site] = self.world.now
            for begin in range(offset, offset + size_bytes, CHUNK_BYTES):
                piece = min(CHUNK_BYTES, offset + size_bytes - begin)
                self.world.send(self.name, site, "on_chunk", extent.key, begin, piece)
        else:
            self.world.send(self.name, site, "on_unknown", extent.key)

    def on_chunk(self, site: str, key: str, offset: int, size_bytes: int) -> None:
        self.chunks_received += 1
        self.pull(pull_events.ChunkCame(key, offset, size_bytes))

    # -- cores ------------------------------------------------------------------------------------------------------

    def share(self, event: fanout_core.Event) -> None:
        for effect in self.fanout.handle(event, self.world.now):
            if isinstance(effect, fanout_core.NameSource):
                self.world.check_fan_out(self)
                self.world.send(self.name, effect.consumer, "on_source_named", effect.key, effect.source, effect.others)
        self.fanout.check_invariants()

    def pull(self, event: pull_events.Event) -> None:
        world = self.world
        for effect in self.pulls.handle(event, world.now):
            if isinstance(effect, pull_events.MakeRoom):
                self.pieces[effect.key] = set()
                world.after(world.random.random(), self, self.pull, pull_events.RoomMade(effect.key))
            elif isinstance(effect, pull_events.AskSource):
                world.send(self.name, effect.extent.home, "on_source_wanted", effect.extent, effect.failed)
            elif isinstance(effect, pull_events.AskChunks):
                wanted = (effect.extent, effect.offset, effect.size_bytes)
                world.send(self.name, effect.source, "on_chunks_wanted", *wanted)
            elif isinstance(effect, pull_events.StoreChunk):
                assert isinstance(event, pull_events.ChunkCame)
                if effect.offset in self.pieces[effect.key]:
                    raise Violation(f"{self.name} stores a piece twice")
                self.pieces[effect.key].add(effect.offset)
            elif isinstance(effect, pull_events.TellReceived):
                self.had_at[effect.extent.key] = world.now
                world.send(self.name, effect.extent.home, "on_received", effect.extent.key)
            elif isinstance(effect, pull_events.FindSite):
                world.after(0.01, self, self.find, effect.site)
            elif isinstance(effect, pull_events.FindCopies):
                for other in world.sites.values():
                    if other is not self:
                        world.after(world.random.random() * 0.5, other, other.tell_copies, effect.home, self.name)
            elif isinstance(effect, pull_events.Discard):
                self.pieces.pop(effect.key, None)
            elif isinstance(effect, pull_events.Deliver):
                self.delivered(effect)
            else:
                self.lost(effect)
        self.pulls.check_invariants()

    def tell_copies(self, home: str, seeker: str) -> None:
        keys = tuple(key for key in self.pulls.copies if self.extents[key].home == home)
        if keys:
            self.world.send(self.name, seeker, "on_copies_here", home, keys)

    def on_copies_here(self, site: str, home: str, keys: tuple[str, ...]) -> None:
        self.pull(pull_events.CopiesFound(home, site, keys))

    def find(self, site: str) -> None:
        alive = self.world.sites[site].alive
        if alive and not self.world.is_down(self.name, site):
            self.pull(pull_events.LinkUp(site))
        elif not alive:
            self.share(fanout_core.SiteLost(site))
            self.pull(pull_events.SiteGone(site))

    def delivered(self, effect: pull_events.Deliver) -> None:
        extent = self.asked.pop(effect.asker)
        have, all_of_it = self.pieces[effect.key], set(range(0, extent.size_bytes, CHUNK_BYTES))
        if have != all_of_it:
            raise Violation(f"{self.name} was given {len(have)} of {len(all_of_it)} pieces of {effect.key}")

    def lost(self, effect: pull_events.Lose) -> None:
        extent = self.asked.pop(effect.asker)
        if self.world.sites[extent.home].alive and not self.world.ended:
            raise Violation(f"{self.name} was told that {extent.object_id} is lost: {effect.reason}")
        had_before = [site.name for site in self.world.sites.values() if site.alive and site.has(extent.key)]
        if had_before and not self.world.breaks and not self.world.ended:
            raise Violation(f"{self.name} was told that {extent.object_id} is lost, and {had_before} have it")

    def has(self, key: str) -> bool:
        """Long enough for others to have found it."""
        return key in self.pulls.copies and self.had_at.get(key, self.world.now) < self.world.now - 4.0


class World:
    """See the module's description.

    :param faults: how many connections break and sites die.
    :param breaks: whether connections do.
    """

    def __init__(
        self, seed: int, sites: int = 6, objects: int = 3, faults: int = 4, chunks: int = 80, breaks: bool = True
    ) -> None:
        self.breaks = breaks
        self.random = random.Random(seed)
        self.now = 0.0
        self.numbers = itertools.count()
        self.ended = False
        self._queue: list[tuple[float, int, SimulatedSite | None, Callable[..., None], tuple[Any, ...]]] = []
        self._down: dict[frozenset[str], float] = {}
        #: (source, object) -> consumer -> when it was last given something
        self.uploads: dict[tuple[str, str], dict[str, float]] = {}
        self.sites = {f"n{i}": SimulatedSite(self, f"n{i}") for i in range(sites)}
        names = list(self.sites)
        self.extents = []
        for number in range(objects):
            size_bytes = self.random.randint(1, chunks) * CHUNK_BYTES - self.random.randrange(CHUNK_BYTES)
            self.extents.append(Extent(f"o{number}", self.random.choice(names), f"s{number}", 0, size_bytes))
        for extent in self.extents:
            within_s = self.random.choice((0.05, 3.0))
            for name in names:
                for _ in range(self.random.choice((0, 1, 1, 3))):
                    if name != extent.home:
                        site = self.sites[name]
                        self.after(self.random.random() * within_s, site, site.want, extent)
        for _ in range(faults):
            self.after(self.random.random() * 5, None, self.fault)

    def after(self, delay_s: float, site: SimulatedSite | None, action: Callable[..., None], *words: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self.numbers), site, action, words))

    def send(self, source: str, target: str, kind: str, *words: Any) -> None:
        """Deliver after a while, in order; not at all over a broken connection."""
        if self.is_down(source, target):
            return
        receiver = self.sites[target]

        def deliver() -> None:
            if self.is_down(source, target) or not self.sites[source].alive:
                receiver.chunks_lost += kind == "on_chunk"
                return
            getattr(receiver, kind)(source, *words)

        delay_s = 0.02 if kind == "on_chunk" else 0.005
        if self.random.random() < 0.002:
            delay_s += 4.0  # longer than the core waits before it asks again
        self.after(delay_s, receiver, deliver)
        if kind == "on_chunk" and self.random.random() < 0.02:  # it was asked for again in vain
            self.after(delay_s + 0.05, receiver, deliver)

    def is_down(self, one: str, other: str) -> bool:
        return self._down.get(frozenset((one, other)), 0.0) > self.now

    def fault(self) -> None:
        one, other = self.random.sample(sorted(self.sites), 2)
        if self.breaks and self.random.random() < 0.7:
            lasts_s = self.random.choice((0.5, 4.0, 14.0))
            self._down[frozenset((one, other))] = self.now + lasts_s
            for name, peer in ((one, other), (other, one)):
                site = self.sites[name]
                self.after(0.3, site, site.pull, pull_events.LinkLost(peer))
                self.after(lasts_s + 0.1, site, self._up, site, peer)
        elif sum(site.alive for site in self.sites.values()) > 2:
            self.sites[one].alive = False
            for site in self.sites.values():
                self.after(0.3, site, site.pull, pull_events.LinkLost(one))

    def _up(self, site: SimulatedSite, peer: str) -> None:
        if self.sites[peer].alive:
            site.pull(pull_events.LinkUp(peer))

    def check_fan_out(self, home: SimulatedSite) -> None:
        for known in home.fanout.objects.values():
            sources = list(known.served.values())
            if any(sources.count(source) > fanout_core.FAN_OUT for source in sources):
                raise Violation(f"a site is to serve more than {fanout_core.FAN_OUT} others at a time")

    def run(self, until_s: float = 300.0) -> None:
        """To the end, or until so much time has passed."""
        for step in itertools.count():
            if step > _MOST_STEPS:
                raise Violation("it comes to no end")
            deadlines = []
            for site in self.sites.values():
                if site.alive and any(other.asked for other in self.sites.values()):
                    deadlines += [(at, site, core) for core in (site.pulls, site.fanout)
                                  if (at := core.next_deadline()) is not None]  # fmt: skip
            next_timer = min((at for at, _, _ in deadlines), default=None)
            if self._queue and (next_timer is None or self._queue[0][0] <= next_timer):
                self.now, _, receiver, action, words = heapq.heappop(self._queue)
                if receiver is None or receiver.alive:
                    action(*words)
            elif next_timer is not None and next_timer < until_s:
                self.now = max(self.now, next_timer)
                for at, site, core in deadlines:
                    if at <= self.now:
                        if core is site.pulls:
                            site.pull(pull_events.TimePassed())
                        else:
                            site.share(fanout_core.TimePassed())
            else:
                break
        for site in self.sites.values():
            if site.alive and site.asked:
                raise Violation(f"{site.name} still waits for {len(site.asked)} objects")
            wanted = sum(-(-extent.size_bytes // CHUNK_BYTES) for extent in site.extents.values())
            if site.alive and site.chunks_received > wanted + WINDOW * 12:
                raise Violation(f"{site.name} received {site.chunks_received} pieces and needed {wanted}")


def run(seed: int, breaks: bool = True) -> World:
    """One world, to its end."""
    world = World(seed, breaks=breaks)
    world.run()
    return world
