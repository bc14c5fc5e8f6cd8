"""The node process: zygote first, then agent, and scheduler if it has one, in one single-threaded loop.

That of one program ends, with everything below it, when the driver ends in any way: the kernel says so through a
process descriptor, and where there is none, the pipe on descriptor 0 breaks.  A node of a cluster (``member``) ends
when it is told to.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import msgspec

# Shared with the zygote: it is forked right after these imports, and needs them like the rest of this process, or forks
# workers that do.
import zmq

import distpool.node.sampler
import distpool.store.spill
import distpool.wire.worker_to_agent  # noqa: F401
from distpool import crashpoints
from distpool.node import machine, zygote
from distpool.node.config import READY, NodeConfig, agent_endpoint, scheduler_endpoint, write_config
from distpool.node.spawn import forget_tunables, spawn
from distpool.wire import channel, codec

if TYPE_CHECKING:
    from distpool.node.agent import Agent
    from distpool.node.loop import Loop
    from distpool.store.service import StoreService

_STATUS = 3


def main(role: str) -> NoReturn:
    """Run as ``private`` (a program's own node), ``member`` (a node of a cluster) or ``zygote`` (a node's, after the
    one it forked was killed)."""
    _tidy()
    forget_tunables()
    config = _read_config()
    if config.member is not None:
        os.chdir(config.member.working_directory)
        if not config.member.foreground:
            _null_input()
    if role == "zygote":
        zygote.run(socket.socket(fileno=_STATUS), config.worker_module, config.import_path)
    control, theirs = socket.socketpair()
    zygote_pid = os.fork()
    if not zygote_pid:
        control.close()
        os.close(_STATUS)
        _null_input()
        zygote.run(theirs, config.worker_module, config.import_path)
    theirs.close()
    crashpoints.play("agent")
    _serve(config, control)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(zygote_pid, 0)
    sys.stdout.flush()
    os._exit(0)


def _serve(config: NodeConfig, control: socket.socket) -> None:
    from distpool.node.folders import Folders, sweep
    from distpool.node.loop import Loop

    folders = Folders(config.root, config.store, config.spill)
    try:
        folders.hold()
    except FileNotFoundError:  # whoever started this has died, and somebody else has swept what it left
        folders.remove()
        raise
    driver_ended: list[bool] = []
    # Should this process be killed while workers run, the kernel closes the sockets and kills the zygotes.
    loop = Loop()
    context = zmq.Context()
    context.set(zmq.BLOCKY, False)
    member = None
    try:
        _end_on_signals(loop)
        if config.member is None:
            agent = _assemble(config, control, loop, context)
            _watch_driver(config, loop, lambda: driver_ended.append(True))
        else:
            from distpool.node.member import Member

            member = Member(config, config.member, loop, context, control, lambda: _start_zygote(config))
            agent = member.agent
        while not agent.zygotes.ready and not agent.zygotes.broken and loop.running:
            loop.run_once()
        if agent.zygotes.broken:
            raise RuntimeError(f"the process from which workers are forked cannot start:\n{agent.zygotes.broken}")
        if member is not None:
            member.join()
        if loop.running:
            os.write(_STATUS, READY + (member.announcement if member is not None else b""))
            if member is not None:
                os.close(_STATUS)  # nobody waits for the end
            gc.freeze()
            gc.enable()
            sweep(config.store_settings.spill_folder)
            loop.run()
        if member is not None:
            member.leave()
        agent.close()
        if member is None:
            agent.channel.close()
    finally:
        if member is not None:
            member.close()
        if driver_ended or config.member is not None:
            folders.remove()
        else:
            folders.remove_if_free()  # the driver may start another node in them
        if member is not None:
            sweep()  # nobody else may do so later for programs that were killed a moment ago
            member.note_end()


def _assemble(config: NodeConfig, control: socket.socket, loop: Loop, context: zmq.Context[zmq.Socket[bytes]]) -> Agent:
    from distpool.node.agent import Agent
    from distpool.node.core import AgentCore
    from distpool.node.sampler import Sampler
    from distpool.scheduler.core import SchedulerCore
    from distpool.scheduler.server import Server
    from distpool.version import __version__
    from distpool.wire.agent_to_scheduler import AgentHello
    from distpool.wire.resources import Shape

    cpus = machine.cpu_count()
    gpus = machine.gpus()
    capacity = Shape(float(cpus), float(len(gpus)), machine.memory_size_bytes(), machine.custom_resources())
    hello = AgentHello(
        codec.PROTOCOL, codec.PYTHON, __version__, config.node, socket.gethostname(), capacity, True, gpus=gpus
    )
    server_channel = channel.Channel(context, b"s")
    server_channel.bind(scheduler_endpoint(config.root))
    agent_channel = channel.Channel(context, f"a-{config.node}".encode())
    agent_channel.bind(agent_endpoint(config.root))
    server = Server(SchedulerCore(cluster=config.node, lease_prefix=config.node), loop, server_channel)
    agent = Agent(
        AgentCore(
            hello,
            spares=min(cpus, 4) if config.spares is None else config.spares,
            preload=config.preload,
            memory=config.memory,
        ),
        loop,
        agent_channel,
        config.node,
        config.root,
        config.store,
        agent_endpoint(config.root),
        scheduler_endpoint(config.root),
        control,
        lambda: _start_zygote(config),
        lambda message: server.on_agent_said(config.node, message),
        sampler=Sampler(config.memory),
    )
    agent.add_service(store_service(config, loop, agent_channel, int(capacity.memory_bytes)))
    server.add_local_agent(config.node, agent.on_scheduler_said)
    agent.start()
    server.start()
    return agent


def store_service(config: NodeConfig, loop: Loop, agent_channel: channel.Channel, memory_bytes: int) -> StoreService:
    """The books of the node's object store."""
    from distpool.store.service import StoreService

    settings = config.store_settings
    return StoreService(
        loop,
        agent_channel,
        config.node,
        agent_endpoint(config.root),
        config.store,
        config.spill,
        settings.budget_bytes(config.store, memory_bytes),
        settings.spill_uri,
    )


