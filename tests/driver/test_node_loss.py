"""The private node is killed under a program that uses it, or the driver's own thread fails."""

from __future__ import annotations

import os
import signal
import time

import pytest

import distpool
from distpool import DistExecutor
from distpool.driver.session import current_session


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
