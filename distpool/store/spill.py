"""The spill folder: where segments go when shared memory runs short, and from where they are read.

A spilled segment is a plain file of the same name and layout, and readers map it like one in memory, so "restoring" is
the page cache's work.  With a URI of another file system (S3, GCS, HDFS, through ``pyarrow.fs``) the file is uploaded,
and fetched into the local folder by whoever reads it first.

The node says in a file in its store folder what its budget is and where it spills; clients read that when they first
store something.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Any

import msgspec

from distpool import crashpoints
from distpool.errors import ObjectLostError
from distpool.store.mapping import export
from distpool.store.segments import Slot
from distpool.store.settings import without_secrets

_FACTS = ".store"


class NodeFacts(msgspec.Struct, frozen=True):
    """What a node tells the clients of its store.

    :param agent: the agent's peer name, and ``endpoint`` where it listens.
    :param budget_bytes: shared memory that all objects of the node may take.
    :param free_bytes: what each client may use without asking.
    :param spill_folder: on a local disk; made when first needed.
    :param spill_uri: empty, or where the files are moved on to.
    """

    agent: str
    endpoint: str
    budget_bytes: int
    free_bytes: int
    spill_folder: str
    spill_uri: str = ""

    def write(self, folder: str) -> None:
        """Tell."""
        temporary = os.path.join(folder, f"{_FACTS}.new")
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(self))
        os.replace(temporary, os.path.join(folder, _FACTS))

    @classmethod
    def read(cls, folder: str) -> NodeFacts | None:
        """What the node told, if it did."""
        try:
            with open(os.path.join(folder, _FACTS), "rb") as file:
                return msgspec.json.decode(file.read(), type=cls)
        except FileNotFoundError:
            return None


class SpillFolder:
    """See the module's description.  Methods may be called without any lock.

    :param owner: this process' name, which files that are not complete bear, so that they go with it when it dies.
    """

    def __init__(self, facts: NodeFacts, owner: str) -> None:
        self._owner = owner
        self._temporaries = itertools.count()
        self.folder = facts.spill_folder
        self.uri = facts.spill_uri
        self._remote: tuple[Any, str] | None = None

    def prepare(self) -> None:
        """Make sure that the folder is there (somebody may have removed it)."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def store(self, name: str, size_bytes: int, address: int, slots: list[Slot]) -> str:
        """Write a segment that is mapped at ``address``; returns the path where readers will find it.

        :raises OSError: when that is not possible; nothing is left behind.
        """
        self.prepare()
        temporary = self._temporary()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, size_bytes)
            for slot in slots:
                memory = export(address + slot.offset, slot.backed_bytes)
                done = 0
                while done < len(memory):
                    done += os.pwrite(fd, memory[done : done + (64 << 20)], slot.offset + done)
                memory.release()
        except BaseException:
            os.close(fd)
            _unlink(temporary)
            raise
        os.close(fd)
        crashpoints.reach("store.spilling")
        self._put_in_place(temporary, name)
        return self._path_of(name)

    def store_file(self, path: str) -> None:
        """Write the segment that is the file at ``path``, whose maker is dead (errors as for ``store``)."""
        self.prepare()
        temporary = self._temporary()
        try:
            import shutil  # which loads every compression there is

            shutil.copyfile(path, temporary, follow_symlinks=False)
            os.chmod(temporary, 0o600)
            self._put_in_place(temporary, os.path.basename(path))
        finally:
            _unlink(temporary)

    def _put_in_place(self, temporary: str, name: str) -> None:
        if self.uri:
            try:
                self._upload(temporary, name)
            finally:
                _unlink(temporary)
        else:
            os.replace(temporary, self._path_of(name))

    def find(self, name: str) -> str | None:
        """The local file of a spilled segment, or None."""
        path = self._path_of(name)
        return path if os.path.exists(path) else None

    def fetch(self, name: str) -> bool:
        """Make a segment local that was moved on; False when there is none.

        :raises ObjectLostError: when the other file system cannot be read.
        """
        if not self.uri:
            return False
        from pyarrow import fs

        temporary = self._temporary()
        try:
            file_system, root = self._open_remote()
            source = f"{root}/{name}"
            if file_system.get_file_info(source).type == fs.FileType.NotFound:
                return False
            self.prepare()
            fs.copy_files(source, temporary, source_filesystem=file_system, destination_filesystem=_local())
            os.replace(temporary, self._path_of(name))
        except OSError as error:
            raise ObjectLostError(
                f"segment {name} cannot be read from {without_secrets(self.uri)}: {error}; check that the place can be "
                "reached from this machine"
            ) from error
        finally:
            _unlink(temporary)
        return True

    def names(self) -> list[str]:
        """Of the local files."""
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Nobody needs it any more; fine when there is none."""
        with contextlib.suppress(OSError):
            os.unlink(self._path_of(name))
        if self.uri:
            file_system, root = self._open_remote()
            with contextlib.suppress(OSError):
                file_system.delete_file(f"{root}/{name}")

    def _path_of(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _temporary(self) -> str:
        return self._path_of(f"{self._owner}.new{next(self._temporaries)}")

    def _upload(self, path: str, name: str) -> None:
        from pyarrow import fs

        file_system, root = self._open_remote()
        file_system.create_dir(root, recursive=True)
        fs.copy_files(path, f"{root}/{name}", source_filesystem=_local(), destination_filesystem=file_system)

    def _open_remote(self) -> tuple[Any, str]:
        if self._remote is None:
            from pyarrow import fs

            file_system, root = fs.FileSystem.from_uri(self.uri)
            self._remote = file_system, root.rstrip("/")
        return self._remote


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _local() -> Any:
    from pyarrow import fs

    return fs.LocalFileSystem()
