"""A large cluster in one process: ``python -m tests.simulation.scale`` (1,000 nodes, 10,000 workers, 100 drivers and a
million tasks; about two minutes).

The scheduler's and the agents' cores are the real ones, on a virtual clock and network; every task is an event of its
own.  While the work runs, nodes join, are drained and are lost.  In the end every task has been done once, as far as
its driver can tell, and nothing is left in the books.  Reported is what the scheduler's core cost in real CPU time,
per lease and per node.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distpool.node import events as node_events
from distpool.node.core import AgentCore
from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.events import AgentSaid, DriverSaid, OperatorSaid, TimePassed, ToAgent, ToDriver
from distpool.version import __version__
from distpool.wire import (
    agent_to_scheduler,
    codec,
    driver_to_scheduler,
    operator_to_scheduler,
    scheduler_to_driver,
    worker_to_agent,
)
from distpool.wire.resources import Shape
from tests.simulation.network import Clock, Network, Timer

SCHEDULER = "s"
#: Seconds of virtual time.
_HEARTBEAT_S, _SILENCE_S, _TASK_S = 1.0, 5.0, (0.5, 1.5)
_LIMIT_S = 5000.0


class MeasuredScheduler:
    """The real core; how often it was told what, and how long it thought about it."""

    def __init__(self, clock: Clock, network: Network) -> None:
        self._clock = clock
        self._network = network
        self.core = SchedulerCore("simulation", "k", silence_s=_SILENCE_S)
        self.seconds: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.grants = 0
        self._timer = Timer(clock, self.core.next_deadline, lambda: self.handle(TimePassed()))
        network.up(SCHEDULER, self._receive)

    def _receive(self, source: str, message: Any) -> None:
        self.handle(AgentSaid(source, message) if source.startswith("n") else DriverSaid(source, message))

    def handle(self, event: Any) -> None:
        message = getattr(event, "message", event)
        began = time.process_time()
        effects = self.core.handle(event, self._clock.now)
        self.seconds[type(message).__name__] += time.process_time() - began
        self.events[type(message).__name__] += 1
        for effect in effects:
            if isinstance(effect, ToAgent):
                self._network.send(SCHEDULER, effect.node, effect.message)
            elif isinstance(effect, ToDriver):
                self.grants += type(effect.message) is scheduler_to_driver.LeaseGranted
                self._network.send(SCHEDULER, effect.driver, effect.message)
        self._timer.update()


class AgentNode:
    """The real core of an agent; its workers are entries in a table and do nothing by themselves."""

    def __init__(self, clock: Clock, network: Network, name: str, cpus: int) -> None:
        self._clock = clock
        self._network = network
        self.name = name
        self.alive = True
        hello = agent_to_scheduler.AgentHello(
            codec.PROTOCOL, codec.PYTHON, __version__, name, name, Shape(float(cpus)), elastic_cpus=False
        )
        self.core = AgentCore(hello, heartbeat_s=_HEARTBEAT_S)
        self._timer = Timer(clock, self.core.next_deadline, lambda: self.handle(node_events.TimePassed()))
        #: process id -> name of the worker
        self.processes: dict[int, str] = {}
        self._last_pid = 0
        network.up(name, lambda _, message: self.handle(node_events.SchedulerSaid(message)))
        self.handle(node_events.NodeStarted())

    def kill(self) -> None:
        """The machine is gone, without a word."""
        self.alive = False
        self._timer.stopped = True
        self._network.down(self.name)

    def handle(self, event: Any) -> None:
        for effect in self.core.handle(event, self._clock.now):
            if isinstance(effect, node_events.ToScheduler):
                self._network.send(self.name, SCHEDULER, effect.message)
            elif isinstance(effect, node_events.ForkWorker):
                self._later(functools.partial(self._forked, effect.worker))
            elif isinstance(effect, node_events.SignalWorker):
                self._later(functools.partial(self._ended, effect.pid))
        if self.core.refused:  # it was drained
            self.kill()
        self._timer.update()

    def _later(self, action: Callable[[], None]) -> None:
        self._clock.after(self._clock.random.uniform(0.001, 0.01), lambda: action() if self.alive else None)

    def _forked(self, worker: str) -> None:
        self._last_pid += 1
        self.processes[self._last_pid] = worker
        started = worker_to_agent.WorkerStarted(worker, f"ipc://{worker}", self._last_pid)
        self.handle(node_events.WorkerForked(worker, self._last_pid))
        self.handle(node_events.WorkerSaid(worker, started))

    def _ended(self, pid: int) -> None:
        if self.processes.pop(pid, None) is not None:
            self.handle(node_events.WorkerProcessExited(pid, -9))


class BusyDriver:
    """Runs its tasks one by one on the leases that it has, and gives back what it is asked for."""

    def __init__(self, cluster: LargeCluster, name: str, tasks: int, slots: int) -> None:
        self._cluster = cluster
        self._clock = cluster.clock
        self.name = name
        self.pool = f"p-{name}"
        self.slots = slots
        self.todo = tasks
        self.done = 0
        self.running: dict[str, scheduler_to_driver.LeaseGranted] = {}
        self._wanted_back: set[str] = set()
        self._excess = 0
        self._demand = 0
        cluster.network.up(name, lambda _, message: self._receive(message))
        hello = driver_to_scheduler.DriverHello(codec.PROTOCOL, codec.PYTHON, __version__, "far", 1)
        self._say(hello)
        self._say(driver_to_scheduler.OpenPool(self.pool, float(slots)))
        self._ask()
        self._beat()

    @property
    def finished(self) -> bool:
        return not self.todo and not self.running

    def _say(self, message: Any) -> None:
        self._cluster.network.send(self.name, SCHEDULER, message)

    def _beat(self) -> None:
        if not self.finished:
            self._say(driver_to_scheduler.DriverHeartbeat())
            self._clock.after(_HEARTBEAT_S, self._beat)

    def _ask(self) -> None:
        wanted = min(self.slots, self.todo + len(self.running))
        if wanted != self._demand:
            self._demand = wanted
            self._say(driver_to_scheduler.Demand(self.pool, Shape(), wanted))

    def _receive(self, message: Any) -> None:
        if isinstance(message, scheduler_to_driver.LeaseGranted):
            self._next(message)
        elif isinstance(message, scheduler_to_driver.LeaseEnded):
            self._wanted_back.discard(message.lease)
            if self.running.pop(message.lease, None) is not None:
                self.todo += 1
                self._ask()
        elif isinstance(message, scheduler_to_driver.ReclaimIdle):
            self._excess = message.excess
        elif isinstance(message, scheduler_to_driver.LeaseWanted):
            self._wanted_back.add(message.lease)
        else:
            assert isinstance(message, scheduler_to_driver.SchedulerWelcome), message

    def _next(self, grant: scheduler_to_driver.LeaseGranted) -> None:
        if self.todo and not self._excess and grant.lease not in self._wanted_back:
            self.todo -= 1
            self.running[grant.lease] = grant
            self._clock.after(self._clock.random.uniform(*_TASK_S), functools.partial(self._ended, grant))
            return
        self._excess = max(0, self._excess - 1)
        self._wanted_back.discard(grant.lease)
        self._ask()
        self._say(driver_to_scheduler.ReturnLease(grant.lease, 0.1))

    def _ended(self, grant: scheduler_to_driver.LeaseGranted) -> None:
        # The answer of a worker that was lost meanwhile does not come; one that was given up does not count.
        if not self._cluster.runs(grant) or self.running.pop(grant.lease, None) is None:
            return
        self.done += 1
        self._next(grant)
        if self.finished:
            self._say(driver_to_scheduler.ClosePool(self.pool, 0.1))
            self._say(driver_to_scheduler.DriverGoodbye())


@dataclass(frozen=True)
class Figures:
    """What a run came to; times are CPU seconds of the scheduler's core."""

    nodes: int
    drivers: int
    tasks: int
    simulated_s: float
    real_s: float
    leases: int
    most_workers: int
    joins: int
    drains: int
    losses: int
    scheduler_s: float
    #: of which for what leases bring about
    per_lease_us: float
    #: for a node's heartbeat, of which there is one per second
    per_heartbeat_us: float


