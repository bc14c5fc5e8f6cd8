"""Start a process of a node by ``exec``, from a program that may have threads."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from distpool.errors import ConnectError


def spawn(role: str, stdin: int, status: int, output: int = -1, package: str = "node") -> int:
    """Start ``python distpool/PACKAGE/__main__.py ROLE`` in a session of its own; returns its process id.

    :param output: what becomes its standard output and error; default: ours.

    Not ``subprocess``: that would warn about a process that is still running when the interpreter ends, and this one
    ends by itself.
    """
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    if not sys.executable:
        raise ConnectError("sys.executable is empty: there is no Python to start workers with")
    main = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), package, "__main__.py")
    arguments = [sys.executable, *_args_from_interpreter_flags(), main, role]
    # Numbers above those that they become in the child, so that no move overwrites another one's source.
    safe_stdin, safe_status = _duplicate(stdin), _duplicate(status)
    safe_output = _duplicate(output) if output >= 0 else -1
    actions = [(os.POSIX_SPAWN_DUP2, safe_stdin, 0), (os.POSIX_SPAWN_DUP2, safe_status, 3)]
    if output >= 0:
        actions += [(os.POSIX_SPAWN_DUP2, safe_output, 1), (os.POSIX_SPAWN_DUP2, safe_output, 2)]
    options: dict[str, Any] = {"file_actions": actions, "setsigmask": [], "setsigdef": [signal.SIGINT, signal.SIGPIPE]}
    try:
        try:
            return os.posix_spawn(sys.executable, arguments, os.environ, setsid=True, **options)
        except NotImplementedError:  # then the process itself leaves the session, a moment later
            return os.posix_spawn(sys.executable, arguments, os.environ, **options)
    finally:
        for fd in (safe_stdin, safe_status, safe_output):
            if fd >= 0:
                os.close(fd)


def _duplicate(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
