"""Whatever is thrown at each of the front doors: the right answer or a named error, and the pool is good."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distpool import DistExecutor, DistpoolError, SerializationError, futures, multiprocessing
from tests.faults import hostile
from tests.faults.hostile import EXCEPTIONS, Hostile
from tests.faults.test_bad_inputs import NAMED, deeds, double

_PATIENCE_S = 60
#: For what cannot be pickled, the standard pool has a name of its own.
UNPICKLABLE = (SerializationError, MaybeEncodingError)

Call = Callable[..., "Future[Any]"]


@contextlib.contextmanager
def door(name: str) -> Iterator[Call]:
    """A pool of two workers, by one of its front doors."""
    if name != "Pool":
        with DistExecutor(2) if name == "DistExecutor" else futures.ProcessPoolExecutor(2) as executor:
            yield executor.submit
        return
    with multiprocessing.Pool(2) as pool:

        def apply(function: Callable[..., Any], *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            pool.apply_async(function, args, callback=future.set_result, error_callback=future.set_exception)
            return future

        yield apply
        pool.close()
        pool.join()


@pytest.fixture(params=["DistExecutor", "ProcessPoolExecutor", "Pool"])
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    with door(request.param) as call:
        yield call


def outcome(call: Call, function: Callable[..., Any], *args: Any) -> BaseException | None:
    """How a call, and then its future, ended; and the pool is good."""
    found: BaseException | None
    try:
        found = call(function, *args).exception(_PATIENCE_S)
    except BaseException as error:
        found = error
    assert not isinstance(found, TimeoutError), "it hangs"
    assert [future.result(_PATIENCE_S) for future in [call(double, number) for number in range(3)]] == [0, 2, 4]
    return found


SETTINGS = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(deeds, st.integers(0, 3))
@pytest.mark.filterwarnings("ignore")
def test_hostile_arguments_and_results(call: Call, deed: tuple[str, str], depth: int) -> None:
    for error in (
        outcome(call, hostile.take, hostile.wrap(Hostile(*deed), depth)),
        outcome(call, hostile.make_result, *deed, depth),
    ):
        assert error is None or isinstance(error, (DistpoolError, MaybeEncodingError, *NAMED)), error


def test_hostile_exceptions(call: Call) -> None:
    for name, make in EXCEPTIONS.items():
        error = outcome(call, hostile.fail, name, 0)
        assert error is not None, name
        if name == "no class":
            assert str(error) == "no class", "asking for its class raises that"
        elif not isinstance(error, UNPICKLABLE):
            assert type(error).__name__ == type(make()).__name__, name
        if name == "base group" and sys.version_info >= (3, 11):
            assert isinstance(error, BaseExceptionGroup)  # noqa: F821
            assert [type(each) for each in error.exceptions] == [KeyboardInterrupt, hostile.Odd]


def test_a_result_that_is_of_use_only_where_it_was_made(call: Call) -> None:
    assert isinstance(outcome(call, hostile.only_there), (LookupError, DistpoolError))


@pytest.mark.parametrize("raised", ["Odd", "GeneratorExit"])
def test_a_result_that_raises_anything_when_it_is_unpickled(call: Call, raised: str) -> None:
    assert isinstance(outcome(call, hostile.make_result, "load", raised, 0), SerializationError)


def test_a_generator_as_result(call: Call) -> None:
    assert isinstance(outcome(call, hostile.generator), UNPICKLABLE)


def test_what_changes_while_it_is_pickled(call: Call) -> None:
    for kind in (list, dict, set):
        for error in (
            outcome(call, hostile.take, hostile.restless(kind)),
            outcome(call, hostile.restless, kind),
        ):
            assert error is None or isinstance(error, (*UNPICKLABLE, RuntimeError)), (kind, error)


def wait_for(gate: str) -> None:
    while not os.path.exists(gate):
        os.sched_yield()


def test_callbacks_that_raise(tmp_path: Path) -> None:
    called = threading.Semaphore(0)
    raised: list[type[BaseException]] = [ValueError, hostile.Odd, SystemExit]

    def failing(kind: type[BaseException]) -> Callable[[object], None]:
        def callback(_: object) -> None:
            called.release()
            raise kind("in a callback")

        return callback

    for pool in (DistExecutor, futures.ProcessPoolExecutor):
        with pool(2) as executor:
            gate = tmp_path / pool.__name__
            for kind in raised:
                executor.submit(wait_for, str(gate)).add_done_callback(failing(kind))
            gate.touch()
            for _ in raised:
                assert called.acquire(timeout=_PATIENCE_S)
            assert executor.submit(double, 2).result(_PATIENCE_S) == 4
    with multiprocessing.Pool(2) as processes:
        processes.apply_async(double, (1,), callback=failing(ValueError))
        processes.apply_async(hostile.fail, ("base", 0), error_callback=failing(ValueError))
        assert called.acquire(timeout=_PATIENCE_S)
        assert called.acquire(timeout=_PATIENCE_S)
        assert processes.apply(double, (2,)) == 4
