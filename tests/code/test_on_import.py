"""Finders that come and go do not disturb imports of other threads."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from distpool.on_import import wait_for, wait_no_more


@pytest.fixture
def _meta_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    sys.modules.pop("this", None)


@pytest.mark.usefixtures("_meta_path")
def test_who_goes_through_the_finders_meanwhile_meets_all_others(capsys: Any) -> None:
    """As the import system does in another thread, which has come as far as the finder that goes."""
    seen: list[ModuleType] = []
    sys.modules.pop("this", None)
    wait_for("this", seen.append)
    others = sys.meta_path[1:]
    going_through = iter(sys.meta_path)
    next(going_through)
    import this

    assert seen == [this]
    assert list(going_through) == others
    assert sys.meta_path == others
    assert type(this.__spec__.loader).__module__ != "distpool.on_import"


@pytest.mark.usefixtures("_meta_path")
def test_at_the_end_nobody_waits_and_nothing_is_held_that_was_to_be_called() -> None:
    class Action:
        def __call__(self, module: ModuleType) -> None:
            raise AssertionError(module)

    action = Action()
    held = weakref.ref(action)
    first_list = sys.meta_path
    wait_for("this", action)
    del action
    # The interpreter keeps the list that it began with; here somebody keeps ours.
    with_it = sys.meta_path
    wait_no_more()
    gc.collect()
    assert held() is None
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == "distpool.on_import"]
    assert with_it is first_list
    import this  # noqa: F401
