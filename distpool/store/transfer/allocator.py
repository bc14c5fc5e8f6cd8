"""The C library's allocator, in a process through which much data flows."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP_BYTES, _MAP_FROM_BYTES = 16 << 20, 2 << 20


def keep_freed_memory() -> None:
    """Do not give freed buffers of some 100 KiB back to the kernel one by one.

    ZeroMQ's threads make several for each frame that they encrypt.  Fetching their pages from the kernel each
    time takes half as long as the encryption.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return  # not glibc; others keep what they see used again
    mallopt(_TRIM_THRESHOLD, _KEEP_BYTES)
    mallopt(_MMAP_THRESHOLD, _MAP_FROM_BYTES)
