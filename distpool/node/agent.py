"""The shell around the agent core: the agent's channel, its zygotes, signals to workers, and its services.

Runs in the node process's loop.  A *service* is another party of the node that drivers or workers talk to through the
agent's channel (the object store's books).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from distpool import crashpoints
from distpool.node import machine
from distpool.node.control import ClusterFacts, Fork
from distpool.node.core import AgentCore
from distpool.node.events import (
    EndGeneration,
    Evacuate,
    Evacuated,
    Event,
    ForkWorker,
    IdleTimeSeen,
    LookAtIdleTime,
    MakeGeneration,
    MemorySampled,
    NodeStarted,
    SampleMemory,
    SchedulerSaid,
    SignalWorker,
    TimePassed,
    ToScheduler,
    WorkerProcessExited,
    WorkerSaid,
)
from distpool.node.loop import Loop
from distpool.node.sampler import Sampler
from distpool.node.stderr import StandardErrors
from distpool.node.zygotes import Zygotes
from distpool.wire import agent_to_scheduler, codec, scheduler_to_agent, shortcuts
from distpool.wire.channel import Channel, PeerUnreachable

if TYPE_CHECKING:

    class Service(Protocol):
        """Another party of the node, see the module's description.  It shares the agent's loop and channel."""

        def on_message(self, peer: bytes, frames: list[bytes]) -> None:
            """A message of a driver (``d...``), or of a worker (``w...``) or agent if it is not for the agent core."""

        def on_worker_exited(self, worker: str) -> None:
            """The process of the worker with this routing id is gone."""

        def close(self) -> None:
            """The node ends."""

    class Site(Service, Protocol):
        """Serves the node's objects to other sites."""

        def found(self, site: str, at: str, endpoint: str) -> None:
            """The scheduler said where a site is."""

        def tell_copies(self, home: str, seeker: str) -> None:
            """Somebody seeks copies of what a site had that is gone."""

        def evacuate(self, successor: str, endpoint: str, done: Callable[[bool], None]) -> None:
            """The node leaves: have what is still needed taken over, then call ``done`` with whether it was."""


