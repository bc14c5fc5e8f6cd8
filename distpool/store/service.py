"""The store's books in the agent: the shell around ``core``.

Served in the agent's loop.  Messages come from store clients (``o-...``) over the agent's channel.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from distpool import crashpoints
from distpool.store import core
from distpool.store.settings import AGENT_FILE
from distpool.store.spill import NodeFacts
from distpool.wire import agent_to_store_client as agent_says
from distpool.wire import store_client_to_agent as client_says
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.codec import encode
from distpool.wire.processes import exists

if TYPE_CHECKING:

    class _Loop(Protocol):
        def soon(self, callback: Callable[[], None]) -> None: ...
        def add_timer(self, deadline: Callable[[], float | None], on_time: Callable[[float], None]) -> None: ...


_decode = msgspec.msgpack.Decoder(client_says.Message).decode
_FREE_BYTES = 16 << 20
#: How long a client may take to describe what it has.
_DESCRIBE_WITHIN_S = 2.0


class StoreService:
    """See the module's description.

    :param folder: the node's store folder.
    :param spill_folder: where segments are spilled to on this machine.
    :param spill_uri: a ``pyarrow.fs`` URI to move them on to; empty: none.
    """

    def __init__(
        self,
        loop: _Loop,
        channel: Channel,
        node: str,
        endpoint: str,
        folder: str,
        spill_folder: str,
        budget_bytes: int,
        spill_uri: str = "",
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._folder = folder
        #: Clients in this very process, and how to reach them.
        self._local: dict[str, Callable[[agent_says.Message], None]] = {}
        #: Told of what clients want of other sites.
        self.on_elsewhere: Callable[[str, client_says.ObjectsWanted | client_says.PassOn], None] | None = None
        self._core = core.StoreCore(budget_bytes)
        self._descriptions: list[_Description] = []
        self._spill_folder = spill_folder
        self._lock = os.open(
            os.path.join(folder, AGENT_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        free = min(_FREE_BYTES, budget_bytes // 16)
        NodeFacts(f"a-{node}", endpoint, budget_bytes, free, spill_folder, spill_uri and f"{spill_uri}/{node}").write(
            folder
        )
        loop.add_timer(self._next_deadline, self._on_time)

    def on_message(self, peer: bytes, frames: list[bytes]) -> None:
        """See ``node.agent.Service``."""
        if peer[:2] != b"o-" or not frames:
            return
        try:
            message = _decode(frames[0])
        except msgspec.DecodeError:
            return
        self._take(peer[2:].decode(errors="replace"), message)

    def add_local_client(self, client: str, deliver: Callable[[agent_says.Message], None]) -> None:
        """A client in this very process; ``tell`` is what it says."""
        self._local[client] = deliver

    def tell(self, client: str, message: client_says.Message) -> None:
        """A message of a client in this process."""
        self._loop.soon(lambda: self._take(client, message))

    def _take(self, client: str, message: client_says.Message) -> None:
        if isinstance(message, client_says.StoreContents):
            self._on_contents(client, message)
        elif isinstance(message, client_says.ContentsWanted):
            self._describe(client, message.request)
        elif isinstance(message, (client_says.ObjectsWanted, client_says.PassOn)):
            if self.on_elsewhere is not None:
                self.on_elsewhere(client, message)
        elif isinstance(message, client_says.StoreGoodbye):
            self.on_worker_exited(client)
        elif isinstance(message, client_says.StoreHello) and not exists(message.pid):
            pass  # its last words, overtaken by those of its end: nothing would ever be charged back
        else:
            self._handle(_event(client, message))

    def on_worker_exited(self, worker: str) -> None:
        """See ``node.agent.Service``."""
        if worker in self._core.clients:
            self._handle(core.ClientLeft(worker))
            for description in list(self._descriptions):
                self._note(description, worker, None)

    def close(self) -> None:
        """See ``node.agent.Service``."""
        os.close(self._lock)

    def _handle(self, event: core.Event) -> None:
        crashpoints.reach("store.heard")
        todo = [event]
        while todo:
            for effect in self._core.handle(todo.pop(), time.monotonic()):
                if isinstance(effect, core.MeasureOrphans):
                    todo.append(core.OrphansMeasured(self._measure_orphans()))
                else:
                    self.send(effect.client, _message(effect))
        crashpoints.reach("store.answered")

    def send(self, client: str, message: agent_says.Message) -> None:
        """Say something to a client; one that is gone is ignored."""
        deliver = self._local.get(client)
        if deliver is not None:
            deliver(message)
            return
        try:
            self._channel.send(b"o-" + client.encode(), (encode(message),))
        except PeerUnreachable:
            pass  # word of its end is on the way, or it closed its store

    def _measure_orphans(self) -> int:
        total = 0
        known = self._core.clients
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name[0] != "." and entry.name.rpartition(".")[0] not in known:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            pass  # a file was removed meanwhile; the next round measures again
        return total

    def _next_deadline(self) -> float | None:
        deadlines = [description.deadline for description in self._descriptions]
        books = self._core.next_deadline()
        if books is not None:
            deadlines.append(books)
        return min(deadlines, default=None)

    def _on_time(self, now: float) -> None:
        deadline = self._core.next_deadline()
        if deadline is not None and deadline <= now:
            self._handle(core.TimePassed())
        for description in [description for description in self._descriptions if description.deadline <= now]:
            description.missing.clear()
            self._finish(description)

    # -- what is in the store -----------------------------------------------------------------------------------

    def _describe(self, client: str, request: int) -> None:
        description = _Description(client, request, set(self._core.clients), time.monotonic() + _DESCRIBE_WITHIN_S)
        self._descriptions.append(description)
        for name in description.missing:
            self.send(name, agent_says.DescribeContents(0))
        self._finish(description)

    def _on_contents(self, client: str, contents: client_says.StoreContents) -> None:
        for description in list(self._descriptions):
            self._note(description, client, contents)

    def _note(self, description: _Description, client: str, contents: client_says.StoreContents | None) -> None:
        if client in description.missing:
            description.missing.discard(client)
            if contents is not None:
                description.contents[client] = contents
            self._finish(description)

    def _finish(self, description: _Description) -> None:
        if description.missing:
            return
        self._descriptions.remove(description)
        books = self._core
        self.send(
            description.client,
            agent_says.NodeContents(
                description.request,
                books.budget_bytes,
                books.allowed_bytes,
                self._measure_orphans(),
                description.contents,
            ),
        )


class _Description:
    def __init__(self, client: str, request: int, missing: set[str], deadline: float) -> None:
        self.client = client
        self.request = request
        self.missing = missing
        self.deadline = deadline
        self.contents: dict[str, client_says.StoreContents] = {}


def _event(client: str, message: Any) -> core.Event:
    if isinstance(message, client_says.StoreHello):
        return core.ClientJoined(client, message.allowed_bytes)
    if isinstance(message, client_says.MemoryWanted):
        return core.MemoryAsked(client, message.request, message.size_bytes)
    if isinstance(message, client_says.MemoryNoLongerWanted):
        return core.MemoryNotNeeded(client, message.request)
    if isinstance(message, client_says.MemoryReturned):
        return core.MemoryCameBack(client, message.size_bytes)
    if isinstance(message, client_says.StoreReport):
        segments = tuple(core.Segment(facts.name, facts.size_bytes, facts.last_used) for facts in message.segments)
        return core.ClientReported(client, message.round, segments, frozenset(message.viewed))
    assert isinstance(message, client_says.SegmentSpilled)
    return core.SpillEnded(client, message.segment, not message.problem)


def _message(effect: Any) -> agent_says.Message:
    if isinstance(effect, core.Grant):
        return agent_says.MemoryGranted(effect.request, effect.size_bytes)
    if isinstance(effect, core.SendToDisk):
        return agent_says.UseDisk(effect.request)
    if isinstance(effect, core.AskToReclaim):
        return agent_says.Reclaim(effect.round)
    assert isinstance(effect, core.SpillSegments)
    return agent_says.Spill(list(effect.segments))
