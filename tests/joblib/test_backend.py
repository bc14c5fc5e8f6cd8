"""The joblib backend on fake pools."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import threading
import time
import types
import warnings
from math import sqrt

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS, FallbackToBackend, SequentialBackend

import distpool.joblib
from distpool.joblib import DistpoolBackend
from distpool.task_options import options
from tests.executor.fake_pool import FakeSession, Unpicklable


@pytest.fixture(autouse=True)
def _no_kept_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distpool.joblib, "_kept_pools", distpool.joblib._KeptPools())


def run_fresh(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    ).stdout.strip()


# -- how it is found ----------------------------------------------------------------------------------------------


def test_it_is_registered() -> None:
    assert BACKENDS["distpool"] is DistpoolBackend
    assert "distpool" in EXTERNAL_BACKENDS
    EXTERNAL_BACKENDS["distpool"]()


@pytest.mark.parametrize("imports", ["joblib, distpool", "distpool, joblib", "distpool.joblib, joblib"])
@pytest.mark.parametrize("use", ["with joblib.parallel_config('distpool', n_jobs=3): p = ", "p = "])
def test_importing_distpool_is_enough(imports: str, use: str) -> None:
    backend = "" if "config" in use else "n_jobs=3, backend='distpool'"
    program = f"import {imports}\n{use}joblib.Parallel({backend})\nprint(type(p._backend).__name__, p.n_jobs)"
    assert run_fresh(program) == "DistpoolBackend 3"


def test_importing_distpool_does_not_import_joblib() -> None:
    program = "import distpool, sys; print('joblib' in sys.modules, 'numpy' in sys.modules, 'zmq' in sys.modules)"
    assert run_fresh(program) == "False False False"


def test_the_import_of_joblib_leaves_no_trace() -> None:
    program = (
        "import distpool, joblib.parallel as p, sys, importlib\n"
        "print(type(p.__loader__).__name__, type(p.__spec__.loader).__name__, p.__file__ == p.__spec__.origin)\n"
        "print(any('distpool' in type(f).__module__ for f in sys.meta_path))\n"
        "importlib.reload(p)"
    )
    assert run_fresh(program).splitlines() == ["SourceFileLoader SourceFileLoader True", "False"]


# -- calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["auto", 1, 4])
@pytest.mark.parametrize("pre_dispatch", ["all", "2*n_jobs", 1])
def test_parallel_gives_what_a_loop_gives(session: FakeSession, batch_size: object, pre_dispatch: object) -> None:
    call = Parallel(n_jobs=2, backend="distpool", batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert call(delayed(sqrt)(i) for i in range(25)) == [sqrt(i) for i in range(25)]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(session: FakeSession, return_as: str) -> None:
    results = Parallel(n_jobs=2, backend="distpool", return_as=return_as)(delayed(sqrt)(i) for i in range(9))
    assert sorted(results) == [sqrt(i) for i in range(9)]


def test_errors_come_out_as_they_are(session: FakeSession) -> None:
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2, backend="distpool")(delayed(divmod)(1, i) for i in (1, 0, 2))


def test_what_cannot_be_pickled_is_an_error_and_not_a_hang(session: FakeSession, monkeypatch) -> None:
    from pickle import PicklingError

    from tests.executor.fake_pool import FakePool

    submit = FakePool.submit

    def picky(self, function, *rest):
        if any(isinstance(argument, Unpicklable) for _, args, _ in function.items for argument in args):
            raise TypeError("cannot pickle")
        return submit(self, function, *rest)

    monkeypatch.setattr(FakePool, "submit", picky)
    inputs = [*range(5), Unpicklable(), *range(5)]
    with pytest.raises(PicklingError, match="the task to send"):
        Parallel(n_jobs=2, backend="distpool", pre_dispatch=2, batch_size=1)(delayed(id)(i) for i in inputs)


def test_a_timeout_ends_what_is_under_way(slow_session: FakeSession) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, backend="distpool", timeout=0.01, batch_size=1)(delayed(sqrt)(i) for i in range(3))
    futures = slow_session.pool.submitted
    assert futures
    assert all(future.cancelled() for future in futures)
    assert slow_session.pool.story == []


def test_the_caller_waits_for_results_and_does_not_look_every_now_and_then(
    slow_session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(joblib.parallel, "time", types.SimpleNamespace(time=time.time, sleep=looks.append))
    monkeypatch.setattr(distpool.joblib, "_WAIT_S", 50.0)
    all_sent = threading.Event()
    monkeypatch.setattr(DistpoolBackend, "retrieval_context", lambda self: contextlib.nullcontext(all_sent.set()))

    def run_backwards() -> None:
        assert all_sent.wait(50)
        for future in reversed(slow_session.pool.submitted):
            future.run()

    worker = threading.Thread(target=run_backwards)
    worker.start()
    call = Parallel(n_jobs=2, backend="distpool", pre_dispatch="all", batch_size=1)
    assert call(delayed(sqrt)(i) for i in range(4)) == [sqrt(i) for i in range(4)]
    worker.join(50)
    assert looks == []


@pytest.mark.parametrize(("workers", "largest"), [(2, 40), (30, 80), (100, 80)])
def test_batches_grow_in_large_steps_while_they_are_far_too_small(
    session: FakeSession, workers: int, largest: int
) -> None:
    backend = DistpoolBackend(nesting_level=0)
    backend.configure(n_jobs=workers, parallel=Parallel(n_jobs=workers))
    sizes = []
    for took_s in (0.0005, 0.01, 0.04, 0.12, 12.0):
        backend.batch_completed(backend.compute_batch_size(), took_s)
        sizes.append(backend.compute_batch_size())
    # Eight times; to 0.025 s; as joblib does it, up to 0.1 s, or with many workers to its own 0.2, and down.
    assert sizes == [8, 20, 40, largest, 2]


def test_aborting_one_call_leaves_another_alone(slow_session: FakeSession) -> None:
    one, other = DistpoolBackend(nesting_level=0), DistpoolBackend(nesting_level=0)
    for backend in (one, other):
        backend.configure(n_jobs=2, parallel=Parallel(n_jobs=2))
    waiting, running = one.submit(int), one.submit(int)
    running.set_running_or_notify_cancel()
    untouched = other.submit(int)
    workers = one._workers
    one.abort_everything(ensure_ready=True)
    assert waiting.cancelled()
    assert running.killed
    assert not untouched.cancelled()
    assert one._workers is not workers
    assert one._workers is not None
    one.abort_everything(ensure_ready=False)
    assert one._workers is None


def test_options_reach_the_batches(session: FakeSession) -> None:
    with options(max_retries=0):
        Parallel(n_jobs=2, backend="distpool")(delayed(sqrt)(i) for i in range(2))
    assert session.pool.submitted[0].options.max_retries == 0


def test_joblibs_own_arguments_are_accepted(session: FakeSession) -> None:
    call = Parallel(2, "distpool", max_nbytes=1, temp_folder="/nowhere", mmap_mode="r", verbose=0, prefer="processes")
    assert call(delayed(sqrt)(i) for i in range(3)) == [0, 1, sqrt(2)]
    with pytest.raises(TypeError, match="no argument 'wishes'"):
        Parallel(2, "distpool", wishes=3)(delayed(sqrt)(i) for i in range(3))


# -- how many -----------------------------------------------------------------------------------------------------


def test_numbers_of_jobs() -> None:
    backend = DistpoolBackend(nesting_level=0)
    count = joblib.cpu_count()
    assert backend.effective_n_jobs(3) == 3
    assert backend.effective_n_jobs(-1) == count
    assert backend.effective_n_jobs(-count - 5) == 1
    assert backend.effective_n_jobs(None) == 1
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        backend.effective_n_jobs(0)


def test_one_job_needs_no_workers(session: FakeSession) -> None:
    with pytest.raises(FallbackToBackend):
        DistpoolBackend(nesting_level=0).configure(n_jobs=1)
    call = Parallel(n_jobs=1, backend="distpool")
    assert call([delayed(sqrt)(4)]) == [2]
    assert isinstance(call._backend, SequentialBackend)
    assert session.pools == []


def test_below_threads_it_does_not_nest() -> None:
    def inner() -> int:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            n_jobs = DistpoolBackend(nesting_level=1).effective_n_jobs(2)
        assert "distpool-backed parallel loops cannot be nested below threads" in str(seen[0].message)
        return n_jobs

    assert Parallel(2, "threading")([delayed(inner)() for _ in range(2)]) == [1, 1]


# -- the pools that are kept --------------------------------------------------------------------------------------


def call_once(n_jobs: int = 2, **arguments: object) -> None:
    Parallel(n_jobs=n_jobs, backend="distpool", **arguments)(delayed(sqrt)(i) for i in range(3))


def test_calls_share_a_pool(session: FakeSession) -> None:
    call_once()
    with Parallel(n_jobs=2, backend="distpool") as parallel:
        parallel(delayed(sqrt)(i) for i in range(3))
        assert parallel._backend._workers is not None
    assert parallel._backend._workers is None
    call_once(initializer=None, initargs=())
    spec = session.pool.spec
    assert spec.idle_timeout_s == 300
    assert not spec.finish_at_exit
    assert not spec.strict


@pytest.mark.parametrize(
    "arguments", [{"n_jobs": 3}, {"initializer": int}, {"initargs": (1,)}, {"idle_worker_timeout": 5}]
)
def test_other_arguments_get_another_pool(session: FakeSession, arguments: dict) -> None:
    call_once()
    call_once(**arguments)
    call_once(**arguments)
    assert len(session.pools) == 2


def test_arguments_that_do_not_compare_get_another_pool(session: FakeSession) -> None:
    call_once(initargs=(np.zeros(3),))
    call_once(initargs=(np.zeros(3),))
    assert len(session.pools) == 2


def test_few_pools_are_kept(session: FakeSession) -> None:
    for n_jobs in (2, 3, 4):
        call_once(n_jobs)
    assert [pool.closed for pool in session.pools] == [True, False, False]
    call_once(4)
    assert len(session.pools) == 3


def test_a_pool_that_is_over_is_replaced(session: FakeSession) -> None:
    call_once()
    session.pools[0].broken = RuntimeError("over")
    call_once()
    session.pools[1].shutdown()
    call_once()
    assert len(session.pools) == 3


def test_threads_of_libraries_in_the_workers(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    call_once(2)
    with parallel_config("distpool", n_jobs=2, inner_max_num_threads=3):
        Parallel()(delayed(sqrt)(i) for i in range(3))
    by_default, limited = (pool.spec for pool in session.pools)
    assert by_default.num_threads is None
    assert by_default.environment["OMP_NUM_THREADS"] == str(max(joblib.cpu_count() // 2, 1))
    assert by_default.environment["MKL_NUM_THREADS"] == "7"
    assert limited.num_threads == 3
    assert limited.environment["OMP_NUM_THREADS"] == limited.environment["MKL_NUM_THREADS"] == "3"
