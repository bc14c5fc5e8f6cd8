"""Processes of this machine that are no children of ours."""

from __future__ import annotations

import os


def exists(pid: int) -> bool:
    """Whether there is one of this number, be it another user's, or one that has ended and was not waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
