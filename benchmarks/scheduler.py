"""What the scheduler costs: ``python -m benchmarks.scheduler [--nodes N] [--leases N]``.

Two measurements of the real thing.  *core*: leases granted and ended per second by the decision core alone, over
clusters of several sizes and for shapes of several kinds.  *process*: a scheduler process with so many agents
connected (fake ones: each has a connection and sends heartbeats), how much of one core that takes, and how many
leases per second it grants through its sockets, workers' reports included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import zmq

from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.events import AgentSaid, DriverSaid, ToAgent, ToDriver
from distpool.version import __version__
from distpool.wire import agent_to_scheduler, codec, driver_to_scheduler, scheduler_to_agent, scheduler_to_driver
from distpool.wire.resources import Shape

_CPUS = 10
SHAPES = {
    "one CPU": Shape(),
    "packed": Shape(pack=True),
    "a GPU": Shape(1.0, 1.0),
    "half a GPU and memory": Shape(0.5, 0.5, 1 << 20),
    "a custom resource": Shape(1.0, 0.0, 0, (("license", 1.0),)),
}
_CAPACITY = Shape(float(_CPUS), float(_CPUS), 1 << 40, (("license", float(_CPUS)),))


def hello(node: str) -> agent_to_scheduler.AgentHello:
    return agent_to_scheduler.AgentHello(
        codec.PROTOCOL, codec.PYTHON, __version__, node, node, _CAPACITY, elastic_cpus=False
    )


def driver_hello(pid: int = 1) -> driver_to_scheduler.DriverHello:
    return driver_to_scheduler.DriverHello(codec.PROTOCOL, codec.PYTHON, __version__, "elsewhere", pid)


# -- the core -----------------------------------------------------------------------------------------------------


def core_rate(nodes: int, leases: int, drivers: int, shape: Shape) -> float:
    """Leases per second of CPU time: asked for, started, granted, given back, ended.

    Each driver has its part of the cluster; of its leases one after the other ends and is asked for anew.
    """
    core = SchedulerCore("benchmark", "k")
    for number in range(nodes):
        core.handle(AgentSaid(f"n{number}", hello(f"n{number}")), 0.0)
    starts: deque[tuple[str, str]] = deque()
    granted: deque[tuple[str, str, str]] = deque()
    begin = time.process_time()
    share = nodes * _CPUS // drivers
    for number in range(drivers):
        name = f"d{number}"
        core.handle(DriverSaid(name, driver_hello(), True), 0.0)
        core.handle(DriverSaid(name, driver_to_scheduler.OpenPool(f"p{number}", share)), 0.0)
        _sort(
            core.handle(DriverSaid(name, driver_to_scheduler.Demand(f"p{number}", shape, share)), 0.0), starts, granted
        )
    done = 0
    now = 0.0
    while done < leases:
        now += 1e-4
        while starts:
            node, lease = starts.popleft()
            ready = agent_to_scheduler.WorkerReady(lease, f"w-{lease}", "ipc://x", 1)
            _sort(core.handle(AgentSaid(node, ready), now), starts, granted)
        driver, node, lease = granted.popleft()
        _sort(core.handle(DriverSaid(driver, driver_to_scheduler.ReturnLease(lease, 1.0)), now), starts, granted)
        _sort(core.handle(AgentSaid(node, agent_to_scheduler.WorkerExited(lease, 1, 0)), now), starts, granted)
        done += 1
    return done / (time.process_time() - begin)


def _sort(effects: list[object], starts: deque[tuple[str, str]], granted: deque[tuple[str, str, str]]) -> None:
    for effect in effects:
        if isinstance(effect, ToAgent) and isinstance(effect.message, scheduler_to_agent.StartWorker):
            starts.append((effect.node, effect.message.lease))
        elif isinstance(effect, ToDriver) and isinstance(effect.message, scheduler_to_driver.LeaseGranted):
            granted.append((effect.driver, effect.message.node, effect.message.lease))


# -- the process --------------------------------------------------------------------------------------------------

_PROCESS = """
import sys, zmq
from distpool.node.loop import Loop
from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.server import Server
from distpool.wire.channel import Channel

