"""``concurrent.futures.thread``: the standard library's own, so that ``distpool.futures.thread`` can be imported."""

from __future__ import annotations

import concurrent.futures.thread
from concurrent.futures.thread import BrokenThreadPool, ThreadPoolExecutor
from typing import Any

__all__ = ["BrokenThreadPool", "ThreadPoolExecutor"]


def __getattr__(name: str) -> Any:
    return getattr(concurrent.futures.thread, name)
