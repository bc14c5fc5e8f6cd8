"""What /proc knows about the processes of a run: who belongs to it, what they use.

The harness is the reaper of everything that a run starts (``adopt_orphans``), so that daemons that a contender sends
into the background stay below it in the tree: they are counted while the run lasts and ended after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    state: str
    command: str
    cpu_s: float


def adopt_orphans() -> None:
    """From now on, descendants whose parent ends become children of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def read_process(pid: int) -> Process | None:
    """A process as it is now; ``None`` when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), fields[0], command, cpu_seconds(pid, fields))


def cpu_seconds(pid: int, fields: list[str]) -> float:
    """CPU time of a process: to the nanosecond where the kernel keeps scheduler statistics, otherwise in ticks."""
    total_ns = 0
    try:
        for thread in os.scandir(f"/proc/{pid}/task"):
            total_ns += int(Path(thread.path, "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        total_ns = 0
    ticks_s = (int(fields[11]) + int(fields[12])) * TICK_S
    # Threads that have ended are only in the ticks.
    return max(total_ns / 1e9, ticks_s - TICK_S) if total_ns else ticks_s


def descendants(root: int) -> list[Process]:
    """Every process below ``root``, parents before children, zombies left out."""
    children: dict[int, list[Process]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process is not None:
                children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), []):
            waiting.append(process.pid)
            if process.state != "Z":
                found.append(process)
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory, pages shared with others included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def private_bytes(pid: int) -> int:
    """Resident memory that no other process maps (anonymous pages; a file's or shared memory's pages left out)."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * PAGE_BYTES


def shared_memory_bytes() -> int:
    """What is used of /dev/shm, by whomever."""
    facts = os.statvfs("/dev/shm")
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def machine_busy_s() -> float:
    """CPU seconds that this machine has worked since it started, all cores and programs."""
    fields = Path("/proc/stat").read_text().split(maxsplit=8)
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) * TICK_S


def end_descendants(root: int, patience_s: float = 5.0) -> int:
    """Kill what a run has left behind; how many processes that were."""
    left = descendants(root)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        reap()
        if not descendants(root):
            break
        time.sleep(0.01)
    return len(left)


def reap() -> None:
    """Take note of children that have ended, adopted ones included."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
