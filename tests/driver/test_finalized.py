"""Finalizers run at any moment, also under the session's lock: what they end must not need it."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

import distpool.joblib
from distpool import DistExecutor
from distpool.driver.current import current_session
from distpool.driver.future import DistFuture


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


@pytest.mark.fresh_session
@pytest.mark.leaks("processes", "descriptors", "threads", "shared memory")  # joblib's workers are kept
@pytest.mark.filterwarnings("ignore:.*tasks which (were|are) still being processed")
@pytest.mark.parametrize("managed", [False, True])
def test_calls_of_joblib_collected_under_the_lock_are_ended(
    gate: str, quiet_collector: None, monkeypatch: pytest.MonkeyPatch, managed: bool
) -> None:
    futures: list[DistFuture[Any]] = []
    note = futures.append
    submit = distpool.joblib._Workers.submit

    def record(workers: Any, batch: Any) -> Any:
        future = submit(workers, batch)
        note(future)
        return future

    monkeypatch.setattr(distpool.joblib._Workers, "submit", record)
    parallel = joblib.Parallel(n_jobs=2, backend="distpool", return_as="generator", batch_size=1)
    if managed:
        parallel.__enter__()
    results = parallel(joblib.delayed(pass_or_wait)(gate, number) for number in range(40))
    assert next(results) == 0
    in_cycle(results)
    del results, parallel
    # joblib wants to abort in the thread that has called it.
    lock = current_session().lock
    assert lock.acquire(timeout=20)
    try:
        gc.collect()
    finally:
        lock.release()
    concurrent.futures.wait(futures)
    assert all(future.cancelled() or future.exception() is not None for future in futures[3:])


@pytest.mark.fresh_session
def test_nothing_is_noted_for_a_pool_that_has_ended() -> None:
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        session = current_session()
        (pool,) = session.pools.values()
    pool.leave(lambda: None)
    assert not session.finalized.calls
