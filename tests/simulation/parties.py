"""The scheduler and the nodes of a simulated cluster: the real cores, and processes that are entries in a table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distpool.node import events as node_events
from distpool.node.core import AgentCore
from distpool.node.memory_policy import MemoryPolicy
from distpool.node.state import WorkerState
from distpool.scheduler import events as scheduler_events
from distpool.scheduler.core import SchedulerCore
from distpool.store import core as store_core
from distpool.version import __version__
from distpool.wire import agent_to_scheduler, codec, scheduler_to_agent
from distpool.wire.resources import Shape
from tests.simulation.memory import NODE_BYTES, NodeMemory
from tests.simulation.network import Clock, Network, Timer
from tests.simulation.objects import NodeStore
from tests.simulation.worker import SimulatedWorker

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

SCHEDULER = "s"
#: Recounting everything after every event would take most of the time.
_CHECK_EVERY = 8
_STORE_BYTES = 100 << 20


class SimulatedScheduler:
    """A scheduler process."""

    def __init__(self, clock: Clock, network: Network, number: int) -> None:
        self._clock = clock
        self._network = network
        self._events = 0
        self.core = SchedulerCore("simulation", f"k{number}", silence_s=5.0, gathers=True)
        self._timer = Timer(clock, self.core.next_deadline, lambda: self._handle(scheduler_events.TimePassed()))
        network.up(SCHEDULER, self._receive)

    def kill(self) -> None:
        self._timer.stopped = True
        self._network.down(SCHEDULER)

    def _receive(self, source: str, message: Any) -> None:
        if source.startswith("n"):
            self._handle(scheduler_events.AgentSaid(source, message))
        elif source.startswith("o"):
            self._handle(scheduler_events.OperatorSaid(source, message))
        else:
            self._handle(scheduler_events.DriverSaid(source, message))

    def _handle(self, event: Any) -> None:
        for effect in self.core.handle(event, self._clock.now):
            self._network.send(SCHEDULER, _target(effect), effect.message)
        self._events += 1
        if not self._events % _CHECK_EVERY:
            self.core.check_invariants()
        self._timer.update()


def _target(effect: scheduler_events.Effect) -> str:
    if isinstance(effect, scheduler_events.ToDriver):
        return effect.driver
    return effect.node if isinstance(effect, scheduler_events.ToAgent) else effect.operator


class SimulatedNode:
    """An agent process with its zygotes and workers, which die with it."""

    def __init__(self, cluster: Cluster, name: str, incarnation: int, cpus: int) -> None:
        self._cluster = cluster
        clock = self._clock = cluster.clock
        self._network = cluster.network
        self.name = name
        self.alive = True
        hello = agent_to_scheduler.AgentHello(
            codec.PROTOCOL, codec.PYTHON, __version__, name, name, Shape(float(cpus), 0.0, NODE_BYTES),
            elastic_cpus=False,
        )  # fmt: skip
        self.core = AgentCore(hello, spares=1, heartbeat_s=1.0, incarnation=str(incarnation), memory=MemoryPolicy())
        self._timer = Timer(clock, self.core.next_deadline, lambda: self.handle(node_events.TimePassed()))
        self.store = NodeStore(clock, cluster.objects, name, _STORE_BYTES)
        self._store_timer = Timer(
            clock, self.store.core.next_deadline, lambda: self.store.handle(store_core.TimePassed())
        )
        self.store.set_timer(self._store_timer.update)
        #: process id -> worker
        self.processes: dict[int, SimulatedWorker] = {}
        self.memory = NodeMemory(name, self.processes, cluster.stopped_for_memory)
        self._unreported: set[int] = set()
        self._events = 0
        self._last_pid = 0
        self._idle_s = 0.0
        self._network.up(name, self._receive)
        self.handle(node_events.NodeStarted())

    def kill(self) -> None:
        self.alive = False
        self._timer.stopped = self._store_timer.stopped = self.store.stopped = True
        self._network.down(self.name)
        for pid in list(self.processes):
            self.processes.pop(pid).die()
        self._cluster.objects.node_lost(self.name)

    def kill_worker(self, pid: int, code: int = -9) -> None:
        worker = self.processes.pop(pid, None)
        if self.alive and worker is not None:
            self._cluster.failed_starts += not worker.is_set_up
            self._reported(worker)
            worker.die()
            self.store.left(worker.peer)
            self.handle(node_events.WorkerProcessExited(pid, code))

    def worker_says(self, worker: str, message: Any) -> None:
        if self.alive:
            self.handle(node_events.WorkerSaid(worker, message))

    def reconnect(self) -> None:
        """The connection to the scheduler was lost and is there again."""
        if self.alive:
            self.handle(node_events.SchedulerSaid(scheduler_to_agent.HelloWanted()))

    def _receive(self, source: str, message: Any) -> None:
        self.handle(node_events.SchedulerSaid(message))

    def handle(self, event: Any) -> None:
        for effect in self.core.handle(event, self._clock.now):
            if isinstance(effect, node_events.ToScheduler):
                self._network.send(self.name, SCHEDULER, effect.message)
            elif isinstance(effect, node_events.ForkWorker):
                self._later(functools.partial(self._forked, effect.worker))
            elif isinstance(effect, node_events.SignalWorker):
                # A process that has much memory takes its time to end.
                self._later(functools.partial(self.kill_worker, effect.pid, -effect.signal), 0.04)
            elif isinstance(effect, node_events.MakeGeneration):
                ready = node_events.GenerationReady(effect.generation, effect.modules)
                self._later(functools.partial(self.handle, ready))
            elif isinstance(effect, node_events.LookAtIdleTime):
                self._clock.after(0.0, self._look_at_idle_time)
            elif isinstance(effect, node_events.SampleMemory):
                self._clock.after(0.0, functools.partial(self._look_at_memory, effect.workers))
        if isinstance(event, node_events.MemorySampled):
            self.memory.check_stops(self.core)
        self._events += 1
        if not self._events % _CHECK_EVERY:
            self.core.check_invariants()
        self._timer.update()

    def _look_at_memory(self, workers: dict[str, int]) -> None:
        if self.alive:
            self.handle(node_events.MemorySampled(self.memory.look(workers)))

    def _look_at_idle_time(self) -> None:
        if self.alive:
            # From one look to the next there was much of it, or none.
            self._idle_s += self._clock.random.choice((0.0, 10.0))
            self.handle(node_events.IdleTimeSeen(self._idle_s))

    def _later(self, action: Callable[[], None], most_s: float = 0.01) -> None:
        self._clock.after(self._clock.random.uniform(0.001, most_s), lambda: action() if self.alive else None)

    def _forked(self, name: str) -> None:
        if self._clock.random.random() < 0.01:
            self._cluster.failed_starts += 1
            self.handle(node_events.ForkFailed(name, "no more processes"))
            return
        self._last_pid += 1
        pid = self._last_pid
        worker = self.processes[pid] = SimulatedWorker(self._cluster, self, name, pid)
        self._unreported.add(pid)
        if self._clock.random.random() < 0.2:
            self._later(lambda: self._reported(worker))  # its own word may be faster
        else:
            self._reported(worker)
        self._later(lambda: worker.start() if worker.alive else None)

    def _reported(self, worker: SimulatedWorker) -> None:
        """The zygote tells of a fork; always before it tells of the end."""
        if worker.pid in self._unreported:
            self._unreported.discard(worker.pid)
            self.handle(node_events.WorkerForked(worker.name, worker.pid))

    def leased(self) -> list[str]:
        return [worker.name for worker in self.core.workers.values() if worker.lease is not None]

    def stopping(self) -> list[str]:
        return [worker.name for worker in self.core.workers.values() if worker.state is WorkerState.STOPPING]
