"""What nested work made goes when the worker that submitted it dies, and not only with the node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.current import existing_session
from tests.support.resources import settle

KEPT: list[object] = []


def make(number: int) -> np.ndarray:
    return np.full(100_000, float(number))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def submit_and_die(once: str) -> str:
    if os.path.exists(once):
        return "again"
    Path(once).touch()
    with DistExecutor(2) as executor:
        futures = [executor.submit(make, number) for number in range(4)]
        KEPT.extend(futures)
        KEPT.append(distpool.put(make(5)))
        distpool.wait(futures, len(futures))
        # The next one is in the middle of something.
        KEPT.append(executor.submit(signal.pause))
        die()
    raise AssertionError


def submit_below_and_die(once: str) -> str:
    """What the task below that died has left is nobody's when its own driver dies as well."""
    if os.path.exists(once):
        return "again"
    Path(once).touch()
    with DistExecutor(2) as executor:
        KEPT.append(executor.submit(submit_and_die, f"{once}.below"))
        while not os.path.exists(f"{once}.below"):
            time.sleep(0.001)
        die()
    raise AssertionError


def hand_up_and_die(once: str, gate: str) -> object:
    """References to results of nested work go up; then its driver dies, and so do those who made them."""
    if os.path.exists(once):
        while not os.path.exists(gate):
            time.sleep(0.001)
        die()
    Path(once).touch()
    with DistExecutor(2) as executor:
        futures = [executor.submit(make, number) for number in range(3)]
        KEPT.extend(futures)
        distpool.wait(futures, len(futures))
        return futures[:2]


def left() -> list[str]:
    """Segments of workers, in memory and on disk."""
    session = existing_session()
    assert session is not None
    names = [name for _, _, files in os.walk(session.store.folder) for name in files]
    return [name for name in names if name.startswith("w-")]


@pytest.mark.parametrize("task", [submit_and_die, submit_below_and_die])
def test_results_of_nested_work_go_with_their_owner(tmp_path: Path, task) -> None:
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=5):
            future = executor.submit(task, str(tmp_path / "once"))
        assert future.result(100) == "again"
        executor.shutdown()
        # Nobody needs anything any more, and the node goes on.
        assert settle(left, 30) == []
        with DistExecutor(1) as other:
            assert float(other.submit(make, 3).result(60)[0]) == 3.0


def test_what_was_handed_up_stays(tmp_path: Path) -> None:
    """The results that the program was given outlive those who made them; what it was not given does not."""
    gate = tmp_path / "gate"
    with DistExecutor(1) as executor:
        task = (hand_up_and_die, str(tmp_path / "once"), str(gate))
        handed = executor.submit(*task).result(60)
        with distpool.options(max_retries=0):
            death = executor.submit(*task)
        gate.touch()
        assert isinstance(death.exception(60), distpool.WorkerDiedError)
        assert len(settle(lambda: left()[2:], 30)) == 0
        assert [float(value[0]) for value in distpool.get(handed, 60)] == [0.0, 1.0]
        del handed
        assert settle(left, 30) == []
