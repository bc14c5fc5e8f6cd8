"""Futures and references among the arguments of a task: waiting for them, and what they become in its message.

Their values never pass through this process: what arrived, still packed, is what the dependent task is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from distpool import errors
from distpool.driver.future import DistFuture
from distpool.wire.driver_to_worker import Value


def when_all_done(dependencies: Sequence[Any], done: Callable[[], None]) -> None:
    """Call ``done`` once, when the last of them is settled; in the thread that settles it, or at once."""
    countdown = _Countdown(len(dependencies), done)
    for dependency in dependencies:
        if isinstance(dependency, DistFuture):
            dependency.add_dependent(countdown.one_less)
        else:  # a reference: its value is there
            countdown.one_less()


def values_of(name: str, dependencies: Sequence[Any]) -> tuple[tuple[Value, ...], list[Any]]:
    """The packed values of settled futures, and what keeps these alive.

    :param name: the task's, for the error.
    :raises DependencyError: when one of them failed or was cancelled; that is the cause.
    """
    values = []
    kept = []
    for dependency in dependencies:
        error = dependency.failure() if isinstance(dependency, DistFuture) else None
        if error is not None:
            raise errors.DependencyError(
                f"task {name} did not run: a future among its arguments failed with {type(error).__name__}: {error}"
            ) from error
        values.append(dependency._packed.value)
        kept.append(dependency._packed)
    return tuple(values), kept


class _Countdown:
    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._left = count
        self._lock = threading.Lock()
        self._done = done

    def one_less(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._done()
