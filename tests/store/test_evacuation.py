"""A node hands over what it has to one that can take all of it, or keeps it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from distpool.store.transfer.custody import Custody
from distpool.store.transfer.evacuation import Evacuation
from distpool.wire.objects import Extent
from distpool.wire.site_to_site import TakenOver, TakeOver


class _Node:
    """A site as an evacuation sees it, with ``room`` for so many bytes; stands for its files and connections, too."""

    def __init__(self, lan: _Lan, name: str, room: int) -> None:
        self.name, self.room, self._lan = name, room, lan
        self.held: dict[str, int] = {}
        self.copies: set[str] = set()
        self.stood_for: tuple[str, ...] = ()
        self.handlers: dict[type, Callable[[str, Any], None]] = {}
        self.on_served: Callable[[str], None] = lambda site: None
        self.on_gone: Callable[[str], None] = lambda site: None
        self.sought: list[str] = []
        self.files = self.connections = self
        self.custody = Custody(lambda maker: [name for name in self.held if name.startswith(maker)], self.remove)
        self.evacuation = Evacuation(self, self.custody, self._stands_for)  # type: ignore[arg-type]
        self.left: list[bool] = []

    def leave(self, successor: str) -> None:
        self.evacuation.begin(successor, "tcp://there:1", self.left.append)

    def _stands_for(self, nodes: tuple[str, ...]) -> None:
        self.stood_for = nodes

    def remove(self, segment: str) -> None:
        self.held.pop(segment, None)

    # -- of a site, its files and its connections

    def handles(self, kind: type, handler: Callable[[str, Any], None]) -> None:
        self.handlers[kind] = handler

    def found(self, *_: str) -> None:
        pass

    def find(self, site: str) -> None:
        self.sought.append(site)

    def segments(self) -> list[str]:
        return list(self.held)

    def size_of(self, segment: str) -> int:
        return self.held.get(segment, 0)

    def ask(self, site: str, message: Any) -> None:
        self._lan.posted.append((self.name, site, message))

    reply = ask

    def want(self, extents: Iterable[Extent], done: Callable[[list[Any], dict[str, str]], None]) -> None:
        [extent] = extents
        if not self._lan.nodes[extent.home].size_of(extent.segment):
            done([], {extent.object_id: "it was removed"})
        elif sum(self.held.values()) + extent.size_bytes > self.room:
            done([], {extent.object_id: "there is no room for it here"})
        else:
            self.copies.add(extent.segment)
            done([], {})

    def adopt(self, extent: Extent) -> bool:
        self.held[extent.segment] = extent.size_bytes
        return True

    def on_ended(self, object_ids: Iterable[str]) -> None:
        self.copies -= {name.removeprefix("segment ") for name in object_ids}


class _Lan:
    def __init__(self, **rooms: int) -> None:
        self.posted: deque[tuple[str, str, Any]] = deque()
        self.nodes = {name: _Node(self, name, room) for name, room in rooms.items()}

    def __getitem__(self, name: str) -> _Node:
        return self.nodes[name]

    def deliver(self) -> None:
        while self.posted:
            sender, receiver, message = self.posted.popleft()
            self.nodes[receiver].handlers[type(message)](sender, message)


@pytest.fixture
def lan() -> _Lan:
    lan = _Lan(a=100, small=50, large=100)
    lan["a"].held = {"w-1.1": 40, "w-1.2": 40}
    lan["a"].custody.keepers = {"w-1.1": {"d"}, "w-1.2": {"d"}}
    return lan


def test_all_moves_to_one_that_has_room(lan: _Lan) -> None:
    lan["a"].leave("large")
    lan.deliver()
    assert lan["a"].left == [True]
    assert lan["large"].held == {"w-1.1": 40, "w-1.2": 40}
    assert lan["large"].custody.keepers == {"w-1.1": {"d"}, "w-1.2": {"d"}}
    assert lan["large"].stood_for == ("a",)
    assert not lan["large"].copies


def test_one_without_room_for_all_keeps_nothing_and_the_next_gets_all(lan: _Lan, caplog: Any) -> None:
    lan["a"].leave("small")
    lan.deliver()
    assert lan["a"].left == [False]
    assert lan["a"].held == {"w-1.1": 40, "w-1.2": 40}
    assert lan["small"].held == {}
    assert lan["small"].stood_for == ()
    assert "w-1.2: there is no room for it here" in caplog.text
    lan["a"].leave("large")
    lan.deliver()
    assert lan["a"].left == [False, True]
    assert len(lan["large"].held) == 2


def test_answers_to_an_earlier_request_say_nothing_about_the_next(lan: _Lan) -> None:
    lan["a"].leave("small")
    lan.deliver()
    lan["a"].leave("small")
    lan["a"].handlers[TakenOver]("small", TakenOver(1, "w-1.1"))
    lan["a"].handlers[TakenOver]("small", TakenOver(1, "w-1.2"))
    assert lan["a"].left == [False]


def test_a_successor_is_not_given_up_while_it_fetches_pieces(lan: _Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("distpool.store.transfer.evacuation.time.monotonic", lambda: clock[0])
    leaving = lan["a"].evacuation
    lan["a"].leave("large")

    def after(seconds: float) -> None:
        clock[0] += seconds
        leaving.on_time(clock[0])

    after(50)
    lan["a"].on_served("large")
    after(50)
    lan["a"].on_served("another")  # which is none of its progress
    assert not lan["a"].left
    after(50)
    assert lan["a"].left == [False]


def test_what_is_not_needed_any_more_is_no_reason_to_ask_another(lan: _Lan) -> None:
    lan["a"].leave("large")
    lan["a"].remove("w-1.2")
    lan.deliver()
    assert lan["a"].left == [True]
    assert lan["large"].held == {"w-1.1": 40}


def test_without_a_successor_it_stays_until_nothing_is_needed(lan: _Lan, caplog: Any) -> None:
    node = lan["a"]
    node.leave("")
    first = node.evacuation.next_deadline()
    assert first is not None
    node.evacuation.on_time(first)
    assert node.left == []
    assert "2 segments (0.0 MB)" in caplog.text
    node.evacuation.on_time(first + 3600.0)
    assert node.left == [False], "it asks for a successor again"
    node.leave("")
    node.custody.on_keeper_gone("d")
    node.evacuation.on_time(first + 3601.0)
    assert node.left == [False, True]
    assert caplog.text.count("this node stays") == 1


def test_a_successor_that_says_nothing_is_given_up(lan: _Lan) -> None:
    node = lan["a"]
    node.leave("large")
    asked = lan.posted.popleft()
    assert isinstance(asked[2], TakeOver)
    while not node.left:
        deadline = node.evacuation.next_deadline()
        assert deadline is not None
        node.evacuation.on_time(deadline)
    assert node.left == [False]
    assert set(node.sought) == {"large"}, "where it is, a scheduler that came later is asked"
    # It was only slow: it does it, and is told that it was for nothing.
    lan.posted.appendleft(asked)
    lan.deliver()
    assert node.left == [False]
    assert lan["large"].held == {}
    assert lan["large"].stood_for == ()


def test_a_successor_that_is_lost_is_given_up_at_once(lan: _Lan, caplog: Any) -> None:
    node = lan["a"]
    node.leave("large")
    node.on_gone("small")
    assert node.left == []
    node.on_gone("large")
    assert node.left == [False]
    assert "it is gone" in caplog.text
    node.on_gone("large")
    assert node.left == [False]


def test_who_takes_over_leaves_with_all_of_it(lan: _Lan) -> None:
    lan["a"].leave("large")
    lan.deliver()
    lan.nodes["third"] = _Node(lan, "third", 200)
    lan["large"].leave("third")
    lan.deliver()
    assert lan["large"].left == [True]
    assert set(lan["third"].held) == {"w-1.1", "w-1.2"}
    assert set(lan["third"].stood_for) == {"large", "a"}
