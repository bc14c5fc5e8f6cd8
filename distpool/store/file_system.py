"""The file systems that a store may lie in: where shared memory is, and what room there is."""

from __future__ import annotations

import os
import stat

SHARED_MEMORY = "/dev/shm"
#: With less room than this, shared memory is of no use (containers often have 64 MB).
_USEFUL_BYTES = 256 << 20


def shared_memory() -> str | None:
    """The folder of the shared-memory file system; None, with a warning if there is one that is too small to be of
    use."""
    room_bytes = free_bytes(SHARED_MEMORY)
    if room_bytes >= _USEFUL_BYTES:
        return SHARED_MEMORY
    if os.path.exists(SHARED_MEMORY):
        import warnings

        warnings.warn(
            f"{SHARED_MEMORY} has only {room_bytes >> 20} MiB of room; large values go through files in the temporary "
            f"folder, which is slower. In a container, give it more, for instance with --shm-size=2g.",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def free_bytes(folder: str) -> int:
    """Room that this user has in the file system of ``folder``; 0 when there is none such."""
    try:
        facts = os.statvfs(folder)
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            return 0
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize
