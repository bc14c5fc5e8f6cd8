"""The limit to what a worker prints."""

from __future__ import annotations

from distpool.worker.flood import Flood


def test_without_a_limit_all_comes_through() -> None:
    assert Flood().admit("x\n" * 10**6, 0.0) == "x\n" * 10**6


def test_a_burst_comes_through_and_what_exceeds_it_is_counted() -> None:
    flood = Flood(100)
    assert flood.admit("x" * 399 + "\n", 0.0) == "x" * 399 + "\n"
    assert flood.admit("a\nb\n", 0.0) == ""
    assert flood.admit("c\n", 0.5) == ""
    assert flood.admit("d\n", 2.0) == "[distpool: 3 lines dropped, more than 100 characters a second]\nd\n"
    assert flood.admit("e\n", 2.0) == "e\n"
    assert flood.tell() == ""


def test_what_was_dropped_last_is_told_when_asked() -> None:
    flood = Flood(10)
    assert flood.admit("x" * 41, 0.0) == ""
    assert "1 lines dropped" in flood.tell()
    assert flood.tell() == ""
