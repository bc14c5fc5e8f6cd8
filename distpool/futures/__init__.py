"""``concurrent.futures`` with ``ProcessPoolExecutor`` on distpool's workers.

Every public name of the running Python's ``concurrent.futures`` is here.  ``ProcessPoolExecutor`` is distpool's and
keeps the standard library's contract; all others *are* the standard library's, so that futures and errors mix freely.
"""

from __future__ import annotations

import concurrent.futures
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
    from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
    from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
    from concurrent.futures import BrokenExecutor as BrokenExecutor
    from concurrent.futures import CancelledError as CancelledError
    from concurrent.futures import Executor as Executor
    from concurrent.futures import Future as Future
    from concurrent.futures import InvalidStateError as InvalidStateError
    from concurrent.futures import ThreadPoolExecutor as ThreadPoolExecutor
    from concurrent.futures import TimeoutError as TimeoutError
    from concurrent.futures import as_completed as as_completed
    from concurrent.futures import wait as wait

    from distpool.futures.process import ProcessPoolExecutor as ProcessPoolExecutor

__all__ = tuple(concurrent.futures.__all__)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(concurrent.futures), "process", "thread"})


def __getattr__(name: str) -> Any:
    # Executors are loaded when first used, as the standard library does it: they are what makes the import slow.
    if name == "ProcessPoolExecutor":
        value: Any = importlib.import_module("distpool.futures.process").ProcessPoolExecutor
    elif name in ("process", "thread"):
        value = importlib.import_module(f"distpool.futures.{name}")
    else:
        try:
            value = getattr(concurrent.futures, name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if not name.startswith("__"):
        globals()[name] = value
    return value
