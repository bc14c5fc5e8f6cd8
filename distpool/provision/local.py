"""``local://``: nodes as processes of this machine, for trying things out and for machines with room for several.

They end with the program that started them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from distpool.errors import ConnectError
from distpool.node import folders, launch, statefolder
from distpool.node.config import MemberConfig
from distpool.provision.address import Engine
from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.wire.resources import Shape
from distpool.wire.security import Token

#: How long a node may take to end before it is killed.
_END_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Local(Engine):
    """Nodes as processes of this machine; each has one CPU unless told otherwise."""

    scheme: ClassVar[str] = "local"

    def capacity(self) -> Shape:
        """See ``Engine``: several nodes share what the machine has."""
        return Shape(1.0 if self.cpus is None else self.cpus, self.gpus or 0.0, self.memory or 0)

    def provisioner(self, token: Token) -> LocalProvisioner:
        """See ``Engine``."""
        return LocalProvisioner(token, [self.node_type(start_s=2.0)], private=True)


@dataclass(slots=True)
class _Process:
    node_type: str
    pid: int = 0
    started: launch.MemberStart | None = None
    failed: str = ""
    released: bool = False
    kill_at: float | None = None

    def machine(self) -> Machine:
        if self.failed:
            return Machine(self.node_type, Phase.FAILED, self.failed)
        return Machine(self.node_type, Phase.STARTING if self.started is None else Phase.RUNNING)


class LocalProvisioner:
    """See the module's description.

    :param token: of the cluster.
    :param types: what kinds of nodes there shall be.
    :param host: the address of this machine by which the others reach it.
    :param private: the cluster belongs to one program, and commands on this machine do not know of it.
    """

    def __init__(self, token: Token, types: Sequence[NodeType], host: str = "127.0.0.1", private: bool = False) -> None:
        self._token = token
        self._types = {kind.name: kind for kind in types}
        self._host = host
        self._private = private
        self._lock = threading.Lock()
        self._processes: dict[str, _Process] = {}

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return tuple(self._types.values())

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        kind = self._types.get(node_type)
        if kind is None:
            raise ProvisionError(f"there is no type {node_type!r}; there is {', '.join(self._types) or 'none'}")
        with self._lock:
            if node in self._processes:
                return
            alike = sum(1 for process in self._processes.values() if process.node_type == node_type)
            if alike >= kind.most:
                raise ProvisionError(f"there are {alike} nodes of type {node_type!r}, which is the most")
            process = self._processes[node] = _Process(node_type)
        threading.Thread(target=self._launch, args=(node, kind, process), daemon=True).start()

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        with self._lock:
            process = self._processes.get(node)
            if process is None:
                return
            process.released = True
            self._end(process)
        self._reap()

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``."""
        self._reap()
        with self._lock:
            return {name: process.machine() for name, process in self._processes.items() if not process.released}

    def close(self) -> None:
        """End them all, and wait until they have ended."""
        with self._lock:
            names = list(self._processes)
        for name in names:
            self.release(name)
        deadline = time.monotonic() + 2 * _END_S
        while time.monotonic() < deadline:
            self._reap()
            with self._lock:
                if not self._processes:
                    return
            time.sleep(0.02)

    # -- within -------------------------------------------------------------------------------------------------

    def _launch(self, node: str, kind: NodeType, process: _Process) -> None:
        member = MemberConfig(
            token=self._token.line(),
            head=False,
            bind_host=self._host,
            advertised_host=self._host,
            first_port=0,
            last_port=0,
            capacity=kind.capacity,
            working_directory=os.getcwd(),
            foreground=True,
            log=str(statefolder.log_path(node)),
            private=self._private,
        )
        try:
            output = os.open(member.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                started = launch.start_member(member, node, output, on_spawn=lambda pid: self._spawned(process, pid))
            finally:
                os.close(output)
        except (ConnectError, OSError) as error:
            last = last_line(member.log)
            with self._lock:
                process.failed = f"{error}{f': {last}' if last else ''}"
                process.pid = 0
            return
        with self._lock:
            process.started = started

    def _spawned(self, process: _Process, pid: int) -> None:
        with self._lock:
            process.pid = pid
            if process.released:
                self._end(process)

    @staticmethod
    def _end(process: _Process) -> None:
        if process.pid and process.kill_at is None:
            process.kill_at = time.monotonic() + _END_S
            _signal(process.pid, signal.SIGTERM)

    def _reap(self) -> None:
        with self._lock:
            for name, process in list(self._processes.items()):
                if self._is_gone(name, process):
                    del self._processes[name]
                elif process.kill_at is not None and process.kill_at <= time.monotonic() and process.pid:
                    _signal(process.pid, signal.SIGKILL)

    @staticmethod
    def _is_gone(name: str, process: _Process) -> bool:
        """Whether a process has ended as it should; notes if it has ended in another way."""
        started = process.started
        if started is not None and not process.failed:
            code = _exit_code(started)
            if code is None:
                return False
            os.close(started.life)
            if code == 0:
                with contextlib.suppress(FileNotFoundError):
                    statefolder.log_path(name).unlink()  # it has nothing to tell
                return True
            process.pid = 0
            folders.sweep()  # it had no time to tidy up
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
            process.failed = f"its process ended {how}; its log: {statefolder.log_path(name)}"
        return bool(process.failed) and process.released


def last_line(path: str) -> str:
    """The last line of a log, which often says why; empty if there is none."""
    try:
        with open(path, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4000:].splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _exit_code(started: launch.MemberStart) -> int | None:
    """How a node's process ended, if it has."""
    try:
        pid, status = os.waitpid(started.pid, os.WNOHANG)
    except ChildProcessError:
        return 0  # somebody else in this program waits for all children
    return os.waitstatus_to_exitcode(status) if pid else None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
