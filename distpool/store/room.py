"""Where a process' objects go: shared memory as far as its allowance reaches, then disk.

Called by ``client``, which lends its lock.  Taking room within the allowance is a subtraction; beyond it, memory that
waits for its next use is given up first, and then the agent is asked (see ``core`` for what it does about it).  While a
thread waits for the agent's answer, memory that comes free in this very process will do as well.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from distpool import crashpoints
from distpool.errors import ObjectStoreFullError
from distpool.store.file_system import free_bytes
from distpool.store.mapping import PAGE
from distpool.store.node_folder import NodeFolder
from distpool.store.segments import SegmentAllocator, Slot, align
from distpool.store.spill import NodeFacts
from distpool.store.spiller import Spiller
from distpool.wire import agent_to_store_client
from distpool.wire.agent_to_store_client import NodeContents, UseDisk
from distpool.wire.store_client_to_agent import (
    ContentsWanted,
    MemoryNoLongerWanted,
    MemoryReturned,
    MemoryWanted,
    Message,
    StoreContents,
    StoreReport,
)

if TYPE_CHECKING:
    from distpool.store.link import Asked, Link

    class _Client(Protocol):
        """The part of ``client.ObjectStore`` that serves the agent's wishes."""

        def drop_idle(self) -> list[str]:
            """Give up mappings that wait for their next use; returns the segments that are viewed."""

        def orphaned_segments(self) -> list[str]:
            """Segments of the dead in which objects are owned here (caller holds the lock)."""

        def describe(self, request: int) -> StoreContents: ...
        def do_chores(self) -> None: ...


