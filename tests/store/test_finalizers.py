"""Handles that are collected, or dropped, at the worst moment: what they kept comes free, and nothing stops."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.errors import ObjectLostError
from distpool.store.client import ObjectStore
from distpool.store.endings import Endings
from distpool.store.handles import StoredPacked
from distpool.store.link import Asked
from distpool.store.references import ObjectRef
from distpool.wire.driver_to_worker import Value
from distpool.wire.objects import Location

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
    store._parts.room.allowed_bytes = LARGE + LARGE // 2
    store._parts.room._link = SilentLink(asked)  # type: ignore[assignment]
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


def each_line_under_the_lock(store: ObjectStore, do: Callable[[], None]) -> Callable[..., Any]:
    """A trace function that calls ``do`` wherever this thread has the store's lock, except to do what is left."""

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and store._lock.locked():
            above = frame
            while above is not None and above.f_code is not Endings.do_chores.__code__:
                above = above.f_back
            if above is None:
                do()
        return trace

    return trace


def fail_to_map(store: ObjectStore) -> None:
    with pytest.raises(ObjectLostError):
        store.unpack(Value(b"", (Location("w-9.1", "", "w-9.1", 0, LARGE),)))


OPERATIONS: dict[str, Callable[[ObjectStore, StoredPacked], object]] = {
    "store": lambda store, packed: store.pack(b"y" * LARGE),
    "store again": lambda store, packed: store.pack(b"x" * LARGE),
    "store a reference": lambda store, packed: store.pack([ObjectRef(packed, store)], by_reference=True),
    "map": lambda store, packed: store.unpack(packed.value),
    "fail to map": lambda store, packed: fail_to_map(store),
    "be granted memory": lambda store, packed: store._parts.room.on_granted(1, None),
    "give memory back": lambda store, packed: store._parts.room.on_reclaim(1),
    "spill": lambda store, packed: store._parts.room.on_spill(packed.value.objects[0].segment),
    "ask": lambda store, packed: store.describe_node(),
    "change node": lambda store, packed: store.change_node(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_handles_dropped_while_the_lock_is_held_are_not_left_until_the_next_call(tmp_path: Path, name: str) -> None:
    store = ObjectStore(tmp_path, "d-1")
    packed = store.pack(b"x" * LARGE)
    assert isinstance(packed, StoredPacked)
    handles = [store.hold(packed.value) for _ in range(1000)]
    before = sys.gettrace()
    sys.settrace(each_line_under_the_lock(store, lambda: handles.pop().release()))
    try:
        result = OPERATIONS[name](store, packed)  # kept: letting go of it would do what is left
    finally:
        sys.settrace(before)
    assert 0 < len(handles) < 1000
    assert not store._parts.endings._chores
    del result
    store.close()


def test_a_handle_dropped_while_memory_is_looked_for_is_not_waited_for(tmp_path: Path) -> None:
    store = full_store(tmp_path, lambda: sys.settrace(None))
    packed = store.pack(b"x" * LARGE)

    def pack() -> None:
        # Nobody but the waiting thread could do what was left undone.
        sys.settrace(each_line_under_the_lock(store, packed.release))
        store.pack(b"y" * LARGE)

    assert finishes(pack)
    store.close()
