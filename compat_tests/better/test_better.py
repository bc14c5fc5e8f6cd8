"""What programs may expect of a process pool, and CPython's issues say they do not always get.

No test has a time limit of its own: the runner has one, and calls a hang by its name.
The first paragraph of each docstring is what the report shows, with the number of CPython's issue.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import pytest


class NeedsTwo(Exception):
    """Pickles, and cannot be unpickled: ``args`` has one value and ``__init__`` wants two."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Abort(BaseException):
    pass


def square(x: int) -> int:
    return x * x


def raise_needs_two() -> None:
    raise NeedsTwo(1, 2)


def raise_abort() -> None:
    raise Abort("stop")


def fail_to_initialize() -> None:
    raise RuntimeError("no licence")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_if_first(number: int, data: bytes) -> int:
    if number == 0:
        die()
    return len(data)


def touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(3600)


def submit_and_forget(executor_class) -> list:
    executor = executor_class(1, max_tasks_per_child=1)
    return [executor.submit(square, i) for i in range(4)]


def test_max_tasks_per_child(futures):
    """Workers of an executor that are replaced after some tasks (`max_tasks_per_child`) lose none of the tasks that
    wait (python/cpython#115634, python/cpython#111498)."""
    with futures.ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        submitted = [executor.submit(square, i) for i in range(10)]
        assert [future.result() for future in submitted] == [square(i) for i in range(10)]


def test_max_tasks_per_child_of_a_forgotten_executor(futures):
    """Futures complete although nobody refers to their executor any more (python/cpython#152967)."""
    submitted = submit_and_forget(futures.ProcessPoolExecutor)
    assert [future.result() for future in submitted] == [0, 1, 4, 9]


def test_exception_that_does_not_unpickle_from_a_pool(multiprocessing):
    """A task of a `Pool` whose exception cannot be unpickled fails, and the pool goes on (python/cpython#79492,
    python/cpython#103061)."""
    with multiprocessing.Pool(1) as pool:
        with pytest.raises(Exception, match="1 and 2"):
            pool.apply(raise_needs_two)
        assert pool.apply(square, (3,)) == 9


def test_exception_that_does_not_unpickle_from_an_executor(futures):
    """A task of an executor whose exception cannot be unpickled fails alone: the executor is not broken
    (python/cpython#75880)."""
    with futures.ProcessPoolExecutor(1) as executor:
        with pytest.raises(Exception, match="1 and 2"):
            executor.submit(raise_needs_two).result()
        assert executor.submit(square, 3).result() == 9


def test_pool_whose_worker_is_killed(multiprocessing):
    """A task of a `Pool` whose worker is killed fails with an error that says so, and the pool goes on
    (python/cpython#66587, python/cpython#96062)."""
    with multiprocessing.Pool(1) as pool:
        with pytest.raises(Exception, match="SIGKILL"):
            pool.apply(die)
        assert pool.apply(square, (3,)) == 9


def test_base_exception_in_a_pool(multiprocessing):
    """A task of a `Pool` that raises a `BaseException` fails with it (python/cpython#101081)."""
    with multiprocessing.Pool(1) as pool:
        with pytest.raises(Abort, match="stop"):
            pool.apply(raise_abort)


def test_initializer_of_a_pool_that_fails(multiprocessing):
    """A `Pool` whose initializer fails says so to its tasks, instead of starting workers for ever
    (python/cpython#87472)."""
    with multiprocessing.Pool(1, fail_to_initialize) as pool:
        with pytest.raises(Exception, match="no licence"):
            pool.apply(square, (3,))


def test_worker_killed_while_much_data_is_on_its_way(futures):
    """An executor whose worker dies while large arguments are sent to it is broken, and does not hang
    (python/cpython#94777)."""
    with futures.ProcessPoolExecutor(2) as executor:
        submitted = [executor.submit(die_if_first, i, bytes(30_000_000)) for i in range(6)]
        errors = [future.exception() for future in submitted]
    assert isinstance(errors[0], futures.process.BrokenProcessPool)


def test_broken_futures_have_exceptions_of_their_own(futures):
    """The futures of a broken executor do not share one exception object, whose traceback would grow with each that
    is asked (python/cpython#101267)."""
    with futures.ProcessPoolExecutor(1) as executor:
        submitted = [executor.submit(die), executor.submit(square, 1), executor.submit(square, 2)]
        errors = [future.exception() for future in submitted]
    assert len({id(error) for error in errors}) == 3


def test_executor_map_of_an_endless_iterable(futures):
    """`Executor.map` takes inputs as results are asked for (`buffersize`, new in Python 3.14), so that they may be
    endless (python/cpython#74028)."""
    with futures.ProcessPoolExecutor(1) as executor:
        results = executor.map(square, itertools.count(), buffersize=4)
        assert list(itertools.islice(results, 10)) == [square(i) for i in range(10)]


def test_imap_of_an_endless_iterable(multiprocessing):
    """`Pool.imap` reads its inputs as results are taken, so that they may be endless (python/cpython#64192)."""
    read = 0

    def count():
        nonlocal read
        for number in itertools.count():
            read = number
            yield number

    with multiprocessing.Pool(1) as pool:
        results = pool.imap(square, count())
        assert [next(results) for _ in range(10)] == [square(i) for i in range(10)]
        seen = -1
        while seen < read < 20_000:
            seen = read
            time.sleep(1)  # does it stand still?
    assert read < 20_000


def test_result_of_a_pool_that_is_terminated(multiprocessing, tmp_path):
    """Who waits for a result of a `Pool` that is terminated meanwhile is told (python/cpython#79659)."""
    pool = multiprocessing.Pool(1)
    started = tmp_path / "started"
    result = pool.apply_async(touch_and_sleep, (str(started),))
    while not started.exists():
        time.sleep(0.01)
    pool.terminate()
    pool.join()
    with pytest.raises(Exception, match="ended"):
        result.get()
