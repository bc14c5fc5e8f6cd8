"""``distpool.futures.ProcessPoolExecutor`` on real workers: where its contract differs from ``DistExecutor``'s."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from pathlib import Path

import pytest

from distpool.futures import ProcessPoolExecutor, process, wait
from distpool.futures.process import BrokenProcessPool


def fail():
    raise RuntimeError(123)  # the line to look for


class Lent:
    pass


class Exiting:
    """Pickles, and ends the program that unpickles it."""

    def __reduce__(self):
        return sys.exit, (3,)


def wait_at(gate):
    Path(f"{gate}.reached").touch()
    with open(gate):
        return os.getpid()


def leave_at(gate):
    with open(gate):
        os._exit(1)


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def executor(request: pytest.FixtureRequest) -> ProcessPoolExecutor:
    with ProcessPoolExecutor(3, multiprocessing.get_context(request.param)) as executor:
        yield executor


def test_calls(executor: ProcessPoolExecutor) -> None:
    assert executor.submit(pow, 2, 8).result() == 256
    assert list(executor.map(pow, range(20), range(20), chunksize=3)) == list(map(pow, range(20), range(20)))


def test_a_worker_that_dies_breaks_the_pool(executor: ProcessPoolExecutor, gate: str) -> None:
    futures = [executor.submit(leave_at, gate), *(executor.submit(signal.pause) for _ in range(4))]
    with open(gate, "w"):
        pass
    for future in futures:
        with pytest.raises(BrokenProcessPool):
            future.result()
    with pytest.raises(BrokenProcessPool):
        executor.submit(pow, 2, 8)
    assert executor._broken


def test_a_worker_that_is_killed_from_outside_breaks_the_pool(executor: ProcessPoolExecutor, gate: str) -> None:
    future = executor.submit(wait_at, gate)
    next(iter(executor._processes.values())).terminate()
    for worker in list(executor._processes.values()):
        worker.kill()
    with pytest.raises(BrokenProcessPool):
        future.result()


def test_processes(executor: ProcessPoolExecutor) -> None:
    assert executor._processes == {}
    future = executor.submit(pow, 1, 1)
    forked = executor._mp_context.get_start_method() == "fork"
    assert len(executor._processes) == (3 if forked else 1)
    # While a call runs, another one starts a worker of its own.
    future.result()
    assert executor.submit(os.getpid).result() in executor._processes
    assert len(executor._processes) == (3 if forked else 1)


def test_an_error_has_the_remote_traceback_as_its_cause(executor: ProcessPoolExecutor) -> None:
    error = executor.submit(fail).exception()
    assert type(error) is RuntimeError
    assert error.args == (123,)
    assert type(error.__cause__) is process._RemoteTraceback
    assert "raise RuntimeError(123)  # the line to look for" in error.__cause__.tb


def test_what_cannot_be_pickled_fails_through_its_future(executor: ProcessPoolExecutor) -> None:
    with pytest.raises(pickle.PicklingError):
        executor.submit(id, sys._getframe()).result()
    assert executor.submit(pow, 2, 3).result() == 8


def test_sys_exit_is_an_exception_like_others(executor: ProcessPoolExecutor) -> None:
    with pytest.raises(SystemExit):
        executor.submit(sys.exit, 1).result()
    assert executor.submit(pow, 2, 3).result() == 8


def test_workers_are_replaced() -> None:
    with ProcessPoolExecutor(1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(7)]
        assert len(executor._processes) == 1
    assert len(set(pids)) == 3
    assert pids[0] == pids[2] != pids[3] == pids[5]


def test_what_is_lent_to_an_executor_is_free_when_the_executor_is_gone() -> None:
    gc.collect()
    gc.disable()  # reference cycles would keep it until some later collection
    try:
        lent = Lent()
        executor = ProcessPoolExecutor(1, initializer=id, initargs=(lent,))
        assert executor.submit(pow, 2, 3).result() == 8
        executor.shutdown()
        gone = threading.Event()
        weakref.finalize(lent, gone.set)
        del executor, lent
        assert gone.wait(30)  # a thread of the driver may have to finish what it is doing
    finally:
        gc.enable()


def test_a_value_that_exits_when_unpickled_is_an_error_of_its_call(executor: ProcessPoolExecutor) -> None:
    with pytest.raises(pickle.PicklingError, match="SystemExit: 3"):
        executor.submit(id, Exiting()).result()
    with pytest.raises(pickle.PicklingError, match="SystemExit: 3"):
        executor.submit(Exiting).result()
    assert executor.submit(pow, 2, 8).result() == 256


@pytest.mark.parametrize("operation", ["terminate_workers", "kill_workers"])
def test_workers_end_at_once(executor: ProcessPoolExecutor, gate: str, operation: str) -> None:
    future = executor.submit(wait_at, gate)
    while not os.path.exists(f"{gate}.reached"):
        os.sched_yield()
    workers = list(executor._processes.values())
    getattr(executor, operation)()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()
    assert isinstance(future.exception(), BrokenProcessPool)
    with pytest.raises(RuntimeError):
        executor.submit(pow, 1, 1)


def test_a_dropped_executor_finishes_and_ends_its_workers() -> None:
    executor = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    results = executor.map(abs, range(-5, 5))
    manager, queue, processes = executor._executor_manager_thread, executor._call_queue, executor._processes
    del executor
    manager.join()
    queue.join_thread()
    for worker in processes.values():
        worker.join()
    assert list(results) == list(map(abs, range(-5, 5)))


def test_shutdown_without_waiting() -> None:
    executor = ProcessPoolExecutor(2)
    futures = [executor.submit(pow, i, 2) for i in range(10)]
    executor.shutdown(wait=False)
    done, _ = wait(futures)
    assert sorted(future.result() for future in done) == [i**2 for i in range(10)]
