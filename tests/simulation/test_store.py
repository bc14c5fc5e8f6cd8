"""The store under faults: the rules of ownership, and the node's books.  Seeds as in ``test_cluster``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from distpool.store.ownership import Ownership
from tests.simulation.lifetimes import World

_SEEDS = int(os.environ.get("DISTPOOL_SEEDS", "200"))
_SLICE = 50


def seeds_from(first: int) -> list[int]:
    alone = os.environ.get("DISTPOOL_SEED")
    return [int(alone)] if alone else list(range(first, min(_SEEDS, first + _SLICE)))


@pytest.mark.parametrize("first", range(0, _SEEDS, _SLICE))
def test_nothing_is_freed_that_is_needed_or_kept_that_is_not(first: int) -> None:
    for seed in seeds_from(first):
        try:
            World(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def _reports_nothing(self: Ownership, object_ids: Any) -> tuple[str, ...]:
    return ()


def _forgets_handles(self: Ownership, object_ids: Any) -> None:
    self._borrowed.update(object_ids)
    for object_id in object_ids:
        if object_id not in self.lifetimes:
            self.lifetimes.add_handle(object_id)


def _gives_nothing_back(self: Ownership, locations: Any) -> dict[str, list[str]]:
    _original_adopt(self, locations)
    return {}


_original_adopt = Ownership.adopt


@pytest.mark.parametrize(
    ("method", "mutant"),
    [("report", _reports_nothing), ("borrow", _forgets_handles), ("adopt", _gives_nothing_back)],
)
def test_a_planted_mistake_is_found(method: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ownership, method, mutant)
    with pytest.raises(AssertionError):
        for seed in range(30):
            World(seed).run()