class Agent:
    """See the module's description.

    :param first_zygote: control socket of the first zygote.
    :param start_zygote: starts another, when that one was killed.
    :param to_scheduler: sends to the scheduler.
    :param sampler: sees what the core wants to know of memory.
    :param cluster: what workers must know to be reached from other machines; None on a private node.
    """

    def __init__(
        self,
        core: AgentCore,
        loop: Loop,
        channel: Channel,
        node: str,
        root: str,
        store: str,
        agent_endpoint: str,
        scheduler_endpoint: str,
        first_zygote: socket.socket,
        start_zygote: Callable[[], socket.socket],
        to_scheduler: Callable[[agent_to_scheduler.Message], None],
        cluster: ClusterFacts | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._core = core
        self._loop = loop
        self.channel = channel
        self._node = node
        self._root = root
        self._store = store
        self._agent_endpoint = agent_endpoint
        self._scheduler_endpoint = scheduler_endpoint
        self._to_scheduler = to_scheduler
        self._cluster = cluster
        self._sampler = sampler
        self._services: list[Service] = []
        self._site: Site | None = None
        self.zygotes = Zygotes(loop, first_zygote, start_zygote, self._make_fork, self.handle, StandardErrors(loop))
        loop.add_timer(core.next_deadline, lambda now: self.handle(TimePassed()))
        for fd in channel.descriptors:
            loop.watch(fd, self._on_readable)

    def add_service(self, service: Service) -> None:
        """Let ``service`` have its messages."""
        self._services.append(service)

    def add_site(self, site: Site) -> None:
        """Let ``site`` serve the node's objects to others."""
        self._services.append(site)
        self._site = site

    def start(self) -> None:
        """Join the cluster."""
        self.handle(NodeStarted())
        self._on_readable()  # what came before the loop watched makes no further edge

    def handle(self, event: Event) -> None:
        """Let the core decide, and do it."""
        crashpoints.reach_event("agent.heard", event)
        worker = self._worker_that_ended(event)
        if self._sampler is not None and isinstance(event, WorkerProcessExited) and event.exit_code == -signal.SIGKILL:
            event = msgspec.structs.replace(event, kernel_kills=self._sampler.kernel_kills())
        for effect in self._core.handle(event, time.monotonic()):
            if isinstance(effect, ToScheduler):
                self._to_scheduler(effect.message)
            elif isinstance(effect, ForkWorker):
                self.zygotes.fork(effect.worker, effect.generation)
            elif isinstance(effect, SignalWorker):
                _send_signal(effect.pid, effect.signal)
            elif isinstance(effect, SampleMemory):
                self._loop.soon(partial(self._sample, effect))
            elif isinstance(effect, LookAtIdleTime):
                self._loop.soon(lambda: self.handle(IdleTimeSeen(machine.idle_s())))
            elif isinstance(effect, MakeGeneration):
                self.zygotes.make(effect.generation, effect.modules)
            elif isinstance(effect, EndGeneration):
                self.zygotes.end(effect.generation)
            elif isinstance(effect, Evacuate):
                self._evacuate(effect)
            crashpoints.reach_event("agent.did", effect)
        if worker:
            for path in (self._socket_of(worker), shortcuts.path_beside(f"ipc://{self._socket_of(worker)}")):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            for service in self._services:
                service.on_worker_exited(f"w-{worker}")
        if self._core.refused:
            self._loop.stop()

    def _sample(self, wanted: SampleMemory) -> None:
        if self._sampler is not None:
            self.handle(MemorySampled(self._sampler.look(wanted.workers, wanted.consumers)))

    def on_scheduler_said(self, message: scheduler_to_agent.Message) -> None:
        """A message of the scheduler, which may be in this very process."""
        if isinstance(message, scheduler_to_agent.SiteAt):
            if self._site is not None:
                self._site.found(message.site, message.at, message.endpoint)
        elif isinstance(message, scheduler_to_agent.CopiesWanted):
            if self._site is not None:
                self._site.tell_copies(message.site, message.seeker)
        else:
            self.handle(SchedulerSaid(message))

    @property
    def core(self) -> AgentCore:
        """What was decided so far."""
        return self._core

    def close(self, patience_s: float = 5.0) -> None:
        """Kill all workers and zygotes and wait until they are gone."""
        deadline = time.monotonic() + patience_s
        self.zygotes.stop_forking()
        while self.zygotes.busy and time.monotonic() < deadline:
            for pid in self.zygotes.children:  # each time, since forks that were under way add to them
                _send_signal(pid, signal.SIGKILL)
            self._loop.run_once(0.05, final=True)
        self.zygotes.close()
        for service in self._services:
            service.close()

    # -- within -------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        for peer, frames in self.channel.drain_woken():
            if peer[:1] == b"w" and frames:
                try:
                    message = codec.decode_from_worker_at_agent(frames[0])
                except msgspec.DecodeError:
                    self._offer(peer, frames)  # perhaps a service's; if not, nobody's
                else:
                    self.handle(WorkerSaid(peer[2:].decode(errors="replace"), message))
            elif peer == b"s" and frames:
                with contextlib.suppress(msgspec.DecodeError):
                    self.on_scheduler_said(codec.decode_from_scheduler_at_agent(frames[0]))
            else:
                self._offer(peer, frames)

    def _evacuate(self, effect: Evacuate) -> None:
        assert self._site is not None

        def done(ok: bool) -> None:
            self._loop.soon(lambda: self.handle(Evacuated(effect.successor, ok)))

        self._site.evacuate(effect.successor, effect.site_endpoint, done)

    def _offer(self, peer: bytes, frames: list[bytes]) -> None:
        for service in self._services:
            service.on_message(peer, frames)

    def _worker_that_ended(self, event: Event) -> str:
        if isinstance(event, WorkerProcessExited):
            for worker in self._core.workers.values():
                if worker.pid == event.pid:
                    return worker.name
        return ""

    def _socket_of(self, worker: str) -> str:
        return f"{self._root}/w-{worker}"

    def _make_fork(self, worker: str) -> Fork:
        endpoint = "" if self._cluster is not None else f"ipc://{self._socket_of(worker)}"
        return Fork(
            worker, self._node, self._agent_endpoint, endpoint, self._scheduler_endpoint, self._store, self._cluster
        )


def remote_scheduler(channel: Channel) -> Callable[[agent_to_scheduler.Message], None]:
    """Sends to a scheduler that was dialled as ``s``; what cannot be sent is made up for by the next hello."""

    def send(message: agent_to_scheduler.Message) -> None:
        with contextlib.suppress(PeerUnreachable):
            channel.send(b"s", (codec.encode(message),))

    return send


def _send_signal(pid: int, number: int) -> None:
    try:
        if number == signal.SIGKILL:
            try:
                os.killpg(pid, number)  # with what its task started
                return
            except ProcessLookupError:
                pass  # it has not got as far as making its group
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or became another user's
