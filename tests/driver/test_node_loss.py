"""The private node is killed under a program that uses it, or the driver's own thread fails."""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.current import current_session
from distpool.driver.spec import PoolSpec
from tests.support.resources import settle


@pytest.mark.fresh_session
def test_tasks_fail_with_words_and_the_next_pool_works() -> None:
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -1).result() == 1
        future = executor.submit(time.sleep, 600)
        node = current_session().node
        assert node is not None
        os.kill(node.pid, signal.SIGKILL)
        with pytest.raises(distpool.WorkerDiedError, match="private node"):
            future.result()
        with pytest.raises(distpool.WorkerDiedError):
            executor.submit(abs, -1)
    with DistExecutor(2) as executor:
        assert executor.submit(abs, -2).result() == 2


@pytest.mark.fresh_session
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_of_the_drivers_thread_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        future = executor.submit(time.sleep, 600)
        loop = current_session().loop

        def fail() -> None:
            raise LookupError("planted")

        monkeypatch.setattr(loop, "_work_off", fail)
        loop.wake()
        with pytest.raises(distpool.WorkerDiedError, match="planted"):
            future.result()
    monkeypatch.undo()
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -2).result() == 2


@pytest.mark.fresh_session
def test_what_was_stored_outlives_the_node() -> None:
    with DistExecutor(2) as executor:
        put = distpool.put(np.full(100_000, 1.0))
        made = executor.submit(np.full, 100_000, 2.0)
        inner = executor.submit(_put, 3.0).result()
        assert made.result()[0] == 2
        node = current_session().node
        assert node is not None
        os.kill(node.pid, signal.SIGKILL)
        with pytest.raises(distpool.WorkerDiedError):
            executor.submit(time.sleep, 600).result()
    with DistExecutor(2) as executor:
        late = distpool.put(np.full(100_000, 4.0))
        handles = [put, made, inner, late]
        sums = [executor.submit(np.sum, handle) for handle in handles]
        assert [future.result() for future in sums] == [1e5, 2e5, 3e5, 4e5]
        assert [float(array[5]) for array in distpool.get(handles)] == [1, 2, 3, 4]
        assert len(distpool.memory().objects) == 4
        del handles, put, made, inner, late, sums
        gc.collect()
        store = current_session().store
        store.trim()
        assert settle(lambda: [name for name in os.listdir(store.folder) if name[0] != "."], 20) == []


def _put(number: float) -> distpool.ObjectRef[np.ndarray]:
    return distpool.put(np.full(100_000, number))


@pytest.mark.fresh_session
def test_a_pool_that_is_opened_when_the_session_has_just_been_lost_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    session = current_session()
    capture = session.capture_setup

    def lose_meanwhile(spec: PoolSpec, initializer: Any) -> Any:
        session.lifeline.on_node_lost()
        return capture(spec, initializer)

    monkeypatch.setattr(session, "capture_setup", lose_meanwhile)
    with DistExecutor(1) as executor, pytest.raises(distpool.WorkerDiedError, match="private node"):
        executor.submit(abs, -1).result(60)
    with DistExecutor(1) as executor:
        assert executor.submit(abs, -2).result() == 2
