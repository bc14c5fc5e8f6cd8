"""What arrives at a worker, sorted: tasks in order, answers to questions, and what must be done at once.

Two threads receive: the main thread while it is idle or waits for an answer, the watch thread while a task runs.  They
share one lock for taking in, so that messages are sorted in the order in which they came.  Whoever takes something in
for a thread that waits on the channel wakes it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from distpool import crashpoints
from distpool.wire import codec, worker_to_agent
from distpool.wire.channel import EVERYTHING, Channel, PeerUnreachable
from distpool.wire.driver_to_worker import (
    Definitions,
    Function,
    Interrupt,
    Leave,
    ModuleSource,
    ReleaseObjects,
    Retract,
    RunTasks,
    Setup,
    Task,
)
from distpool.wire.streams import StreamBytes, StreamEnded, StreamMessage, StreamOpened, StreamTaken
from distpool.wire.worker_to_driver import FetchDefinitions, FetchModule, Retracted, Unpinned

_DRIVER = b"d"[0]
_decode = codec.decode_from_driver_at_worker


class _Reply:
    __slots__ = ("event", "message")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.message: Any = None


class Mailbox:
    """One per worker; made in the main thread.

    :param agent: the agent's routing id.
    """

    def __init__(self, channel: Channel, agent: bytes) -> None:
        self.channel = channel
        #: Tasks by attempt, and under negative numbers what must happen between them.  Taking an entry out is one
        #: atomic step and claims it: a task is run, or given back, never both.
        self.pending: OrderedDict[int, Task | Setup | Definitions | Leave] = OrderedDict()
        #: Functions that have come and that no task has used yet.
        self.functions: dict[int, Function] = {}
        #: Whether the set-up failed: tasks are dropped.
        self._refusing = False
        #: Whether the watch thread waits on the channel, the main thread does for an answer, or it leaves that to the
        #: watch thread.
        self.watch_serves = False
        self.main_receives = False
        self.main_waits = False
        self.on_interrupt: Callable[[int], None] = lambda attempt: None
        self.on_release: Callable[[list[str]], None] = lambda object_ids: None
        self.on_stream: Callable[[StreamMessage], None] = lambda message: None
        self._agent = agent
        self._driver: bytes | None = None
        #: The last attempt that came: their numbers only grow.
        self._newest = 0
        self._intake = threading.Lock()
        self._replies: dict[int, _Reply] = {}
        self._requests = itertools.count(1)
        self._controls = itertools.count(-1, -1)
        #: Objects of which the driver is to be told that they are no longer needed here.
        self.unpinned: deque[str] = deque()
        self._main_thread = threading.get_ident()
        #: Set in a process that a task forked: the channel is its parent's.
        self.foreign = False

    # -- receiving --------------------------------------------------------------------------------------------------

    def drain(self, ready: Sequence[int] = EVERYTHING) -> bool:
        """Take in what has arrived, without waiting; whether there was anything (``ready`` as for the channel)."""
        with self._intake:
            arrived = self.channel.drain(ready)
            for peer, frames in arrived:
                self._take(peer, frames[0])
        return bool(arrived)

    def _take(self, peer: bytes, frame: bytes) -> None:
        if peer[0] != _DRIVER:
            return
        try:
            message = _decode(frame)
        except msgspec.DecodeError:
            return  # no driver of ours sends such
        kind = type(message)
        if self._driver is None and kind is Setup:
            self._driver = peer
        elif peer != self._driver or kind is Setup:
            return  # not its driver, or what has been said
        crashpoints.reach_event("worker.heard", message)
        if kind is RunTasks:
            if self._refusing:
                return
            for function in message.functions:
                self.functions[function.number] = function
            pending = self.pending
            newest = self._newest
            for task in message.tasks:
                if task.attempt > newest:  # otherwise it has been here, and may have run
                    newest = task.attempt
                    pending[newest] = task
            self._newest = newest
        elif kind is ModuleSource or kind is StreamOpened or (kind is Definitions and message.request):
            reply = self._replies.pop(message.request, None)
            if reply is not None:
                reply.message = message
                reply.event.set()
        elif kind is Retract:
            pop = self.pending.pop
            given_back = [attempt for attempt in message.attempts if attempt > 0 and pop(attempt, None) is not None]
            self.tell_driver(Retracted(given_back))
        elif kind is Interrupt:
            self.on_interrupt(message.attempt)
        elif kind is ReleaseObjects:
            self.on_release(message.objects)
        elif kind is StreamBytes or kind is StreamTaken or kind is StreamEnded:
            self.on_stream(message)
        else:  # in its turn between the tasks
            self.pending[next(self._controls)] = message

    def refuse(self) -> None:
        """Drop the tasks that have come and those that come from now on."""
        with self._intake:  # some may be on their way into ``pending``
            self._refusing = True
            for attempt in [key for key in self.pending if key > 0]:
                del self.pending[attempt]

    # -- sending ----------------------------------------------------------------------------------------------------

    def tell_driver(self, message: Any) -> None:
        """Send; a driver that is gone is ignored, since the agent will end this process."""
        if self._driver is not None:
            self._send(self._driver, message)

    def tell_agent(self, message: Any) -> None:
        """Send; an agent that is gone is ignored, since this process will end with it."""
        self._send(self._agent, message)

    def tell_blocked(self, lease: str, blocked: bool) -> None:
        """Tell the agent whether the task waits for nested work."""
        self.tell_agent(worker_to_agent.WorkerBlocked(lease) if blocked else worker_to_agent.WorkerUnblocked(lease))

    def _send(self, peer: bytes, message: Any) -> None:
        if self.foreign:
            return
        try:
            self.channel.send(peer, (codec.encode(message),))
        except PeerUnreachable:
            pass

    def note_unpinned(self, object_ids: list[str]) -> None:
        """Called from finalizers, so it only takes a note and wakes whoever sends."""
        self.unpinned.extend(object_ids)
        self.channel.wake()

    def send_unpinned(self) -> None:
        """Send what ``note_unpinned`` noted (after the results that were made before)."""
        noted = self.unpinned
        if noted:
            self.tell_driver(Unpinned([noted.popleft() for _ in range(len(noted))]))

    # -- questions to the driver ------------------------------------------------------------------------------------

    def fetch_definitions(self, module: str, names: list[str], known: dict[str, bytes]) -> Definitions:
        """Send ``FetchDefinitions`` and return the answer (errors as for ``request``)."""
        answer: Definitions = self.request(lambda number: FetchDefinitions(number, module, names, known))
        return answer

    def fetch_module(self, name: str) -> ModuleSource:
        """Send ``FetchModule`` and return the answer (errors as for ``request``)."""
        answer: ModuleSource = self.request(lambda number: FetchModule(number, name))
        return answer

    def request(self, make_message: Callable[[int], Any]) -> Any:
        """Ask the driver and block until it answers.  Any thread may ask.

        :param make_message: makes the message for a request number.
        :raises RuntimeError: in a process that a task forked.
        """
        if self.foreign:
            raise RuntimeError("a process forked inside a task cannot ask the driver for definitions")
        number = next(self._requests)
        reply = self._replies[number] = _Reply()
        try:
            self.tell_driver(make_message(number))
            if threading.get_ident() == self._main_thread:
                self._wait_in_main(reply)
            else:
                # The main thread is idle and receives, or a task runs and the watch thread looks in.
                reply.event.wait()
        finally:
            self._replies.pop(number, None)
        return reply.message

    def _wait_in_main(self, reply: _Reply) -> None:
        with self._intake:
            # The watch thread stays where it is as long as the main thread counts on it.
            self.main_waits = self.watch_serves
            self.main_receives = not self.watch_serves
        try:
            if self.main_waits:
                reply.event.wait()
            while reply.message is None:
                if not self.drain():
                    self.channel.wait()
        finally:
            if self.main_waits:
                self.main_waits = False
                self.channel.wake()
            self.main_receives = False

    def begin_serving(self) -> bool:
        """The watch thread wants to wait on the channel; False when the main thread does so itself."""
        with self._intake:
            self.watch_serves = not self.main_receives
            return self.watch_serves

    def end_serving(self) -> bool:
        """The watch thread is done; False when the main thread counts on it."""
        with self._intake:
            self.watch_serves = self.main_waits
            return not self.watch_serves
