"""What this test run holds of the machine: processes, threads, descriptors, shared memory, temporary folders.

A process belongs to the run when it carries the run's mark in its environment, so that orphans are seen too.
Only Linux is looked at in full; elsewhere what cannot be seen counts as absent.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: Name of the environment variable that marks this run's processes; the value differs from run to run.
MARK = "DISTPOOL_TEST_RUN"
SHARED_MEMORY = Path("/dev/shm")
#: What may be asked of ``Holdings.growth`` to overlook.
KINDS = ("processes", "threads", "descriptors", "shared memory", "folders")

#: What a store opens when it first uses a mapping again or watches memory, and keeps: at most so many.  When that is
#: depends on how soon results come.
_KEPT = {"pagemap": 2, "anon_inode:[userfaultfd]": 1}

#: (process id, start time in clock ticks): process ids are used again
ProcessKey = tuple[int, int]


@dataclass(frozen=True)
class Holdings:
    """One look at the machine; see ``look``."""

    processes: dict[ProcessKey, str] = field(default_factory=dict)
    threads: dict[int, str] = field(default_factory=dict)
    descriptors: dict[int, str] = field(default_factory=dict)
    shared_memory: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    def growth(self, before: Holdings, overlook: frozenset[str] = frozenset()) -> list[str]:
        """What is there now and was not ``before``, one line each."""
        found: list[str] = []
        if "processes" not in overlook:
            new = self.processes.keys() - before.processes.keys()
            found += [f"process {key[0]}: {self.processes[key]}" for key in sorted(new)]
        if "threads" not in overlook:
            new_threads = self.threads.keys() - before.threads.keys()
            found += [f"thread {self.threads[ident]}" for ident in sorted(new_threads)]
        if "descriptors" not in overlook and len(self.descriptors) > len(before.descriptors):
            # By count: a descriptor that was closed and opened again has the same number or another target.
            new_numbers = [n for n, target in self.descriptors.items() if before.descriptors.get(n) != target]
            surplus = len(self.descriptors) - len(before.descriptors)
            listed = ", ".join(f"{n} -> {self.descriptors[n]}" for n in sorted(new_numbers))
            found.append(f"{surplus} more open descriptors (new: {listed})")
        if "shared memory" not in overlook:
            found += [f"shared memory {name}" for name in sorted(self.shared_memory - before.shared_memory)]
        if "folders" not in overlook:
            found += [f"temporary {name}" for name in sorted(self.folders - before.folders)]
        return found


def look(ignored_processes: frozenset[int] = frozenset()) -> Holdings:
    """What this run holds now."""
    return Holdings(
        processes=_processes(ignored_processes),
        threads={thread.ident or 0: thread.name for thread in threading.enumerate() if thread.is_alive()},
        descriptors=_descriptors(),
        shared_memory=frozenset(_own(_names(SHARED_MEMORY))),
        folders=frozenset(_names(Path(tempfile.gettempdir()))),
    )


def settle(surplus: Callable[[], list[str]], patience_s: float) -> list[str]:
    """What ``surplus`` goes on reporting after ``patience_s``; returns as soon as it reports nothing."""
    deadline = time.monotonic() + patience_s
    pause_s = 0.001
    while True:
        left = surplus()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 2)


class _Births:
    """Names of all that has ever been made in a folder, as the kernel tells.

    What a node or a program has in shared memory bears the name of its folder among the temporary files, and those are
    a run's own.  So it is known whose a folder in shared memory is, also when those who made it are gone.
    """

    _CREATED, _MOVED_HERE = 0x100, 0x80
    _EVENT = struct.Struct("iIII")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._descriptor = -1

    def watch(self, folder: str) -> None:
        """Begin; nothing is seen where the system has no such thing."""
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            libc.inotify_add_watch(self._descriptor, folder.encode(), self._CREATED | self._MOVED_HERE)

    def names(self) -> set[str]:
        """Until now."""
        while self._descriptor >= 0:
            try:
                events = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                break
            while events:
                _, _, _, length = self._EVENT.unpack_from(events)
                name, events = events[self._EVENT.size :][:length], events[self._EVENT.size + length :]
                self._names.add(name.rstrip(b"\0").decode(errors="replace"))
        return self._names


_births = _Births()


def watch(folder: str) -> None:
    """``folder`` is where this run keeps its temporary files."""
    _births.watch(folder)


def _names(folder: Path) -> list[str]:
    try:
        return [str(folder / name) for name in os.listdir(folder) if name.startswith("distpool")]
    except OSError:
        return []


def _own(paths: list[str]) -> list[str]:
    """Two runs may share one machine, and so its shared memory."""
    return [path for path in paths if os.path.basename(path) in _births.names()] if paths else []


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _processes(ignored: frozenset[int]) -> dict[ProcessKey, str]:
    mark = f"{MARK}={os.environ.get(MARK, '')}".encode()
    found: dict[ProcessKey, str] = {}
    for pid in _pids():
        if pid == os.getpid() or pid in ignored:
            continue
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if mark not in environment.split(b"\0"):
                continue
            # Fields after the command, which stands in parentheses and may hold anything.
            statistics = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # ended meanwhile, or not ours to look at
        state, parent, started = statistics[0], statistics[1], int(statistics[19])
        if state in "XZ":
            continue  # its parent has yet to hear of it, but it holds nothing any more
        found[pid, started] = f"{command[:160]} (state {state}, child of {parent})"
    return found


def _descriptors() -> dict[int, str]:
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    found: dict[int, str] = {}
    try:
        numbers = os.listdir(folder)
    except OSError:
        return found
    for number in numbers:
        try:
            found[int(number)] = os.readlink(f"{folder}/{number}")
        except OSError:
            pass  # the descriptor of the listing itself
    for name, most in _KEPT.items():
        numbers_of_it = [number for number, target in found.items() if os.path.basename(target) == name]
        for number in numbers_of_it[:most]:
            del found[number]
    return found
