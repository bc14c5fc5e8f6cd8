"""Extra nodes as processes of this machine: for trying things out, and for machines with room for more than one node.

They end with the program that started them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distpool.errors import ConnectError
from distpool.node import folders, launch, statefolder
from distpool.node.config import MemberConfig
from distpool.provision.interface import NodeType, ProvisionError

#: How long a node may take to end before it is killed.
_END_S = 15.0


@dataclass(slots=True)
class _Process:
    node_type: str
    thread: threading.Thread | None = None
    started: launch.MemberStart | None = None
    failed: bool = False
    released: bool = False
    kill_at: float | None = None


class LocalProvisioner:
    """See the module's description.

    :param address: of the cluster: ``host:port`` of its scheduler, or a token file.
    :param types: what kinds of nodes there shall be.
    :param host: the address of this machine by which the others reach it.
    :raises ConnectError: when the cluster's token is not known here.
    """

    def __init__(self, address: str, types: Sequence[NodeType], host: str = "127.0.0.1") -> None:
        self._token = statefolder.find_token(address)
        self._types = {kind.name: kind for kind in types}
        self._host = host
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
            process.thread = threading.Thread(target=self._launch, args=(node, kind, process), daemon=True)
        process.thread.start()

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        with self._lock:
            process = self._processes.get(node)
            if process is None:
                return
            process.released = True
            self._end(process)
        self._reap()

    def list(self) -> Mapping[str, str]:
        """See ``Provisioner``."""
        self._reap()
        with self._lock:
            return {name: process.node_type for name, process in self._processes.items() if not process.released}

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
        )
        output = os.open(member.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            started = launch.start_member(member, node, output)
        except ConnectError:
            process.failed = True
            return
        finally:
            os.close(output)
        with self._lock:
            process.started = started
            if process.released:
                self._end(process)

    @staticmethod
    def _end(process: _Process) -> None:
        if process.started is not None and process.kill_at is None:
            process.kill_at = time.monotonic() + _END_S
            _signal(process.started.pid, signal.SIGTERM)

    def _reap(self) -> None:
        with self._lock:
            for name, process in list(self._processes.items()):
                if process.failed or (process.started is not None and _ended(process.started)):
                    del self._processes[name]
                elif process.kill_at is not None and process.kill_at <= time.monotonic():
                    assert process.started is not None
                    _signal(process.started.pid, signal.SIGKILL)


def _ended(started: launch.MemberStart) -> bool:
    try:
        pid, status = os.waitpid(started.pid, os.WNOHANG)
        if pid and status:
            folders.sweep()  # it had no time to tidy up
    except ChildProcessError:
        pid = started.pid  # somebody else in this program waits for all children
    if pid:
        os.close(started.life)
    return bool(pid)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
