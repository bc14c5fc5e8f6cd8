"""A worker that runs no tasks: it reports, and then does what its driver's messages say."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import zmq

from distpool.wire import codec
from distpool.wire.channel import Channel
from distpool.wire.worker_to_agent import ModulesImported, WorkerStarted


@dataclass(frozen=True)
class WorkerStart:
    lease: str
    node: str
    agent_endpoint: str
    endpoint: str
    scheduler_endpoint: str
    store_folder: str
    cluster: object = None
    learned: frozenset[str] = frozenset()


def run(start: WorkerStart) -> None:
    """Messages are words in frames; each is answered by one."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    channel = Channel(context, f"w-{start.lease}".encode())
    endpoint = channel.bind(start.endpoint)
    agent = f"a-{start.node}".encode()
    channel.connect(start.agent_endpoint, agent)
    channel.send(agent, [codec.encode(WorkerStarted(start.lease, endpoint, os.getpid()))])
    while True:
        for peer, frames in channel.receive():
            answer = _do(channel, agent, *[frame.decode() for frame in frames])
            channel.send(peer, [answer.encode()])


def _do(channel: Channel, agent: bytes, command: str, *arguments: str) -> str:
    if command == "exit":
        sys.exit(int(arguments[0]))
    elif command == "crash":
        os.write(2, b"first line\nlast words\n")
        os.kill(os.getpid(), int(arguments[0]))
    elif command == "ignore-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif command == "import":
        importlib.import_module(arguments[0])
        channel.send(agent, [codec.encode(ModulesImported(arguments))])
    elif command == "is-loaded":
        return str(arguments[0] in sys.modules)
    elif command == "spawn":
        return str(subprocess.Popen(["sleep", "1000"]).pid)
    elif command == "descriptors":
        return "\n".join(f"{fd}:{target}" for fd, target in _descriptors().items())
    elif command == "parents":
        return f"{os.getppid()} {os.getpgid(0)} {os.getsid(0)}"
    elif command == "death-signal":
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))
        return str(number.value)
    return "done"


def _descriptors() -> dict[int, str]:
    found: dict[int, Any] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found
