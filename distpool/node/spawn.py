"""Start a process of a node by ``exec``, from a program that may have threads.

Loads next to nothing: the first pool of a program starts its node before anything else.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C module: ``signal`` makes enumerations first
import os
import sys

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: What an interpreter may have been started with, and hands on.
_FLAGS = (
    *("bytes_warning", "debug", "dev_mode", "dont_write_bytecode", "ignore_environment", "isolated"),
    *("no_site", "no_user_site", "optimize", "quiet", "safe_path", "verbose"),
)

#: From what size on the C library copies past the processor's caches, which takes a sixth less time for a large result.
_TUNABLES, _COPY_PAST_CACHES = "GLIBC_TUNABLES", "glibc.cpu.x86_non_temporal_threshold=0x800000"
#: From this glibc on it is a quarter of the last cache; before, it grew with the number of cores, out of reach.
_SIZED_WELL_SINCE = (2, 38)


class Spawned:
    """A node process that waits for its configuration.

    :param life: where that goes; the process ends when it is closed.
    :param status: where the process says what becomes of it.
    """

    def __init__(self, pid: int, life: int, status: int) -> None:
        self.pid = pid
        self.life = life
        self.status = status

    def discard(self) -> None:
        """There will be no configuration: end the process, which has done nothing yet."""
        os.close(self.life)
        os.close(self.status)
        try:
            os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def spawn_private() -> Spawned:
    """Start the process of a private node.

    :raises ConnectError: when it cannot be started.
    """
    descriptors: list[int] = []
    try:
        descriptors += os.pipe()
        descriptors += os.pipe()
        life_read, life_write, status_read, status_write = descriptors
        pid = spawn("private", life_read, status_write)
    except OSError as error:
        for fd in descriptors:
            os.close(fd)
        from distpool.errors import ConnectError

        raise ConnectError(f"the node process could not be started: {error}") from error
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    os.close(life_read)
    os.close(status_write)
    return Spawned(pid, life_write, status_read)


def spawn(role: str, stdin: int, status: int, output: int = -1, package: str = "node") -> int:
    """Start ``python distpool/PACKAGE/__main__.py ROLE`` in a session of its own; returns its process id.

    :param output: what becomes its standard output and error; default: ours.

    Not ``subprocess``: that would warn about a process that is still running when the interpreter ends, and this one
    ends by itself.
    """
    if not sys.executable:
        from distpool.errors import ConnectError

        raise ConnectError("sys.executable is empty: there is no Python to start workers with")
    main = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), package, "__main__.py")
    arguments = [sys.executable, *_interpreter_options(), main, role]
    # Numbers above those that they become in the child, so that no move overwrites another one's source.
    safe_stdin, safe_status = _duplicate(stdin), _duplicate(status)
    safe_output = _duplicate(output) if output >= 0 else -1
    actions = [(os.POSIX_SPAWN_DUP2, safe_stdin, 0), (os.POSIX_SPAWN_DUP2, safe_status, 3)]
    if output >= 0:
        actions += [(os.POSIX_SPAWN_DUP2, safe_output, 1), (os.POSIX_SPAWN_DUP2, safe_output, 2)]
    environment: Mapping[str, str] = os.environ
    if package == "node" and _copies_late():
        environment = {_TUNABLES: _COPY_PAST_CACHES, **environment}
    options: dict[str, Any] = {
        "file_actions": actions,
        "setsigmask": [],
        "setsigdef": [_signal.SIGINT, _signal.SIGPIPE],
    }
    try:
        try:
            return os.posix_spawn(sys.executable, arguments, environment, setsid=True, **options)
        except NotImplementedError:  # then the process itself leaves the session, a moment later
            return os.posix_spawn(sys.executable, arguments, environment, **options)
    finally:
        for fd in (safe_stdin, safe_status, safe_output):
            if fd >= 0:
                os.close(fd)


def _copies_late() -> bool:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) < _SIZED_WELL_SINCE
    except (ValueError, OSError):
        return False  # another C library


def forget_tunables() -> None:
    """In the new process: the C library has read them; what this one starts in its turn has the user's settings."""
    if os.environ.get(_TUNABLES) == _COPY_PAST_CACHES:
        del os.environ[_TUNABLES]


def _interpreter_options() -> list[str]:
    """This interpreter's, for another one.  ``subprocess``, which knows them, takes milliseconds to import."""
    if not (sys.warnoptions or sys._xoptions or any(getattr(sys.flags, name, 0) for name in _FLAGS)):
        return []
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    options: list[str] = _args_from_interpreter_flags()
    return options


def _duplicate(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
