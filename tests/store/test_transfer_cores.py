"""Who gives what to whom, what is asked for again, and what is kept of the dead."""

from __future__ import annotations

from pathlib import Path

from distpool.store.transfer import fanout_core, pull_events
from distpool.store.transfer.claims import Claims
from distpool.store.transfer.custody import Custody
from distpool.store.transfer.fanout_core import FanoutCore
from distpool.store.transfer.files import Files
from distpool.store.transfer.pull_core import PullCore
from distpool.store.transfer.pull_state import CHUNK_BYTES
from distpool.wire.objects import Extent
from distpool.wire.site_to_site import MakerEnded, SegmentClaim, SegmentsUnneeded

OBJECT = Extent("w-1.1", "home", "w-1.1", 0, 3 * CHUNK_BYTES)
KEY = OBJECT.key


def pulling(source: str = "home") -> PullCore:
    core = PullCore()
    assert core.handle(pull_events.Wanted(OBJECT, 1), 0.0) == [pull_events.MakeRoom(KEY, OBJECT.size_bytes)]
    assert core.handle(pull_events.RoomMade(KEY), 0.0) == [pull_events.AskSource(OBJECT)]
    asked = core.handle(pull_events.SourceNamed(KEY, source, ("other",)), 0.0)
    assert asked == [pull_events.AskChunks(OBJECT, source, 0, 3 * CHUNK_BYTES)]
    return core


def chunk(number: int) -> pull_events.ChunkCame:
    return pull_events.ChunkCame(KEY, number * CHUNK_BYTES, CHUNK_BYTES)


def test_an_object_is_pulled_once_for_all_who_ask() -> None:
    core = pulling()
    assert core.handle(pull_events.Wanted(OBJECT, 2), 0.1) == []
    for number in range(2):
        assert core.handle(chunk(number), 0.2) == [pull_events.StoreChunk(KEY, number * CHUNK_BYTES)]
    assert core.handle(chunk(2), 0.3) == [
        pull_events.StoreChunk(KEY, 2 * CHUNK_BYTES),
        pull_events.TellReceived(OBJECT),
        pull_events.Deliver(KEY, 1),
        pull_events.Deliver(KEY, 2),
    ]
    assert core.handle(pull_events.Wanted(OBJECT, 3), 0.4) == [pull_events.Deliver(KEY, 3)]
    core.check_invariants()


def test_only_what_is_missing_is_asked_for_again() -> None:
    core = pulling("copy")
    core.handle(chunk(1), 0.1)
    assert core.handle(pull_events.LinkLost("copy"), 0.2) == []
    again = [pull_events.AskChunks(OBJECT, "copy", i * CHUNK_BYTES, CHUNK_BYTES) for i in (0, 2)]
    assert core.handle(pull_events.LinkUp("copy"), 0.3) == again
    assert core.handle(chunk(1), 0.4) == []


def test_when_the_home_is_gone_another_serves_and_then_those_who_have_copies() -> None:
    core = pulling()
    other = [pull_events.AskChunks(OBJECT, "other", 0, 3 * CHUNK_BYTES)]
    assert core.handle(pull_events.SiteGone("home"), 1.0) == other
    assert core.handle(chunk(0), 1.1) == [pull_events.StoreChunk(KEY, 0)]
    assert core.handle(pull_events.SourceUnknown(KEY, "other"), 2.0) == [pull_events.FindCopies("home")]
    rest = [pull_events.AskChunks(OBJECT, "third", CHUNK_BYTES, 2 * CHUNK_BYTES)]
    assert core.handle(pull_events.CopiesFound("home", "third", ("?", KEY)), 2.1) == rest
    lost = core.handle(pull_events.SourceUnknown(KEY, "third"), 2.2)
    assert [type(effect) for effect in lost] == [pull_events.Lose, pull_events.Discard]
    assert not core.pulls
    core.check_invariants()


def test_what_nobody_has_a_copy_of_is_lost_after_a_while() -> None:
    core = PullCore()
    core.handle(pull_events.Wanted(OBJECT, 1), 0.0)
    core.handle(pull_events.RoomMade(KEY), 0.0)
    assert core.handle(pull_events.SiteGone("home"), 1.0) == [pull_events.FindCopies("home")]
    assert core.handle(pull_events.SiteGone("home"), 1.1) == []
    lost = core.handle(pull_events.TimePassed(), core.next_deadline() or 0.0)
    assert lost[0] == pull_events.Lose(OBJECT, 1, "home is gone")
    core.check_invariants()


def test_that_nobody_has_copies_of_a_lost_home_is_waited_for_once_and_forgotten_when_it_is_back() -> None:
    core = PullCore()
    core.handle(pull_events.Wanted(OBJECT, 1), 0.0)
    core.handle(pull_events.RoomMade(KEY), 0.0)
    core.handle(pull_events.SiteGone("home"), 0.0)
    over = core.next_deadline() or 0.0
    core.handle(pull_events.TimePassed(), over)

    def ask_again(now: float) -> list[pull_events.Effect]:
        core.handle(pull_events.Wanted(OBJECT, 1), now)
        core.handle(pull_events.RoomMade(KEY), now)
        return core.handle(pull_events.SiteGone("home"), now)

    assert ask_again(over)[0] == pull_events.Lose(OBJECT, 1, "home is gone")
    # Who says too late that there is a copy is still heard.
    core.handle(pull_events.CopiesFound("home", "late", (KEY,)), over)
    assert [type(effect) for effect in ask_again(over)] == [pull_events.AskChunks]
    core.handle(pull_events.ObjectsEnded((OBJECT.object_id,)), over)
    core.handle(pull_events.LinkUp("home"), over)
    assert ask_again(over) == [pull_events.FindCopies("home")]
    core.check_invariants()
    core.handle(pull_events.TimePassed(), core.next_deadline() or 0.0)
    core.handle(pull_events.TimePassed(), core.next_deadline() or 0.0)
    assert core.next_deadline() is None


