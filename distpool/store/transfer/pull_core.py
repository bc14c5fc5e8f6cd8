"""What a site does to get an object from another one.

No I/O, no clock: ``handle(event, now)`` returns what must be done; ``site`` is the shell.  However many tasks ask for
an object, it is pulled once.  First there must be room; then its home is asked for a source; then pieces are asked for,
a few at a time, so that no more than that is ever on the way.  What has come stays when a connection or a source is
lost: only the rest is asked for again, from the same source or from another.  When the home is gone, everybody is asked
for copies.
"""

from __future__ import annotations

from distpool.store.transfer.pull_events import (
    AskChunks,
    AskSource,
    ChunkCame,
    CopiesFound,
    CopyEvicted,
    Deliver,
    Discard,
    Effect,
    Event,
    FindCopies,
    FindSite,
    LinkLost,
    LinkUp,
    Lose,
    MakeRoom,
    ObjectsEnded,
    RoomMade,
    RoomRefused,
    SiteGone,
    SourceNamed,
    SourceUnknown,
    StoreChunk,
    TellReceived,
    TimePassed,
    Wanted,
)
from distpool.store.transfer.pull_state import (
    CHUNK_BYTES,
    RUN,
    TRANSITIONS,
    WINDOW,
    Pull,
    Search,
    State,
    chunk_bytes,
    chunks,
)

#: After so long without a piece, those under way are asked for again.
_SILENT_S = 3.0
#: A source is given up after so long without a piece, and the home is looked for anew.
_GIVE_UP_S = 12.0
#: The home is asked again so often.
_ASK_AGAIN_S = 5.0
#: Nothing came for so long, from anybody: the object is lost.
_LOST_S = 60.0
#: So long do those who have copies of what a home had that is gone have time to say so.
_SEARCH_S = 3.0
#: So long it is remembered whose copies were found: who reads many results of a lost node waits once, not for each.
_REMEMBER_S = 10.0
#: A copy that nobody asked for during so long is given up.
_IDLE_S = 60.0


