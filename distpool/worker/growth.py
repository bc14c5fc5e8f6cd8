"""Memory that stays with a worker from task to task: measured after tasks, so that one that leaks can be replaced."""

from __future__ import annotations

import ctypes
import gc
import os
import time

from distpool.node.sampler import private_bytes

#: How often to measure while tasks are short.
_PAUSE_S = 0.1


class Growth:
    """Begins to measure when it is made.

    :param limit_bytes: by how much the worker may grow.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._at_start = private_bytes(os.getpid())
        self._look_at = 0.0
        self._told = False

    def exceeded(self) -> bool:
        """Whether the worker has come to keep more than it may; True once only."""
        now = time.monotonic()
        if now < self._look_at or self._told:
            return False
        self._look_at = now + _PAUSE_S
        if self._grown() <= self._limit_bytes:
            return False
        # What nobody refers to any more, and what the allocator keeps for its next use, is no leak.
        gc.collect()
        _trim()
        self._told = self._grown() > self._limit_bytes
        return self._told

    def _grown(self) -> int:
        return private_bytes(os.getpid()) - self._at_start


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library
