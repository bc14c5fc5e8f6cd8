"""Handles that are collected, or dropped, at the worst moment: what they kept comes free, and nothing stops."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.store.client import ObjectStore
from distpool.store.link import Asked

LARGE = 4 << 20


class SilentLink:
    """To an agent that never answers; ``asked`` is called after each question, in the thread that asked it."""

    closed = False

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked

    def ask(self, asked: Asked, make: Callable[[int], Any]) -> Asked:
        self._asked()
        return asked

    def forget(self, asked: Asked) -> bool:
        sys.setprofile(None)
        return True

    def say(self, message: Any) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def collected_by_the_test_alone() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def full_store(folder: Path, asked: Callable[[], None]) -> ObjectStore:
    """One that must ask for whatever does not fit beside the first object."""
    store = ObjectStore(folder, "d-1", recycle_bytes=1 << 30)
    store._room.allowed_bytes = LARGE + LARGE // 2
    store._room._link = SilentLink(asked)  # type: ignore[assignment]
    return store


def finishes(function: Callable[[], object]) -> bool:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_a_handle_collected_while_its_own_thread_begins_to_wait_for_memory(tmp_path: Path) -> None:
    moments: list[str] = []

    def collect(frame: Any, event: str, argument: Any) -> None:
        # What a wait for another thread comes down to: such calls may well be where the collector sets in.
        if event == "c_call" and argument.__name__ in ("allocate_lock", "get") and not moments:
            moments.append(argument.__name__)
            gc.collect()

    store = full_store(tmp_path, lambda: sys.setprofile(collect))
    cycle: list[Any] = [store.pack(b"x" * LARGE)]
    cycle.append(cycle)
    del cycle
    assert finishes(lambda: store.pack(b"y" * LARGE))
    assert moments
    store.close()


def test_waking_at_any_moment_of_waiting_never_waits() -> None:
    def wake_at(moment: int) -> bool:
        """At the given step of waiting; whether there were so many."""
        asked = Asked()
        steps = 0

        def step(*_: Any) -> None:
            nonlocal steps
            if steps == moment:
                asked.wake()
            steps += 1

        def wait() -> None:
            sys.setprofile(step)
            asked.wait(0.0)
            sys.setprofile(None)

        assert finishes(wait), moment
        return steps > moment

    moment = 0
    while wake_at(moment):
        moment += 1
    assert moment > 1
