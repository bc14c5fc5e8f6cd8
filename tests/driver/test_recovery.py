"""Results whose memory is gone are computed again, with real processes."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distpool
from distpool import DistExecutor, ObjectLostError
from distpool.driver.current import current_session
from distpool.store.ownership import maker_of

LENGTH = 20_000


def lose(future: Any) -> None:
    """Remove what a result lies in, and the process that made it, as the loss of a node would."""
    session = current_session()
    for location in future._packed.value.objects:
        os.unlink(os.path.join(session.store.folder, location.segment))
        known = session.leases.of_worker(maker_of(location.segment).encode())
        if known is not None:
            pool, lease = known
            os.kill(pool.shell.core.workers[lease].pid, signal.SIGKILL)


def made(number: float, runs: str) -> np.ndarray:
    with Path(runs).open("a") as file:
        file.write("x")
    return np.full(LENGTH, number)


def plus(array: np.ndarray, number: float, runs: str) -> np.ndarray:
    with Path(runs).open("a") as file:
        file.write("x")
    return array + number


@pytest.fixture
def executor() -> Iterator[DistExecutor]:
    with DistExecutor(2) as executor:
        yield executor
        gc.collect()


@pytest.fixture
def runs(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


def count(runs: str) -> int:
    return len(Path(runs).read_text())


def test_a_result_is_computed_again_when_it_is_read(executor: DistExecutor, runs: str) -> None:
    future = executor.submit(made, 3.0, runs)
    distpool.wait([future])
    lose(future)
    assert (future.result() == 3).all()
    assert count(runs) == 2


def test_a_task_that_needs_it_waits_for_it(executor: DistExecutor, runs: str) -> None:
    future = executor.submit(made, 3.0, runs)
    distpool.wait([future])
    lose(future)
    sums = [executor.submit(np.sum, future) for _ in range(4)]
    assert [float(each.result()) for each in sums] == [3.0 * LENGTH] * 4
    assert count(runs) == 2
    assert (future.result() == 3).all()
    assert count(runs) == 2


def test_inputs_that_nobody_holds_any_more_are_computed_as_well(executor: DistExecutor, runs: str) -> None:
    future = executor.submit(made, 1.0, runs)
    for _ in range(3):
        future = executor.submit(plus, future, 1.0, runs)
    distpool.wait([future])
    gc.collect()
    lose(future)
    assert (future.result() == 4).all()
    assert count(runs) == 8


def test_it_can_be_lost_again_until_the_retries_are_exhausted(executor: DistExecutor, runs: str) -> None:
    future = executor.submit(made, 3.0, runs)
    other = executor.submit(np.sum, future)
    assert other.result() == 3.0 * LENGTH
    for _ in range(3):
        lose(future)
        assert executor.submit(np.sum, future).result() == 3.0 * LENGTH
    lose(future)
    with pytest.raises(ObjectLostError, match=r"made.*its 3 retries are exhausted"):
        executor.submit(np.sum, future).result()
    with pytest.raises(ObjectLostError, match=r"made.*on node.*its 3 retries are exhausted"):
        future.result()
    assert count(runs) == 4


def test_what_may_run_only_once_is_lost(executor: DistExecutor, runs: str) -> None:
    with distpool.options(max_retries=0):
        future = executor.submit(made, 3.0, runs)
    distpool.wait([future])
    lose(future)
    with pytest.raises(ObjectLostError, match="max_retries=0"):
        future.result()
    assert count(runs) == 1


def test_a_stored_argument_that_was_let_go_of_is_named(executor: DistExecutor, runs: str) -> None:
    future = executor.submit(plus, distpool.put(np.ones(LENGTH)), 1.0, runs)
    distpool.wait([future])
    gc.collect()
    lose(future)
    with pytest.raises(ObjectLostError, match=r"stored with put\(\)"):
        future.result()


def test_a_stored_argument_that_is_held_is_used_again(executor: DistExecutor, runs: str) -> None:
    ref = distpool.put(np.ones(LENGTH))
    future = executor.submit(plus, ref, 1.0, runs)
    distpool.wait([future])
    lose(future)
    assert (future.result() == 2).all()


def test_a_put_value_is_lost(executor: DistExecutor) -> None:
    ref = distpool.put(np.ones(LENGTH))
    for location in ref._packed.value.objects:
        os.unlink(os.path.join(current_session().store.folder, location.segment))
    with pytest.raises(ObjectLostError, match=r"stored with put\(\)"):
        ref.result()
    with pytest.raises(ObjectLostError, match="is gone"):
        executor.submit(np.sum, ref).result()


def test_what_is_remembered_goes_with_the_results(executor: DistExecutor, runs: str) -> None:
    lineage = current_session().recovery.lineage
    futures = [executor.submit(made, 1.0, runs) for _ in range(10)]
    distpool.wait(futures, 10)
    lineage.check_invariants()
    assert len(lineage) >= 10
    futures.clear()
    gc.collect()
    last = executor.submit(made, 1.0, runs)
    last.result()
    lineage.check_invariants()
    assert len(lineage) == 1


def test_results_of_a_gang_are_not_computed_again(executor: DistExecutor, runs: str) -> None:
    future = executor.with_options(gang=2).submit(made, 1.0, runs)
    distpool.wait([future], 1)
    whole: Any = future._packed
    for outcome in whole._outcomes:
        for location in outcome.value.objects:
            os.unlink(os.path.join(current_session().store.folder, location.segment))
    with pytest.raises(ObjectLostError, match=r"\(the option gang\), which does not run again"):
        future.result(60)
    dependent = executor.submit(len, future)
    with pytest.raises(distpool.DependencyError, match="the option gang"):
        dependent.result(60)
    assert count(runs) == 2
    assert executor.submit(abs, -1).result(60) == 1
