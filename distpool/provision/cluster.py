"""A program's own cluster, made of nodes from an engine: the program's side of it.

What looks after the nodes is a process of its own (``supervisor``); this one starts it, listens to it, and shows what
it says.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import msgspec

from distpool.errors import ConnectError
from distpool.node.spawn import spawn
from distpool.provision import registry
from distpool.provision.progress import Progress, describe
from distpool.wire import supervisor_to_driver as said
from distpool.wire.security import Token

#: How long the scheduler may take to start, and how long everything may take to end.
_HEAD_S, _END_S = 90.0, 60.0


class ProvisionedCluster:
    """See the module's description.

    :param address: the engine's.
    :param on_lost: called, in a thread of ours, when the nodes are not looked after any more.
    :ivar token: leads to the scheduler.
    :raises ConnectError: when there is no such engine, or no node came, and why.
    """

    token: Token

    def __init__(self, address: str, on_lost: Callable[[str], object]) -> None:
        self._engine = registry.parse(address)
        self._address = str(self._engine)
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._heard: said.News | None = None
        self._head: Token | None = None
        self._hopeless = ""
        self._failures: list[str] = []
        self._ended = False
        self._stopping = False
        self._progress = Progress()
        self._owner = os.getpid()
        life_read, self._life = os.pipe()
        self._status, status_write = os.pipe()
        try:
            self._pid = spawn("supervisor", life_read, status_write, package="provision")
            config = msgspec.msgpack.encode(said.SupervisorConfig(self._address))
            os.write(self._life, len(config).to_bytes(4, "big") + config)
        except BaseException:
            os.close(self._life)
            os.close(self._status)
            raise
        finally:
            os.close(life_read)
            os.close(status_write)
        self._listener = threading.Thread(target=self._listen, name="distpool-nodes", daemon=True)
        self._listener.start()
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        finally:
            self._progress.end()

    def cpus(self) -> float:
        """CPUs of as many nodes as there may be, as far as is known."""
        with self._changed:
            return self._heard.capacity.num_cpus if self._heard is not None else 0.0

    def wait_for_all(self, timeout_s: float) -> str:
        """Wait until all nodes are up that there should be by now; returns what is missing then, and why."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (news := self._heard) is not None and news.up < news.wanted and not self._ended:
                if not self._changed.wait(deadline - time.monotonic()):
                    return self._reasons(describe(news))
        return ""

    @property
    def lost(self) -> bool:
        """Whether nobody looks after the nodes any more."""
        return self._ended

    def stop(self) -> None:
        """End all nodes and the scheduler; returns when they have ended, or been told to.  Fine to call twice."""
        if self._stopping or os.getpid() != self._owner:
            return
        self._stopping = True
        os.close(self._life)
        self._listener.join(_END_S)
        if self._listener.is_alive():
            os.kill(self._pid, 9)
            self._listener.join()
        os.close(self._status)

    def forget(self) -> None:
        """In a child that the program forked: let go of what says that the program lives."""
        if not self._stopping:
            self._stopping = True
            os.close(self._life)
            os.close(self._status)

    # -- within -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until there is a scheduler, and a node if some are kept; then a while for the others that are kept.

        What comes later is used when it comes.
        """
        with self._changed:
            self._wait_for_first()
            assert self._head is not None
            self.token = self._head
            self._wait_for_rest()

    def _wait_for_first(self) -> None:
        limit_s = self._engine.timeout or float("inf")
        began = time.monotonic()
        while not self._ready():
            spent_s = time.monotonic() - began
            if self._hopeless or self._ended:
                reason = self._hopeless or "the process that looks after the nodes ended"
                raise ConnectError(f"no nodes from {self._address}: {self._reasons(reason)}")
            if self._head is None and spent_s > _HEAD_S:
                raise ConnectError(
                    f"no nodes from {self._address}: it did not answer within {_HEAD_S:g} s; does it run, and can it "
                    "be reached from here? (`distpool doctor` looks)"
                )
            if spent_s > limit_s:
                standing = describe(self._heard) if self._heard is not None else "nothing was heard of them"
                raise ConnectError(
                    f"no node from {self._address} within {limit_s:g} s (option timeout): {self._reasons(standing)}"
                )
            self._changed.wait(min(1.0, max(0.01, limit_s - spent_s)))

    def _wait_for_rest(self) -> None:
        """Whoever asks for four nodes wants four, and sizes pools by them; but not at the price of an hour in a queue,
        or of one machine that is broken."""
        deadline = time.monotonic() + self._engine.wait
        while (news := self._heard) is not None and news.up < news.least and not self._ended:
            if self._failures and not news.waiting:
                return
            if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                return

    def _ready(self) -> bool:
        news = self._heard
        return self._head is not None and news is not None and (news.up >= 1 or news.least == 0)

    def _reasons(self, last: str) -> str:
        # Of nodes that failed for the same reason one is enough.
        failed = {line.partition(": ")[2]: line for line in self._failures}
        return "\n  ".join(dict.fromkeys([*list(failed.values())[-5:], last]))

    def _listen(self) -> None:
        buffer = b""
        while True:
            data = os.read(self._status, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._take(line)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass
        with self._changed:
            self._ended = True
            reason = self._hopeless or buffer.decode(errors="replace").strip() or "its process ended"
            self._hopeless = self._hopeless or reason
            self._changed.notify_all()
        if not self._stopping:
            self._on_lost(reason)

    def _take(self, line: bytes) -> None:
        message = said.decode(line)
        with self._changed:
            if isinstance(message, said.HeadUp):
                self._head = Token.parse(message.token)
            elif isinstance(message, said.News):
                self._heard = message
            elif isinstance(message, said.Said):
                self._failures.append(message.line)
            else:
                self._hopeless = message.reason
            self._changed.notify_all()
        if isinstance(message, said.News) and not self._stopping:
            self._progress.take(message)
        elif isinstance(message, said.Said):
            self._progress.say(message.line)
