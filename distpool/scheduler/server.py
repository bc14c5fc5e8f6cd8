"""The shell around the scheduler core: its channel, and the kernel's word on drivers of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import msgspec

from distpool import crashpoints
from distpool.node.loop import Loop
from distpool.node.machine import process_space
from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.events import (
    AgentSaid,
    DriverLost,
    DriverSaid,
    Event,
    OperatorSaid,
    TimePassed,
    ToDriver,
    ToOperator,
)
from distpool.wire import agent_to_scheduler, codec, scheduler_to_agent
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.driver_to_scheduler import DriverHeartbeat, DriverHello
from distpool.wire.processes import exists
from distpool.wire.scheduler_to_driver import Ping, Refused
from distpool.wire.silence import silence_s

#: Where the kernel does not tell of a process's end, it is looked for so often.
_LOOK_S = 1.0
#: The connections of drivers on other machines are tried so often in the time that they may be silent.
_PINGS = 3.3


class Server:
    """See the module's description.

    An agent in the same process is called directly, from the loop, and never from within a call of its own.

    :param remote: whether drivers may be on other machines.
    """

    def __init__(self, core: SchedulerCore, loop: Loop, channel: Channel, *, remote: bool = False) -> None:
        self._core = core
        self._loop = loop
        self._channel = channel
        self._machine = process_space()
        self._ping_at = time.monotonic() + silence_s() / _PINGS if remote else None
        self._local_agents: dict[str, Callable[[scheduler_to_agent.Message], None]] = {}
        #: driver -> descriptor that is readable when its process has ended
        self._watched: dict[str, int] = {}
        self._looked_for: dict[str, int] = {}
        self._look_at: float | None = None
        loop.add_timer(core.next_deadline, lambda now: self.handle(TimePassed()))
        loop.add_timer(lambda: self._look_at, self._look)
        loop.add_timer(lambda: self._ping_at, self._ping)
        for fd in channel.descriptors:
            loop.watch(fd, self._on_readable)

    def add_local_agent(self, node: str, deliver: Callable[[scheduler_to_agent.Message], None]) -> None:
        """Messages for this node go to ``deliver``."""
        self._local_agents[node] = deliver

    def on_agent_said(self, node: str, message: agent_to_scheduler.Message) -> None:
        """A message of an agent in this process."""
        self._loop.soon(lambda: self.handle(AgentSaid(node, message)))

    def start(self) -> None:
        """Look at what came before the loop watched: it makes no further edge."""
        self._on_readable()

    def handle(self, event: Event) -> None:
        """Let the core decide, and do it."""
        crashpoints.reach_event("scheduler.heard", event)
        for effect in self._core.handle(event, time.monotonic()):
            if isinstance(effect, ToDriver):
                self._send(effect.driver.encode(), effect.message)
                crashpoints.reach_event("scheduler.said", effect)
                continue
            if isinstance(effect, ToOperator):
                self._send(effect.operator.encode(), effect.message)
                continue
            deliver = self._local_agents.get(effect.node)
            if deliver is None:
                self._send(b"a-" + effect.node.encode(), effect.message)
            else:
                self._loop.soon(partial(deliver, effect.message))
        for name in [name for name in (*self._watched, *self._looked_for) if name not in self._core.book.drivers]:
            self._unwatch(name)

    def end_cluster(self) -> None:
        """The scheduler was told to stop, and will not come back: tell everybody."""
        book = self._core.book
        for node in book.nodes:
            if node not in self._local_agents:
                self._send(b"a-" + node.encode(), scheduler_to_agent.ClusterEnds())
        for driver in book.drivers:
            self._send(driver.encode(), Refused("the cluster was stopped"))

    def close(self) -> None:
        """Give up what was watched."""
        for name in [*self._watched, *self._looked_for]:
            self._unwatch(name)

    def _on_readable(self) -> None:
        for peer, frames in self._channel.drain_woken():
            if not frames:
                continue
            try:
                name = peer.decode()
                # By the peer's role, never by what the message claims to be.
                if peer[:1] == b"d":
                    message = codec.decode_from_driver_at_scheduler(frames[0])
                    watched = isinstance(message, DriverHello) and self._watch(name, message)
                    self.handle(DriverSaid(name, message, watched))
                elif peer[:1] == b"o":
                    self.handle(OperatorSaid(name, codec.decode_from_operator_at_scheduler(frames[0])))
                elif peer[:2] == b"a-":
                    self.handle(AgentSaid(name[2:], codec.decode_from_agent_at_scheduler(frames[0])))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # no message of its role: as if it had not come

    def _send(self, peer: bytes, message: object) -> None:
        try:
            self._channel.send(peer, (codec.encode(message),))
        except PeerUnreachable:
            pass  # if it lives it will say hello again, and be told where things stand

    # -- drivers of this machine --------------------------------------------------------------------------------

    def _watch(self, name: str, hello: DriverHello) -> bool:
        """Have the kernel tell when the driver ends; False if it must send heartbeats."""
        if hello.machine != self._machine or hello.parent_lease:
            return False
        if name in self._watched or name in self._looked_for:
            return True
        try:
            fd = os.pidfd_open(hello.pid)
        except (AttributeError, OSError):
            if not exists(hello.pid):
                return False  # another process-id namespace: the number means nothing here
            self._looked_for[name] = hello.pid
            self._look_at = time.monotonic() + _LOOK_S
            return True
        self._watched[name] = fd
        self._loop.watch(fd, lambda: self.handle(DriverLost(name)))
        return True

    def _ping(self, now: float) -> None:
        """Drivers on other machines live as long as their connections do."""
        self._ping_at = now + silence_s() / _PINGS
        ping = (codec.encode(Ping()),)
        for driver in list(self._core.book.drivers.values()):
            if driver.watched or not driver.greeted:
                continue
            try:
                self._channel.send(driver.name.encode(), ping)
            except PeerUnreachable:
                continue
            self.handle(DriverSaid(driver.name, DriverHeartbeat()))

    def _unwatch(self, name: str) -> None:
        self._looked_for.pop(name, None)
        fd = self._watched.pop(name, None)
        if fd is not None:
            self._loop.unwatch(fd)
            os.close(fd)

    def _look(self, now: float) -> None:
        for name, pid in list(self._looked_for.items()):
            if not exists(pid):
                self.handle(DriverLost(name))
        self._look_at = now + _LOOK_S if self._looked_for else None
