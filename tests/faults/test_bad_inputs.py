"""Whatever is thrown at a pool: the right answer or a named error within the time limit, and the pool is good."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distpool
from distpool import DistExecutor, DistpoolError, SerializationError, TaskTimeoutError
from tests.faults import hostile
from tests.faults.hostile import DEEDS, EXCEPTIONS, LIES, METHODS, Hostile

#: What a deed, or Python because of it, may raise, beside errors of distpool's.
NAMED = (ValueError, TypeError, AttributeError, StopIteration, GeneratorExit, MemoryError, EOFError, RecursionError,
         hostile.Odd, RuntimeError)  # fmt: skip
_PATIENCE_S = 60

deeds = st.one_of(
    st.tuples(st.sampled_from(METHODS), st.sampled_from(sorted(DEEDS))),
    st.tuples(st.just("lie"), st.sampled_from(sorted(LIES))),
)


@pytest.fixture
def executor() -> Iterator[DistExecutor]:
    with DistExecutor(2) as executor:
        yield executor


def double(x: int) -> int:
    return 2 * x


def outcome(call: Callable[[], Any]) -> BaseException | None:
    """How a submit, and then its future, ended."""
    try:
        future = call()
    except BaseException as error:
        return error
    try:
        future.result(_PATIENCE_S)
    except BaseException as error:
        assert future.done(), "it hangs"
        return error
    return None


def check(executor: DistExecutor, *calls: Callable[[], Any]) -> list[BaseException | None]:
    with distpool.options(timeout_s=_PATIENCE_S / 2):
        found = [outcome(call) for call in calls]
    for error in found:
        assert not isinstance(error, TaskTimeoutError), "it hangs in the worker"
    assert [future.result(_PATIENCE_S) for future in [executor.submit(double, n) for n in range(4)]] == [0, 2, 4, 6]
    return found


SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(deeds, st.integers(0, 3), st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_hostile_arguments(executor: DistExecutor, deed: tuple[str, str], depth: int, by_name: bool) -> None:
    value = hostile.wrap(Hostile(*deed), depth)
    args, kwargs = ((), {"key": value}) if by_name else ((value,), {})
    for error in check(
        executor,
        lambda: executor.submit(hostile.take, *args, **kwargs),
        lambda: executor.submit(hostile.hand_back, *args, **kwargs),
    ):
        assert error is None or isinstance(error, (DistpoolError, *NAMED)), error


@SETTINGS
@given(deeds, st.integers(0, 3))
@pytest.mark.filterwarnings("ignore")
def test_hostile_results(executor: DistExecutor, deed: tuple[str, str], depth: int) -> None:
    [error] = check(executor, lambda: executor.submit(hostile.make_result, *deed, depth))
    assert error is None or isinstance(error, (DistpoolError, *NAMED)), error


@settings(parent=SETTINGS, max_examples=40)
@given(st.sampled_from(sorted(EXCEPTIONS)), st.sampled_from([0, 1, 300]))
def test_hostile_exceptions(executor: DistExecutor, name: str, depth: int) -> None:
    [error] = check(executor, lambda: executor.submit(hostile.fail, name, depth))
    assert error is not None
    expected = EXCEPTIONS[name]
    if name == "no class":
        assert str(error) == "no class", "asking for its class raises that"
    elif not isinstance(error, SerializationError):
        assert type(error).__name__ == type(expected()).__name__
        assert " in fail" in str(error.__cause__), "the remote traceback is there"
    else:
        assert name.split(maxsplit=1)[0] in (
            "needs",
            "has",
            "no",
            "lies",
            "fails",
            "hostile",
            "local",
            "of",
            "group",
        ), str(error)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_values_nested_without_end(executor: DistExecutor, depth: int) -> None:
    found = check(
        executor,
        lambda: executor.submit(hostile.take, hostile.nested(depth)),
        lambda: executor.submit(hostile.nested, depth),
    )
    for error in found:
        assert error is None if depth == 100 else isinstance(error, (SerializationError, RecursionError)), error


def test_a_result_whose_pickle_never_ends_is_stopped(executor: DistExecutor) -> None:
    with distpool.options(timeout_s=0.5):
        assert isinstance(executor.submit(hostile.endless).exception(_PATIENCE_S), TaskTimeoutError)
    assert executor.submit(double, 2).result(_PATIENCE_S) == 4


def test_an_iterator_without_end(executor: DistExecutor) -> None:
    results = executor.map(double, itertools.count(), buffersize=4)
    assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
    results.close()  # type: ignore[attr-defined]


def test_an_input_that_fails_midway(executor: DistExecutor) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError("midway")

    with pytest.raises(KeyError, match="midway"):
        list(executor.map(double, numbers()))
    assert executor.submit(double, 2).result(_PATIENCE_S) == 4


@pytest.mark.parametrize("make", [lambda: type("Made", (), {}), lambda: (n for n in "ab"), lambda: open("/dev/null")])
def test_values_that_cannot_travel(executor: DistExecutor, make: Callable[[], Any]) -> None:
    value = make()
    [error] = check(executor, lambda: executor.submit(hostile.take, value))
    assert error is None or isinstance(error, SerializationError)
    getattr(value, "close", lambda: None)()
