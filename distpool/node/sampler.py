"""How much memory there is, and who uses it: the eyes of ``memory_core``.

One look reads one file per kind of memory and a few per worker, some 20 µs each, and more only of workers that have
started processes; only when memory is getting short the processes of the machine are gone through.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping

from distpool.node.machine import control_groups, read_text
from distpool.node.memory_core import Kind, Sample, in_words
from distpool.node.memory_policy import MemoryPolicy

_ROOT = ""
_CONSUMERS = 5
#: Finding out which pages of a process are another's too takes some 30 ms per GB: for less it does not matter, and is
#: not done more often.
_LOOK_CLOSER_BYTES, _LOOK_CLOSER_S = 16 << 20, 1.0
try:
    _PAGE = os.sysconf("SC_PAGE_SIZE")
except (OSError, ValueError):
    _PAGE = 4096


class Sampler:
    """See the module's description.  What cannot be read (another system than Linux) is left out.

    :param root: where the file systems ``proc`` and ``sys`` are; differs in tests.
    """

    def __init__(self, policy: MemoryPolicy, root: str = _ROOT) -> None:
        self._policy = policy
        self._root = root
        self._groups = _limited_groups(root)
        self._kills_before = self._kill_counters()
        #: process -> when it was looked at more closely, and what of its memory is counted elsewhere
        self._shared: dict[int, tuple[float, int]] = {}

    def look(self, workers: Mapping[str, int], consumers: bool) -> Sample:
        """Now.

        :param workers: process ids by name.
        :param consumers: whether to name the largest processes.
        """
        sizes = {name: self._tree_bytes(pid) for name, pid in workers.items()}
        kinds = [*self._machine(), *(kind for group in self._groups for kind in group.look())]
        if self._policy.limit_bytes:
            left = self._policy.limit_bytes - sum(sizes.values())
            kinds.append(Kind("the node's memory limit", self._policy.limit_bytes, left))
        by_pid = {pid: name for name, pid in workers.items()}
        largest = _largest(by_pid, self._root) if consumers else ()
        return Sample(tuple(kinds), sizes, self._stalled(), largest, self.kernel_kills())

    def kernel_kills(self) -> int:
        """How many processes the kernel's out-of-memory killer has ended since the beginning."""
        # One kill is counted by the machine and by the control groups that it happened in, as far as we may see them.
        return max(now - before for now, before in zip(self._kill_counters(), self._kills_before, strict=True))

    def _tree_bytes(self, pid: int) -> int:
        """Of a worker, with all processes that it started and those that they did."""
        total = private_bytes(pid, self._root)
        todo = _children(pid, self._root)
        while todo:
            child = todo.pop()
            todo += _children(child, self._root)
            own = private_bytes(child, self._root)
            # After a fork its pages are its parent's as well, and counted there.
            total += max(0, own - self._shared_bytes(child, own)) if own > _LOOK_CLOSER_BYTES else own
        return total

    def _shared_bytes(self, pid: int, own: int) -> int:
        now = time.monotonic()
        at, shared = self._shared.get(pid, (now - _LOOK_CLOSER_S, 0))
        if now >= at + _LOOK_CLOSER_S:
            shared = max(0, own - _written_bytes(pid, self._root))
            self._shared = {pid: known for pid, known in self._shared.items() if now < known[0] + _LOOK_CLOSER_S}
            self._shared[pid] = (now, shared)
        return shared

    def _machine(self) -> list[Kind]:
        facts = _table(f"{self._root}/proc/meminfo")
        size, left = facts.get("MemTotal:", 0) * 1024, facts.get("MemAvailable:", -1) * 1024
        return [Kind("the machine", size, left)] if size and left >= 0 else []

    def _stalled(self) -> float:
        try:
            lines = read_text(f"{self._root}/proc/pressure/memory").splitlines()
            return next(float(line.split()[1].partition("=")[2]) / 100 for line in lines if line.startswith("full"))
        except (OSError, ValueError, StopIteration, IndexError):
            return 0.0

    def _kill_counters(self) -> list[int]:
        return [_kills(f"{self._root}/proc/vmstat"), *(_kills(group.events_path) for group in self._groups)]


