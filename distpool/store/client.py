"""The object store as one process sees it: values in, values out, and the exact life of what lies in shared memory.

Drivers and workers have one ``ObjectStore`` each.  The terms:

* the *maker* of an object is the process whose segment it lies in; its name is part of the object's id
  (``<maker>.<number>``);
* its *owner* is the process that decides when it ends: for arguments and ``put`` the maker itself; a result, and
  whatever a reference in a result refers to, belongs to the driver that receives it;
* a *handle* (``Packed``, ``StoredValue``) keeps the object alive in this process; a *view* is any Python buffer over
  it, in any process.

Who says what to whom, so that a slot is used again only when no handle, no pin and no view is left:

1. Arguments: the driver ``pack``s, sends ``Packed.value`` and keeps the ``Packed`` until the task is done.  After the
   task the worker asks ``pinned(ids of the task's objects)`` and sends what it still needs with the result
   (``Result.pinned``); the driver calls ``pin(worker, ids)`` *before* it lets go of the ``Packed``.  When the worker no
   longer needs such an object, its ``on_unpinned(ids)`` is called; the worker sends ``Unpinned``, behind every result
   that was made before, and the driver calls ``unpin(worker, ids)``.
2. Results: the worker ``pack``s, sends ``packed.hand_over()`` and keeps the memory until the driver says
   ``ReleaseObjects`` (``release(ids)``).  The driver calls ``adopt(value)`` for *every* result that arrives, also one
   that it drops; the objects live as long as the ``StoredValue``, views of it (``unpack(value, owner=stored_value)``)
   and pins.  Then the driver's ``on_free(worker, ids)`` is called, which sends ``ReleaseObjects``.
3. References: an ``ObjectRef`` inside a stored object or result is pickled with the locations of what it refers to, and
   the value that contains it names those objects too (as locations of size 0), so whoever has a handle of the container
   has one of everything that can be reached from it.  Unpickling makes a handle with ``hold``.  A process in which an
   object is *held* without being its own is a *borrower*: to the process that it got it from it is a holder that pins,
   by the rule of 1 (it "needs" what it views or has a handle of), and its own nested workers pin it there in turn.  So
   borrowing forms a tree along which tasks went, and each edge lasts as long as anything below it.  In a result,
   references go up that tree: the worker hands over a handle of each object that they reach (``Location.lender``) by
   the rule of 2; of an object that the driver has already, it gives the second one back at once.
4. A worker dies: the driver calls ``process_died(worker)``.  Its pins are gone, and with them those of whoever borrowed
   from it; its segments are removed as soon as none of its objects is owned here any more (until then they can still
   be mapped by anyone).

``on_unpinned`` and ``on_free`` may be called from a finalizer: in any thread, at any moment, perhaps while that thread
holds any lock.  They may only take a note and wake somebody (``deque.append``, ``Channel.wake``).
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from distpool import crashpoints
from distpool.store import settings
from distpool.store.handles import Packed, StoredPacked, StoredValue
from distpool.store.serialization import Serialized, deserialize, serialize
from distpool.wire.driver_to_worker import Value
from distpool.wire.objects import Location

if TYPE_CHECKING:
    from distpool.store.elsewhere import Elsewhere
    from distpool.store.parts import Parts
    from distpool.wire.store_client_to_agent import StoreContents

#: Under which name a store keeps its ``Parts``.
_PARTS = "parts"


def _nothing(*_: Any) -> None:
    pass


class ObjectStore:
    """See the module's description.  Any thread may call any method.

    :param folder: the node's store folder.
    :param owner: this process' routing id as text, unique in the cluster.
    :param node: the node's id.
    :param on_unpinned: told of objects that ``pinned`` named and that are no longer needed here.
    :param on_free: told, with the process that keeps them for this one, of objects that are no longer needed.
    :param inline_bytes: the threshold; ``None``: ``DISTPOOL_INLINE_BYTES`` or 64 KiB.
    :param recycle_bytes: see ``SegmentAllocator``.
    :param prepare: makes the folder, when it is first needed; called under a lock.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        owner: str,
        *,
        node: str = "",
        on_unpinned: Callable[[list[str]], None] = _nothing,
        on_free: Callable[[str, list[str]], None] = _nothing,
        inline_bytes: int | None = None,
        recycle_bytes: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.folder = os.fspath(folder)
        self.owner = owner
        self.node = node
        #: What lies on other sites; None: nothing that is met here does.
        self.elsewhere: Elsewhere | None = None
        self.on_unpinned = on_unpinned
        self.on_free = on_free
        self.inline_bytes = max(1, settings.inline_bytes() if inline_bytes is None else inline_bytes)
        self._recycle_bytes, self._prepare = recycle_bytes, prepare
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    @property
    def _parts(self) -> Parts:
        parts: Parts | None = self.__dict__.get(_PARTS)
        return self._make_parts() if parts is None else parts

    def _make_parts(self) -> Parts:
        from distpool.store.parts import Parts

        # Without a lock, since finalizers come here: whichever of several are made is kept first stays.
        parts: Parts = self.__dict__.setdefault(_PARTS, Parts(self, self._lock, self._recycle_bytes, self._prepare))
        if self._closed and self._pid == os.getpid():
            parts.room.close()
        return parts

    def reach_through_agent(self) -> None:
        """Have what lies on other sites brought by the node's agent."""
        from distpool.store.elsewhere import ThroughAgent

        self.elsewhere = ThroughAgent(self._parts.room)

    def do_chores(self) -> None:
        """See ``Endings.do_chores``."""
        if _PARTS in self.__dict__:
            self._parts.endings.do_chores()

    def drop_later(self, object_ids: Sequence[str]) -> None:
        """See ``Endings.drop_later``."""
        self._parts.endings.drop_later(object_ids)

    def pack(self, value: Any, *, by_reference: bool = False) -> Packed:
        """Serialize; large buffers, and the pickle itself when it is large, are written to shared memory.

        The value is copied as it is now: what happens to it later is not seen by the receiver.

        :param by_reference: futures and references inside stay references (in results and stored objects), instead of
            standing for their values (in arguments).
        :raises SerializationError: when it cannot be carried, naming the path to the culprit.
        :raises ObjectStoreFullError: when there is no room.
        """
        serialized = serialize(value, self.inline_bytes, by_reference)
        if type(serialized) is bytes:
            return Packed(Value(serialized))
        assert isinstance(serialized, Serialized)
        payload = b""
        in_band = serialized.size_bytes < self.inline_bytes
        if in_band:
            payload = b"".join(serialized.chunks)
            if not serialized.buffers and not serialized.references:
                return Packed(Value(payload), serialized.dependencies)
        handles: dict[str, None] = {}
        try:
            locations, stored_bytes = self._parts.writer.store(serialized, in_band, handles)
            for reference in serialized.references:
                locations += self._hold_inner(reference, handles)
            self.do_chores()
        except BaseException:
            self.drop_later(tuple(handles))
            raise
        return StoredPacked(
            Value(payload, tuple(locations)), serialized.dependencies, self, tuple(handles), stored_bytes
        )

    #: The value whose pickle this is, of one without objects: no reference inside either, which have some.
    unpack_inline = staticmethod(pickle.loads)

    def unpack(
        self, value: Value, dependencies: Sequence[Value] = (), *, readonly: bool = False, owner: object = None
    ) -> Any:
        """The value.  Its large buffers are mapped copy-on-write, not copied.

        :param dependencies: what the handles met by ``pack`` stand for, in that order.
        :param readonly: hand out views that refuse writing.
        :param owner: is kept alive as long as any view of the buffers.
        :raises ObjectLostError: when an object is gone.

        Whatever loading a pickle can raise comes through.
        """
        payload: bytes | memoryview = value.payload
        buffers: list[memoryview] = []
        if value.objects:
            wanted = [location for location in value.objects if location.size_bytes]
            buffers = self._parts.reader.open(wanted, readonly, owner)
            if not payload:
                payload = buffers.pop()
        if not dependencies:
            return deserialize(payload, buffers, None, self)
        loaded: dict[int, Any] = {}

        def load(index: int) -> Any:
            if index not in loaded:
                loaded[index] = self.unpack(dependencies[index], readonly=readonly, owner=owner)
            return loaded[index]

        return deserialize(payload, buffers, load, self)

    def adopt(self, value: Value) -> StoredValue:
        """Become the owner of a value that another process made and handed over."""
        if not value.objects:
            return StoredValue(value, None, ())
        from distpool.store.ownership import Ended

        locations = {location.object_id: location for location in value.objects}
        with self._lock:
            surplus = self._parts.ownership.adopt(locations.values())
        crashpoints.reach("store.adopted")
        self._parts.endings.tell(Ended(returned=surplus))
        self.do_chores()
        return StoredValue(value, self, tuple(locations))

    def hold(self, value: Value) -> StoredValue:
        """One more handle of everything that ``value`` needs, which something keeps alive at this moment."""
        object_ids = tuple({location.object_id: None for location in value.objects})
        with self._lock:
            self._parts.ownership.borrow(object_ids)
        self.do_chores()
        return StoredValue(value, self, object_ids)

    def release(self, object_ids: Iterable[str]) -> None:
        """The owner no longer needs these objects, which were made here and handed over."""
        crashpoints.reach("store.released")
        self.drop_later(tuple(object_ids))

    def pinned(self, object_ids: Iterable[str]) -> tuple[str, ...]:
        """Those that this process still needs: it views them or has borrowed handles of them; ``on_unpinned`` will name
        each of them once."""
        self.do_chores()
        with self._lock:
            still = self._parts.ownership.report(object_ids)
        crashpoints.reach("store.reported")
        self.do_chores()
        return still

    def pin(self, holder: str, object_ids: Iterable[str]) -> None:
        """Another process said that it still needs these."""
        with self._lock:
            self._parts.ownership.lifetimes.pin(holder, object_ids)
        self.do_chores()

    def unpin(self, holder: str, object_ids: Iterable[str]) -> None:
        """Another process said that it no longer needs these."""
        from distpool.store.ownership import Ended

        ended = Ended()
        with self._lock:
            self._parts.ownership.unpin(holder, object_ids, ended)
            self._parts.endings.dispose(ended)
        self._parts.endings.tell(ended)
        self.do_chores()

    def process_died(self, name: str, site: str = "") -> None:
        """Another process ended: its pins are gone, and those of its segments that nothing here owns.

        :param site: where it was, if that must hear of it even when nothing of it is known here.
        """
        from distpool.store.ownership import Ended
        from distpool.wire.site_to_site import MakerEnded

        ended = Ended()
        with self._lock:
            self._parts.ownership.on_death(name, ended)
            self._parts.endings.dispose(ended)
            needed = self._parts.ownership.needed_of(name)
            if site:
                needed.setdefault(site, [])
            if self.elsewhere is None:
                self._parts.room.folder.remove_dead(name, self._parts.ownership.keeps)
        self._parts.endings.tell(ended)
        if self.elsewhere is not None:
            for site, segments in needed.items():
                self.elsewhere.tell(site, MakerEnded(name, segments))
        self.do_chores()

    def change_node(self) -> None:
        """Another agent keeps the folder's books from now on; what was stored here stays.

        All other processes of the old node are dead, those included of which nobody here ever heard.
        """
        with self._lock:
            others = {name for name in self._parts.room.folder.makers() if name.partition(".")[0] != self.owner}
        for name in others:
            self.process_died(name)
        self._parts.room.change_node()

    def trim(self) -> int:
        """Give back memory that waits for its next use; for when the process is idle.  Returns how many bytes."""
        if _PARTS not in self.__dict__:
            return 0
        self.do_chores()
        with self._lock:
            self._parts.views.trim()
            given_back = self._parts.room.trim()
        self.do_chores()
        return given_back

    def close(self) -> None:
        """Remove everything that this process made.  Views that exist stay valid."""
        self.do_chores()
        with self._lock:
            first, self._closed = not self._closed, True
            # Asked after that was said: whoever makes them meanwhile finds it said, and closes them.
            first = first and _PARTS in self.__dict__
            if first:
                self._parts.views.shut()
                if self._pid == os.getpid():
                    self._parts.room.close()
        if first and self._pid == os.getpid():
            self._parts.room.close_link()
            self._parts.writer.close()
        self.do_chores()

    @property
    def usable(self) -> bool:
        """Whether it is open, and not that of a process from which this one was forked."""
        return not self._closed and self._pid == os.getpid()

    @property
    def backed_bytes(self) -> int:
        """Memory that this process' segments hold, in use or waiting for it."""
        return self._parts.room.memory.backed_bytes

    @property
    def recyclable_bytes(self) -> int:
        """The part of ``backed_bytes`` that waits for its next use."""
        return self._parts.room.memory.freed_bytes

    # -- for the agent (see ``room``) ---------------------------------------------------------------------------

    def drop_idle(self) -> list[str]:
        """Give up mappings that wait for their next use; returns the segments that are viewed."""
        self.do_chores()
        with self._lock:
            self._parts.views.trim()
            viewed = self._parts.views.segments()
        self.do_chores()
        return viewed

    def orphaned_segments(self) -> list[str]:
        """Segments of the dead in which objects are owned here (caller holds the lock)."""
        return self._parts.ownership.orphaned()

    def describe(self, request: int = 0) -> StoreContents:
        """What this process has to do with."""
        from distpool.store.description import describe_objects
        from distpool.wire.store_client_to_agent import StoreContents

        parts = self._parts
        self.do_chores()
        with self._lock:
            room = parts.room
            objects = describe_objects(parts.ownership, parts.views, parts.endings.slots, room.folder.place_of)
            contents = StoreContents(request, room.allowed_bytes or 0, room.memory.backed_bytes, objects)
        self.do_chores()
        return contents

    def describe_node(self) -> Any:
        """What all processes of the node say, as the agent's ``NodeContents``; None when there is no agent."""
        return self._parts.room.ask_contents()

    def _hold_inner(self, reference: Any, handles: dict[str, None]) -> list[Location]:
        """Handles of everything that a reference inside a value reaches."""
        from distpool.store.references import value_of

        inner = {location.object_id: location for location in value_of(reference).objects}
        inner = {object_id: location for object_id, location in inner.items() if object_id not in handles}
        with self._lock:
            self._parts.ownership.borrow(inner)
        handles.update(dict.fromkeys(inner))
        return [Location(found.object_id, found.node, found.segment, 0, 0, self.owner) for found in inner.values()]

    def check_open(self) -> None:
        """Raise ValueError if it is not ``usable``."""
        if not self.usable:
            raise ValueError("the object store of this process is closed")
