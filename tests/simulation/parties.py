"""The parties of a simulated cluster: the real scheduler and agent cores, workers that are entries in a table, and
drivers that follow a script."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from distpool.node import events as node_events
from distpool.node.core import AgentCore
from distpool.node.state import WorkerState
from distpool.scheduler import events as scheduler_events
from distpool.scheduler.core import SchedulerCore
from distpool.wire import agent_to_scheduler, codec, driver_to_scheduler, scheduler_to_driver, worker_to_agent
from distpool.wire.resources import Shape
from tests.simulation.network import Clock, Network

SCHEDULER = "s"


class Timer:
    """Tells a core that the deadline it named has come."""

    def __init__(self, clock: Clock, deadline: Callable[[], float | None], on_time: Callable[[], None]) -> None:
        self._clock = clock
        self._deadline = deadline
        self._on_time = on_time
        self._set_for: float | None = None
        self.stopped = False

    def update(self) -> None:
        deadline = self._deadline()
        if deadline is not None and (self._set_for is None or deadline < self._set_for):
            self._set_for = deadline
            self._clock.at(deadline, lambda: self._fire(deadline))

    def _fire(self, deadline: float) -> None:
        if self.stopped or self._set_for != deadline:
            return
        self._set_for = None
        due = self._deadline()
        if due is not None and due <= self._clock.now:
            self._on_time()
        self.update()


class SimulatedScheduler:
    """A scheduler process."""

    def __init__(self, clock: Clock, network: Network, number: int) -> None:
        self._clock = clock
        self._network = network
        self.core = SchedulerCore("simulation", f"k{number}", silence_s=5.0)
        self._timer = Timer(clock, self.core.next_deadline, lambda: self._handle(scheduler_events.TimePassed()))
        network.up(SCHEDULER, self._receive)

    def kill(self) -> None:
        self._timer.stopped = True
        self._network.down(SCHEDULER)

    def _receive(self, source: str, message: Any) -> None:
        if source.startswith("n"):
            self._handle(scheduler_events.AgentSaid(source, message))
        else:
            self._handle(scheduler_events.DriverSaid(source, message))

    def _handle(self, event: Any) -> None:
        for effect in self.core.handle(event, self._clock.now):
            target = effect.driver if isinstance(effect, scheduler_events.ToDriver) else effect.node
            self._network.send(SCHEDULER, target, effect.message)
        self.core.check_invariants()
        self._timer.update()


class SimulatedNode:
    """An agent process with its zygotes and workers, which die with it."""

    def __init__(self, clock: Clock, network: Network, name: str, cpus: int) -> None:
        self._clock = clock
        self._network = network
        self.name = name
        self.alive = True
        hello = agent_to_scheduler.AgentHello(
            codec.PROTOCOL, codec.PYTHON, "0", name, name, Shape(float(cpus)), elastic_cpus=False
        )
        self.core = AgentCore(hello, spares=1, heartbeat_s=1.0)
        self._timer = Timer(clock, self.core.next_deadline, lambda: self.handle(node_events.TimePassed()))
        #: process id -> name of the worker
        self.processes: dict[int, str] = {}
        #: called with the routing id of a worker that has ended
        self.on_death: list[Callable[[str], None]] = []
        self._last_pid = 0
        network.up(name, self._receive)
        self.handle(node_events.NodeStarted())

    def kill(self) -> None:
        self.alive = False
        self._timer.stopped = True
        self._network.down(self.name)
        for pid in list(self.processes):
            self._ended(pid, -9, tell=False)

    def kill_worker(self, pid: int, code: int = -9) -> None:
        if self.alive and pid in self.processes:
            self._ended(pid, code, tell=True)

    def worker_says(self, worker: str, message: Any) -> None:
        """``worker`` is the routing id."""
        if self.alive:
            self.handle(node_events.WorkerSaid(worker[2:], message))

    def _receive(self, source: str, message: Any) -> None:
        self.handle(node_events.SchedulerSaid(message))

    def handle(self, event: Any) -> None:
        for effect in self.core.handle(event, self._clock.now):
            if isinstance(effect, node_events.ToScheduler):
                self._network.send(self.name, SCHEDULER, effect.message)
            elif isinstance(effect, node_events.ForkWorker):
                self._later(functools.partial(self._forked, effect.worker))
            elif isinstance(effect, node_events.SignalWorker):
                self._later(functools.partial(self.kill_worker, effect.pid, -effect.signal))
            elif isinstance(effect, node_events.MakeGeneration):
                ready = node_events.GenerationReady(effect.generation, effect.modules)
                self._later(functools.partial(self.handle, ready))
        self.core.check_invariants()
        self._timer.update()

    def _later(self, action: Callable[[], None]) -> None:
        self._clock.after(self._clock.random.uniform(0.001, 0.01), lambda: action() if self.alive else None)

    def _forked(self, worker: str) -> None:
        if self._clock.random.random() < 0.01:
            self.handle(node_events.ForkFailed(worker, "no more processes"))
            return
        self._last_pid += 1
        pid = self._last_pid
        self.processes[pid] = worker
        self.handle(node_events.WorkerForked(worker, pid))
        self._later(lambda: self._started(worker, pid))

    def _started(self, worker: str, pid: int) -> None:
        if pid in self.processes:
            endpoint = f"{self.name}/{worker}/{pid}"
            self.worker_says(f"w-{worker}", worker_to_agent.WorkerStarted(worker, endpoint, pid))

    def _ended(self, pid: int, code: int, *, tell: bool) -> None:
        worker = self.processes.pop(pid)
        for callback in list(self.on_death):
            callback(f"w-{worker}")
        if tell:
            self.handle(node_events.WorkerProcessExited(pid, code))

    def leased(self) -> list[str]:
        return [worker.name for worker in self.core.workers.values() if worker.lease is not None]

    def stopping(self) -> list[str]:
        return [worker.name for worker in self.core.workers.values() if worker.state is WorkerState.STOPPING]


class ScriptedDriver:
    """Runs ``tasks`` tasks on the leases of one pool; some submit nested work and wait for it.

    It does what the protocol asks of a driver and nothing clever: one task per worker, a lease that died gives its
    task back, idle leases are returned when asked for.
    """

    def __init__(
        self,
        cluster: Any,
        name: str,
        tasks: int,
        slots: int,
        parent: ScriptedDriver | None = None,
        parent_lease: scheduler_to_driver.LeaseGranted | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._clock: Clock = cluster.clock
        self.name = name
        self.todo = tasks
        self.slots = slots
        self.parent_lease = parent_lease
        self.pool: str = parent.pool if parent is not None else f"p-{name}"
        self._depth: int = 0 if parent is None else parent._depth + 1
        self._on_done = on_done
        self.alive = True
        self.finished = False
        self.leases: dict[str, scheduler_to_driver.LeaseGranted] = {}
        #: lease -> the attempt that runs on it
        self.running: dict[str, int] = {}
        self._attempt = 0
        self._nested = 0
        cluster.network.up(name, lambda _, message: self._receive(message))
        self._hello()
        self._beat()

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self._cluster.network.down(self.name)

    def _send(self, message: Any) -> None:
        self._cluster.network.send(self.name, SCHEDULER, message)

    def _beat(self) -> None:
        if self.alive:
            self._send(driver_to_scheduler.DriverHeartbeat())
            self._clock.after(1.0, self._beat)

    def _hello(self) -> None:
        held = tuple(
            driver_to_scheduler.HeldLease(grant.lease, grant.pool, grant.shape) for grant in self.leases.values()
        )
        parent = self.parent_lease.lease if self.parent_lease else ""
        self._send(driver_to_scheduler.DriverHello(codec.PROTOCOL, codec.PYTHON, "0", "far", 1, parent, held))
        if self.parent_lease:
            self._send(driver_to_scheduler.JoinPool(self.pool))
        else:
            self._send(driver_to_scheduler.OpenPool(self.pool, self.slots))
        self._demand()

    def _demand(self) -> None:
        workers = min(self.slots, self.todo + len(self.running))
        self._send(driver_to_scheduler.Demand(self.pool, Shape(), workers))

    def _receive(self, message: Any) -> None:
        if not self.alive:
            return
        if isinstance(message, scheduler_to_driver.LeaseGranted):
            self._granted(message)
        elif isinstance(message, scheduler_to_driver.LeaseEnded):
            self.leases.pop(message.lease, None)
            if self.running.pop(message.lease, None) is not None:
                self.todo += 1
            self._demand()
        elif isinstance(message, scheduler_to_driver.ReclaimIdle):
            self._demand()
            for lease in [lease for lease in self.leases if lease not in self.running]:
                self._return(lease)
        elif isinstance(message, scheduler_to_driver.HelloWanted):
            self._hello()
        elif isinstance(message, scheduler_to_driver.Refused):
            # A nested driver whose worker is about to be ended.
            assert self.parent_lease, message.reason
            self.kill()
        elif isinstance(message, scheduler_to_driver.DemandInfeasible):
            assert self.parent_lease, message.reason
        self._work()

    def _granted(self, grant: scheduler_to_driver.LeaseGranted) -> None:
        if grant.lease in self.leases:
            return
        self._cluster.check_exclusive(self, grant)
        self.leases[grant.lease] = grant
        if self.finished:
            self._return(grant.lease)

    def _return(self, lease: str) -> None:
        del self.leases[lease]
        self._send(driver_to_scheduler.ReturnLease(lease, 0.0))

    def _work(self) -> None:
        for lease, grant in self.leases.items():
            if self.todo and lease not in self.running and self._cluster.worker_runs(grant):
                self.todo -= 1
                self._attempt += 1
                self.running[lease] = self._attempt
                self._run(grant, self._attempt)
        if not self.todo and not self.running and not self.finished:
            self._finish()

    def _run(self, grant: scheduler_to_driver.LeaseGranted, attempt: int) -> None:
        duration_s = self._clock.random.uniform(0.01, 1.5)
        if self._depth < 2 and self._clock.random.random() < 0.25:
            node = self._cluster.nodes[grant.node]
            node.worker_says(grant.worker, worker_to_agent.WorkerBlocked(grant.lease))
            self._nested += 1
            done = lambda: self._unblock(grant, attempt, duration_s)  # noqa: E731
            self._cluster.add_nested(f"{self.name}.{self._nested}", self, grant, done)
        else:
            self._clock.after(duration_s, lambda: self._done(grant, attempt))

    def _unblock(self, grant: scheduler_to_driver.LeaseGranted, attempt: int, duration_s: float) -> None:
        if self._cluster.worker_runs(grant):
            self._cluster.nodes[grant.node].worker_says(grant.worker, worker_to_agent.WorkerUnblocked(grant.lease))
            self._clock.after(duration_s, lambda: self._done(grant, attempt))

    def _done(self, grant: scheduler_to_driver.LeaseGranted, attempt: int) -> None:
        # The answer of a worker that ended, or of an attempt that was given up, does not count.
        if self.alive and self._cluster.worker_runs(grant) and self.running.get(grant.lease) == attempt:
            del self.running[grant.lease]
            self._work()

    def _finish(self) -> None:
        self.finished = True
        self._send(driver_to_scheduler.Demand(self.pool, Shape(), 0))
        self._send(driver_to_scheduler.ClosePool(self.pool, 0.1))
        if self._on_done is not None:
            self._on_done()
        # It may be that the message is lost with the scheduler; the end of heartbeats says the same.
        self._clock.after(0.5, self._end)

    def _end(self) -> None:
        self._send(driver_to_scheduler.DriverGoodbye())
        self.kill()
