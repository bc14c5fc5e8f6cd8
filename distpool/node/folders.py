"""The folders of a private node: sockets in one, the object store's segments in another; and the janitor.

A third one is on the disk to which segments are spilled, if the user named one.  All are named
``distpool-<user id>-<random>`` and hold a file that the node and its driver lock for as long as they live (should the
node be killed, what the driver has stored stays, for the node that comes after it).  Folders whose lock nobody holds
belong to the dead, and any later node of the same user removes them.  A lock is the kernel's own word on whether
somebody lives: unlike a process id it is not used again, and it means the same in another process-id namespace
(containers that share a temporary folder).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time

from distpool.errors import ConnectError
from distpool.store.file_system import SHARED_MEMORY, shared_memory
from distpool.store.settings import OWNER_FILE
from distpool.wire.system_text import is_unicode

#: Socket paths may have 107 bytes; so many of them are left for the names of sockets.
_LONGEST_FOLDER = 107 - 40
#: A folder without a lock file may be one that is just being made.
_NEWBORN_S = 60.0


class Folders:
    """The folders of one node.

    :ivar root: holds the sockets.
    :ivar store: holds the segments; in shared memory where the system has it.
    :ivar spill: holds segments that were moved to disk; made when first needed, unless it lies outside of ``root``.
    """

    def __init__(self, root: str, store: str, spill: str) -> None:
        self.root = root
        self.store = store
        self.spill = spill
        self._locks: list[int] = []

    @classmethod
    def create(cls, spill_parent: str = "") -> Folders:
        """Make new ones, held by this process.

        :param spill_parent: where to spill to; empty: below the folder with the sockets.
        :raises ConnectError: when there is no place for them.
        """
        name = f"distpool-{os.getuid()}-{os.urandom(4).hex()}"
        short = [folder for folder in _temporary_folders() if len(folder) + 30 <= _LONGEST_FOLDER]
        memory = shared_memory()
        root, lock = _make_first(short, name)
        folders = cls(root, root, os.path.join(root, "spill"))
        folders._locks.append(lock)
        try:
            try:
                folders.store, lock = _make_first([memory] if memory is not None else [], name)
                folders._locks.append(lock)
            except ConnectError:
                folders.store = os.path.join(root, "store")
                os.mkdir(folders.store, 0o700)
            if spill_parent:
                folders.spill, lock = _make_first([spill_parent], name)
                folders._locks.append(lock)
        except BaseException:
            folders.remove()
            raise
        return folders

    @classmethod
    def plan(cls) -> Folders:
        """Such as ``make`` would make, where there is room by the looks of it."""
        name = f"distpool-{os.getuid()}-{os.urandom(4).hex()}"
        root = os.path.join(_temporary_folders()[0], name)
        memory = shared_memory()
        store = os.path.join(root, "store") if memory is None else os.path.join(memory, name)
        return cls(root, store, os.path.join(root, "spill"))

    def make(self) -> None:
        """Make those that were planned.

        :raises OSError: when they cannot be made.
        """
        for folder in dict.fromkeys([self.root, self.store]):
            self._locks.append(_make(folder))

    def hold(self) -> None:
        """Lock them; also when another process holds them too."""
        for folder in self._all():
            fd = os.open(os.path.join(folder, OWNER_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._locks.append(fd)
            fcntl.flock(fd, fcntl.LOCK_SH)

    def let_go(self) -> None:
        """Unlock, or in a forked child leave the lock to the parent."""
        while self._locks:
            os.close(self._locks.pop())

    def remove(self) -> None:
        """Remove them with all they hold; fine when they are gone."""
        for folder in reversed(self._all()):
            remove_tree(folder)
        self.let_go()

    def remove_if_free(self) -> None:
        """Unlock them, and remove them unless somebody else holds them."""
        self.let_go()
        for folder in reversed(self._all()):
            _sweep_one(folder)

    def _all(self) -> list[str]:
        inside = os.path.join(self.root, "")
        return [self.root, self.store, *([] if self.spill.startswith(inside) else [self.spill])]


def store_folders() -> list[str]:
    """Of this user's nodes on this machine, the dead ones included whose folders nobody has swept yet."""
    return _own_folders(SHARED_MEMORY, "") + root_folders("store")


def root_folders(inside: str = "") -> list[str]:
    """Where nodes of this user on this machine have their sockets, or had, or what lies there under a name."""
    return [folder for parent in _temporary_folders() for folder in _own_folders(parent, inside)]


def _own_folders(parent: str, inside: str) -> list[str]:
    prefix = f"distpool-{os.getuid()}-"
    try:
        names = sorted(name for name in os.listdir(parent) if name.startswith(prefix))
    except OSError:
        return []
    folders = (os.path.join(parent, name, inside).rstrip("/") for name in names)
    return [folder for folder in folders if _is_own(folder)]


def _is_own(folder: str) -> bool:
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def sweep(spill_parent: str = "") -> list[str]:
    """Remove what dead nodes of this user left behind, also where this one spills to; returns the folders removed."""
    prefix = f"distpool-{os.getuid()}-"
    removed = []
    for parent in {*_temporary_folders(), SHARED_MEMORY, *filter(None, [spill_parent])}:
        try:
            names = [name for name in os.listdir(parent) if name.startswith(prefix)]
        except OSError:
            continue
        removed += [folder for folder in (os.path.join(parent, name) for name in names) if _sweep_one(folder)]
    return removed


def _sweep_one(folder: str) -> bool:
    try:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        try:
            fd = os.open(os.path.join(folder, OWNER_FILE), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.time() - status.st_mtime < _NEWBORN_S:
                return False
            remove_tree(folder)
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder)
            return True
        finally:
            os.close(fd)
    except OSError:
        return False  # held by the living, or already gone


def remove_tree(folder: str) -> None:
    """Remove a folder; what cannot be removed, or comes up meanwhile, is left."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    try:
                        os.unlink(entry.path)
                    except OSError:
                        pass
        os.rmdir(folder)
    except OSError:
        pass


def _temporary_folders() -> list[str]:
    """As ``tempfile`` looks for them, without the cost of importing it.

    Those whose names are no Unicode are left out: addresses of sockets are made of them, and travel in messages.
    """
    tempfile = sys.modules.get("tempfile")
    chosen = [tempfile.tempdir] if tempfile is not None and tempfile.tempdir else []
    chosen += [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    folders = [os.path.abspath(os.fsdecode(folder)) for folder in chosen if folder]
    return list(dict.fromkeys([*filter(is_unicode, folders), "/tmp", "/var/tmp"]))


def _make_first(parents: list[str], name: str) -> tuple[str, int]:
    """A folder in the first place that will do, and the descriptor that holds its lock."""
    failures = []
    for parent in parents:
        folder = os.path.join(parent, name)
        try:
            return folder, _make(folder)
        except OSError as error:
            failures.append(f"{parent}: {os.strerror(error.errno or errno.EIO)}")
    raise ConnectError(f"no folder for temporary files can be used ({'; '.join(failures) or 'all paths are too long'})")


def _make(folder: str) -> int:
    """A new folder; returns the descriptor that holds its lock."""
    os.mkdir(folder, 0o700)
    try:
        # A full file system lets one make a folder, but nothing in it.
        newborn = os.path.join(folder, f"{OWNER_FILE}.new")
        lock = os.open(newborn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(lock, f"{os.getpid()}\n".encode())
            # Locked before it has its name: a node that sweeps at this moment must not take us for dead.
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.rename(newborn, os.path.join(folder, OWNER_FILE))
        except OSError:
            os.close(lock)
            raise
        return lock
    except OSError:
        remove_tree(folder)
        raise