class PullCore:
    """See the module's description.

    :ivar pulls: what is on its way, by key.
    :ivar copies: what is here, and when it was last asked for.
    """

    def __init__(self) -> None:
        self.pulls: dict[str, Pull] = {}
        self.copies: dict[str, float] = {}
        self._keys: dict[str, set[str]] = {}
        self._searches: dict[str, Search] = {}
        self._now = 0.0
        self._effects: list[Effect] = []

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` must be reported."""
        deadlines = [self._deadline(pull) for pull in self.pulls.values() if pull.state is not State.ROOM]
        deadlines += [used + _IDLE_S for used in self.copies.values()]
        deadlines += [search.until + search.over * _REMEMBER_S for search in self._searches.values()]
        return min(deadlines, default=None)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of ``event``; returns what must be done."""
        self._now = now
        effects = self._effects = []
        if isinstance(event, Wanted):
            self._on_wanted(event)
        elif isinstance(event, ObjectsEnded):
            self._on_ended(event.object_ids)
        elif isinstance(event, CopyEvicted):
            if event.key in self.copies:
                self._forget(event.key)
        elif isinstance(event, CopiesFound):
            self._on_copies(event)
        elif isinstance(event, TimePassed):
            self._on_time(now)
        elif isinstance(event, (LinkUp, LinkLost, SiteGone)):
            if isinstance(event, LinkUp):
                self._searches.pop(event.site, None)  # it is back
            for pull in list(self.pulls.values()):
                self._on_site(pull, event)
        else:
            pull_of = self.pulls.get(event.key)
            if pull_of is not None:
                self._on_news(pull_of, event)
            elif isinstance(event, RoomMade) and event.key not in self.copies:
                effects.append(Discard(event.key))
        return effects

    def check_invariants(self) -> None:
        """Raise AssertionError when the books are wrong."""
        assert not self.pulls.keys() & self.copies.keys()
        for key, pull in self.pulls.items():
            assert key == pull.extent.key
            assert pull.askers
            assert len(pull.asked) <= WINDOW
            assert not pull.asked.keys() & set(pull.todo)
            if pull.state is not State.ROOM:
                assert 0 < pull.missing <= chunks(pull.extent)
                assert pull.missing == len(pull.asked) + len(pull.todo)
        known = {key for keys in self._keys.values() for key in keys}
        assert known == self.pulls.keys() | self.copies.keys()

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_wanted(self, event: Wanted) -> None:
        extent, key = event.extent, event.extent.key
        if key in self.copies:
            self.copies[key] = self._now
            self._effects.append(Deliver(key, event.asker))
        elif key in self.pulls:
            self.pulls[key].askers.append(event.asker)
        else:
            self.pulls[key] = Pull(extent, [event.asker])
            self._keys.setdefault(extent.object_id, set()).add(key)
            self._effects.append(MakeRoom(key, extent.size_bytes))

    def _on_ended(self, object_ids: tuple[str, ...]) -> None:
        for object_id in object_ids:
            for key in sorted(self._keys.get(object_id, ())):
                if key in self.pulls:
                    self._lose(self.pulls[key], "its owner no longer needs it")
                else:
                    self._forget(key)

    def _on_news(self, pull: Pull, event: RoomMade | RoomRefused | SourceNamed | SourceUnknown | ChunkCame) -> None:
        if isinstance(event, ChunkCame):
            self._on_chunk(pull, event)
        elif isinstance(event, RoomRefused):
            self._lose(pull, event.reason)
        elif isinstance(event, RoomMade):
            if pull.state is State.ROOM:
                pull.missing = chunks(pull.extent)
                pull.todo.extend(range(pull.missing))
                pull.progress_at = self._now
                self._seek(pull)
        elif isinstance(event, SourceNamed):
            if pull.state is State.ROOM:
                return
            pull.others = event.others
            if pull.state is State.SEEKING:
                self._pull_from(pull, event.source)
        elif isinstance(event, SourceUnknown) and pull.state is not State.ROOM:
            if pull.state is State.PULLING and event.source == pull.source:
                pull.searched |= event.source == pull.extent.home
                self._on_source_failed(pull, f"{event.source} no longer has it")
            elif pull.state is State.SEEKING and event.source == pull.extent.home:
                pull.home_gone = pull.searched = True
                self._try_others(pull, f"{event.source}, where it was made, no longer has it")

    def _on_chunk(self, pull: Pull, event: ChunkCame) -> None:
        number, rest = divmod(event.offset, CHUNK_BYTES)
        if rest or pull.state is State.ROOM or event.size_bytes != chunk_bytes(pull.extent, number):
            return
        if number in pull.asked:
            del pull.asked[number]
        elif number in pull.todo:  # it was under way when the connection was given up
            pull.todo.remove(number)
        else:
            return
        pull.missing -= 1
        pull.progress_at = self._now
        pull.searched = pull.cut = False
        self._effects.append(StoreChunk(pull.extent.key, event.offset))
        if pull.missing:
            self._fill(pull)
            return
        key = pull.extent.key
        del self.pulls[key]
        self.copies[key] = self._now
        self._effects.append(TellReceived(pull.extent))
        self._effects += [Deliver(key, asker) for asker in pull.askers]

    def _on_site(self, pull: Pull, event: LinkUp | LinkLost | SiteGone) -> None:
        if pull.state is State.ROOM:
            return
        seeking = pull.state is State.SEEKING
        if isinstance(event, LinkUp):
            if seeking and event.site == pull.extent.home:
                pull.home_gone = False
                self._seek(pull)
            elif not seeking and event.site == pull.source:
                pull.cut = False
                self._fill(pull)
        elif isinstance(event, LinkLost):
            if not seeking and event.site == pull.source:
                pull.cut = True
                self._take_back(pull)
        else:
            news = event.site == pull.extent.home and not pull.home_gone
            pull.home_gone |= news
            pull.others = tuple(other for other in pull.others if other != event.site)
            if news if seeking else event.site == pull.source:
                self._on_source_failed(pull, f"{event.site} is gone")

    def _on_copies(self, event: CopiesFound) -> None:
        search = self._searches.get(event.home)
        if search is None:
            return
        for key in event.keys:
            search.holders.setdefault(key, []).append(event.site)
            pull = self.pulls.get(key)
            if pull is not None and event.site not in (pull.source, *pull.others):
                pull.others += (event.site,)
                if pull.state is State.SEEKING and pull.home_gone:
                    self._try_others(pull, pull.reason)

    def _on_time(self, now: float) -> None:
        over = {home for home, search in self._searches.items() if search.until <= now and not search.over}
        for home, search in list(self._searches.items()):
            search.over |= home in over
            if search.until + _REMEMBER_S <= now:
                del self._searches[home]
        for pull in list(self.pulls.values()):
            if pull.state is State.SEEKING and pull.home_gone and pull.extent.home in over:
                self._lose(pull, pull.reason)
                continue
            if pull.state is State.ROOM or self._deadline(pull) > now:
                continue
            if now >= pull.progress_at + _LOST_S:
                where = pull.source or pull.extent.home
                self._lose(pull, f"nothing of it has come from {where} for {_LOST_S:g} seconds")
            elif pull.state is State.SEEKING:
                self._effects.append(FindSite(pull.extent.home))
                self._seek(pull)
            elif (pull.cut or now >= pull.progress_at + _GIVE_UP_S) and pull.source != pull.extent.home:
                self._on_source_failed(pull, f"{pull.source} is silent")
            elif pull.cut and pull.others:
                self._pull_from_another(pull)  # the home may come back, but there is no need to wait for it
            else:
                if pull.cut or now >= pull.progress_at + _GIVE_UP_S:
                    self._effects.append(FindSite(pull.source))
                self._take_back(pull)
                self._effects.append(AskSource(pull.extent))  # still here: whoever serves us must not forget it
                self._fill(pull)
        for key in [key for key, used in self.copies.items() if used + _IDLE_S <= now]:
            self._forget(key)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _deadline(self, pull: Pull) -> float:
        lost_at = pull.progress_at + _LOST_S
        if pull.state is State.SEEKING:
            return lost_at if pull.home_gone else min(lost_at, pull.asked_at + _ASK_AGAIN_S)
        return min(lost_at, max(pull.progress_at, pull.asked_at) + _SILENT_S)

    def _move(self, pull: Pull, state: State) -> None:
        assert state in TRANSITIONS[pull.state] or state is pull.state, f"{pull.state} -> {state}"
        pull.state = state

    def _seek(self, pull: Pull, failed: str = "") -> None:
        self._move(pull, State.SEEKING)
        self._take_back(pull)
        pull.source = ""
        pull.asked_at = self._now
        self._effects.append(AskSource(pull.extent, failed))

    def _pull_from(self, pull: Pull, source: str) -> None:
        self._move(pull, State.PULLING)
        self._take_back(pull)
        pull.source, pull.cut = source, False
        pull.asked_at = self._now
        self._fill(pull)

    def _pull_from_another(self, pull: Pull) -> None:
        source, pull.others = pull.others[0], pull.others[1:]
        self._pull_from(pull, source)

    def _fill(self, pull: Pull) -> None:
        if len(pull.asked) > WINDOW - RUN:
            return
        extent, todo = pull.extent, pull.todo
        while todo and len(pull.asked) < WINDOW:
            first = number = todo.popleft()
            pull.asked[first] = None
            while todo and todo[0] == number + 1 and number - first < RUN - 1 and len(pull.asked) < WINDOW:
                number = todo.popleft()
                pull.asked[number] = None
            pull.asked_at = self._now
            offset = first * CHUNK_BYTES
            size_bytes = min(extent.size_bytes, (number + 1) * CHUNK_BYTES) - offset
            self._effects.append(AskChunks(extent, pull.source, offset, size_bytes))

    def _take_back(self, pull: Pull) -> None:
        pull.todo.extendleft(reversed(pull.asked))
        pull.asked.clear()

    def _on_source_failed(self, pull: Pull, reason: str) -> None:
        if pull.home_gone or pull.source == pull.extent.home:
            pull.home_gone = True
            self._try_others(pull, reason)
        else:
            self._seek(pull, pull.source)

    def _try_others(self, pull: Pull, reason: str) -> None:
        """The home cannot help any more."""
        if pull.others:
            self._pull_from_another(pull)
        elif pull.searched:
            self._lose(pull, reason)
        else:
            self._search(pull, reason)

    def _search(self, pull: Pull, reason: str) -> None:
        home = pull.extent.home
        pull.searched, pull.reason = True, reason
        search = self._searches.get(home)
        if search is None:
            search = self._searches[home] = Search(self._now + _SEARCH_S)
            self._effects.append(FindCopies(home))
        pull.others = tuple(search.holders.get(pull.extent.key, ()))
        if pull.others:
            self._pull_from_another(pull)
        elif search.over:
            self._lose(pull, reason)
        else:
            self._move(pull, State.SEEKING)
            self._take_back(pull)
            pull.source = ""

    def _lose(self, pull: Pull, reason: str) -> None:
        del self.pulls[pull.extent.key]
        self._release_key(pull.extent.key)
        self._effects += [Lose(pull.extent, asker, reason) for asker in pull.askers]
        self._effects.append(Discard(pull.extent.key))

    def _forget(self, key: str) -> None:
        del self.copies[key]
        self._release_key(key)
        self._effects.append(Discard(key))

    def _release_key(self, key: str) -> None:
        object_id = key.rpartition(":")[0]
        keys = self._keys[object_id]
        keys.discard(key)
        if not keys:
            del self._keys[object_id]
