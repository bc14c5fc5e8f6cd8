"""The shell around the two cores of a site: messages, files, and those who wait.

Everything here runs in one thread, that of the loop.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from distpool import crashpoints
from distpool.store.transfer import fanout_core, pull_core, pull_events
from distpool.store.transfer.connections import Connections, Loop
from distpool.store.transfer.files import Files
from distpool.store.transfer.pull_state import CHUNK_BYTES, RUN
from distpool.wire import site_to_site as says
from distpool.wire.objects import Extent, Place

#: Told which objects are here now, where, and which cannot be had, and why.
Done = Callable[[list[Place], dict[str, str]], None]


class Admission(Protocol):
    """Says where there is room, perhaps not at once."""

    def ask(self, size_bytes: int, then: Callable[[bool], None]) -> None:
        """Call ``then`` with whether it may be in memory."""

    def give_back(self, size_bytes: int) -> None:
        """So much memory is free again."""


class _Question:
    def __init__(self, keys: Iterable[str], done: Done) -> None:
        self.missing = set(keys)
        self.done = done
        self.places: list[Place] = []
        self.lost: dict[str, str] = {}


class Site:
    """See the module's description.

    :param name: of the site.
    :param connect: makes its connections, given itself.
    """

    def __init__(
        self, name: str, loop: Loop, files: Files, admission: Admission, connect: Callable[[Site], Connections]
    ) -> None:
        self.name = name
        self.files = files
        self._admission = admission
        self._pulls = pull_core.PullCore()
        self._fanout = fanout_core.FanoutCore(name)
        self._extents: dict[str, Extent] = {}
        self._askers = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        #: Told of each site that was given a piece of something.
        self.on_served: Callable[[str], None] = lambda site: None
        #: Told of each site that is no more.
        self.on_gone: Callable[[str], None] = lambda site: None
        self._on: dict[type, Callable[[str, Any], None]] = {
            says.SourceWanted: self._on_source_wanted,
            says.SourceFailed: self._on_source_failed,
            says.SourceNamed: self._on_source_named,
            says.SourceUnknown: self._on_source_unknown,
            says.CopiesHere: self._on_copies_here,
            says.Received: lambda site, message: self._share(fanout_core.Received(message.key, site)),
            says.ChunksWanted: self._on_chunks_wanted,
            says.ObjectsEnded: lambda site, message: self.on_ended(message.object_ids),
        }
        loop.add_timer(self._pulls.next_deadline, lambda now: self._pull(pull_events.TimePassed()))
        loop.add_timer(self._fanout.next_deadline, lambda now: self._share(fanout_core.TimePassed()))
        self.connections = connect(self)

    def want(self, extents: Iterable[Extent], done: Done) -> None:
        """Have these objects on this site."""
        remote: dict[str, Extent] = {}
        question = _Question((), done)
        for extent in extents:
            here = self.files.has(extent.segment, fetch=extent.home == self.name)
            if here:  # made here, or taken over from a node that has left
                question.places.append(Place(extent.object_id, extent.segment, 0))
            elif extent.home == self.name:
                question.lost[extent.object_id] = f"its segment {extent.segment} was removed"
            else:
                remote[extent.key] = extent
        question.missing.update(remote)
        if not remote:
            done(question.places, question.lost)
            return
        asker = next(self._askers)
        self._questions[asker] = question
        for key, extent in remote.items():
            self._extents.setdefault(key, extent)
            self._pull(pull_events.Wanted(extent, asker))

    def on_ended(self, object_ids: Iterable[str]) -> None:
        """Nobody needs these objects any more."""
        names = tuple(object_ids)
        self._share(fanout_core.Ended(names))
        self._pull(pull_events.ObjectsEnded(names))

    def tell_copies(self, home: str, seeker: str) -> None:
        """Somebody seeks copies of what ``home`` had, which is gone."""
        keys = [key for key in self._pulls.copies if self._extents[key].home == home]
        if keys:
            self.connections.ask(seeker, says.CopiesHere(home, keys))

    def evict(self, segment: str) -> int:
        """Give up a copy; returns the memory that came free."""
        key = self.files.key_of(segment)
        copy = self.files.copies.get(key)
        if copy is None or key not in self._pulls.copies:
            return 0
        size_bytes = copy.size_bytes if copy.in_memory else 0
        self._pull(pull_events.CopyEvicted(key))
        return size_bytes

    def copies(self) -> list[tuple[str, int, float]]:
        """Name, size and time of last use of the copies in memory that are complete."""
        files = self.files.copies
        return [
            (files[key].name, files[key].size_bytes, used)
            for key, used in self._pulls.copies.items()
            if key in files and files[key].in_memory
        ]

    # -- connections ----------------------------------------------------------------------------------------------

    def on_site_said(self, site: str, message: Any) -> None:
        """See ``connections.Party``."""
        handler = self._on.get(type(message))
        if handler is not None:
            handler(site, message)

    def on_chunk(self, site: str, chunk: says.Chunk, data: memoryview) -> None:
        """See ``connections.Party``."""
        self._pull(pull_events.ChunkCame(chunk.key, chunk.offset, len(data)), data)

    def handles(self, kind: type, handler: Callable[[str, Any], None]) -> None:
        """Let ``handler`` have messages of a kind that are not about objects here."""
        self._on[kind] = handler

    def on_link_up(self, site: str) -> None:
        """See ``connections.Party``."""
        self._pull(pull_events.LinkUp(site))

    def on_link_lost(self, site: str) -> None:
        """See ``connections.Party``."""
        self._pull(pull_events.LinkLost(site))

    def on_site_gone(self, site: str) -> None:
        """See ``connections.Party``."""
        self._share(fanout_core.SiteLost(site))
        self._pull(pull_events.SiteGone(site))
        self.on_gone(site)

    # -- giving ---------------------------------------------------------------------------------------------------

    def _on_source_wanted(self, site: str, message: says.SourceWanted) -> None:
        extent = message.extent
        if not self.files.has(extent.segment, fetch=True):
            self.connections.reply(site, says.SourceUnknown(extent.key))
            return
        crashpoints.reach("transfer.naming")
        self._share(fanout_core.Asked(extent.key, site))

    def _on_source_failed(self, site: str, message: says.SourceFailed) -> None:
        extent = message.extent
        if not self.files.has(extent.segment, fetch=True):
            self.connections.reply(site, says.SourceUnknown(extent.key))
            return
        self._share(fanout_core.Asked(extent.key, site, message.source or self.name))

    def _on_chunks_wanted(self, site: str, message: says.ChunksWanted) -> None:
        extent, key = message.extent, message.extent.key
        complete = self.files.copies[key] if key in self._pulls.copies else None
        given, size_bytes = 0, min(message.size_bytes, RUN * CHUNK_BYTES)
        if 0 <= message.offset <= extent.size_bytes - size_bytes:
            for piece in self.files.pieces(extent, complete, message.offset, size_bytes, CHUNK_BYTES):
                crashpoints.reach("transfer.serving")
                if not self.connections.reply(site, says.Chunk(key, message.offset + given), piece):
                    return  # it asks again when it is back
                crashpoints.reach("transfer.served")
                given += len(piece)
        if given < size_bytes:
            self.connections.reply(site, says.SourceUnknown(key))
        else:
            self.on_served(site)

    def _share(self, event: fanout_core.Event) -> None:
        for effect in self._fanout.handle(event, time.monotonic()):
            if isinstance(effect, fanout_core.DropCopies):
                self.connections.reply(effect.site, says.ObjectsEnded(list(effect.object_ids)))
                continue
            source = "" if effect.source == self.name else effect.source
            if not self.connections.reply(effect.consumer, says.SourceNamed(effect.key, source, effect.others)):
                continue  # it asks again when it is back

    # -- taking ---------------------------------------------------------------------------------------------------

    def _on_source_named(self, site: str, message: says.SourceNamed) -> None:
        extent = self._extents.get(message.key)
        if extent is not None:
            source = message.source or extent.home
            self._pull(pull_events.SourceNamed(message.key, source, message.others))

    def _on_source_unknown(self, site: str, message: says.SourceUnknown) -> None:
        extent = self._extents.get(message.key)
        if extent is not None:
            named = extent.home if self.connections.stands_for(extent.home) == site else site
            self._pull(pull_events.SourceUnknown(message.key, named))

    def _on_copies_here(self, site: str, message: says.CopiesHere) -> None:
        self._pull(pull_events.CopiesFound(message.home, site, tuple(message.keys)))

    def _pull(self, event: pull_events.Event, data: memoryview | None = None) -> None:
        connections = self.connections
        todo = [(event, data)]
        while todo:
            event, data = todo.pop(0)
            for effect in self._pulls.handle(event, time.monotonic()):
                if isinstance(effect, pull_events.AskChunks):
                    message = says.ChunksWanted(effect.extent, effect.offset, effect.size_bytes)
                    connections.ask(effect.source, message)
                    crashpoints.reach("transfer.asked")
                elif isinstance(effect, pull_events.StoreChunk):
                    assert data is not None
                    try:
                        self.files.copies[effect.key].write(effect.offset, data)
                        crashpoints.reach("transfer.stored")
                    except OSError as error:
                        # Should it have been the last piece, readers find it gone and ask again.
                        refused = effect.key in self._pulls.pulls
                        reason = _no_room(error)
                        todo.append(
                            (
                                pull_events.RoomRefused(effect.key, reason)
                                if refused
                                else pull_events.CopyEvicted(effect.key),
                                None,
                            )
                        )
                elif isinstance(effect, pull_events.MakeRoom):
                    self._make_room(effect)
                elif isinstance(effect, pull_events.AskSource):
                    home = effect.extent.home
                    failed = "" if effect.failed == home else effect.failed
                    ask = (
                        says.SourceFailed(effect.extent, failed) if effect.failed else says.SourceWanted(effect.extent)
                    )
                    connections.ask(home, ask)
                elif isinstance(effect, pull_events.TellReceived):
                    self.files.copies[effect.extent.key].seal()
                    crashpoints.reach("transfer.sealed")
                    connections.tell(effect.extent.home, says.Received(effect.extent.key))
                    crashpoints.reach("transfer.received")
                elif isinstance(effect, pull_events.FindSite):
                    connections.find(effect.site)
                elif isinstance(effect, pull_events.FindCopies):
                    connections.find_copies(effect.home)
                elif isinstance(effect, pull_events.Discard):
                    self._discard(effect.key)
                else:
                    self._answer(effect)

    def _make_room(self, effect: pull_events.MakeRoom) -> None:
        extent = self._extents[effect.key]

        def then(in_memory: bool) -> None:
            if effect.key in self.files.copies:
                if in_memory:
                    self._admission.give_back(effect.size_bytes)
                return
            try:
                self.files.new_copy(extent, in_memory)
            except OSError as error:
                if in_memory:
                    self._admission.give_back(effect.size_bytes)
                self._pull(pull_events.RoomRefused(effect.key, _no_room(error)))
            else:
                crashpoints.reach("transfer.room_made")
                self._pull(pull_events.RoomMade(effect.key))

        self._admission.ask(effect.size_bytes, then)

    def _discard(self, key: str) -> None:
        crashpoints.reach("transfer.discarding")
        copy = self.files.copies.pop(key, None)
        if key not in self._pulls.pulls:
            self._extents.pop(key, None)
        if copy is not None:
            copy.remove()
            if copy.in_memory:
                self._admission.give_back(copy.object_bytes)

    def _answer(self, effect: pull_events.Deliver | pull_events.Lose) -> None:
        question = self._questions.get(effect.asker)
        if question is None:
            return
        if isinstance(effect, pull_events.Deliver):
            question.places.append(self.files.copies[effect.key].place)
            question.missing.discard(effect.key)
        else:
            question.lost[effect.extent.object_id] = effect.reason
            question.missing.discard(effect.extent.key)
        if not question.missing:
            del self._questions[effect.asker]
            question.done(question.places, question.lost)


def _no_room(error: OSError) -> str:
    return f"there is no room for it here: {error.strerror or error}"
