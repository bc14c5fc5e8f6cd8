"""The node's books: decisions one by one, and their invariants whatever clients do."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distpool.store import core
from distpool.store.core import (
    AskToReclaim,
    ClientJoined,
    ClientLeft,
    ClientReported,
    Grant,
    MeasureOrphans,
    MemoryAsked,
    MemoryCameBack,
    MemoryNotNeeded,
    OrphansMeasured,
    Phase,
    Segment,
    SendToDisk,
    SpillEnded,
    SpillSegments,
    StoreCore,
    TimePassed,
)


def joined(budget: int, *names: str) -> StoreCore:
    books = StoreCore(budget)
    for name in names:
        books.handle(ClientJoined(name, 10), 0.0)
    return books


def test_memory_is_granted_with_credit_while_there_is_plenty(monkeypatch):
    monkeypatch.setattr(core, "CREDIT_BYTES", 50)
    books = joined(1000, "d")
    assert books.handle(MemoryAsked("d", 1, 100), 0.0) == [Grant("d", 1, 150)]
    assert books.handle(MemoryAsked("d", 2, 580), 0.0) == [Grant("d", 2, 590)]
    assert books.handle(MemoryAsked("d", 3, 100), 0.0) == [Grant("d", 3, 100)]
    assert books.allowed_bytes == 850


def test_reclaim_then_spill_the_least_recently_used_that_nobody_views():
    books = joined(1000, "d", "w")
    books.handle(MemoryAsked("d", 1, 900), 0.0)
    assert books.handle(MemoryAsked("w", 1, 300), 1.0) == [
        MeasureOrphans(),
        AskToReclaim("d", 1),
        AskToReclaim("w", 1),
    ]
    assert books.phase is Phase.RECLAIMING
    segments = (Segment("d.1", 200, 0.3), Segment("d.2", 200, 0.1), Segment("d.3", 200, 0.2), Segment("d.4", 200, 0.4))
    assert books.handle(ClientReported("d", 1, segments, frozenset()), 1.1) == []
    [spill] = books.handle(ClientReported("w", 1, (), frozenset({"d.2"})), 1.1)
    assert spill == SpillSegments("d", ("d.3", "d.1"))
    assert books.handle(MemoryCameBack("d", 200), 1.2) == []
    assert books.handle(SpillEnded("d", "d.3", True), 1.2) == []
    assert books.handle(MemoryCameBack("d", 200), 1.3) == [Grant("w", 1, 300)]
    assert books.handle(SpillEnded("d", "d.1", True), 1.3) == []
    assert books.phase is Phase.CALM
    assert books.next_deadline() is None


def test_what_comes_back_by_itself_is_enough():
    books = joined(1000, "d", "w")
    books.handle(MemoryAsked("d", 1, 900), 0.0)
    books.handle(MemoryAsked("w", 1, 300), 1.0)
    assert books.handle(MemoryCameBack("d", 300), 1.0) == [Grant("w", 1, 300)]
    books.check_invariants()


def test_a_producer_waits_and_then_goes_to_disk():
    books = joined(1000, "d", "w")
    books.handle(MemoryAsked("d", 1, 900), 0.0)
    books.handle(MemoryAsked("w", 1, 300), 1.0)
    books.handle(ClientReported("d", 1, (), frozenset()), 1.0)
    books.handle(ClientReported("w", 1, (), frozenset()), 1.0)
    assert books.phase is Phase.WAITING
    assert books.next_deadline() == 1.0 + core.RECLAIM_EVERY_S
    assert AskToReclaim("w", 2) in books.handle(TimePassed(), 1.1)
    books.handle(ClientReported("d", 2, (), frozenset()), 1.2)
    books.handle(ClientReported("w", 2, (), frozenset()), 1.2)
    assert books.handle(TimePassed(), 1.0 + core.PATIENCE_S) == [SendToDisk("w", 1)]


def test_an_object_larger_than_the_budget_goes_to_disk_at_once():
    assert joined(1000, "d").handle(MemoryAsked("d", 1, 1001), 0.0) == [SendToDisk("d", 1)]


def test_a_client_that_does_not_report_is_left_out():
    books = joined(1000, "d", "w")
    books.handle(MemoryAsked("d", 1, 900), 0.0)
    books.handle(MemoryAsked("w", 1, 300), 1.0)
    books.handle(ClientReported("d", 1, (Segment("d.1", 500, 0.0),), frozenset()), 1.0)
    assert books.next_deadline() == 1.0 + core.REPORT_WITHIN_S
    assert books.handle(TimePassed(), 1.0 + core.REPORT_WITHIN_S) == [SpillSegments("d", ("d.1",))]


def test_what_failed_to_spill_is_not_tried_again_and_late_reports_are_ignored():
    books = joined(1000, "d")
    books.handle(MemoryAsked("d", 1, 900), 0.0)
    books.handle(MemoryAsked("d", 2, 300), 1.0)
    report = (Segment("d.1", 500, 0.0),)
    assert books.handle(ClientReported("d", 1, report, frozenset()), 1.0) == [SpillSegments("d", ("d.1",))]
    books.handle(SpillEnded("d", "d.1", False), 1.0)
    books.handle(TimePassed(), 1.1)
    assert books.handle(ClientReported("d", 1, report, frozenset()), 1.1) == []
    assert books.phase is Phase.RECLAIMING
    assert books.handle(ClientReported("d", 2, report, frozenset()), 1.1) == []
    assert books.phase is Phase.WAITING


def test_the_dead_are_forgotten_but_what_they_left_counts():
    books = joined(1000, "d", "w")
    books.handle(MemoryAsked("w", 1, 800), 0.0)
    books.handle(MemoryAsked("d", 1, 300), 0.0)
    assert MeasureOrphans() in books.handle(ClientLeft("w"), 0.1)
    assert books.allowed_bytes == 310
    books.handle(OrphansMeasured(600), 0.1)
    books.handle(MemoryAsked("d", 2, 300), 0.2)
    assert books.phase is Phase.RECLAIMING
    assert books.handle(OrphansMeasured(0), 0.3) == [Grant("d", 2, 300)]


class Books(RuleBasedStateMachine):
    """Clients that use, free, spill, view and die as they like; effects are carried out later, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.books = StoreCore(1000)
        self.now = 0.0
        self.names = 0
        self.numbers = 0
        #: client -> allowed; its segments with sizes; its open requests.
        self.allowed: dict[str, int] = {}
        self.segments: dict[str, dict[str, int]] = {}
        self.viewed: dict[str, set[str]] = {}
        self.asked: dict[tuple[str, int], int] = {}
        self.todo: list[object] = []
        self.disk = 0

    def say(self, event) -> None:
        for effect in self.books.handle(event, self.now):
            if isinstance(effect, Grant):
                assert effect.size_bytes >= self.asked[effect.client, effect.request]
                del self.asked[effect.client, effect.request]
                self.allowed[effect.client] += effect.size_bytes
            elif isinstance(effect, SendToDisk):
                del self.asked[effect.client, effect.request]
                self.disk += 1
            elif isinstance(effect, SpillSegments):
                seen = set().union(*self.reported_views.values())
                assert not seen & set(effect.segments), "a pinned segment is spilled"
                self.todo.append(effect)
            else:
                if isinstance(effect, AskToReclaim) and not any(
                    isinstance(t, AskToReclaim) and t.round == effect.round for t in self.todo
                ):
                    self.reported_views = {}
                self.todo.append(effect)

    reported_views: dict[str, set[str]] = {}

    def used(self, client: str) -> int:
        return sum(self.segments[client].values())

    @rule()
    @precondition(lambda self: len(self.allowed) < 4)
    def join(self) -> None:
        self.names += 1
        name = f"c{self.names}"
        self.allowed[name] = 0
        self.segments[name] = {}
        self.viewed[name] = set()
        self.say(ClientJoined(name, 0))

    @rule(index=st.integers(0, 3), size=st.integers(1, 400))
    @precondition(lambda self: self.allowed)
    def make(self, index: int, size: int) -> None:
        name = sorted(self.allowed)[index % len(self.allowed)]
        missing = self.used(name) + size - self.allowed[name]
        self.numbers += 1
        if missing <= 0:
            self.segments[name][f"{name}.{self.numbers}"] = size
        else:
            self.asked[name, self.numbers] = missing
            self.say(MemoryAsked(name, self.numbers, missing))

    @rule(index=st.integers(0, 9))
    @precondition(lambda self: any(self.segments.values()))
    def free(self, index: int) -> None:
        everything = [(name, s) for name, segments in sorted(self.segments.items()) for s in sorted(segments)]
        name, segment = everything[index % len(everything)]
        size = self.segments[name].pop(segment)
        self.allowed[name] -= size
        self.say(MemoryCameBack(name, size))

    @rule(index=st.integers(0, 9), viewer=st.integers(0, 3), begin=st.booleans())
    @precondition(lambda self: any(self.segments.values()))
    def view(self, index: int, viewer: int, begin: bool) -> None:
        everything = [s for segments in self.segments.values() for s in sorted(segments)]
        views = self.viewed[sorted(self.viewed)[viewer % len(self.viewed)]]
        (views.add if begin else views.discard)(everything[index % len(everything)])

    @rule(index=st.integers(0, 9))
    @precondition(lambda self: self.todo)
    def do(self, index: int) -> None:
        effect = self.todo.pop(index % len(self.todo))
        if isinstance(effect, MeasureOrphans):
            self.say(OrphansMeasured(0))
        elif effect.client not in self.allowed:
            return
        elif isinstance(effect, AskToReclaim):
            spare = self.allowed[effect.client] - self.used(effect.client)
            self.allowed[effect.client] -= spare
            self.say(MemoryCameBack(effect.client, spare))
            facts = tuple(
                Segment(s, size, float(i)) for i, (s, size) in enumerate(self.segments[effect.client].items())
            )
            if effect.round == self.books.round:
                self.reported_views[effect.client] = set(self.viewed[effect.client])
            self.say(ClientReported(effect.client, effect.round, facts, frozenset(self.viewed[effect.client])))
        else:
            for segment in effect.segments:
                size = self.segments[effect.client].pop(segment, 0)
                self.allowed[effect.client] -= size
                self.say(MemoryCameBack(effect.client, size))
                self.say(SpillEnded(effect.client, segment, bool(size)))

    @rule(index=st.integers(0, 3))
    @precondition(lambda self: len(self.allowed) > 1)
    def die(self, index: int) -> None:
        name = sorted(self.allowed)[index % len(self.allowed)]
        del self.allowed[name], self.segments[name], self.viewed[name]
        self.asked = {key: size for key, size in self.asked.items() if key[0] != name}
        self.say(ClientLeft(name))

    @rule(index=st.integers(0, 5))
    @precondition(lambda self: self.asked)
    def give_up(self, index: int) -> None:
        key = sorted(self.asked)[index % len(self.asked)]
        del self.asked[key]
        self.say(MemoryNotNeeded(*key))

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.4, 1.5]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        deadline = self.books.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.say(TimePassed())

    @invariant()
    def books_are_right(self) -> None:
        self.books.check_invariants()
        assert {name: client.allowed_bytes for name, client in self.books.clients.items()} == self.allowed
        assert sum(self.allowed.values()) <= self.books.budget_bytes
        assert all(self.used(name) <= allowed for name, allowed in self.allowed.items())
        assert len(self.books._wishes) == len(self.asked)

    def teardown(self) -> None:
        # Nobody waits for ever, whatever the others do.
        for _ in range(200):
            deadline = self.books.next_deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            self.say(TimePassed())
        assert not self.asked


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