def test_copies_go_when_their_object_ends_and_when_nobody_asks_for_long() -> None:
    for ending in (pull_events.ObjectsEnded(("w-1.1",)), pull_events.TimePassed()):
        core = pulling()
        for number in range(3):
            core.handle(chunk(number), 0.0)
        assert core.handle(ending, core.next_deadline() or 0.0) == [pull_events.Discard(KEY)]
        core.check_invariants()


def test_two_at_a_time_and_those_who_have_it_serve_the_rest() -> None:
    core = FanoutCore("home")
    named = [core.handle(fanout_core.Asked(KEY, name), 0.0) for name in "abcd"]
    assert [
        [effect.source for effect in effects if isinstance(effect, fanout_core.NameSource)] for effects in named
    ] == [
        ["home"],
        ["home"],
        [],
        [],
    ]
    after = core.handle(fanout_core.Received(KEY, "a"), 1.0)
    assert {(e.consumer, e.source) for e in after if isinstance(e, fanout_core.NameSource)} == {("c", "a"), ("d", "a")}
    core.check_invariants()
    ended = core.handle(fanout_core.Ended(("w-1.1",)), 2.0)
    assert {e.site for e in ended if isinstance(e, fanout_core.DropCopies)} == set("abcd")


def test_a_source_that_failed_is_not_named_again() -> None:
    core = FanoutCore("home")
    core.handle(fanout_core.Received(KEY, "a"), 0.0)
    core.handle(fanout_core.Asked(KEY, "b"), 0.0)
    core.handle(fanout_core.Received(KEY, "b"), 0.0)
    core.handle(fanout_core.Asked(KEY, "c"), 0.0)
    first = core.objects[KEY].served["c"]
    core.handle(fanout_core.Asked(KEY, "c", first), 1.0)
    assert core.objects[KEY].served["c"] != first
    core.check_invariants()


def test_what_the_dead_left_is_kept_for_whom_it_is_needed() -> None:
    there = {"w-1.1", "w-1.2", "w-2.1", "w-3.1"}
    custody = Custody(lambda maker: sorted(s for s in there if s.startswith(maker)), there.discard)
    for maker in ("w-1", "w-2"):
        custody.on_death(maker, 0.0)
    assert not custody.settled
    custody.on_claim("w-1", ["w-1.1"], "d-1")
    assert there == {"w-1.1", "w-2.1", "w-3.1"}
    custody.expire(custody.next_deadline() or 0.0)
    assert there == {"w-1.1", "w-3.1"}
    assert custody.settled
    custody.take(SegmentClaim("w-3.1", 1, ("d-1", "d-2")))
    custody.on_keeper_gone("d-1")
    assert there == {"w-3.1"}
    custody.let_go(["w-3.1"], "d-2")
    assert not there


def test_what_was_handed_on_is_kept_though_its_maker_ended_before_who_handed_it_on() -> None:
    there = {"w-inner.1", "w-inner.2"}
    custody = Custody(lambda maker: sorted(s for s in there if s.startswith(maker)), there.discard)
    custody.on_death("w-inner", 0.0)
    custody.on_claim("w-outer", ["w-inner.1"], "d-1")
    custody.expire(custody.next_deadline() or 0.0)
    assert there == {"w-inner.1"}
    custody.let_go(["w-inner.1"], "d-1")
    assert not there


def test_claims_of_a_worker_outlive_it_for_a_while() -> None:
    told: list[tuple[str, SegmentsUnneeded]] = []
    claims = Claims(lambda site, message: told.append((site, message)))
    claims.note("w-1", "b", MakerEnded("w-inner", ["w-inner.1", "w-inner.2", "w-inner.3"]))
    claims.note("w-2", "b", MakerEnded("w-inner", ["w-inner.2"]))
    claims.note("w-1", "b", SegmentsUnneeded(["w-inner.3"]))
    claims.on_exit("w-1", 0.0)
    claims.on_exit("w-3", 0.0)
    assert told == []
    claims.expire(claims.next_deadline() or 0.0)
    assert told == [("b", SegmentsUnneeded(["w-inner.1"]))]
    assert claims.next_deadline() is None
    claims.on_exit("w-2", 100.0)
    claims.expire(claims.next_deadline() or 0.0)
    assert told[1:] == [("b", SegmentsUnneeded(["w-inner.2"]))]


def test_a_disk_that_is_gone_is_no_error_when_copies_go(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    files = Files(disk, "a-n")
    files.new_copy(OBJECT, in_memory=True)
    for file in disk.iterdir():
        file.unlink()
    disk.rmdir()
    disk.touch()
    files.remove("w-1.1")
    files.close()
    assert not files.copies