class Room:
    """See the module's description.

    :param folder: the node's store folder.
    :param owner: the client's name.
    :param lock: guards everything here; methods take it themselves unless they say otherwise.
    :param client: serves the agent's wishes that are not about room.
    :param recycle_bytes: see ``SegmentAllocator``.
    :param prepare: makes the folder, when it is first needed.
    """

    def __init__(
        self,
        folder: str,
        owner: str,
        lock: threading.Lock,
        client: _Client,
        recycle_bytes: int | None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.folder = NodeFolder(folder, owner, prepare, self._on_facts)
        self._owner = owner
        self._lock = lock
        self._client = client
        self.memory = SegmentAllocator(folder, owner, recycle_bytes)
        self.disk: SegmentAllocator | None = None
        self._closed = False
        self._viewed_bytes = 0
        #: None: as much as there is.
        self.allowed_bytes: int | None = None
        self._reserved: dict[Slot, int] = {}
        self._reserved_bytes = 0
        #: Slots that are being written or compared: their segments cannot leave.
        self.busy: set[Slot] = set()
        self._spiller = Spiller(lock, self.folder, self.memory, self.busy, client.orphaned_segments, self._on_moved)
        self._link: Link | None = None
        self._link_lock = threading.Lock()
        self._waiting: set[Asked] = set()

    # -- for the client -------------------------------------------------------------------------------------------

    def take(self, size_bytes: int, check_open: Callable[[], None], on_disk: bool = False) -> Slot:
        """A busy slot for so many bytes.  May wait; must be followed by ``seal`` or ``discard``.

        :param check_open: raises when the store is closed; called under the lock.
        :raises OSError: when the file system is full.
        """
        asked: Asked | None = None
        while True:
            with self._lock:
                if asked is not None:
                    self._stop_waiting(asked)
                check_open()
                self.folder.look()
                allocator = self._disk_allocator() if on_disk else self.memory
                slot = allocator.allocate(size_bytes)
                missing = 0
                if not on_disk and self.allowed_bytes is not None:
                    fresh = max(0, align(size_bytes, PAGE) - slot.backed_bytes)
                    missing = self._missing(fresh)
                    if missing > 0:
                        self.memory.trim(max(0, self.memory.freed_bytes - missing))
                        missing = self._missing(fresh)
                    if missing <= 0:
                        self._reserved[slot] = fresh
                        self._reserved_bytes += fresh
                if missing <= 0:
                    self.busy.add(slot)
                    slot.segment.last_used = time.monotonic()
                    return slot
                # Not ``discard``: what was in it may still be of use.
                allocator.free(slot)
            # All of it and not only what is missing: what is there already may be fetched back meanwhile.
            asked = self._wait_for_memory(align(size_bytes, PAGE))
            on_disk = asked is None or isinstance(asked.answer, UseDisk)

    def write(self, slot: Slot, pieces: Iterable[tuple[int, memoryview]], end: int) -> None:
        """Copy into a busy slot, without the lock; see ``SegmentAllocator.write``."""
        self._allocator_of(slot).write(slot, pieces, end)

    def seal(self, slot: Slot, end: int) -> None:
        """It was written (caller holds the lock)."""
        self._settle(slot)
        slot.used_bytes = end
        self._allocator_of(slot).seal(slot, end)

    def discard(self, slot: Slot) -> None:
        """It could not be written (caller holds the lock)."""
        self._settle(slot)
        self._allocator_of(slot).discard(slot)

    def free(self, slot: Slot) -> None:
        """Nobody looks at it any more (caller holds the lock)."""
        segment = slot.segment
        spilled = segment.leaving and not segment.address
        self._allocator_of(slot).free(slot)
        if spilled and not segment.used_slots and self.folder.spill is not None:
            self.folder.spill.remove(segment.name)
        self._wake_waiting()

    def revive(self, slot: Slot) -> bool:
        """Take back a slot that was freed, with what is in it (caller holds the lock)."""
        return self._allocator_of(slot).revive(slot)

    def begin_use(self, slot: Slot) -> None:
        """It must stay where it is for a while (caller holds the lock)."""
        self.busy.add(slot)
        slot.accessed += 1
        slot.segment.last_used = time.monotonic()

    def end_use(self, slot: Slot) -> None:
        """The counterpart of ``begin_use``."""
        slot.accessed -= 1
        if not slot.accessed:  # several may compare what they store with it
            self.busy.discard(slot)

    @property
    def can_spill(self) -> bool:
        """Whether there is a disk to go to."""
        return self.folder.spill is not None

    def full(self, size_bytes: int) -> ObjectStoreFullError:
        """What to raise when not even the last resort had room."""
        used = f"{self.memory.backed_bytes:,} bytes are in use by {self._owner}"
        path, facts = self.folder.path, self.folder.facts
        text = f"no room for {size_bytes:,} bytes in {path}: {free_bytes(path):,} bytes are free, {used}"
        if facts is not None and self.folder.spill is not None:
            spill = self.folder.spill.folder
            parent = spill if os.path.exists(spill) else os.path.dirname(spill)
            text += (
                f"; the node's budget is {facts.budget_bytes:,} bytes, "
                f"and {free_bytes(parent):,} bytes are free for spilling in {spill}"
            )
        return ObjectStoreFullError(text)

    def on_viewed(self, size_bytes: int) -> None:
        """Objects of so many bytes were mapped.  The agent spills what nobody views, as far as it knows: whoever looks
        at more than a little makes itself known."""
        if self._link is None:
            self._viewed_bytes += size_bytes
            with self._lock:
                self.folder.look()
            if self.folder.facts is not None and self._viewed_bytes > self.folder.facts.free_bytes and not self._closed:
                self.link()

    def fetch(self, segment: str) -> bool:
        """Make a segment local that was moved on to another file system; False when there is no such.

        :raises ObjectLostError: when that cannot be read.
        """
        with self._lock:
            self.folder.look()
        self._client.do_chores()
        return self.folder.spill is not None and self.folder.spill.fetch(segment)

    def ask_contents(self) -> NodeContents | None:
        """What all clients of the node say they have; None when there is no agent."""
        answer = self.ask(ContentsWanted)
        return answer if isinstance(answer, NodeContents) else None

    def ask(self, make: Callable[[int], Message]) -> agent_to_store_client.Message | None:
        """The agent's answer to a question, made for a request number; None when there is no agent."""
        link = self.link()
        if link is None:
            return None
        from distpool.store.link import Asked

        asked = link.ask(Asked(), make)
        try:
            asked.wait()
        finally:
            link.forget(asked)
        return asked.answer

    def say_later(self, message: Message) -> bool:
        """Have something said to the agent; may be called from finalizers.  False when it has not been met yet."""
        link = self._link
        if link is None:
            return False
        link.say_later(message)
        return True

    def link(self) -> Link | None:
        """The connection to the agent, made now if need be; None when there is no agent."""
        with self._link_lock:
            if self._link is None and not self._closed:
                with self._lock:
                    self.folder.look()
                    allowed = self.allowed_bytes
                self._client.do_chores()
                if self.folder.facts is None or allowed is None or not self.folder.facts.agent:
                    return None
                from distpool.store.link import Link

                self._link = Link(self.folder.path, self.folder.facts, self._owner, allowed, self)
            return self._link

    def change_node(self) -> None:
        """Another agent keeps the folder's books from now on."""
        with self._link_lock:
            link, self._link = self._link, None
        if link is not None:
            link.close(goodbye=False)
        with self._lock:
            self.folder.look_again()
            used = self.memory.backed_bytes + self._reserved_bytes
            if self.allowed_bytes is not None:
                self.allowed_bytes = max(self.allowed_bytes, used)
        self._client.do_chores()
        if self.folder.facts is not None and used > self.folder.facts.free_bytes:
            self.link()

    def trim(self) -> int:
        """Give back memory that waits for its next use; returns how many bytes (caller holds the lock)."""
        given_back = self.memory.trim()
        link = self._link
        if link is not None and self.allowed_bytes is not None:
            # Keep what one may have without asking: the next object is not to wait.
            assert self.folder.facts is not None
            keep = max(self.memory.backed_bytes + self._reserved_bytes, self.folder.facts.free_bytes)
            surplus = self.allowed_bytes - keep
            if surplus > 0:
                self.allowed_bytes -= surplus
                link.say(MemoryReturned(surplus))
        return given_back

    def close_link(self) -> None:
        """No more questions; call without the lock."""
        with self._link_lock:
            if self._link is not None:
                self._link.close()

    def close(self) -> None:
        """Remove everything that was made here (caller holds the lock)."""
        self._closed = True
        spilled = [segment.name for segment in self.memory.segments() if segment.leaving]
        self.memory.close()
        if self.disk is not None:
            self.disk.close()
        if self.folder.spill is not None:
            for name in spilled:
                self.folder.spill.remove(name)

    # -- for the agent, in the link's thread ------------------------------------------------------------------------

    def on_granted(self, size_bytes: int, asked: Asked | None) -> None:
        """See ``link.Party``."""
        with self._lock:
            if self.allowed_bytes is not None:
                self.allowed_bytes += size_bytes
            if asked is not None and asked in self._waiting:
                # Otherwise it could be fetched back before the thread that waits for it has woken up.
                asked.reserved_bytes = min(asked.wanted_bytes, size_bytes)
                self._reserved_bytes += asked.reserved_bytes
        self._client.do_chores()

    def on_reclaim(self, round: int) -> tuple[int, StoreReport]:
        """See ``link.Party``."""
        viewed = self._client.drop_idle()
        with self._lock:
            self.memory.trim()
            used = self.memory.backed_bytes + self._reserved_bytes
            surplus = max(0, (self.allowed_bytes or 0) - used)
            if self.allowed_bytes is not None:
                self.allowed_bytes -= surplus
            facts = self._spiller.candidates()
        self._client.do_chores()
        return surplus, StoreReport(round, facts, viewed)

    def on_spill(self, name: str) -> tuple[int, str]:
        """See ``link.Party``."""
        spilled = self._spiller.spill(name)
        self._client.do_chores()
        return spilled

    def describe(self, request: int) -> StoreContents:
        """See ``link.Party``."""
        return self._client.describe(request)

    # -- within -------------------------------------------------------------------------------------------------

    def _on_facts(self, facts: NodeFacts) -> None:
        self.allowed_bytes = facts.free_bytes

    def _on_moved(self, size_bytes: int) -> None:
        if self.allowed_bytes is not None:
            self.allowed_bytes -= size_bytes
        if not size_bytes:
            self._wake_waiting()

    def _missing(self, fresh: int) -> int:
        assert self.allowed_bytes is not None
        return self.memory.backed_bytes + self._reserved_bytes + fresh - self.allowed_bytes

    def _wait_for_memory(self, size_bytes: int) -> Asked | None:
        """Until it is worth trying again; ``_stop_waiting`` must follow.  None: on disk, the agent is gone."""
        link = self.link()
        if link is None:
            return None
        from distpool.store.link import Asked

        asked = Asked(size_bytes)
        with self._lock:
            self._waiting.add(asked)
        try:
            self._client.do_chores()  # what was let go of while this thread had the lock may be all that is missing
            link.ask(asked, lambda request: MemoryWanted(request, size_bytes))
            crashpoints.reach("store.asked")
            asked.wait()
            crashpoints.reach("store.answered")
        except BaseException:
            with self._lock:
                self._stop_waiting(asked)
            raise
        finally:
            if link.forget(asked) and not link.closed:
                link.say(MemoryNoLongerWanted(asked.request))
        return asked if asked.answer is not None or not link.closed else None

    def _wake_waiting(self) -> None:
        for asked in self._waiting:
            asked.wake()

    def _stop_waiting(self, asked: Asked) -> None:
        self._waiting.discard(asked)
        self._reserved_bytes -= asked.reserved_bytes
        asked.reserved_bytes = 0

    def _settle(self, slot: Slot) -> None:
        self.busy.discard(slot)
        self._reserved_bytes -= self._reserved.pop(slot, 0)

    def _allocator_of(self, slot: Slot) -> SegmentAllocator:
        segment, disk = slot.segment, self.disk
        if disk is not None and os.path.dirname(segment.path) == disk.folder and not segment.leaving:
            return disk
        return self.memory

    def _disk_allocator(self) -> SegmentAllocator:
        assert self.folder.spill is not None
        self.folder.spill.prepare()
        if self.disk is None:
            # Nothing is recycled there: the disk's free space is for everybody.
            self.disk = SegmentAllocator(self.folder.spill.folder, self._owner, 0, "d")
        return self.disk
