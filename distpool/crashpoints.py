"""Named points at which a test has this process killed, as by ``kill -9``.

``DISTPOOL_CRASH_POINT="worker store.sealed 3 /path/of/a/file"`` in the environment of a program: the first worker of it
that comes to the point ``store.sealed`` for the third time dies there and leaves the file, which nobody else does then.
The roles are ``driver``, ``worker``, ``zygote`` and ``agent`` (in a private node, that is the scheduler as well).  Read
once, when a process first imports this; without it, a point costs the call of a function that does nothing.
"""

from __future__ import annotations

import os
import signal
from typing import Any

_role = "driver"


def play(role: str) -> None:
    """This process is no driver."""
    global _role
    _role = role


def _go_on(point: str) -> None:
    pass


def _nothing_of(where: str, event: Any) -> None:
    pass


class _Crash:
    def __init__(self, role: str, point: str, times: str, mark: str) -> None:
        self._role = role
        self._point = point
        self._times = int(times)
        self._mark = mark

    def __call__(self, point: str) -> None:
        if point != self._point or _role != self._role:
            return
        self._times -= 1
        if self._times:
            return
        try:
            os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return  # somebody else was first
        os.kill(os.getpid(), signal.SIGKILL)


def _reach_by_name(where: str, event: Any) -> None:
    event = getattr(event, "message", event)
    reach(f"{where}.{type(event).__name__}")


_wanted = os.environ.get("DISTPOOL_CRASH_POINT", "").split()
#: Say that the process is at a point.
reach = _Crash(*_wanted) if len(_wanted) == 4 else _go_on
#: Say that the process is at a point that is named after an event, or after the message in it.
reach_event = _reach_by_name if len(_wanted) == 4 else _nothing_of
