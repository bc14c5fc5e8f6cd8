"""A process of its own that looks after one program's nodes: it starts the program's scheduler and has an engine start
nodes, as many as there is work for.

It outlives nothing: when the program ends, in whatever way, the pipe from it ends, and this process releases all nodes,
ends the scheduler, and goes.  When this process is killed, the scheduler ends with it, and nodes end when they have had
no scheduler for a while.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import threading
import time

import msgspec

from distpool.errors import ConnectError
from distpool.node import launch, machine
from distpool.node.config import MemberConfig
from distpool.node.statefolder import log_path
from distpool.provision import registry
from distpool.provision.address import Engine
from distpool.provision.autoscaler import Autoscaler
from distpool.provision.interface import Machine, Phase, Provisioner, ProvisionError
from distpool.wire.resources import Shape
from distpool.wire.security import Token, new_secret
from distpool.wire.supervisor_to_driver import HeadUp, Hopeless, Message, News, Said, Standing, SupervisorConfig

#: Nodes come for work that has waited for so long.
_PATIENCE_S = 0.5
#: How long the scheduler may take to end before it is killed.
_END_S = 10.0
#: How long an engine may go on to connect when the program has ended.
_CONNECT_ON_S = 2.0


class Supervisor:
    """See the module's description.

    :param engine: where nodes come from.
    :param status: the descriptor on which the program listens.
    """

    def __init__(self, engine: Engine, status: int) -> None:
        self._engine = engine
        self._status = status
        self._stopped = threading.Event()
        #: Set when the engine can be asked for nodes.
        self._connected = threading.Event()
        self._log = ""
        self._waiting_since: dict[str, tuple[Phase, str, float]] = {}
        self._last_failure = ""

    def run(self) -> None:
        """Until the program ends, or the scheduler does."""
        near = self._engine.near()
        host = self._engine.head_host or (machine.address_towards(f"{near}:9") if near else "127.0.0.1")
        token, head = self._start_head(host)
        try:
            provisioner = None
            try:
                provisioner = self._engine.provisioner(token)
                self._connected.set()
                self._tell(HeadUp(token.line()))
                self._look_after(token, provisioner, head)
            except ProvisionError as error:
                self._tell(Hopeless(str(error)))
            finally:
                os.close(head.life)  # nodes hear of the end of their scheduler, and end
                if provisioner is not None:
                    _release_all(provisioner)
        finally:
            _end(head.pid)
            self._remove_log()

    def stop(self) -> None:
        """Make ``run`` return."""
        self._stopped.set()

    def on_program_end(self) -> None:
        """Make ``run`` return.  If it still waits for the engine, which may be for minutes, end this process: there are
        no nodes yet, and the scheduler ends with it."""
        self.stop()
        if not self._connected.wait(_CONNECT_ON_S):
            self._remove_log()
            os._exit(0)

    # -- within -------------------------------------------------------------------------------------------------

    def _start_head(self, host: str) -> tuple[Token, launch.MemberStart]:
        """The scheduler, on a node that offers nothing."""
        node = f"head-{secrets.token_hex(4)}"
        shown = f"[{host}]" if ":" in host else host
        log = self._log = str(log_path(node))
        member = MemberConfig(
            token=Token(f"{shown}:{self._engine.head_port}", new_secret()).line(),
            head=True,
            bind_host=shown,
            advertised_host=shown,
            first_port=0,
            last_port=0,
            capacity=Shape(0.0),
            working_directory=os.getcwdb(),
            foreground=True,
            log=log,
            private=True,
        )
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            started = launch.start_member(member, node, output)
        finally:
            os.close(output)
        joined = msgspec.json.decode(started.announcement)
        return Token(joined["address"], Token.parse(member.token).secret), started

    def _remove_log(self) -> None:
        if os.path.exists(self._log):
            os.unlink(self._log)

    def _look_after(self, token: Token, provisioner: Provisioner, head: launch.MemberStart) -> None:
        least, most = self._engine.bounds()
        scaler = Autoscaler(
            token, provisioner, least, most, patience_s=_PATIENCE_S, idle_s=self._engine.idle, complain=self._complain
        )
        try:
            while not self._stopped.is_set():
                if os.waitpid(head.pid, os.WNOHANG)[0]:
                    self._tell(Hopeless("the process of this program's scheduler ended"))
                    return
                scaler.look()
                self._tell(self._news(scaler, provisioner, least))
                if scaler.core.hopeless() and not scaler.core.joined():
                    self._tell(Hopeless(self._last_failure))
                self._stopped.wait(scaler.pause_s(soon=bool(self._waiting_since)))
        finally:
            scaler.close()

    def _news(self, scaler: Autoscaler, provisioner: Provisioner, least: int) -> News:
        joined = set(scaler.core.joined())
        now = time.monotonic()
        seen: dict[str, tuple[Phase, str, float]] = {}
        for name, one in provisioner.list().items():
            if name not in joined and one.phase is not Phase.FAILED:
                seen[name] = _since(one, self._waiting_since.get(name), now)
        self._waiting_since = seen
        alike: dict[tuple[str, str], list[float]] = {}
        for phase, reason, since in seen.values():
            alike.setdefault((phase.value, reason), []).append(now - since)
        waiting = tuple(Standing(*key, len(ages), max(ages)) for key, ages in sorted(alike.items()))
        return News(len(joined), scaler.core.wanted(), least, waiting, Shape(scaler.core.promised_cpus()))

    def _complain(self, line: str) -> None:
        self._last_failure = line
        self._tell(Said(line))

    def _tell(self, message: Message) -> None:
        data = msgspec.json.encode(message) + b"\n"
        try:
            while data:
                data = data[os.write(self._status, data) :]
        except BrokenPipeError:
            self.stop()


def _since(machine: Machine, before: tuple[Phase, str, float] | None, now: float) -> tuple[Phase, str, float]:
    phase = Phase.STARTING if machine.phase is Phase.RUNNING else machine.phase
    return phase, machine.reason, before[2] if before is not None and before[0] is phase else now


def _release_all(provisioner: Provisioner) -> None:
    for name in list(provisioner.list()):
        provisioner.release(name)
    provisioner.close()


def _end(pid: int) -> None:
    deadline = time.monotonic() + _END_S
    try:
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.01)
    except ChildProcessError:
        pass  # it has been waited for


def main() -> None:
    """What the process runs; descriptors as in ``distpool.node.launch``: 0 is the program's life, 3 listens."""
    length = int.from_bytes(_read(4), "big")
    config = msgspec.msgpack.decode(_read(length), type=SupervisorConfig)
    supervisor = Supervisor(registry.parse(config.engine), 3)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    threading.Thread(target=_watch_program, args=(supervisor,), daemon=True).start()
    try:
        supervisor.run()
    except (ConnectError, ProvisionError) as error:
        supervisor._tell(Hopeless(str(error)))


def _read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            os._exit(0)  # the program ended before it had said anything
        data += piece
    return data


def _watch_program(supervisor: Supervisor) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.poll()  # it says nothing more: what comes is the end
    supervisor.on_program_end()