class _Group:
    """A control group that has a limit; the two versions name things differently."""

    def __init__(self, folder: str, size_bytes: int, files: tuple[str, str, str]) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._used_file, self._cache_field, events_file = files
        self.events_path = f"{folder}/{events_file}"

    def look(self) -> list[Kind]:
        with contextlib.suppress(OSError, ValueError):
            used = int(read_text(f"{self._folder}/{self._used_file}"))
            # File pages that nobody uses at the moment go when memory is wanted.
            used -= _table(f"{self._folder}/memory.stat").get(self._cache_field, 0)
            name = os.path.basename(self._folder)
            return [Kind(f"the control group {name}", self._size_bytes, self._size_bytes - used)]
        return []


def _limited_groups(root: str) -> list[_Group]:
    machine = _table(f"{root}/proc/meminfo").get("MemTotal:", 0) * 1024 or 1 << 62
    found = []
    for version, limit_file, files in (
        ("", "memory.max", ("memory.current", "inactive_file", "memory.events")),
        ("memory", "memory.limit_in_bytes", ("memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")),
    ):
        for folder in control_groups(root, version):
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                size_bytes = int(read_text(f"{folder}/{limit_file}"))
                if size_bytes < machine:
                    found.append(_Group(folder, size_bytes, files))
    return found


def private_bytes(pid: int, root: str = _ROOT) -> int:
    """Memory that would come back if the process ended: neither files nor shared memory; 0 when it is gone."""
    try:
        _, resident, shared = read_text(f"{root}/proc/{pid}/statm").split()[:3]
        return (int(resident) - int(shared)) * _PAGE
    except (OSError, ValueError):
        return 0


def _children(pid: int, root: str) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        threads = f"{root}/proc/{pid}/task"
        for thread in os.listdir(threads):
            with contextlib.suppress(OSError):
                found += map(int, read_text(f"{threads}/{thread}/children").split())
    return found


def _written_bytes(pid: int, root: str) -> int:
    """What this process alone has; no limit where that cannot be told."""
    try:
        lines = read_text(f"{root}/proc/{pid}/smaps_rollup").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty:"))
    except (OSError, ValueError, StopIteration, IndexError):
        return 1 << 62


def _largest(workers: Mapping[int, str], root: str) -> tuple[str, ...]:
    sizes = []
    for name in _processes(root):
        size_bytes = private_bytes(int(name), root)
        if size_bytes:
            sizes.append((size_bytes, int(name)))
    return tuple(
        f"{_name_of(pid, root)} (process {pid}{', a worker' if pid in workers else ''}) {in_words(size_bytes)}"
        for size_bytes, pid in sorted(sizes, reverse=True)[:_CONSUMERS]
    )


def _processes(root: str) -> Iterable[str]:
    try:
        return [name for name in os.listdir(f"{root}/proc") if name.isdigit()]
    except OSError:
        return []


def _name_of(pid: int, root: str) -> str:
    try:
        return read_text(f"{root}/proc/{pid}/comm").strip()
    except OSError:
        return "a process that has ended"


def _kills(path: str) -> int:
    """As ``_table(path)["oom_kill"]``, at a third of the cost; 0 where that is not counted."""
    with contextlib.suppress(OSError, ValueError):
        _, found, rest = f"\n{read_text(path)}\n".partition("\noom_kill ")
        if found:
            return int(rest[: rest.index("\n")])
    return 0


def _table(path: str) -> dict[str, int]:
    """A file of names and numbers; empty when it is not there."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in read_text(path).splitlines():
            name, _, rest = line.partition(" ")
            number = rest.split(None, 1)[0] if rest.strip() else ""
            if number.isdigit():
                found[name] = int(number)
    return found
