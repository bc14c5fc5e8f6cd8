"""A client's connection to its agent: asks for memory, and does what the agent asks in its turn.

Made by ``room`` when a process first needs more memory than it may use without asking; most never do.  It has a channel
and a thread of its own, since it must answer while every other thread of the process is busy or waits for memory.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import msgspec

from distpool.store.settings import AGENT_FILE
from distpool.store.spill import NodeFacts
from distpool.wire import agent_to_store_client as agent_says
from distpool.wire import store_client_to_agent as client_says
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.codec import encode

if TYPE_CHECKING:

    class Party(Protocol):
        """Who serves the agent's wishes, in the link's thread."""

        def on_granted(self, size_bytes: int, asked: Asked | None) -> None: ...
        def on_reclaim(self, round: int) -> tuple[int, client_says.StoreReport]: ...
        def on_spill(self, segment: str) -> tuple[int, str]: ...
        def describe(self, request: int) -> client_says.StoreContents: ...


#: While somebody waits for an answer, it is found out so often whether the agent still lives.
_LOOK_EVERY_S = 0.5

_decode = msgspec.msgpack.Decoder(agent_says.Message).decode


class Asked:
    """A question under way.  Whoever asked waits, once, until it is woken: when ``answer`` is there, or when there is
    another reason to look.

    ``wanted_bytes`` is the memory that it is about, ``reserved_bytes`` what is kept for whoever waits for it.
    """

    __slots__ = ("_wakes", "answer", "request", "reserved_bytes", "wanted_bytes")

    def __init__(self, wanted_bytes: int = 0) -> None:
        self.request = 0
        # Not an event: one cannot be set by a finalizer that runs in the midst of waiting for it, or of setting it.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self.answer: agent_says.Message | None = None
        self.wanted_bytes = wanted_bytes
        self.reserved_bytes = 0

    def wake(self) -> None:
        """Have its thread look; may be called from finalizers, in any thread."""
        self._wakes.put(None)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until there is a reason to look, which there may have been before."""
        with suppress(Empty):
            self._wakes.get(timeout=timeout_s)


class Link:
    """See the module's description."""

    def __init__(self, folder: str, facts: NodeFacts, owner: str, allowed_bytes: int, party: Party) -> None:
        import zmq

        self._folder = folder
        self._agent = facts.agent.encode()
        self._party = party
        self._pid = os.getpid()
        self._requests = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._closed = False
        self._lost = False
        self._notes: deque[client_says.Message] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._channel = Channel(self._context, f"o-{owner}".encode())
        self._channel.connect(facts.endpoint, self._agent)
        self.say(client_says.StoreHello(self._pid, allowed_bytes))
        self._thread = threading.Thread(target=self._run, name="distpool-store", daemon=True)
        self._thread.start()

    def say(self, message: client_says.Message) -> None:
        """Send; an agent that is gone is ignored, for then the node ends."""
        try:
            self._channel.send(self._agent, (encode(message),))
        except PeerUnreachable:
            pass

    def say_later(self, message: client_says.Message) -> None:
        """Have the link's thread send; may be called from finalizers."""
        self._notes.append(message)
        self._channel.wake()

    def ask(self, asked: Asked, make: Callable[[int], client_says.Message]) -> Asked:
        """Send a question, made for a request number; the answer comes later."""
        asked.request = next(self._requests)
        self._asked[asked.request] = asked
        self.say(make(asked.request))
        if self.closed:
            asked.wake()
        else:
            self._channel.wake()  # from now on it looks whether the agent lives
        return asked

    def forget(self, asked: Asked) -> bool:
        """Nobody waits for the answer any more; whether it has not come yet."""
        return self._asked.pop(asked.request, None) is not None

    def close(self, *, goodbye: bool = True) -> None:
        """End the connection and its thread; whoever waits for an answer is woken.

        :param goodbye: False when the agent is gone: another in its place would take it for our end.
        """
        if goodbye:
            self.say(client_says.StoreGoodbye())
        self._closed = True
        if self._pid != os.getpid():
            return
        self._channel.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._channel.close(0.2)
        self._context.destroy(linger=0)
        self._wake_all()

    @property
    def closed(self) -> bool:
        """Whether there will be no more answers."""
        return self._closed or self._lost

    def _run(self) -> None:
        while not self._closed:
            arrived = self._channel.receive(_LOOK_EVERY_S if self._asked else None)
            while self._notes:
                self.say(self._notes.popleft())
            for _, frames in arrived:
                message = _decode(frames[0])
                self._serve(message)
            if not arrived and self._asked and not node_lives(self._folder):
                self._lost = True
                self._wake_all()

    def _wake_all(self) -> None:
        for asked in list(self._asked.values()):
            asked.wake()

    def _serve(self, message: agent_says.Message) -> None:
        party = self._party
        if isinstance(message, agent_says.MemoryGranted):
            party.on_granted(message.size_bytes, self._asked.get(message.request))
            self._answer(message.request, message)
        elif isinstance(message, (agent_says.UseDisk, agent_says.NodeContents, agent_says.ObjectsHere)):
            self._answer(message.request, message)
        elif isinstance(message, agent_says.Reclaim):
            returned, report = party.on_reclaim(message.round)
            if returned:
                self.say(client_says.MemoryReturned(returned))
            self.say(report)
        elif isinstance(message, agent_says.Spill):
            for segment in message.segments:
                size_bytes, problem = party.on_spill(segment)
                if size_bytes:
                    self.say(client_says.MemoryReturned(size_bytes))
                self.say(client_says.SegmentSpilled(segment, size_bytes, problem))
        else:
            self.say(party.describe(message.request))

    def _answer(self, request: int, message: agent_says.Message) -> None:
        asked = self._asked.pop(request, None)
        if asked is not None:
            asked.answer = message
            asked.wake()


def node_lives(folder: str) -> bool:
    """Whether the agent lives that keeps the books of a store folder."""
    try:
        fd = os.open(os.path.join(folder, AGENT_FILE), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
