"""A real worker process, and a driver and an agent that do what the test tells them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import zmq

from distpool.code.definitions import DefinitionServer
from distpool.driver.environment import CapturedSetup, capture
from distpool.driver.pool import PoolSpec
from distpool.store.client import ObjectStore
from distpool.wire import codec, driver_to_worker
from distpool.wire.channel import Channel
from distpool.wire.driver_to_worker import Function, RunTasks, Task
from distpool.wire.resources import Shape
from distpool.wire.scheduler_to_driver import LeaseGranted
from distpool.wire.worker_to_driver import OK, FetchDefinitions, FetchModule, Output, Result, SetupDone, TasksDone
from distpool.worker.failure import decode_exception
from distpool.worker.main import WorkerStart

_PROGRAM = "import sys; from distpool.worker.main import *; run(WorkerStart(*sys.argv[1:]))"
LEASE = "lease-1"
WORKER = f"w-{LEASE}".encode()

_Message = TypeVar("_Message", bound=msgspec.Struct)


class Driver:
    """Scripted; every message of the worker lands in ``seen`` (from the driver's side) or ``agent_seen``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        store_folder = folder / "store"
        store_folder.mkdir()
        self.seen: list[Any] = []
        self.agent_seen: list[Any] = []
        self.store = ObjectStore(store_folder, "d-test")
        #: Whether questions about code are answered; if not, they are ``seen``.
        self.answers = True
        self._definitions = DefinitionServer(self.store)
        self._folder = folder
        self._context = zmq.Context()
        self._agent = Channel(self._context, b"a-node")
        self._agent.bind(f"ipc://{folder}/a")
        self._channel = Channel(self._context, b"d-test")
        self._channel.connect(f"ipc://{folder}/w", WORKER)
        self._numbers: dict[Any, int] = {}
        self._attempts = 0
        start = WorkerStart(LEASE, "node", f"ipc://{folder}/a", f"ipc://{folder}/w", "ipc://s", str(store_folder))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *msgspec.structs.astuple(start)[:6]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    # -- sending ----------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        self._channel.send(WORKER, (codec.encode(message),))

    def capture(
        self, initializer: Callable[..., object] | None = None, initargs: Any = (), **spec: Any
    ) -> CapturedSetup:
        session = SimpleNamespace(routing_id=b"d-test", remote=False)
        packed = self.store.pack((initializer, initargs)) if initializer is not None else None
        return capture(session, PoolSpec(2, process_name="TestWorker", **spec), packed)

    def send_setup(self, captured: CapturedSetup) -> None:
        grant = LeaseGranted(LEASE, "pool", Shape(), "node", WORKER.decode(), "", self.process.pid, 3)
        self.send(captured.for_worker(grant))

    def set_up(self, initializer: Callable[..., object] | None = None, initargs: Any = (), **spec: Any) -> None:
        self.send_setup(self.capture(initializer, initargs, **spec))
        self.until(SetupDone)

    def next_attempt(self) -> int:
        """Its number, which is larger than all before."""
        self._attempts += 1
        return self._attempts

    def task(self, function: Callable[..., Any], *args: Any, flags: int = 0, **kwargs: Any) -> Task:
        """A task whose function travels in its payload."""
        value = self.store.pack((function, args, kwargs)).value
        assert not value.objects
        return Task(self.next_attempt(), 0, value.payload, flags=flags)

    def numbered(self, function: Callable[..., Any], *args: Any, flags: int = 0) -> tuple[Task, list[Function]]:
        """A task that names its function by number, and the function if it is new to the worker."""
        new = []
        if function not in self._numbers:
            self._numbers[function] = len(self._numbers) + 1
            new.append(Function(self._numbers[function], pickle.dumps(function, 5)))
        return Task(self.next_attempt(), self._numbers[function], pickle.dumps((args, {}), 5), flags=flags), new

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        task = self.task(function, *args, **kwargs)
        self.send(RunTasks([task]))
        return task.attempt

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one task; its value, or its exception raised."""
        return self.outcome(self.start(function, *args, **kwargs))

    # -- receiving --------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Wait for something to arrive; the watchdog ends a wait for nothing."""
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}")
        for _, frames in self._channel.receive(0.05):
            self._take(frames[0])
        for _, frames in self._agent.drain():
            self.agent_seen.append(codec.decode_from_worker_at_agent(frames[0]))

    def _take(self, frame: bytes) -> None:
        message = codec.decode_from_worker_at_driver(frame)
        if isinstance(message, (FetchDefinitions, FetchModule)) and self.answers:
            self.send(self._definitions.answer(WORKER, message))
        else:
            self.seen.append(message)

    def until(self, kind: type[_Message], *, at_agent: bool = False) -> _Message:
        """The first message of that kind, now or later; it is taken out of what was seen."""
        while True:
            seen = self.agent_seen if at_agent else self.seen
            for i, message in enumerate(seen):
                if isinstance(message, kind):
                    return seen.pop(i)
            self.receive()

    def result(self, attempt: int) -> Result:
        while True:
            for message in self.seen:
                if isinstance(message, TasksDone):
                    for result in message.results:
                        if result.attempt == attempt:
                            return result
            self.receive()

    def outcome(self, attempt: int) -> Any:
        result = self.result(attempt)
        if result.status == OK:
            return self.store.unpack(driver_to_worker.Value(result.payload, result.objects))
        raise decode_exception(result.payload)

    def output(self, stream: int = 1) -> str:
        return "".join(
            message.text for message in self.seen if isinstance(message, Output) and message.stream == stream
        )

    # -- the end ----------------------------------------------------------------------------------------------------

    def leave(self) -> int:
        """Tell it to leave; its exit status."""
        self.send(driver_to_worker.Leave())
        while self.process.poll() is None:
            for _, frames in self._channel.receive(0.02):
                self._take(frames[0])
        for channel, seen, decode in (
            (self._channel, self.seen, codec.decode_from_worker_at_driver),
            (self._agent, self.agent_seen, codec.decode_from_worker_at_agent),
        ):
            for _, frames in channel.receive(0.02):
                seen.append(decode(frames[0]))
        return self.process.returncode

    def close(self) -> str:
        """End everything; what the process wrote to its real standard output and error."""
        if self.process.poll() is None:
            self.process.kill()
        output, _ = self.process.communicate()
        self._channel.close()
        self._agent.close()
        self._context.destroy(linger=0)
        self.store.close()
        return output.decode()
