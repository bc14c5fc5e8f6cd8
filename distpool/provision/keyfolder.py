"""A folder that the machines of a cluster share, for the key that nodes need and the logs that they write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from distpool.node import statefolder
from distpool.provision.interface import ProvisionError
from distpool.wire.security import Token


class KeyFolder:
    """The file with the key, and logs, where the machines of the cluster can read and write them.

    It is locked for as long as the program lives: whoever comes next on this machine takes away what a program left
    that was killed, with the jobs that still wait in the queue for it.

    :param folder: that the machines share; empty: a folder of the engine's in the state folder.
    :param engine: the name of that.
    :param disown: told the name of a program that was killed, ends what that has asked the engine for; its folder stays
        when this raises ``ProvisionError``.
    :ivar name: the program's, which no other has.
    """

    def __init__(self, folder: str, engine: str, token: Token, disown: Callable[[str], object]) -> None:
        base = Path(folder).expanduser().absolute() if folder else statefolder.state_folder() / engine
        owner = f"distpool-{socket.gethostname()}-"
        self.name = f"{owner}{secrets.token_hex(4)}"
        self._folder = base / self.name
        self._folder.mkdir(mode=0o700, parents=True)
        self._line = f"{token.line()}\n".encode()
        self._joined: set[str] = set()
        self._lock = hold(self._folder / "lock")
        # Locks of other machines are not seen on every file system.
        for other in base.glob(f"{owner}*"):
            if other != self._folder and is_abandoned(other / "lock"):
                with contextlib.suppress(ProvisionError):
                    disown(other.name)
                    shutil.rmtree(other, ignore_errors=True)

    def give(self, node: str) -> Path:
        """A file of a node's own with the key; without it, one that was released before it began cannot join."""
        path = self._folder / f"{node}.token"
        statefolder.write_private(path, self._line)
        return path

    def log(self, node: str) -> Path:
        """Where a node's output goes."""
        return self._folder / f"{node}.log"

    def has_joined(self, node: str) -> bool:
        """Whether a node has said that it is part of the cluster."""
        if node not in self._joined:
            with contextlib.suppress(OSError):  # it has not begun to write
                if f"Node {node} joined" in self.log(node).read_text(errors="replace"):
                    self._joined.add(node)
        return node in self._joined

    def forget(self, node: str) -> None:
        """Another one may come under the same name."""
        self._joined.discard(node)
        for path in (self.log(node), self._folder / f"{node}.token"):
            with contextlib.suppress(OSError):
                path.unlink()

    def last_words(self, node: str) -> str:
        """What a node said before it failed, to be put behind what is known of it."""
        log = self.log(node)
        try:
            said = log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return f" (it wrote no log: do all machines have the folder {log.parent}? folder=... names another)"
        # What Slurm says behind it is known already.
        lines = [line for line in said if not line.startswith(("srun: ", "slurmstepd"))] or said
        return f"; its last words: {lines[-1]}" if lines else "; it said nothing"

    def remove(self) -> None:
        """The program ends; fine to call twice."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def hold(lock: Path) -> int:
    """Lock a file, which is made, for as long as the descriptor that is returned is open: while this process lives."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # not every file system can
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def is_abandoned(lock: Path) -> bool:
    """Whether nobody holds a lock who once did."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # it is being made, or taken away
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
