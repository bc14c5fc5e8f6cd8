"""What on this machine would make distpool fail or crawl, and how to mend it; ``distpool doctor`` asks each node."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from distpool.errors import ConnectError
from distpool.node import machine, statefolder
from distpool.worker import thread_budget

_GIB = 1 << 30
#: Each worker is a few processes and connections.
_DESCRIPTORS_PER_CPU, _PROCESSES_PER_CPU = 32, 16
#: Variables with which numeric libraries are told how many threads to use, the general one first.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_SOCKET_PATH = 107

OK, BEWARE, WRONG = "ok", "beware", "WRONG"


class Finding(NamedTuple):
    """One thing that was looked at.

    :param level: ``OK``; ``BEWARE``: it works, but; ``WRONG``: it does not work.
    :param subject: what was looked at.
    :param words: how it is.
    :param cure: what to do about it; empty when nothing is to be done.
    """

    level: str
    subject: str
    words: str
    cure: str = ""


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything on this machine that matters."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _libraries,
        lambda: _shared_memory(root / "dev/shm"),
        _temporary_folder,
        _descriptors,
        lambda: _processes(root),
        lambda: _control_group(root),
        _threads,
        _keys,
        _own_name,
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except ConnectError as error:  # a setting that means nothing, perhaps to several checks
            wrong = Finding(WRONG, "settings", str(error))
            found += [] if wrong in found else [wrong]
        except OSError as error:
            found.append(Finding(BEWARE, "this machine", f"something could not be looked at: {error}"))
    return found


def versions() -> dict[str, str]:
    """What must be alike on both sides, and what had better be: both pickle for each other."""
    import cloudpickle
    import numpy

    from distpool.version import __version__

    found = {"distpool": __version__, "Python": ".".join(map(str, sys.version_info[:3]))}
    found |= {"cloudpickle": cloudpickle.__version__, "numpy": numpy.__version__}
    for name in ("pandas", "sklearn", "torch"):  # only what is loaded anyway or is cheap to ask
        from importlib.metadata import PackageNotFoundError, version

        try:
            found[name] = version({"sklearn": "scikit-learn"}.get(name, name))
        except PackageNotFoundError:
            pass
    return found


def _libraries() -> Iterator[Finding]:
    import zmq

    if zmq.has("curve"):
        yield Finding(OK, "encryption", f"ZeroMQ {zmq.zmq_version()} can encrypt (CURVE)")
    else:
        cure = "install pyzmq from its own wheel (pip install --force-reinstall pyzmq), or a libzmq with libsodium"
        yield Finding(WRONG, "encryption", f"ZeroMQ {zmq.zmq_version()} was built without CURVE: no clusters", cure)


def _shared_memory(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        cure = f"mount a tmpfs there: mount -t tmpfs -o mode=1777 tmpfs {folder}"
        yield Finding(WRONG, "shared memory", f"{folder} is not there, or may not be written", cure)
        return
    usage = shutil.disk_usage(folder)
    words = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free in {folder}"
    if usage.total < _GIB / 2:
        cure = "give the container more: docker run --shm-size=4g, in Kubernetes a memory-backed emptyDir at /dev/shm"
        yield Finding(BEWARE, "shared memory", f"{words}: large values soon go to disk", cure)
    elif usage.free < 0.1 * usage.total:
        cure = "see what takes it (ls -l /dev/shm); what a killed program left is removed when the next one starts"
        yield Finding(BEWARE, "shared memory", f"only {words}", cure)
    else:
        yield Finding(OK, "shared memory", words)


def _temporary_folder() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    longest = len(os.fsencode(folder)) + len("/distpool-1234567-12345678/") + 40
    if longest > _SOCKET_PATH:
        cure = "set TMPDIR to a shorter one; /tmp is taken where that may be written"
        yield Finding(BEWARE, "temporary folder", f"{folder} is too long a path for sockets", cure)
    usage = shutil.disk_usage(folder)
    words = f"{usage.free / _GIB:.1f} GiB free in {folder}"
    if usage.free < _GIB:
        cure = "make room, or set DISTPOOL_SPILL_URI to another disk: values that memory has no room for go there"
        yield Finding(BEWARE, "temporary folder", f"only {words}", cure)
    else:
        yield Finding(OK, "temporary folder", words)


def _descriptors() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 256 + _DESCRIPTORS_PER_CPU * machine.cpu_count()
    most = "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}"
    words = f"{'no limit' if soft == resource.RLIM_INFINITY else soft} ({most})"
    if hard != resource.RLIM_INFINITY and hard < needed:
        cure = f"raise it to {needed} or more: ulimit -Hn, or nofile in /etc/security/limits.conf"
        yield Finding(WRONG, "open files", f"{words}: too few for {machine.cpu_count()} workers", cure)
    elif soft != resource.RLIM_INFINITY and soft < needed:
        yield Finding(BEWARE, "open files", f"{words}: few for {machine.cpu_count()} workers", f"ulimit -n {needed}")
    else:
        yield Finding(OK, "open files", words)


def _processes(root: Path) -> Iterator[Finding]:
    needed = _PROCESSES_PER_CPU * machine.cpu_count()
    limits: list[tuple[float, str, str]] = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    # root is not bound by it
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        own = sum(1 for path in (root / "proc").glob("[0-9]*") if _is_own(path))
        limits.append((soft - own, f"{own} of {soft} that this user may have", "raise it: ulimit -u"))
    for group in map(Path, machine.control_groups(str(root), "")):
        try:
            most, now = (group / "pids.max").read_text().strip(), int((group / "pids.current").read_text())
        except (OSError, ValueError):
            continue
        if most != "max":
            cure = "raise it: docker run --pids-limit, podPidsLimit of the kubelet, TasksMax of systemd"
            limits.append((int(most) - now, f"{now} of {most} of the control group", cure))
    if not limits:
        yield Finding(OK, "processes", "no limit")
        return
    left, words, cure = min(limits)
    if left < needed:
        yield Finding(WRONG if left < needed / 4 else BEWARE, "processes", f"{words}: few are left", cure)
    else:
        yield Finding(OK, "processes", words)


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _control_group(root: Path) -> Iterator[Finding]:
    cpus, present = machine.cpu_count(root=str(root)), os.cpu_count() or 1
    words = f"{cpus} CPUs" if cpus == present else f"{cpus} of {present} CPUs may be used here"
    memory = machine.memory_size_bytes(str(root))
    yield Finding(OK, "CPUs and memory", f"{words}, {memory / _GIB:.1f} GiB of memory")
    if memory < _GIB * cpus / 4:
        cure = "ask for more memory, or offer fewer CPUs (option cpus, --num-cpus)"
        yield Finding(BEWARE, "memory", f"{memory / cpus / (1 << 20):.0f} MiB per worker", cure)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        cure = "ulimit -v unlimited; limit memory by control group instead"
        yield Finding(BEWARE, "address space", f"limited to {soft / _GIB:.1f} GiB, and mapped values count", cure)


def _threads() -> Iterator[Finding]:
    named = [name for name in _THREAD_VARIABLES if name not in thread_budget.own]
    given = {name: value for name in named if (value := os.environ.get(name, ""))}
    cpus = machine.cpu_count()
    many = {name: value for name, value in given.items() if value.isdigit() and int(value) > 1}
    if many and cpus > 1:
        words = ", ".join(f"{name}={value}" for name, value in many.items())
        cure = f"unset {' '.join(many)}: distpool gives each worker its share of the cores"
        yield Finding(BEWARE, "threads of numeric libraries", f"{words}: so many in each of {cpus} workers", cure)
    else:
        words = (
            ", ".join(f"{name}={value}" for name, value in given.items()) or "each worker gets its share of the cores"
        )
        yield Finding(OK, "threads of numeric libraries", words)


def _keys() -> Iterator[Finding]:
    folder = statefolder.state_folder()
    loose = [path for path in [folder, *folder.glob("clusters"), *folder.glob("clusters/*.token")] if _is_loose(path)]
    for path in loose:
        cure = f"chmod {'700' if path.is_dir() else '600'} {path}"
        yield Finding(WRONG, "keys", f"{path} may be read by others", cure)
    for name in (statefolder.TOKEN_VARIABLE, statefolder.TOKEN_FILE_VARIABLE):
        if os.environ.get(name):
            try:
                statefolder.given_token()
                yield Finding(OK, "keys", f"{name} holds a token")
            except ConnectError as error:
                yield Finding(WRONG, "keys", str(error))
            break
    if not loose:
        yield Finding(OK, "keys", f"only you can read what is in {folder}")


def _is_loose(path: Path) -> bool:
    status = path.stat()
    return status.st_uid != os.geteuid() or bool(stat.S_IMODE(status.st_mode) & 0o077)


def _own_name() -> Iterator[Finding]:
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, None)[0][4][0]
    except OSError as error:
        cure = "write it into /etc/hosts; until then give its number where a name is asked for (--host, head_host)"
        yield Finding(BEWARE, "name of this machine", f"{name} is not known here: {error.strerror}", cure)
        return
    yield Finding(OK, "name of this machine", f"{name} is {address}")
