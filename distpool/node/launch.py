"""Start and end a private node: called by the driver, in a program that may have threads.

Descriptors of the new process: 0 is a pipe that carries its configuration and then stays open for as long as the
driver lives; 3 is a pipe on which it says that it is ready, or what went wrong, and that it holds for as long as *it*
lives; 1 and 2 are the driver's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from distpool.errors import ConnectError
from distpool.node.config import (
    READY,
    MemberConfig,
    NodeConfig,
    agent_endpoint,
    memory_policy,
    scheduler_endpoint,
    write_config,
)
from distpool.node.folders import Folders
from distpool.node.machine import whole_number
from distpool.node.spawn import Spawned, spawn, spawn_private
from distpool.store.settings import StoreSettings
from distpool.wire.system_text import to_bytes

#: How long a node may take to start; a machine that is busy may need seconds where an idle one needs a tenth of one.
START_TIMEOUT_S = 60.0
#: How long a node may take to end before it is killed.
STOP_TIMEOUT_S = 10.0


class PrivateNode:
    """A node of this program's own: scheduler and agent in one process.

    :ivar endpoint: where its scheduler listens.
    :ivar agent_endpoint: where its agent listens, as ``a-`` and the node's name.
    :ivar node: the node's name.
    :ivar folder: holds its sockets.
    :ivar store_folder: holds the object store's segments.
    :ivar pid: its process.
    :ivar owner: the process that started it.
    :ivar sentinel: a descriptor that becomes readable when the process ends.
    """

    def __init__(self, config: NodeConfig, folders: Folders, process: Spawned) -> None:
        self.node = config.node
        self.folder = folders.root
        self.store_folder = folders.store
        self.endpoint = scheduler_endpoint(folders.root)
        self.agent_endpoint = agent_endpoint(folders.root)
        self.pid = process.pid
        self.sentinel = process.status
        self._folders = folders
        self._life = process.life
        self.owner = os.getpid()
        self._exit_code: int | None = None
        self._ended = False

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the node can grant workers.

        :raises ConnectError: when it failed to start, or takes too long; nothing of it is left then.
        """
        said = b""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self.sentinel, select.POLLIN)
        while not said.startswith(READY):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.kill()
                raise ConnectError(f"the node process did not start within {timeout_s:g} s")
            data = os.read(self.sentinel, 65536)
            said += data
            if not data:
                self._reap(STOP_TIMEOUT_S)
                code = self._exit_code
                self.kill()
                words = said.decode(errors="replace").strip() or f"it ended with exit code {code} and said nothing"
                raise ConnectError(f"the node process could not start: {words}")

    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._reap(0.0)

    def stop(self) -> None:
        """End the node and everything below it; killed when it takes too long.  Fine to call twice."""
        if self._ended or os.getpid() != self.owner:
            return
        self._close(self._life)
        self._life = -1
        if not self._reap(STOP_TIMEOUT_S):
            self.kill()
        else:
            self._finish()

    def forget(self) -> None:
        """In a child that the driver forked: let go of what tells the node that the driver lives."""
        self._close(self._life)
        self._close(self.sentinel)
        self._life = self.sentinel = -1
        self._folders.let_go()

    def kill(self) -> None:
        """End the node at once."""
        if not self._ended and os.getpid() == self.owner:
            self._end_process()
            self._finish()

    def bequeath(self) -> Folders:
        """End the node at once, if it has not ended; its folders, with what this process has stored, are kept for the
        one that is to take its place."""
        if not self._ended:
            self._end_process()
            self._finish(cleanup=False)
        return self._folders

    def _end_process(self) -> None:
        if not self._reap(0.0):
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._reap(STOP_TIMEOUT_S)

    def cleanup(self) -> None:
        """Remove what a node that was killed left behind."""
        self._folders.remove()

    def _finish(self, cleanup: bool = True) -> None:
        self._ended = True
        self._close(self._life)
        self._close(self.sentinel)
        if cleanup:
            self.cleanup()

    @staticmethod
    def _close(fd: int) -> None:
        if fd >= 0:
            os.close(fd)

    def _reap(self, timeout_s: float) -> bool:
        """Wait for the process to end; whether it has."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.0005
        while self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody else in this program waits for all children, and had our node's exit status.
                if self._is_gone():
                    self._exit_code = 0
                    break
                pid = 0
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() >= deadline:
                return False
            if not self._ended and self.sentinel >= 0 and select.select([self.sentinel], [], [], pause_s)[0]:
                time.sleep(0.0002)  # its descriptors are closed; the exit status follows
            pause_s = min(0.05, pause_s * 2)
        return True

    def _is_gone(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


def start_private_node(
    *,
    wait: bool = True,
    spares: int | None = None,
    preload: bool = True,
    worker_module: str = "distpool.worker.main",
    import_path: list[bytes] | None = None,
    store_settings: StoreSettings | None = None,
    predecessor: PrivateNode | None = None,
    spawned: Spawned | None = None,
) -> PrivateNode:
    """Start scheduler and agent for this program alone.

    :param wait: return when it is ready; otherwise at once, and ``wait_ready`` must be called.
    :param spawned: a process that waits to be told what node it is; it is this function's from now on.
    :param store_settings: of its object store; None: as the environment says.
    :param predecessor: a node whose place it takes, in the same folders but under another name, so that nothing of it
        is taken for its predecessor's.
    :raises ConnectError: when it cannot be started.
    """
    process = spawn_private() if spawned is None else spawned
    try:
        if store_settings is None:
            store_settings = StoreSettings.make()
        memory = memory_policy()
        spares = spare_workers() if spares is None else spares
        if predecessor is None:
            folders = Folders.create(store_settings.spill_folder)
            name = os.path.basename(folders.root).rpartition("-")[2]
        else:
            folders = predecessor.bequeath()
            name = _next_name(predecessor.node)
    except BaseException:
        process.discard()
        raise
    config = NodeConfig(
        node=name,
        root=folders.root,
        store=folders.store,
        spill=folders.spill,
        driver_pid=os.getpid(),
        import_path=installed_packages() if import_path is None else import_path,
        spares=spares,
        preload=preload,
        worker_module=worker_module,
        store_settings=store_settings,
        memory=memory,
    )
    node = PrivateNode(config, folders, process)
    with contextlib.suppress(BrokenPipeError):  # it has ended already; ``wait_ready`` finds out why
        write_config(process.life, config)
    if wait:
        node.wait_ready()
    return node


def start_member(
    member: MemberConfig,
    node: str,
    output: int = -1,
    timeout_s: float = START_TIMEOUT_S,
    on_spawn: Callable[[int], object] = lambda pid: None,
) -> MemberStart:
    """Start a node of a cluster, and wait until it is part of that.

    :param output: what becomes its standard output and error; default: ours.
    :param on_spawn: is told its process id as soon as there is one.
    :raises ConnectError: when it cannot be, and why; nothing is left of it then.
    """
    try:
        store_settings = StoreSettings.make()
        memory = memory_policy()
        spares = spare_workers()
    except ValueError as error:  # a setting that means nothing
        raise ConnectError(str(error)) from error
    folders = Folders.create(store_settings.spill_folder)
    config = NodeConfig(
        node=node,
        root=folders.root,
        store=folders.store,
        spill=folders.spill,
        store_settings=store_settings,
        memory=memory,
        driver_pid=os.getpid(),
        import_path=installed_packages(),
        spares=spares,
        member=member,
    )
    life_read, life_write = os.pipe()
    status_read, status_write = os.pipe()
    pid = 0
    try:
        try:
            pid = spawn("member", life_read, status_write, output)
            on_spawn(pid)
        finally:
            os.close(life_read)
            os.close(status_write)
        with contextlib.suppress(BrokenPipeError):
            write_config(life_write, config)
        said = b""
        deadline = time.monotonic() + timeout_s
        while select.select([status_read], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(status_read, 65536)
            if not data:
                break
            said += data
        else:
            os.kill(pid, signal.SIGKILL)
            said = f"it did not start within {timeout_s:g} s".encode()
        if not said.startswith(READY):
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            pid = 0
            words = said.decode(errors="replace").strip()
            raise ConnectError(words or f"the node process ended with exit code {code} and said nothing")
    except BaseException:  # also when this process is told to end meanwhile
        os.close(life_write)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        folders.remove()
        raise
    finally:
        os.close(status_read)
    folders.let_go()
    return MemberStart(pid, life_write, said.removeprefix(READY))


class MemberStart(NamedTuple):
    """A node that was started: its process, the descriptor whose end is its own if it is in the foreground, and what it
    said of itself (``distpool.node.member.Joined`` as JSON)."""

    pid: int
    life: int
    announcement: bytes


def _next_name(name: str) -> str:
    first, _, number = name.partition("~")
    return f"{first}~{int(number or 1) + 1}"


def installed_packages() -> list[bytes]:
    """Where this program finds installed packages."""
    return [to_bytes(entry) for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")]


def spare_workers() -> int | None:
    """How many the user wants; None: as many as is good for the machine.

    :raises ConnectError: when that is no number.
    """
    return whole_number("DISTPOOL_SPARE_WORKERS")
