"""``distpool.futures``: its names, and the standard contract of ``ProcessPoolExecutor``, on fake pools."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import importlib
import inspect
import multiprocessing
import pickle

import pytest

import distpool.futures
from distpool.errors import SerializationError
from distpool.futures import ProcessPoolExecutor
from tests.executor.fake_pool import FakeSession, Unpicklable


def test_every_public_name_is_there() -> None:
    assert set(distpool.futures.__all__) == set(concurrent.futures.__all__)
    star: dict[str, object] = {}
    exec("from distpool.futures import *", star)
    for name in concurrent.futures.__all__:
        ours = getattr(distpool.futures, name)
        assert star[name] is ours
        assert name in dir(distpool.futures)
        if name != "ProcessPoolExecutor":
            assert ours is getattr(concurrent.futures, name)
    assert distpool.futures.ProcessPoolExecutor is ProcessPoolExecutor
    with pytest.raises(AttributeError, match=r"module 'distpool\.futures' has no attribute 'nothing'"):
        distpool.futures.nothing  # noqa: B018


def test_the_submodules_are_there() -> None:
    from distpool.futures.process import BrokenProcessPool
    from distpool.futures.thread import BrokenThreadPool, ThreadPoolExecutor

    assert BrokenProcessPool is concurrent.futures.process.BrokenProcessPool
    assert distpool.futures.process.BrokenProcessPool is BrokenProcessPool
    assert distpool.futures.process.ProcessPoolExecutor is ProcessPoolExecutor
    # Not public, yet read by programs.
    assert distpool.futures.process._RemoteTraceback is concurrent.futures.process._RemoteTraceback
    assert distpool.futures.thread.ThreadPoolExecutor is ThreadPoolExecutor is concurrent.futures.ThreadPoolExecutor
    assert issubclass(BrokenThreadPool, distpool.futures.BrokenExecutor)
    for module in ("process", "thread"):
        with pytest.raises(AttributeError, match="nothing"):
            importlib.import_module(f"distpool.futures.{module}").nothing  # noqa: B018


def test_it_is_an_instance_of_the_original() -> None:
    executor = ProcessPoolExecutor(3)
    assert isinstance(executor, concurrent.futures.ProcessPoolExecutor)
    assert executor._max_workers == 3


def test_no_method_of_the_original_is_inherited_unawares() -> None:
    # They work on attributes that ours does not have.  What is not public is called only by what is.
    original = concurrent.futures.process.ProcessPoolExecutor
    for name, member in vars(original).items():
        if callable(member) and not name.startswith("_"):
            assert getattr(ProcessPoolExecutor, name) is not member, name


def test_every_parameter_of_the_original_is_accepted() -> None:
    for name in ("__init__", "submit", "map", "shutdown"):
        ours = inspect.signature(getattr(ProcessPoolExecutor, name)).parameters
        theirs = inspect.signature(getattr(concurrent.futures.process.ProcessPoolExecutor, name)).parameters
        for parameter in theirs.values():
            assert ours[parameter.name].kind == parameter.kind
            assert ours[parameter.name].default == parameter.default


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 1}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        (
            {"max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("fork")},
            ValueError,
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method",
        ),
        ({"mp_context": "fork"}, AttributeError, "get_start_method"),
    ],
)
def test_arguments_are_checked_in_the_originals_words(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ProcessPoolExecutor(**{"max_workers": 1, **arguments})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_start_method_tells_when_workers_start(session: FakeSession, method: str) -> None:
    executor = ProcessPoolExecutor(2, multiprocessing.get_context(method))
    assert executor._processes == {}
    executor.submit(int)
    assert session.pool.spec.strict
    assert session.pool.spec.eager == (method == "fork")
    assert executor._mp_context.get_start_method() == method


def test_replacing_workers_defaults_to_spawn(session: FakeSession) -> None:
    executor = ProcessPoolExecutor(1, max_tasks_per_child=3)
    assert executor._mp_context.get_start_method() == "spawn"
    executor.submit(int)
    assert session.pool.spec.max_tasks_per_child == 3


@pytest.mark.parametrize("chunksize", [1, 2])
def test_what_cannot_be_pickled_fails_through_its_future(session: FakeSession, chunksize: int) -> None:
    executor = ProcessPoolExecutor(1)
    future = executor.submit(str, Unpicklable())
    assert future.done()
    with pytest.raises(pickle.PicklingError):
        future.result()
    results = executor.map(str, [1, 2, Unpicklable(), 4], chunksize=chunksize)
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(SerializationError):
        next(results)
    assert executor.submit(pow, 2, 3).result() == 8


def test_a_broken_pool(session: FakeSession) -> None:
    executor = ProcessPoolExecutor(1)
    assert executor._broken is False
    executor.submit(int)
    assert executor._broken is False
    session.pool.broken = concurrent.futures.process.BrokenProcessPool("a worker died")
    assert executor._broken == "a worker died"
    with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="a worker died"):
        executor.submit(int)
    executor.shutdown()
    executor.terminate_workers()


def test_after_shutdown(session: FakeSession) -> None:
    executor = ProcessPoolExecutor(2)
    executor.submit(int)
    assert len(executor._processes) == 2
    manager, queue = executor._executor_manager_thread, executor._call_queue
    executor.shutdown()
    assert executor._shutdown_thread
    assert executor._processes is executor._executor_manager_thread is executor._call_queue is None
    manager.join()
    queue.join_thread()
    assert not manager.is_alive()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


@pytest.mark.parametrize("operation", ["terminate", "kill"])
def test_ending_workers_uses_the_handles(slow_session: FakeSession, operation: str) -> None:
    executor = ProcessPoolExecutor(2)
    executor.submit(int)
    handles = list(executor._processes.values())
    getattr(executor, f"{operation}_workers")()
    assert [handle.signals for handle in handles] == [[operation]] * 2
    assert slow_session.pool.story == [("shutdown", False, True)]
    with pytest.raises(ValueError, match="Unsupported operation"):
        executor._force_shutdown(operation="burn")


def test_it_cannot_travel(session: FakeSession) -> None:
    with pytest.raises(TypeError, match="cannot pickle 'ProcessPoolExecutor' object"):
        pickle.dumps(ProcessPoolExecutor(1))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_goes_through_a_submit_that_was_replaced(session: FakeSession, chunksize: int) -> None:
    seen = []

    class Counting(ProcessPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            seen.append(args)
            return super().submit(fn, *args, **kwargs)

    assert list(Counting(1).map(str, range(4), chunksize=chunksize)) == list("0123")
    assert len(seen) == 4 // chunksize
    assert list(ProcessPoolExecutor(1).map(str, range(4), chunksize=chunksize)) == list("0123")
    assert session.pools[1].chunks == (0 if chunksize == 1 else 2)