class LargeCluster:
    """One run; everything follows from the seed."""

    def __init__(self, nodes: int, cpus: int, drivers: int, tasks: int, churn_s: float, seed: int = 1) -> None:
        self.clock = Clock(seed)
        self.network = Network(self.clock)
        self.scheduler = MeasuredScheduler(self.clock, self.network)
        self.nodes: dict[str, AgentNode] = {}
        self.drivers: list[BusyDriver] = []
        self.happened: Counter[str] = Counter()
        self.most_workers = 0
        self._cpus = cpus
        self._last_node = 0
        self._tasks, self._expected = tasks, drivers
        for _ in range(nodes):
            self.clock.at(self.clock.random.uniform(0, 1), self._join)
        slots = max(1, 4 * nodes * cpus // drivers)
        for number in range(drivers):
            start = functools.partial(self._start_driver, f"d{number}", tasks // drivers, slots)
            self.clock.at(self.clock.random.uniform(1, 10), start)
        self._churn_s = churn_s
        self.clock.at(5.0, self._churn)

    def _start_driver(self, name: str, tasks: int, slots: int) -> None:
        self.drivers.append(BusyDriver(self, name, tasks, slots))

    def _join(self) -> None:
        self._last_node += 1
        name = f"n{self._last_node}"
        self.nodes[name] = AgentNode(self.clock, self.network, name, self._cpus)

    @property
    def over(self) -> bool:
        return len(self.drivers) == self._expected and all(driver.finished for driver in self.drivers)

    def _churn(self) -> None:
        """One node is lost, one is drained, two come in their place."""
        if self.over:
            return
        drained_before = {name for name, node in self.scheduler.core.book.nodes.items() if node.draining}
        living = [name for name, node in self.nodes.items() if node.alive and name not in drained_before]
        lost, drained = self.clock.random.sample(living, 2)
        self.nodes[lost].kill()
        drain = operator_to_scheduler.DrainNode(codec.PROTOCOL, drained)
        self.scheduler.handle(OperatorSaid("o", drain))
        self.happened.update(losses=1, drains=1, joins=2)
        for _ in range(2):
            self.clock.after(self.clock.random.uniform(1, 5), self._join)
        book = self.scheduler.core.book
        self.most_workers = max(self.most_workers, len(book.leases))
        self.clock.after(self._churn_s, self._churn)

    def runs(self, grant: scheduler_to_driver.LeaseGranted) -> bool:
        """Whether the worker that was granted is there."""
        node = self.nodes[grant.node]
        return node.alive and grant.pid in node.processes

    def run(self) -> Figures:
        """Run to the end, and check what must be true then."""
        began = time.perf_counter()
        while not self.over:
            assert self.clock.step(), "nothing happens any more"
            assert self.clock.now < _LIMIT_S, "it takes too long"
        finished_s = self.clock.now
        while self.clock.now < finished_s + 3 * _SILENCE_S:
            self.clock.step()
        book = self.scheduler.core.book
        assert sum(driver.done for driver in self.drivers) == self._tasks // self._expected * self._expected
        assert not book.leases, f"{len(book.leases)} leases are left"
        assert not book.drivers
        assert not book.pools
        living = {name for name, node in self.nodes.items() if node.alive}
        assert set(book.nodes) == living, "the scheduler's nodes are not those that live"
        self.scheduler.core.check_invariants()
        seconds, events = self.scheduler.seconds, self.scheduler.events
        heartbeats_s = seconds["AgentHeartbeat"]
        total_s = sum(seconds.values())
        return Figures(
            len(living),
            len(self.drivers),
            sum(driver.done for driver in self.drivers),
            finished_s,
            time.perf_counter() - began,
            self.scheduler.grants,
            self.most_workers,
            self.happened["joins"],
            self.happened["drains"],
            self.happened["losses"],
            total_s,
            1e6 * (total_s - heartbeats_s) / max(1, self.scheduler.grants),
            1e6 * heartbeats_s / max(1, events["AgentHeartbeat"]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--cpus", type=int, default=10, help="workers per node (default 10)")
    parser.add_argument("--drivers", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--churn", type=float, default=1.0, help="seconds between two rounds of losses (default 1)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cluster = LargeCluster(options.nodes, options.cpus, options.drivers, options.tasks, options.churn, options.seed)
    figures = cluster.run()
    for name in figures.__slots__ if hasattr(figures, "__slots__") else figures.__dataclass_fields__:
        value = getattr(figures, name)
        print(
            f"{name.replace('_', ' '):>18}  {value:,.1f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):>18}  {value:,}"
        )
    print("\nscheduler's CPU time by what it was told:")
    for name, seconds in cluster.scheduler.seconds.most_common(8):
        count = cluster.scheduler.events[name]
        print(f"{name:>18}  {seconds:8.2f} s  {count:>10,} times  {1e6 * seconds / count:8.1f} µs each")


if __name__ == "__main__":
    main()
