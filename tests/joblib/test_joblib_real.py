"""The joblib backend on real workers."""

from __future__ import annotations

import multiprocessing
import os
from math import sqrt
from pathlib import Path

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

import distpool.joblib  # noqa: F401

# Workers are kept from call to call on purpose; the end of the module takes them down.
pytestmark = pytest.mark.leaks("processes", "descriptors", "threads", "shared memory")


def wait_at(gate):
    Path(f"{gate}.reached").touch()
    with open(gate):
        return "late"


def pid_and(value):
    return os.getpid(), value


def inner(n):
    return sum(Parallel(n_jobs=2)(delayed(sqrt)(i) for i in range(n)))


def inner_distpool(n):
    return sum(Parallel(n_jobs=2, backend="distpool")(delayed(sqrt)(i) for i in range(n)))


def fill_row(source, target, row):
    target[row] = source[row].sum()
    source[row] = -1


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


def test_calls_and_reused_workers() -> None:
    with parallel_config("distpool", n_jobs=2):
        first = Parallel()(delayed(pid_and)(i) for i in range(40))
        second = Parallel()(delayed(pid_and)(i) for i in range(40))
    assert [value for _, value in first] == [value for _, value in second] == list(range(40))
    pids = {pid for pid, _ in first + second}
    assert len(pids) <= 2
    assert os.getpid() not in pids


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_lambdas_and_closures(n_jobs: int) -> None:
    offset = 5
    results = Parallel(n_jobs=n_jobs, backend="distpool")(delayed(lambda x: x + offset)(i) for i in range(10))
    assert results == [i + 5 for i in range(10)]


def test_ordered_generator() -> None:
    results = Parallel(n_jobs=2, backend="distpool", return_as="generator")(delayed(sqrt)(i) for i in range(30))
    assert list(results) == [sqrt(i) for i in range(30)]


def test_unordered_generator_gives_what_is_ready(gate: str) -> None:
    calls = [delayed(wait_at)(gate), *(delayed(sqrt)(i) for i in range(5))]
    results = Parallel(n_jobs=2, backend="distpool", return_as="generator_unordered", batch_size=1)(calls)
    assert sorted(next(results) for _ in range(5)) == sorted(sqrt(i) for i in range(5))
    with open(gate, "w"):
        pass
    assert list(results) == ["late"]


def test_an_error_aborts_the_call(gate: str) -> None:
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2, backend="distpool", batch_size=1)(
            [delayed(divmod)(1, 0), *(delayed(wait_at)(gate) for _ in range(20))]
        )
    assert Parallel(n_jobs=2, backend="distpool")(delayed(sqrt)(i) for i in range(3)) == [0, 1, sqrt(2)]


def test_a_timeout_aborts_the_call(gate: str) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, backend="distpool", timeout=0.3)(delayed(wait_at)(gate) for _ in range(4))


def test_what_cannot_be_pickled() -> None:
    import pickle
    import sys

    with pytest.raises(pickle.PicklingError, match="the task to send"):
        Parallel(n_jobs=2, backend="distpool")(delayed(id)(frame) for frame in [1, 2, 3, 4, 5, sys._getframe()])


@pytest.mark.parametrize("function", [inner, inner_distpool])
def test_calls_nest(function) -> None:
    results = Parallel(n_jobs=2, backend="distpool")(delayed(function)(n) for n in range(1, 5))
    assert results == [sum(sqrt(i) for i in range(n)) for n in range(1, 5)]


@pytest.mark.parametrize("limit", [1, 3, None])
def test_threads_of_libraries(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with parallel_config("distpool", n_jobs=2, inner_max_num_threads=limit):
        seen = Parallel()(delayed(os.environ.get)("OMP_NUM_THREADS") for _ in range(4))
    assert set(seen) == {str(limit or max(1, joblib.cpu_count() // 2))}


def test_tasks_fill_a_mapped_file(tmp_path: Path) -> None:
    target = np.memmap(tmp_path / "target", dtype=np.float64, mode="w+", shape=40)
    source = np.random.default_rng(0).random((40, 5000))
    expected = source.sum(axis=1)
    Parallel(n_jobs=2, backend="distpool")(delayed(fill_row)(source, target, row) for row in range(40))
    np.testing.assert_array_equal(target, expected)
    assert (source >= 0).all()


def test_initializer() -> None:
    with parallel_config("distpool", n_jobs=2, initializer=os.environ.update, initargs=({"DISTPOOL_TEST": "here"},)):
        assert set(Parallel()(delayed(os.environ.get)("DISTPOOL_TEST") for _ in range(4))) == {"here"}


def test_scikit_learn_gives_what_it_gives_serially() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    data, target = datasets.load_digits(return_X_y=True)
    search = GridSearchCV(RandomForestClassifier(n_estimators=5, random_state=0), {"max_depth": [2, 4]}, cv=2)
    serial = search.fit(data, target).cv_results_["mean_test_score"]
    with parallel_config("distpool", n_jobs=2):
        parallel = search.fit(data, target).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(serial, parallel)
