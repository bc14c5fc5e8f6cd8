"""``local://``: nodes as processes of this machine, for trying things out and for machines with room for several.

They end with the program that started them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from typing import ClassVar

from distpool.errors import ConnectError
from distpool.node import folders, launch, statefolder
from distpool.node.config import MemberConfig
from distpool.provision.address import Engine
from distpool.provision.base import BaseProvisioner, last_line
from distpool.provision.interface import Machine, NodeType, Phase
from distpool.wire.resources import Shape
from distpool.wire.security import Token


@dataclass(frozen=True, kw_only=True)
class Local(Engine):
    """Nodes as processes of this machine; each has one CPU unless told otherwise."""

    scheme: ClassVar[str] = "local"

    def capacity(self) -> Shape:
        """See ``Engine``: several nodes share what the machine has."""
        return Shape(1.0 if self.cpus is None else self.cpus, self.gpus or 0.0, self.memory or 0)

    def provisioner(self, token: Token) -> LocalProvisioner:
        """See ``Engine``."""
        return LocalProvisioner(token, self.node_type(start_s=2.0), private=True)


@dataclass(slots=True, eq=False)
class _Process:
    log: str
    pid: int = 0
    #: as long as this descriptor is open it lives; there is one when it has joined
    life: int = -1
    failed: str = ""
    released: bool = False
    code: int | None = None

    def poll(self) -> int | None:
        """How it ended, if it has joined and ended since."""
        if self.life >= 0:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else in this program waits for all children
            if pid:
                os.close(self.life)
                self.life = -1
                self.code = os.waitstatus_to_exitcode(status)
                if self.code:
                    folders.sweep()  # it had no time to tidy up
        return self.code

    def signal(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.pid and not self.failed and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class LocalProvisioner(BaseProvisioner[_Process]):
    """See the module's description.

    :param token: of the cluster.
    :param kind: of the nodes.
    :param private: the cluster belongs to one program, and commands on this machine do not know of it.
    """

    END_S = 15.0

    def __init__(self, token: Token, kind: NodeType, private: bool = False) -> None:
        super().__init__(kind)
        self._token = token
        self._private = private
        self._lock = threading.Lock()

    def request(self, node: str) -> _Process:
        """See ``BaseProvisioner``; it takes a while until a process says that it has joined, so a thread listens."""
        process = _Process(str(statefolder.log_path(node)))
        threading.Thread(target=self._launch, args=(node, process), daemon=True).start()
        return process

    def look(self, node: str, process: _Process) -> Machine | None:
        """See ``BaseProvisioner``."""
        code = process.poll()
        if process.failed:
            return self.failed(process.failed)
        if code is None:
            return self.seen(Phase.STARTING if process.life < 0 else Phase.RUNNING)
        if code == 0:
            return None
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return self.failed(f"its process ended {how}; its log: {process.log}")

    def end(self, node: str, process: _Process) -> None:
        """See ``BaseProvisioner``."""
        with self._lock:
            process.released = True
            process.signal(signal.SIGTERM)

    def has_ended(self, process: _Process) -> bool:
        """See ``BaseProvisioner``."""
        return bool(process.failed) or process.poll() is not None

    def kill(self, process: _Process) -> None:
        """See ``BaseProvisioner``."""
        process.signal(signal.SIGKILL)

    def tidy(self, process: _Process) -> None:
        """See ``BaseProvisioner``; the log of one that has failed stays, since its error names it."""
        if process.code == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(process.log)

    def _launch(self, node: str, process: _Process) -> None:
        def spawned(pid: int) -> None:
            with self._lock:
                process.pid = pid
                if process.released:
                    process.signal(signal.SIGTERM)

        member = MemberConfig(
            token=self._token.line(),
            head=False,
            bind_host="127.0.0.1",
            advertised_host="127.0.0.1",
            first_port=0,
            last_port=0,
            capacity=self.kind.capacity,
            working_directory=os.getcwdb(),
            foreground=True,
            log=process.log,
            private=self._private,
        )
        try:
            output = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                process.life = launch.start_member(member, node, output, on_spawn=spawned).life
            finally:
                os.close(output)
        except (ConnectError, OSError) as error:
            last = last_line(process.log)
            process.failed = f"{error}{f': {last}' if last else ''}"
