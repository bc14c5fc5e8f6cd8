"""Transfers between sites: many worlds, and bugs planted in the cores that they must find."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from distpool.store.transfer import fanout_core, pull_events
from distpool.store.transfer.fanout_core import FanoutCore
from distpool.store.transfer.pull_core import PullCore
from distpool.store.transfer.pull_state import CHUNK_BYTES, Pull
from distpool.wire.objects import Extent
from tests.simulation import transfers

SEEDS = int(os.environ.get("DISTPOOL_SEEDS", "40"))


@pytest.mark.parametrize("breaks", [True, False], ids=["connections break", "sites die"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_everybody_gets_what_can_be_had(seed: int, breaks: bool) -> None:
    transfers.run(seed, breaks)


def _keeps_what_was_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PullCore, "_take_back", lambda self, pull: None)


def _counts_a_piece_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_chunk(self: PullCore, pull: Pull, event: pull_events.ChunkCame) -> None:
        number = event.offset // CHUNK_BYTES
        if number not in pull.asked and number not in pull.todo:
            pull.asked[number] = None
            pull.missing = max(1, pull.missing)
        original(self, pull, event)

    original = PullCore._on_chunk
    monkeypatch.setattr(PullCore, "_on_chunk", on_chunk)


def _gives_up_when_a_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_site(self: PullCore, pull: Pull, event: object) -> None:
        if isinstance(event, pull_events.LinkLost) and pull.source == event.site:
            self._lose(pull, "the connection broke")
        else:
            original(self, pull, event)  # type: ignore[arg-type]

    original = PullCore._on_site
    monkeypatch.setattr(PullCore, "_on_site", on_site)


def _never_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PullCore, "_on_time", lambda self, now: None)
    monkeypatch.setattr(PullCore, "next_deadline", lambda self: None)


def _begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_back(self: PullCore, pull: Pull) -> None:
        pull.asked.clear()
        pull.todo.clear()
        pull.missing = -(-pull.extent.size_bytes // CHUNK_BYTES)
        pull.todo.extend(range(pull.missing))

    monkeypatch.setattr(PullCore, "_take_back", take_back)


def _serves_everybody_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def assign(self: FanoutCore, key: str, known: fanout_core._Object) -> None:
        for consumer in list(known.waiting):
            del known.waiting[consumer]
            known.served[consumer] = self.home
            self._name(key, known, consumer)

    monkeypatch.setattr(FanoutCore, "_assign", assign)


def _never_takes_a_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FanoutCore, "_leave", lambda self, known, consumer: None)


def _seeks_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PullCore, "_search", PullCore._lose)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    _keeps_what_was_under_way,
    _counts_a_piece_twice,
    _gives_up_when_a_connection_breaks,
    _never_asks_again,
    _begins_anew,
    _serves_everybody_at_once,
    _never_takes_a_place_back,
    _seeks_no_copies,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_bugs_are_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    for seed in range(60):
        try:
            transfers.run(seed)
            transfers.run(seed, breaks=False)
        except Exception:
            return
    pytest.fail(f"nobody notices {mutant.__name__}")


def test_a_tree_takes_logarithmic_time() -> None:
    """Each round that takes as long as giving the object to one site triples the number of those who have it."""
    world = transfers.World(0, sites=1, objects=0, faults=0)
    for number in range(1, 14):
        world.sites[f"n{number}"] = transfers.SimulatedSite(world, f"n{number}")
    extent = Extent("big", "n0", "s", 0, 64 * CHUNK_BYTES)
    world.extents.append(extent)
    for number in range(1, 14):
        world.sites[f"n{number}"].want(extent)
    world.run()
    served = {source: len(consumers) for (source, _), consumers in world.uploads.items()}
    assert sum(served.values()) == 13
    assert len(served) > 3, "few sites served all others"
    assert served["n0"] <= 8
