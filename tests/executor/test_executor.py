"""``DistExecutor`` on fake pools: arguments, options, map, endings, handles."""

from __future__ import annotations

import gc
import inspect
import itertools
import pickle
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Executor
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

import distpool
from distpool import DistExecutor
from distpool import executor as executor_module
from distpool.ordered_map import in_chunks
from distpool.task_options import DEFAULT
from tests.executor.fake_pool import FakePool, FakeSession, Unpicklable


def capture(*args, **kwargs):
    return args, kwargs


# -- arguments ----------------------------------------------------------------------------------------------------


def test_is_an_executor_with_the_standard_signature(session: FakeSession) -> None:
    with DistExecutor(2) as executor:
        assert isinstance(executor, Executor)
        assert executor.submit(pow, 2, 8).result() == 256
        assert executor.max_workers == executor._max_workers == 2
    parameters = list(inspect.signature(DistExecutor.submit).parameters.values())
    assert [p.kind for p in parameters[:2]] == [inspect.Parameter.POSITIONAL_ONLY] * 2


@pytest.mark.parametrize("number", [0, -1])
def test_max_workers_must_be_positive(number: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        DistExecutor(max_workers=number)


@pytest.mark.parametrize("value", ["2", 1.5, object()])
def test_max_workers_must_be_an_integer(value: object) -> None:
    with pytest.raises(TypeError):
        DistExecutor(max_workers=value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"initializer": 123}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": "1"}, TypeError, "max_tasks_per_child must be an integer"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"address": 5}, TypeError, "address must be a string or None"),
    ],
)
def test_other_arguments_are_checked(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DistExecutor(1, **arguments)


def test_the_pool_is_opened_by_the_first_call_with_what_was_asked_for(session: FakeSession) -> None:
    executor = DistExecutor(3, None, print, ("a",), max_tasks_per_child=7)
    assert session.pools == []
    executor.submit(int)
    spec = session.pool.spec
    assert (spec.max_workers, spec.initializer, spec.initargs) == (3, print, ("a",))
    assert (spec.max_tasks_per_child, spec.strict, spec.eager) == (7, False, False)


def test_no_keyword_of_the_users_function_is_swallowed(session: FakeSession) -> None:
    names = ("self", "fn", "args", "kwargs", "timeout", "options", "key", "retries", "max_retries", "workers")
    keywords = dict.fromkeys(names, 1)
    assert DistExecutor(1).submit(capture, 2, **keywords).result() == ((2,), keywords)
    with pytest.raises(TypeError):
        DistExecutor(1).submit(fn=capture)


# -- options ------------------------------------------------------------------------------------------------------


def test_options_of_the_block_and_of_the_handle_reach_the_call(slow_session: FakeSession) -> None:
    executor = DistExecutor(1)
    handle = executor.with_options(timeout_s=1, max_retries=0)
    executor.submit(int)
    with distpool.options(timeout_s=5, num_cpus=1):
        executor.submit(int)
        handle.submit(int)
        handle.with_options(max_retries=2).submit(int)
        list(itertools.islice(handle.map(capture, [1], chunksize=2), 0))
    handle.submit(int)
    seen = [(o.timeout_s, o.max_retries, o.num_cpus) for o in (f.options for f in slow_session.pool.submitted)]
    assert seen == [(None, None, None), (5, None, 1), (1, 0, 1), (1, 2, 1), (1, 0, 1), (1, 0, None)]
    assert slow_session.pool.submitted[0].options is DEFAULT


def test_unknown_options_are_an_error(session: FakeSession) -> None:
    with pytest.raises(TypeError, match="unknown option 'timeout'"):
        DistExecutor(1).with_options(timeout=1)
    with pytest.raises(ValueError, match="max_retries"):
        DistExecutor(1).with_options(max_retries=-1)


# -- map ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 10, 50])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 100])
def test_map_is_map(session: FakeSession, chunksize: int, buffersize: int | None) -> None:
    with DistExecutor(2) as executor:
        results = executor.map(pow, range(10), range(12), chunksize=chunksize, buffersize=buffersize)
        assert list(results) == list(map(pow, range(10), range(12)))
        assert list(executor.map(pow, chunksize=chunksize, buffersize=buffersize)) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1."),
        ({"chunksize": -1}, ValueError, "chunksize must be >= 1."),
        ({"buffersize": "2"}, TypeError, "buffersize must be an integer or None"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
    ],
)
def test_map_checks_its_arguments_at_once(session: FakeSession, arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DistExecutor(1).map(str, [1], **arguments)


def test_map_submits_everything_before_the_first_result_is_taken(slow_session: FakeSession) -> None:
    results = DistExecutor(1).map(str, range(5))
    assert len(slow_session.pool.submitted) == 5
    slow_session.pool.run_all()
    assert list(results) == list("01234")


def test_map_travels_in_chunks(session: FakeSession) -> None:
    list(DistExecutor(1).map(str, range(10), chunksize=4))
    assert session.pool.chunks == len(session.pool.submitted) == 3


def test_chunks_of_several_iterables_end_with_the_shortest(session: FakeSession) -> None:
    assert list(DistExecutor(1).map(divmod, range(5, 100), [2, 3, 4], chunksize=2)) == [(2, 1), (2, 0), (1, 3)]


@pytest.mark.parametrize("make", [list, tuple, iter, dict.fromkeys])
@pytest.mark.parametrize("numbers", [range(3, 40, 4), range(0), [3, True, 2.5, None, (1, 2)]])
def test_chunks_hold_what_single_calls_get(
    session: FakeSession, make: Callable[[object], Iterable[object]], numbers: Sequence[object]
) -> None:
    expected = [repr(number) for number in numbers]
    assert list(DistExecutor(1).map(repr, numbers, chunksize=4)) == expected
    assert list(DistExecutor(1).map(repr, make(numbers), chunksize=4)) == expected


@pytest.mark.parametrize("chunk", [[1, 2.5, True], [1, object(), 2], [object()] * 3, []])
def test_results_of_a_chunk_keep_their_order(session: FakeSession, chunk: list[object]) -> None:
    assert list(DistExecutor(1).map(dict(enumerate(chunk)).get, range(len(chunk)), chunksize=5)) == chunk


def test_a_result_of_a_chunk_lives_no_longer_than_it_is_used(session: FakeSession) -> None:
    for result in DistExecutor(1).map(set, [()] * 4, chunksize=2):
        reference = weakref.ref(result)
        del result
        assert reference() is None


def test_chunks_of_a_range_are_ranges() -> None:
    assert [*in_chunks(range(0, 20, 3), 3)] == [range(0, 9, 3), range(9, 18, 3), range(18, 21, 3)]
    assert [*in_chunks(iter(range(5)), 3)] == [(0, 1, 2), (3, 4)]


def test_a_buffer_bounds_what_is_read_ahead(session: FakeSession) -> None:
    inputs = itertools.count()
    results = DistExecutor(1).map(str, inputs, buffersize=3)
    assert next(inputs) == 3
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    assert next(inputs) == 7


def test_a_buffer_counts_chunks(session: FakeSession) -> None:
    inputs = itertools.count()
    results = DistExecutor(1).map(str, inputs, buffersize=2, chunksize=5)
    assert next(inputs) == 10
    assert next(results) == "0"
    assert next(inputs) == 16


def test_a_buffered_map_goes_on_when_the_executor_is_dropped(session: FakeSession) -> None:
    assert list(DistExecutor(1).map(str, range(9), buffersize=2)) == list("012345678")


def test_an_error_comes_at_its_place_and_cancels_the_rest(slow_session: FakeSession) -> None:
    results = DistExecutor(1).map(divmod, [1, 1, 1, 1, 1], [2, 3, 0, 5, 6])
    submitted = slow_session.pool.submitted
    for future in submitted[:3]:
        future.run()
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert [future.cancelled() for future in submitted] == [False, False, False, True, True]


def test_closing_the_iterator_cancels_the_rest(slow_session: FakeSession) -> None:
    results = DistExecutor(1).map(str, range(4))
    submitted = slow_session.pool.submitted
    submitted[0].run()
    assert next(results) == "0"
    results.close()
    assert [future.cancelled() for future in submitted] == [False, True, True, True]


def test_a_timeout_counts_from_the_call(slow_session: FakeSession) -> None:
    results = DistExecutor(1).map(str, range(3), timeout=0)
    slow_session.pool.submitted[0].run()
    assert next(results) == "0"
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert slow_session.pool.submitted[1].cancelled()
    assert slow_session.pool.submitted[2].cancelled()


def test_an_error_in_submit_takes_back_what_was_submitted(slow_session: FakeSession) -> None:
    with pytest.raises(distpool.SerializationError):
        DistExecutor(1).map(str, [1, Unpicklable(), 3])
    (future,) = slow_session.pool.submitted
    assert future.cancelled()


def test_an_error_of_the_inputs_takes_back_what_was_submitted(slow_session: FakeSession) -> None:
    def inputs():
        yield 1
        raise LookupError

    with pytest.raises(LookupError):
        DistExecutor(1).map(str, inputs())
    assert slow_session.pool.submitted[0].cancelled()


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_keeps_no_result_alive(session: FakeSession, chunksize: int, buffersize: int | None) -> None:
    class Thing:
        pass

    class Forgetful(DistExecutor):
        pass

    executor = Forgetful(1)
    results = executor.map(lambda _: Thing(), range(10), chunksize=chunksize, buffersize=buffersize)
    session.pool.submitted.clear()
    for thing in results:
        session.pool.submitted.clear()
        reference = weakref.ref(thing)
        del thing
        assert reference() is None


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_goes_through_a_submit_that_was_replaced(session: FakeSession, chunksize: int) -> None:
    seen = []

    class Counting(DistExecutor):
        def submit(self, fn, /, *args, **kwargs):
            seen.append(args)
            return super().submit(fn, *args, **kwargs)

    assert list(Counting(1).map(str, range(6), chunksize=chunksize)) == list("012345")
    assert len(seen) == 6 // chunksize
    patched = DistExecutor(1)
    original = patched.submit
    patched.submit = lambda fn, /, *args: seen.append(args) or original(fn, *args)  # type: ignore[method-assign]
    assert list(patched.map(str, range(6), chunksize=chunksize)) == list("012345")
    assert len(seen) == 2 * (6 // chunksize)


# -- endings ------------------------------------------------------------------------------------------------------


def test_leaving_the_block_waits(slow_session: FakeSession) -> None:
    with DistExecutor(1) as executor:
        future = executor.submit(int)
    assert slow_session.pool.story == [("shutdown", True, False)]
    assert future.done()


def test_leaving_the_block_with_an_error_waits_too(slow_session: FakeSession) -> None:
    with pytest.raises(LookupError):
        with DistExecutor(1) as executor:
            executor.submit(int)
            raise LookupError
    assert slow_session.pool.story == [("shutdown", True, False)]


def test_leaving_the_block_with_an_interrupt_kills(slow_session: FakeSession) -> None:
    with pytest.raises(KeyboardInterrupt):
        with DistExecutor(1) as executor:
            executor.submit(int)
            raise KeyboardInterrupt
    assert slow_session.pool.story == ["kill", ("shutdown", True, False)]


def test_an_interrupt_while_waiting_kills(slow_session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: FakePool, wait: bool, cancel_futures: bool) -> None:
        raise KeyboardInterrupt

    executor = DistExecutor(1)
    executor.submit(int)
    with monkeypatch.context() as patch:
        patch.setattr(FakePool, "shutdown", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.shutdown()
    assert slow_session.pool.story == ["kill"]


@pytest.mark.parametrize("used", [False, True])
def test_no_calls_after_shutdown(session: FakeSession, used: bool) -> None:
    executor = DistExecutor(1)
    if used:
        executor.submit(int)
    executor.shutdown()
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(int, [1], chunksize=2)
    assert executor._processes is None


def test_shutdown_passes_on_what_it_was_told(slow_session: FakeSession) -> None:
    executor = DistExecutor(1)
    future = executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    assert slow_session.pool.story == [("shutdown", False, True)]
    with pytest.raises(CancelledError):
        future.result()


@pytest.mark.parametrize("operation", ["terminate", "kill"])
def test_workers_can_be_ended_at_once(slow_session: FakeSession, operation: str) -> None:
    executor = DistExecutor(1)
    executor.submit(int)
    getattr(executor, f"{operation}_workers")()
    assert slow_session.pool.story == [("shutdown", False, True), operation]
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_ending_the_workers_of_an_unused_executor(session: FakeSession) -> None:
    DistExecutor(1).terminate_workers()
    DistExecutor(1).kill_workers()
    assert session.pools == []
    with pytest.raises(ValueError, match="Unsupported operation: 'burn'"):
        DistExecutor(1)._force_shutdown(operation="burn")


def test_a_dropped_executor_lets_its_workers_end(slow_session: FakeSession) -> None:
    executor = DistExecutor(1)
    results = executor.map(str, range(3))
    handle = executor.with_options(timeout_s=1)
    del executor
    assert slow_session.pool.story == []
    del handle
    assert slow_session.pool.story == ["abandon"]
    slow_session.pool.run_all()
    assert list(results) == ["0", "1", "2"]


def test_a_dropped_executor_is_no_garbage_for_the_collector(session: FakeSession) -> None:
    gc.disable()
    try:
        executor = DistExecutor(1)
        list(executor.map(str, range(3), chunksize=2))
        reference = weakref.ref(executor)
        del executor
        assert reference() is None
    finally:
        gc.enable()


# -- executors that travel ----------------------------------------------------------------------------------------


def test_a_pickled_executor_is_a_handle_to_the_same_pool(session: FakeSession) -> None:
    executor = DistExecutor(2).with_options(max_retries=1)
    copy = pickle.loads(pickle.dumps(executor))
    assert copy._slot is executor._slot
    assert copy.max_workers == 2
    copy.submit(int)
    assert session.pool.submitted[-1].options.max_retries == 1
    del executor
    assert session.pool.story == []
    copy.shutdown()
    assert session.pool.closed


def test_in_another_process_handles_share_one_slot(session: FakeSession) -> None:
    # As in a worker: the pool was joined, and no executor refers to it yet.
    pool = session.open_pool(executor_module.checked_spec(4, None, (), None))
    first = executor_module._join(DistExecutor, pool, {})
    second = executor_module._join(DistExecutor, pool, {"timeout_s": 3})
    assert first._slot is second._slot
    assert second.submit(int).options.timeout_s == 3
    del first
    assert not pool.closed
    del second
    assert pool.story == ["abandon"]
