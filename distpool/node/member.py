"""A node of a cluster, as ``distpool start`` runs it: an agent that joins a scheduler, or both in one process (the
head).

Runs in the node process, which calls it (``process``).  Who listens on TCP, all of them with the cluster's keys: the
scheduler, and each worker for its driver.  Agent and workers of one machine speak over ipc.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import zmq

from distpool.errors import ConnectError
from distpool.node import machine, statefolder
from distpool.node.agent import Agent, remote_scheduler
from distpool.node.config import MemberConfig, NodeConfig, agent_endpoint, scheduler_endpoint
from distpool.node.control import ClusterFacts
from distpool.node.core import AgentCore
from distpool.node.events import SchedulerSaid, StandsFor
from distpool.node.folders import sweep
from distpool.node.loop import Loop
from distpool.node.ports import bind_first_free, make_room_for_strangers
from distpool.node.sampler import Sampler
from distpool.node.strangers import Strangers
from distpool.wire import codec, scheduler_to_agent
from distpool.wire.agent_to_scheduler import AgentGoodbye, AgentHello, SiteWanted
from distpool.wire.channel import Channel
from distpool.wire.doorbell import Doorbell
from distpool.wire.gatekeeper import Gatekeeper
from distpool.wire.links import CallerRefused, LinkDown, LinkEvent, LinkUp, Patience
from distpool.wire.resources import Shape
from distpool.wire.security import Token
from distpool.wire.silence import silence_s

if TYPE_CHECKING:
    from distpool.scheduler.server import Server

log = logging.getLogger("distpool.node")

#: So many signs of life in the time that a node may be silent.
_HEARTBEATS = 5
#: How long last words may take to leave the process.
_LINGER_S = 1.0
#: How long a scheduler may take to answer a node that wants to join.
_JOIN_S = 30.0
#: How often what killed programs have left is looked for, which is to list two or three folders.
_SWEEP_S = 5.0


class Joined(msgspec.Struct, frozen=True):
    """What the node says to ``distpool start`` behind ``READY``."""

    node: str
    cluster: str
    address: str
    token_file: str
    capacity: Shape


class Member:
    """See the module's description.

    :raises ConnectError: when the scheduler's port cannot be had.
    """

    def __init__(
        self,
        config: NodeConfig,
        member: MemberConfig,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        control: socket.socket,
        start_zygote: Callable[[], socket.socket],
    ) -> None:
        from distpool.node.process import store_service
        from distpool.store.transfer.agent_site import AgentSite

        _begin_log()
        self._config = config
        #: A node may come back under the name that it was given; what it names must be told from what it named before.
        self._incarnation = os.urandom(2).hex()
        self._member = member
        self._loop = loop
        self._context = context
        self._token = Token.parse(member.token)
        self._node_file = -1
        self._orphaned_at: float | None = None
        self._strangers = Strangers(loop)
        self._patience = Patience(_JOIN_S)
        self._was_up = False
        self._bell = Doorbell()
        loop.watch(self._bell.fd, self._on_links)
        self._channels: list[Channel] = []
        #: Those that report what becomes of connections.
        self._watched: list[Channel] = []
        self.announcement = b""
        keys = self._token.keys
        self._server = self._open_scheduler() if member.head else None
        agent_channel = Channel(context, f"a-{config.node}".encode(), keys)
        self._agent_channel = agent_channel
        self._channels.append(agent_channel)
        agent_channel.bind(agent_endpoint(config.root))
        to_scheduler = remote_scheduler(agent_channel)
        if self._server is not None:
            to_scheduler = partial(self._server.on_agent_said, config.node)
        capacity = self._capacity()
        facts = ClusterFacts(
            self._token.secret, member.bind_host, member.advertised_host, member.first_port, member.last_port
        )
        books = store_service(config, loop, agent_channel, int(capacity.memory_bytes))
        self._site = AgentSite(
            loop,
            config.node,
            keys,
            config.store,
            books,
            partial(self._listen_for_sites, facts),
            lambda site, copies: to_scheduler(SiteWanted(site, copies)),
            lambda nodes: self.agent.handle(StandsFor(nodes)),
        )
        self.agent = Agent(
            self._agent_core(capacity),
            loop,
            agent_channel,
            config.node,
            config.root,
            config.store,
            agent_endpoint(config.root),
            f"tcp://{self._token.address}",
            control,
            start_zygote,
            to_scheduler,
            facts,
            Sampler(config.memory),
        )
        self.agent.add_service(books)
        self.agent.add_site(self._site)
        if member.foreground:
            loop.watch(0, loop.stop)
        loop.add_timer(lambda: self._orphaned_at, self._on_orphaned)
        self._sweep_at = time.monotonic() + _SWEEP_S
        loop.add_timer(lambda: self._sweep_at, self._sweep)

    def join(self) -> None:
        """Become part of the cluster; called when the zygote can fork.

        :raises ConnectError: when the scheduler cannot be reached, or refuses.
        """
        if self._server is not None:
            self._server.add_local_agent(self._config.node, self.agent.on_scheduler_said)
            self._server.start()
        else:
            channel = self._agent_channel
            self._watch(channel)
            try:
                channel.connect(f"tcp://{self._token.address}", b"s")
            except OSError as error:
                raise ConnectError(f"the cluster's address {self._token.address} is not known: {error}") from error
        self._site.start()
        self.agent.start()
        began = time.monotonic()
        core = self.agent.core
        while self._loop.running and not core.cluster and time.monotonic() < began + self._patience.lasts_s:
            self._loop.run_once(0.5)
        where = self._token.address
        if core.refused:
            raise ConnectError(f"the cluster at {where} refused this node: {core.refused}")
        if not core.cluster:
            if not self._loop.running:
                return  # told to end meanwhile
            raise ConnectError(f"no answer from the cluster at {where}: {self._patience.reason}")
        token_file = ""
        if not self._member.private:
            token_file = str(statefolder.save_token(self._token))
            self._node_file = statefolder.hold_node_file(
                statefolder.NodeFile(self._config.node, os.getpid(), where, self._member.head, self._member.log)
            )
        joined = Joined(self._config.node, core.cluster, where, token_file, self._capacity())
        log.info("node %s is part of the cluster at %s", self._config.node, where)
        self.announcement = msgspec.json.encode(joined)

    def leave(self) -> None:
        """Say goodbye; workers still run."""
        if self._server is not None:
            self._server.end_cluster()
        elif not self.agent.core.refused:
            with contextlib.suppress(Exception):
                remote_scheduler(self._agent_channel)(AgentGoodbye())
        reason = self.agent.core.refused or "it was told to"
        log.info("node %s ends: %s", self._config.node, reason)

    def close(self) -> None:
        """The last words leave."""
        for channel in self._channels:
            channel.close(_LINGER_S)
        self._context.term()

    def note_end(self) -> None:
        """Nothing is left of this node; whoever waits for its end may know."""
        if self._node_file >= 0:
            statefolder.remove_node_file(self._config.node)
            os.close(self._node_file)

    # -- within -------------------------------------------------------------------------------------------------

    def _open_scheduler(self) -> Server:
        """The scheduler, listening where the token says; afterwards the token says which port that is."""
        from distpool.scheduler.core import SchedulerCore
        from distpool.scheduler.server import Server

        patience_s = silence_s()
        Gatekeeper(self._context, self._token.keys)
        channel = Channel(self._context, b"s", self._token.keys)
        self._watch(channel)
        make_room_for_strangers()
        if self._member.private:  # its address is nowhere but in the program; the user can ask it all the same
            channel.bind(scheduler_endpoint(self._config.root))
        host, _, port = self._token.address.rpartition(":")
        try:
            endpoint = channel.bind(f"tcp://{self._member.bind_host}:{'*' if port == '0' else port}")
        except OSError as error:
            raise ConnectError(
                f"the scheduler cannot listen on port {port} of {self._member.bind_host} "
                f"({os.strerror(error.errno or 0)}). Does a head run here already (distpool status)? Otherwise choose "
                "another port with --port"
            ) from error
        self._token = Token(f"{host}:{endpoint.rpartition(':')[2]}", self._token.secret)
        core = SchedulerCore(
            cluster=self._token.address,
            lease_prefix=f"{self._config.node}-{self._incarnation}",
            silence_s=patience_s,
            gathers=True,
        )
        self._channels.append(channel)
        return Server(core, self._loop, channel, remote=True)

    def _agent_core(self, capacity: Shape) -> AgentCore:
        from distpool.version import __version__

        config = self._config
        cpus = math.ceil(capacity.num_cpus)
        hello = AgentHello(
            codec.PROTOCOL,
            codec.PYTHON,
            __version__,
            config.node,
            socket.gethostname(),
            capacity,
            elastic_cpus=False,
            gpus=machine.gpus()[: math.ceil(capacity.num_gpus)],
            site_endpoint=self._site.endpoint,
            head=self._member.head,
        )
        spares = min(cpus, 4) if config.spares is None else config.spares
        return AgentCore(
            hello,
            spares=spares,
            heartbeat_s=silence_s() / _HEARTBEATS,
            preload=config.preload,
            incarnation=self._incarnation,
            memory=config.memory,
        )

    def _capacity(self) -> Shape:
        wanted = self._member.capacity
        return Shape(
            float(machine.cpu_count()) if wanted.num_cpus < 0 else wanted.num_cpus,
            float(len(machine.gpus())) if wanted.num_gpus < 0 else wanted.num_gpus,
            machine.memory_size_bytes() if wanted.memory_bytes < 0 else wanted.memory_bytes,
            tuple(sorted({**dict(machine.custom_resources()), **dict(wanted.custom)}.items())),
        )

    def _listen_for_sites(self, facts: ClusterFacts, channel: Channel) -> str:
        self._watch(channel)
        return bind_first_free(channel, facts)

    # -- connections --------------------------------------------------------------------------------------------

    def _watch(self, channel: Channel) -> None:
        channel.watch_links(self._bell.ring)
        self._watched.append(channel)

    def _on_links(self) -> None:
        self._bell.answer()
        for channel in self._watched:
            while channel.link_events:
                self._on_link(channel.link_events.popleft())

    def _on_link(self, event: LinkEvent) -> None:
        if isinstance(event, CallerRefused):
            self._strangers.refused(event.endpoint, time.monotonic())
            return
        self._patience.note(event)
        if isinstance(event, LinkDown):
            log.warning("the connection to the scheduler at %s broke", self._token.address)
            self._orphaned_at = time.monotonic() + self._member.orphaned_s
        elif isinstance(event, LinkUp):
            self._orphaned_at = None
            if self._was_up:
                log.info("the scheduler at %s is back", self._token.address)
                # What was under way was lost, and the scheduler may be a new one.
                self.agent.handle(SchedulerSaid(scheduler_to_agent.HelloWanted()))
            self._was_up = True

    def _sweep(self, now: float) -> None:
        """Programs that used a cluster from this machine have stores of their own here, and may have been killed."""
        sweep()
        self._sweep_at = now + _SWEEP_S

    def _on_orphaned(self, now: float) -> None:
        log.error("no scheduler at %s for %g s: this node ends", self._token.address, self._member.orphaned_s)
        self._orphaned_at = None
        self._loop.stop()


def _begin_log() -> None:
    """To standard error, which is the log file of a node in the background."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
