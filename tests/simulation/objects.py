"""The object stores of a simulated cluster: the real books (``Ownership``, ``StoreCore``) over objects that are entries
in one table, so that a use after the end, or an object that nobody ended, cannot go unnoticed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from distpool import errors
from distpool.store import core as store_core
from distpool.store.handles import Packed, StoredPacked, StoredValue
from distpool.store.ownership import Ended, Ownership, maker_of
from distpool.wire.driver_to_worker import Value
from distpool.wire.objects import Location

_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode


@dataclass
class StoredObject:
    """An object that exists."""

    object_id: str
    node: str
    size_bytes: int
    value: int
    #: the driver for which it was made
    driver: str
    on_disk: bool = False
    #: its owner died with a worker or a driver, or had given its maker up: it stays until its node ends
    orphaned: bool = False


class Objects:
    """All objects of the cluster."""

    def __init__(self) -> None:
        self.live: dict[str, StoredObject] = {}
        #: those that ended with their node
        self.lost: set[str] = set()

    def read(self, object_id: str, entitled: bool = True) -> int:
        """The value.

        :param entitled: whether the reader may count on it: not when its driver believes that it is gone.
        :raises ObjectLostError: when its node is gone.
        """
        found = self.live.get(object_id)
        if found is None:
            assert object_id in self.lost or not entitled, f"{object_id} is read after its end"
            raise errors.ObjectLostError(f"{object_id} is gone", (object_id,))
        return found.value

    def node_lost(self, node: str) -> None:
        for found in [found for found in self.live.values() if found.node == node]:
            del self.live[found.object_id]
            self.lost.add(found.object_id)

    def driver_lost(self, driver: str, owned: Iterable[str]) -> None:
        """Nobody is there any more to end what it made or owned."""
        for found in self.live.values():
            if found.driver == driver:
                found.orphaned = True
        for object_id in owned:
            if object_id in self.live:
                self.live[object_id].orphaned = True

    def left(self, driver: str = "") -> list[str]:
        """The objects that somebody should have ended; those of one top-level driver, if one is given."""
        return [
            found.object_id
            for found in self.live.values()
            if not found.orphaned and (not driver or found.driver.split("/")[0] == driver)
        ]


class SimulatedStore:
    """The store of one process.

    :param owner: its routing id.
    :param driver: the driver for which it works.
    """

    def __init__(self, objects: Objects, owner: str, node: str, driver: str) -> None:
        self._objects = objects
        self.owner = owner
        self.node = node
        self.driver = driver
        self._last = 0
        self._views: dict[str, int] = {}
        self.ownership = Ownership(owner, lambda object_id: object_id in self._views)
        self.on_free: Callable[[str, list[str]], None] = lambda maker, object_ids: None
        self.on_unpinned: Callable[[list[str]], None] = lambda object_ids: None
        self.on_freed: Callable[[StoredObject], None] = lambda found: None
        #: whether its driver counts on it
        self.entitled: Callable[[], bool] = lambda: True
        self.closed = False
        #: every object of which it was told that it is its to end
        self.adopted: set[str] = set()
        #: Every call is packed as this store does it.
        self.inline_bytes = 0

    # -- values -------------------------------------------------------------------------------------------------

    def pack_call(self, number: int, argument_bytes: int, dependencies: Sequence[Any]) -> Packed:
        """The call of a task."""
        payload = _encode(number)
        if not argument_bytes:
            return Packed(Value(payload), dependencies)
        location = self.make(number, argument_bytes)
        value = Value(payload, (location,))
        return StoredPacked(value, dependencies, self, (location.object_id,), argument_bytes)

    def pack_result(self, value: int, location: Location | None) -> Value:
        """A result, handed over; a large one lies in the object that was made for it."""
        return Value(_encode(value)) if location is None else Value(b"", (location,))

    def make(self, value: int, size_bytes: int) -> Location:
        """A new object with one handle."""
        self._last += 1
        object_id = f"{self.owner}.{self._last}"
        made = StoredObject(object_id, self.node, size_bytes, value, self.driver, orphaned=not self.entitled())
        self._objects.live[object_id] = made
        self.ownership.add(object_id)
        return Location(object_id, self.node, object_id, 0, size_bytes)

    def unpack(self, value: Value, owner: object = None) -> int:
        """Part of the interface that futures use."""
        for location in value.objects:
            return self._objects.read(location.object_id, self.entitled())
        number: int = _decode(value.payload)
        return number

    def unpack_inline(self, payload: bytes) -> int:
        """See ``ObjectStore.unpack_inline``."""
        return self.unpack(Value(payload))

    def adopt(self, value: Value) -> StoredValue:
        """See ``ObjectStore.adopt``."""
        locations = {location.object_id: location for location in value.objects}
        self.adopted.update(locations)
        for lender, object_ids in self.ownership.adopt(locations.values()).items():
            self.on_free(lender, object_ids)
        return StoredValue(value, self, tuple(locations))

    # -- lives --------------------------------------------------------------------------------------------------

    def viewed(self) -> frozenset[str]:
        """What something in this process looks at."""
        return frozenset(self._views)

    def view(self, object_id: str) -> None:
        self._views[object_id] = self._views.get(object_id, 0) + 1

    def end_view(self, object_id: str) -> None:
        if not self.closed:
            self.look(object_id)
        self._views[object_id] -= 1
        if not self._views[object_id]:
            del self._views[object_id]
            ended = Ended()
            self.ownership.on_view_ended(object_id, ended)
            self._settle(ended)

    def look(self, object_id: str) -> None:
        """Check that an object that is viewed is there."""
        try:
            self._objects.read(object_id, self.entitled())
        except errors.ObjectLostError:
            pass  # its memory was mapped

    def pinned(self, object_ids: Iterable[str]) -> tuple[str, ...]:
        return self.ownership.report(object_ids)

    def pin(self, holder: str, object_ids: Iterable[str]) -> None:
        self.ownership.lifetimes.pin(holder, object_ids)

    def unpin(self, holder: str, object_ids: Iterable[str]) -> None:
        ended = Ended()
        self.ownership.unpin(holder, object_ids, ended)
        self._settle(ended)

    def release(self, object_ids: Sequence[str]) -> None:
        self.drop_later(object_ids)

    def drop_later(self, object_ids: Sequence[str]) -> None:
        if self.closed:
            return
        ended = Ended()
        self.ownership.drop(object_ids, ended)
        self._settle(ended)

    def process_died(self, name: str, site: str = "") -> None:
        ended = Ended()
        self.ownership.on_death(name, ended)
        self._settle(ended)
        for object_id in [object_id for object_id in self._objects.live if maker_of(object_id) == name]:
            if not self.ownership.keeps(object_id):
                self._remove(object_id)

    def _settle(self, ended: Ended) -> None:
        for object_id in (*ended.own, *itertools.chain(*ended.files.values())):
            self._remove(object_id)
        if ended.unpinned:
            self.on_unpinned(ended.unpinned)
        for lender, object_ids in ended.returned.items():
            self.on_free(lender, object_ids)

    def _remove(self, object_id: str) -> None:
        found = self._objects.live.pop(object_id, None)
        if found is not None:
            self.on_freed(found)

    def close(self) -> None:
        """The process is gone."""
        self.closed = True


class NodeStore:
    """The books of a node on its memory, and the clients' side of them in short."""

    def __init__(self, clock: Any, objects: Objects, node: str, budget_bytes: int) -> None:
        self._clock = clock
        self._objects = objects
        self._node = node
        self.core = store_core.StoreCore(budget_bytes)
        self.stopped = False
        self._update: Callable[[], None] = lambda: None
        self._allowed: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._waiting: dict[tuple[str, int], tuple[int, Callable[[bool], None]]] = {}
        self._requests = 0
        #: By client: its views, and those that it has reported in the books' present round.
        self._views: dict[str, Callable[[], frozenset[str]]] = {}
        self._reported: dict[str, frozenset[str]] = {}

    def set_timer(self, update: Callable[[], None]) -> None:
        self._update = update

    def watch(self, client: str, viewed: Callable[[], frozenset[str]]) -> None:
        """A client that may come to look at something."""
        self._views[client] = viewed

    def want(self, client: str, size_bytes: int, then: Callable[[bool], None]) -> None:
        """Memory for an object; ``then`` gets whether it is to be on disk instead."""
        if client not in self._allowed:
            self._allowed[client] = self._used[client] = 0
            self.handle(store_core.ClientJoined(client, 0))
        if self._used[client] + size_bytes <= self._allowed[client]:
            self._used[client] += size_bytes
            then(False)
            return
        self._requests += 1
        self._waiting[client, self._requests] = size_bytes, then
        short = self._used[client] + size_bytes - self._allowed[client]
        self.handle(store_core.MemoryAsked(client, self._requests, short))

    def freed(self, client: str, found: StoredObject) -> None:
        """An object of a client's own ended; it keeps the memory for the next one."""
        if client in self._used and not found.on_disk:
            self._used[client] -= found.size_bytes

    def unused(self, client: str, size_bytes: int) -> None:
        """The object was not made after all."""
        if client in self._used:
            self._used[client] -= size_bytes

    def left(self, client: str) -> None:
        self._views.pop(client, None)
        self._reported.pop(client, None)
        if self._allowed.pop(client, None) is None:
            return
        del self._used[client]
        for key in [key for key in self._waiting if key[0] == client]:
            del self._waiting[key]
        self.handle(store_core.ClientLeft(client))

    def handle(self, event: store_core.Event) -> None:
        if self.stopped:
            return
        todo: list[store_core.Event] = [event]
        while todo:
            for effect in self.core.handle(todo.pop(), self._clock.now):
                if isinstance(effect, store_core.MeasureOrphans):
                    todo.append(store_core.OrphansMeasured(self._orphans()))
                    continue
                if isinstance(effect, store_core.AskToReclaim):
                    self._reported.clear()
                elif isinstance(effect, store_core.SpillSegments):
                    pinned = frozenset().union(*self._reported.values())
                    assert pinned.isdisjoint(effect.segments), f"{effect} although {pinned} are viewed"
                self._clock.after(1e-4, functools.partial(self._at_client, effect))
        self.core.check_invariants()
        self._update()

    def check(self) -> None:
        """At the end: nobody waits, and nothing is lent to anybody who is gone."""
        assert not self._waiting, f"node {self._node}: {self._waiting} wait for memory"
        assert self.core.allowed_bytes == sum(self._allowed.values())
        for client, used in self._used.items():
            own = [found for found in self._objects.live.values() if maker_of(found.object_id) == client]
            present = sum(found.size_bytes for found in own if not found.on_disk)
            assert used == present, f"{client} accounts for {used} bytes; its objects have {present}"
            assert 0 <= used <= self._allowed[client], f"{client} uses {used} of {self._allowed[client]}"

    def _orphans(self) -> int:
        return sum(
            found.size_bytes
            for found in self._objects.live.values()
            if found.node == self._node and not found.on_disk and maker_of(found.object_id) not in self._allowed
        )

    def _at_client(self, effect: Any) -> None:
        client = effect.client
        if client not in self._allowed or self.stopped:
            return
        if isinstance(effect, (store_core.Grant, store_core.SendToDisk)):
            to_disk = isinstance(effect, store_core.SendToDisk)
            if not to_disk:
                self._allowed[client] += effect.size_bytes
            waited = self._waiting.pop((client, effect.request), None)
            if waited is not None:
                if not to_disk:
                    self._used[client] += waited[0]
                waited[1](to_disk)
        elif isinstance(effect, store_core.AskToReclaim):
            spare = self._allowed[client] - self._used[client]
            own = [found for found in self._objects.live.values() if maker_of(found.object_id) == client]
            segments = tuple(
                store_core.Segment(found.object_id, found.size_bytes, 0.0) for found in own if not found.on_disk
            )
            if spare:
                self._allowed[client] -= spare
                self.handle(store_core.MemoryCameBack(client, spare))
            viewed = self._views[client]()
            if effect.round == self.core.round:
                self._reported[client] = viewed
            self.handle(store_core.ClientReported(client, effect.round, segments, viewed))
        else:
            for segment in effect.segments:
                self._spill(client, segment)

    def _spill(self, client: str, segment: str) -> None:
        found = self._objects.live.get(segment)
        if found is not None and not found.on_disk:
            found.on_disk = True
            self._used[client] -= found.size_bytes
            self._allowed[client] -= found.size_bytes
            self.handle(store_core.MemoryCameBack(client, found.size_bytes))
        self.handle(store_core.SpillEnded(client, segment, found is not None))
