"""Finds and ends what a test leaves behind (Linux).

The nursery is a *child subreaper*: a process whose parent dies becomes the nursery's child instead of init's, so
nothing that a test starts can escape, whatever sessions and groups it makes for itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


def become_subreaper() -> None:
    """Adopt orphaned descendants from now on."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """This process is killed when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(of: int) -> list[int]:
    """Process ids below ``of``, zombies left out, parents before children."""
    children: dict[int, list[int]] = {}
    zombies: set[int] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(entry))
        if state in (b"Z", b"X"):
            zombies.add(int(entry))
    found: list[int] = []
    waiting = [of]
    while waiting:
        for child in children.get(waiting.pop(0), []):
            waiting.append(child)
            if child not in zombies:
                found.append(child)
    return found


def command_line(pid: int) -> str:
    """For messages; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return ""


def reap() -> None:
    """Collect every ended child, adopted ones too."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait_until_gone(grace_s: float) -> list[str]:
    """Gives descendants ``grace_s`` to end by themselves, kills the rest, and says which these were."""
    deadline = time.monotonic() + grace_s
    while True:
        reap()
        left = descendants(os.getpid())
        if not left:
            return []
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    names = [f"{pid} {command_line(pid)}" for pid in left]
    kill_all()
    return names


def kill_all() -> None:
    """Kills every descendant, and what these start meanwhile."""
    while True:
        reap()
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(_POLL_S)
