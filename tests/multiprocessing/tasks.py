"""Functions that tests send to workers."""

from __future__ import annotations

import threading
from typing import Any

gate = threading.Event()


def square(x: int = 0) -> int:
    return x * x


def product(x: int, y: int) -> int:
    return x * y


def identity(x: Any) -> Any:
    return x


def fail(x: Any = "x") -> None:
    raise KeyError(x)


def fail_odd(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


def wait_for_gate(x: Any = None) -> Any:
    gate.wait()
    return x


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot pickle")


class IterationError(Exception):
    pass


def numbers(total: int, raise_at: int | None = None) -> Any:
    """``range(total)`` that raises when it comes to ``raise_at``."""
    for x in range(total):
        if x == raise_at:
            raise IterationError(x)
        yield x


def unpicklable() -> Any:
    return lambda: 42
