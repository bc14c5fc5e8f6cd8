"""``map`` for every executor: calls go out ahead, results come back in the order of the inputs.

Used by the executors' ``map``.  It knows nothing of pools: it is told how to submit one call, or one chunk of calls.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

_NUMBERS = frozenset({int, float, bool})


def check_arguments(chunksize: int, buffersize: int | None) -> None:
    """Raise what the standard library raises for arguments of ``map`` that are out of range."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def in_chunks(inputs: Iterable[Any], chunksize: int) -> Iterator[Sequence[Any]]:
    """The inputs in sequences of ``chunksize``; the last may be shorter."""
    cut = cutter(inputs)
    while chunk := cut(chunksize):
        yield chunk


def cutter(inputs: Iterable[Any]) -> Callable[[int], Sequence[Any]]:
    """A function that takes so many of the inputs as it is told, or those that are left.

    What it takes of a ``range`` is a range, whose pickle is small however many numbers it stands for.
    """
    if type(inputs) is not range:
        upcoming = iter(inputs)
        return lambda size: tuple(itertools.islice(upcoming, size))
    rest = inputs

    def cut(size: int) -> range:
        nonlocal rest
        chunk, rest = rest[:size], rest[size:]
        return chunk

    return cut


def ordered_map(
    submit: Callable[[Any], Future[Any]],
    inputs: Iterable[Any],
    *,
    timeout: float | None,
    buffersize: int | None,
    chunked: bool,
) -> Iterator[Any]:
    """Submit at once what may be submitted at once; the rest while the results are taken.

    :param submit: makes a future of one input.
    :param timeout: seconds from now within which every result must have been there.
    :param buffersize: the most futures at a time whose results have not been taken; ``None``: no limit.
    :param chunked: a future's result is a list, of which each element is a result.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    futures = _Ahead()
    upcoming = iter(inputs)
    try:
        for item in itertools.islice(upcoming, buffersize):
            futures.append(submit(item))
    except KeyboardInterrupt:
        kill_calls(futures)
        raise
    except BaseException:
        _cancel(futures)
        raise
    # The iterator of results must not keep the executor alive: dropping the executor lets its workers end.
    further = None if buffersize is None else map(submit, upcoming)
    results = _results(futures, further, deadline, chunked)
    # With a callback: a reference without one may be cut only after the finalizer has run.
    futures.taker = weakref.ref(results, _ignore)
    return results


class _Ahead(deque[Future[Any]]):
    """The calls of one ``map`` whose results have not been taken.

    :ivar taker: the iterator that takes them; cut once that is being finalized.
    """

    taker: weakref.ref[Any]

    def cancel(self) -> None:
        """Nobody will take them."""
        if self.taker() is not None:
            _cancel(self)
            return
        # This is a finalizer, which runs at any moment, perhaps under the very lock that cancelling needs.
        for future in self:
            getattr(future, "cancel_later", future.cancel)()


def _ignore(_: object) -> None:
    pass


def _results(
    futures: _Ahead, further: Iterator[Future[Any]] | None, deadline: float | None, chunked: bool
) -> Iterator[Any]:
    # Neither a future nor a result may stay in a local variable across a ``yield``: the consumer decides how long
    # results live.
    try:
        while futures:
            if further is not None:
                futures.extend(itertools.islice(further, 1))
            if chunked:
                values = _take(futures, deadline)
                if _NUMBERS.issuperset(map(type, values)):
                    # Nobody can tell how long they live.
                    yield from values
                    continue
                values.reverse()
                while values:
                    yield values.pop()
            else:
                yield _take(futures, deadline)
    finally:
        futures.cancel()


def _take(futures: deque[Future[Any]], deadline: float | None) -> Any:
    future = futures[0]
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except KeyboardInterrupt:
        # The standard library's workers get the signal, too, which ends what they run.
        kill_calls(futures)
        raise
    finally:
        future.cancel()  # a time-out; no effect on what is done
        # An exception's traceback holds this frame, and the future holds the exception.
        del future
        futures.popleft()


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def kill_calls(futures: Iterable[Future[Any]]) -> None:
    """End the calls, also those that run (an executor whose ``submit`` is overridden may give other futures)."""
    # All that wait first, or the end of one would start the next.
    for future in [future for future in futures if not future.cancel()]:
        getattr(future, "kill", future.cancel)()