loop = Loop()
context = zmq.Context()
channel = Channel(context, b"s")
channel.bind(sys.argv[1])
server = Server(SchedulerCore("benchmark", "k"), loop, channel)
loop.watch(0, loop.stop)
server.start()
print("ready", flush=True)
loop.run()
"""


class _Fakes:
    """Many agents and a driver in one process, each with a connection of its own."""

    def __init__(self, endpoint: str, nodes: int) -> None:
        self._contexts: list[zmq.Context[zmq.Socket[bytes]]] = []
        self._endpoint = endpoint
        self._poller = zmq.Poller()
        self.agents: dict[zmq.Socket[bytes], str] = {}
        for number in range(nodes):
            socket = self._dial(f"a-n{number}")
            self.agents[socket] = f"n{number}"
            socket.send(codec.encode(hello(f"n{number}")))
        self.driver = self._dial("d-benchmark")

    def _dial(self, name: str) -> zmq.Socket[bytes]:
        if not self._contexts or len(self.agents) % 500 == 0:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            self._contexts.append(context)
        socket = self._contexts[-1].socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, name.encode())
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def tell(self, message: object) -> None:
        self.driver.send(codec.encode(message))

    def beat(self) -> None:
        for socket in self.agents:
            socket.send(codec.encode(agent_to_scheduler.AgentHeartbeat(0)))

    def serve(self, timeout_s: float) -> list[scheduler_to_driver.Message]:
        """Workers are up as soon as they are asked for, and end when they are told to; what the driver was told."""
        told = []
        for socket, _ in self._poller.poll(timeout_s * 1000):
            while True:
                try:
                    frame = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if socket is self.driver:
                    told.append(codec.decode_from_scheduler_at_driver(frame))
                    continue
                message = codec.decode_from_scheduler_at_agent(frame)
                if isinstance(message, scheduler_to_agent.StartWorker):
                    answer = agent_to_scheduler.WorkerReady(message.lease, f"w-{message.lease}", "ipc://x", 1)
                    socket.send(codec.encode(answer))
                elif isinstance(message, scheduler_to_agent.StopWorker):
                    socket.send(codec.encode(agent_to_scheduler.WorkerExited(message.lease, 1, 0)))
        return told

    def close(self) -> None:
        for context in self._contexts:
            context.destroy(linger=0)


def process(nodes: int, leases: int, seconds: float) -> dict[str, float]:
    """See the module's description; CPU times are those of the scheduler process."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/s"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        scheduler = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert scheduler.stdout is not None
        assert scheduler.stdin is not None
        scheduler.stdout.readline()
        fakes = _Fakes(endpoint, nodes)
        try:
            return _measure(scheduler.pid, fakes, nodes, leases, seconds)
        finally:
            fakes.close()
            scheduler.stdin.close()
            scheduler.wait(10)
            scheduler.stdout.close()


def _measure(pid: int, fakes: _Fakes, nodes: int, leases: int, seconds: float) -> dict[str, float]:
    fakes.tell(driver_hello(os.getpid()))
    fakes.tell(driver_to_scheduler.OpenPool("p", float(nodes * _CPUS)))
    deadline = time.monotonic() + 60
    joined = 0
    while joined < nodes and time.monotonic() < deadline:
        fakes.serve(0.05)
        # Saying hello again is answered with how many nodes there are.
        fakes.tell(driver_hello(os.getpid()))
        for message in fakes.serve(0.2):
            if isinstance(message, scheduler_to_driver.SchedulerWelcome):
                joined = message.nodes
    assert joined == nodes, f"{joined} of {nodes} agents are connected"
    idle_before, begin = _cpu_s(pid), time.monotonic()
    next_beat = begin
    while time.monotonic() < begin + seconds:
        if time.monotonic() >= next_beat:
            next_beat += 2.0
            fakes.beat()
            fakes.tell(driver_to_scheduler.DriverHeartbeat())
        fakes.serve(0.05)
    idle_share = (_cpu_s(pid) - idle_before) / (time.monotonic() - begin)
    busy_before, begin = _cpu_s(pid), time.monotonic()
    at_once = min(leases, nodes)
    fakes.tell(driver_to_scheduler.Demand("p", Shape(), at_once))
    granted = 0
    while granted < leases:
        assert time.monotonic() < begin + 120, f"{granted} of {leases} leases were granted"
        for message in fakes.serve(1.0):
            if isinstance(message, scheduler_to_driver.LeaseGranted):
                granted += 1
                fakes.tell(driver_to_scheduler.ReturnLease(message.lease, 1.0))
    cpu_s = _cpu_s(pid) - busy_before
    return {
        "agents": nodes,
        "idle_core_share": idle_share,
        "leases_per_cpu_second": granted / cpu_s,
        "leases_per_second": granted / (time.monotonic() - begin),
        "memory_mib": _memory_mib(pid),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000, help="nodes of the largest cluster (default 1000)")
    parser.add_argument("--leases", type=int, default=20_000, help="leases of one measurement (default 20000)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is shown (default 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long agents only send heartbeats (default 10)")
    options = parser.parse_args(arguments)
    sizes = sorted({max(1, options.nodes // 100), max(1, options.nodes // 10), options.nodes})
    print("The core alone: leases per CPU second (asked for, started, granted, given back, ended)\n")
    print(f"{'nodes':>8} {'drivers':>8}  " + "  ".join(f"{name:>22}" for name in SHAPES))
    for nodes in sizes:
        drivers = max(1, nodes // 10)
        rates = [
            statistics.median(core_rate(nodes, options.leases, drivers, shape) for _ in range(options.repeats))
            for shape in SHAPES.values()
        ]
        print(f"{nodes:>8} {drivers:>8}  " + "  ".join(f"{rate:>22,.0f}" for rate in rates))
    print("\nThe process, with agents connected over ipc\n")
    for name, value in process(options.nodes, options.leases, options.seconds).items():
        print(
            f"{name.replace('_', ' '):>24}  {value:,.3f}"
            if value < 10
            else f"{name.replace('_', ' '):>24}  {value:,.0f}"
        )


if __name__ == "__main__":
    main()
