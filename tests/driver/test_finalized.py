"""Finalizers run at any moment, also under the session's lock: what they end must not need it."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool import DistExecutor
from distpool.driver.current import current_session


class Recording(DistExecutor):
    """Remembers the futures that ``map`` keeps to itself."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(fn, *args, **kwargs)
        self.futures = [*getattr(self, "futures", []), future]
        return future


def pass_or_wait(gate: str, number: int) -> int:
    if number:
        with open(gate) as file:
            file.read()
    return number


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    # Whoever reads waits until this is closed.
    descriptor = os.open(path, os.O_RDWR)
    yield path
    os.close(descriptor)


def in_cycle(iterator: Any) -> None:
    cycle = [iterator]
    cycle.append(cycle)


def collect_under_lock() -> None:
    """In a thread that may wait for its own lock for ever."""
    collected = threading.Event()

    def collect() -> None:
        with current_session().lock:
            gc.collect()
        collected.set()

    threading.Thread(target=collect, daemon=True).start()
    assert collected.wait(20)


@pytest.fixture
def quiet_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.fresh_session
@pytest.mark.parametrize("buffersize", [None, 40])
def test_a_map_collected_under_the_lock_is_cancelled(gate: str, quiet_collector: None, buffersize: int | None) -> None:
    executor = Recording(1)
    results = executor.map(pass_or_wait, [gate] * 80, range(80), buffersize=buffersize)
    assert next(results) == 0
    last = executor.futures[-1]
    in_cycle(results)
    del results
    collect_under_lock()
    concurrent.futures.wait([last])
    assert last.cancelled()
    executor.kill_workers()
    executor.shutdown()


@pytest.mark.fresh_session
def test_a_map_that_is_closed_is_cancelled_at_once(gate: str) -> None:
    executor = Recording(1)
    results = executor.map(pass_or_wait, [gate] * 40, range(40))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert executor.futures[-1].cancelled()
    executor.kill_workers()
    executor.shutdown()


@pytest.mark.fresh_session
def test_the_end_of_a_pool_does_not_wait_for_calls_of_a_map_that_was_dropped(
    gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Recording(1)
    results = executor.map(pass_or_wait, [gate] * 40, range(40))
    assert next(results) == 0
    # As if it were busy with a done-callback.
    monkeypatch.setattr(current_session().finalized, "attend", lambda: None)
    del results
    executor.shutdown(wait=False)
    assert executor.futures[-1].cancelled()
    monkeypatch.undo()
    executor.kill_workers()
    executor.shutdown()