def _watch_driver(config: NodeConfig, loop: Loop, on_end: Callable[[], None]) -> None:
    def stop() -> None:
        on_end()
        loop.stop()

    loop.watch(0, stop)
    with contextlib.suppress(AttributeError, OSError):
        loop.watch(os.pidfd_open(config.driver_pid), stop)


def _end_on_signals(loop: Loop) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: loop.stop())
    loop.watch(read, lambda: _forget(read))
    # The terminal's Ctrl-C is for the driver, which then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _forget(fd: int) -> None:
    os.read(fd, 4096)  # that the loop woke is all that was wanted


def _start_zygote(config: NodeConfig) -> socket.socket:
    """A first zygote in place of one that was killed: by ``exec``, since this process has threads by now."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    try:
        spawn("zygote", read, theirs.fileno())
        write_config(write, config)
    finally:
        theirs.close()
        os.close(read)
        os.close(write)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for it
    return ours


def _tidy() -> None:
    """Make sure that descriptors 0 to 3 are what they should be, and that there are no others."""
    for fd in (1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the driver had closed it
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
    os.set_inheritable(_STATUS, False)
    os.closerange(_STATUS + 1, os.sysconf("SC_OPEN_MAX"))
    with contextlib.suppress(OSError):
        if os.getsid(0) != os.getpid():
            os.setsid()
    os.chdir("/")


def _null_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _read_config() -> NodeConfig:
    size = int.from_bytes(_read_exactly(4), "big")
    return msgspec.msgpack.decode(_read_exactly(size), type=NodeConfig)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)  # the driver ended before it had told us anything
        data += more
    return data
