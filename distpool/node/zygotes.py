"""The agent's side of its zygotes: one connection each, requests in, events for the core out."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from distpool.node.control import AgentEnd, Exited, Fork, Forked, FromZygote, Generate, NotForked, Ready, Unfit
from distpool.node.events import (
    Event,
    ForkFailed,
    GenerationEnded,
    GenerationReady,
    WorkerForked,
    WorkerProcessExited,
)
from distpool.node.loop import Loop
from distpool.node.stderr import StandardErrors

#: So many forks may be under way in one zygote: neither side may ever fill the socket while the other does.
_MOST_UNDER_WAY = 16

MakeFork: TypeAlias = Callable[[str], Fork]


class _Connection:
    def __init__(self, end: AgentEnd, *, ready: bool) -> None:
        self.end = end
        self.ready = ready
        self.waiting: deque[str] = deque()
        self.under_way = 0
        self.children: set[int] = set()
        self.unloadable: tuple[str, ...] = ()
        self.reason = ""


class Zygotes:
    """See the module's description.

    :param first: the control socket of the first zygote.
    :param start_first: starts another first zygote, when that one was killed; returns its control socket.
    :param make_fork: the request for a worker of this name.
    :param emit: takes events for the core.
    """

    def __init__(
        self,
        loop: Loop,
        first: socket.socket,
        start_first: Callable[[], socket.socket],
        make_fork: MakeFork,
        emit: Callable[[Event], None],
        errors: StandardErrors,
    ) -> None:
        self._loop = loop
        self._start_first = start_first
        self._make_fork = make_fork
        self._emit = emit
        self._errors = errors
        self._by_pid: dict[int, str] = {}
        self._connections: dict[int, _Connection] = {}
        self._closed = False
        #: why nothing can be forked any more; ``""`` as long as all is well
        self.broken = ""
        self._add(0, first)

    @property
    def ready(self) -> bool:
        """Whether the first zygote can fork."""
        first = self._connections.get(0)
        return first is not None and first.ready

    @property
    def children(self) -> set[int]:
        """Process ids of all workers that run."""
        return set().union(*(connection.children for connection in self._connections.values()))

    @property
    def busy(self) -> bool:
        """Whether any worker runs or is being forked."""
        return any(connection.children or connection.under_way for connection in self._connections.values())

    def stop_forking(self) -> None:
        """Fork nothing more."""
        self._closed = True

    def fork(self, worker: str, generation: int) -> None:
        """Have a worker forked; answered by ``WorkerForked`` or ``ForkFailed``."""
        connection = self._connections.get(generation)
        if connection is None:
            self._loop.soon(lambda: self._emit(ForkFailed(worker, "the process to fork it from is gone")))
            return
        connection.waiting.append(worker)
        self._send_waiting(generation, connection)

    def make(self, generation: int, modules: tuple[str, ...]) -> None:
        """Have a generation made; answered by ``GenerationReady`` or ``GenerationEnded``."""
        first = self._connections.get(0)
        ours, theirs = socket.socketpair()
        with theirs:
            self._add(generation, ours)
            if first is not None:
                try:
                    first.end.send(Generate(generation, modules), theirs.fileno())
                except OSError:
                    pass  # it is gone, and so is the other end of the pair: that is how we hear of it

    def end(self, generation: int) -> None:
        """End a generation that has no workers."""
        self._remove(generation)

    def close(self) -> None:
        """End them all, and their workers with them."""
        self.stop_forking()
        for generation in sorted(self._connections, reverse=True):
            self._remove(generation)

    # -- within -------------------------------------------------------------------------------------------------

    def _add(self, generation: int, control: socket.socket) -> None:
        connection = self._connections[generation] = _Connection(AgentEnd(control), ready=False)
        self._loop.watch(connection.end.fileno(), lambda: self._on_readable(generation, connection))

    def _remove(self, generation: int) -> None:
        connection = self._connections.pop(generation, None)
        if connection is None:
            return
        self._loop.unwatch(connection.end.fileno())
        connection.end.close()
        for pid in connection.children:
            self._by_pid.pop(pid, None)

    def _send_waiting(self, generation: int, connection: _Connection) -> None:
        while connection.ready and connection.waiting and not self._closed and connection.under_way < _MOST_UNDER_WAY:
            worker = connection.waiting.popleft()
            try:
                descriptor = self._errors.open(worker)
            except OSError as error:
                self._loop.soon(partial(self._emit, ForkFailed(worker, str(error.strerror))))
                continue
            try:
                connection.end.send(self._make_fork(worker), descriptor)
                connection.under_way += 1
            except ConnectionError:
                return  # it is gone; reading from it says so, and the core forgets all its workers
            except OSError as error:  # the system had no room for the message, and the zygote will never hear of it
                self._errors.take_tail(worker)
                self._loop.soon(partial(self._emit, ForkFailed(worker, str(error.strerror))))
            finally:
                os.close(descriptor)

    def _on_readable(self, generation: int, connection: _Connection) -> None:
        try:
            messages = connection.end.receive()
        except EOFError:
            self._on_gone(generation, connection)
            return
        for message in messages:
            self._on_message(generation, connection, message)
        self._send_waiting(generation, connection)

    def _on_message(self, generation: int, connection: _Connection, message: FromZygote) -> None:
        if isinstance(message, Forked):
            connection.under_way -= 1
            connection.children.add(message.pid)
            self._by_pid[message.pid] = message.worker
            self._emit(WorkerForked(message.worker, message.pid))
        elif isinstance(message, NotForked):
            connection.under_way -= 1
            self._errors.take_tail(message.worker)
            self._emit(ForkFailed(message.worker, message.reason))
        elif isinstance(message, Exited):
            connection.children.discard(message.pid)
            tail = self._errors.take_tail(self._by_pid.pop(message.pid, ""))
            self._emit(WorkerProcessExited(message.pid, message.exit_code, message.peak_rss_bytes, tail))
        elif isinstance(message, Ready):
            connection.ready = True
            if generation:
                self._emit(GenerationReady(generation, message.modules, message.unloadable))
        elif isinstance(message, Unfit):
            connection.unloadable = message.unloadable
            connection.reason = message.reason

    def _on_gone(self, generation: int, connection: _Connection) -> None:
        for pid in connection.children:
            self._errors.take_tail(self._by_pid.get(pid, ""))
        self._remove(generation)
        if self._closed:
            return
        if not generation:
            if not connection.ready:
                self.broken = connection.reason or "the process from which workers are forked ended at once"
                self._loop.stop()
                return
            self._add(0, self._start_first())
        self._emit(GenerationEnded(generation, connection.unloadable))
