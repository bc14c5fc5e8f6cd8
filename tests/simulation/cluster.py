"""A whole cluster on a virtual clock, the faults that befall it, and what must hold in spite of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from distpool.wire import scheduler_to_driver
from tests.simulation.network import Clock, Network
from tests.simulation.parties import ScriptedDriver, SimulatedNode, SimulatedScheduler

#: Faults happen until then.
_FAULTS_UNTIL_S = 30.0
#: By then everything must be done.
_END_S = 400.0
_MOST_EVENTS = 200_000


class Cluster:
    """One run; everything follows from the seed."""

    def __init__(self, seed: int, nodes: int = 3, cpus: int = 3, drivers: int = 3, faults: int = 12) -> None:
        self.clock = Clock(seed)
        self.random = self.clock.random
        self.network = Network(self.clock)
        self._cpus = cpus
        self._schedulers = 1
        self.scheduler = SimulatedScheduler(self.clock, self.network, self._schedulers)
        self.nodes: dict[str, SimulatedNode] = {}
        for number in range(nodes):
            self._start_node(f"n{number}")
        self.drivers: list[ScriptedDriver] = []
        self.nested: list[ScriptedDriver] = []
        #: (node, worker) incarnation -> driver that was granted it
        self._owners: dict[str, str] = {}
        self.faults: list[str] = []
        for number in range(drivers):
            tasks, slots = self.random.randint(1, 40), self.random.randint(1, 6)
            start = self.random.uniform(0, 5)
            self.clock.at(start, functools.partial(self._start_driver, f"d{number}", tasks, slots))
        for _ in range(faults):
            self.clock.at(self.random.uniform(0, _FAULTS_UNTIL_S), self._fault)
        self.clock.at(_FAULTS_UNTIL_S, self.network.heal)

    def run(self) -> None:
        """Run to the end and check what must be true then."""
        events = 0
        while self.clock.now < _END_S and self.clock.step():
            events += 1
            assert events < _MOST_EVENTS, f"no end after {events} events at {self.clock.now:.3f} s"
            if self.clock.now > _FAULTS_UNTIL_S + 30 and self._is_quiet():
                break
        stuck = [driver.name for driver in self.drivers if driver.alive and not driver.finished]
        assert not stuck, f"{stuck} did not finish; faults: {self.faults}"
        assert self._is_quiet(), f"left: {self._left()}; faults: {self.faults}"

    def _is_quiet(self) -> bool:
        return not any(driver.alive for driver in self.drivers + self.nested) and not self._left()

    def _left(self) -> list[str]:
        book = self.scheduler.core.book
        left = [f"lease {name}" for name in book.leases]
        left += [f"pool {name}" for name in book.pools]
        left += [f"driver {name}" for name in book.drivers]
        for node in self.nodes.values():
            left += [f"worker {node.name}/{name}" for name in (*node.leased(), *node.stopping())]
        return left

    # -- what drivers ask of their surroundings -----------------------------------------------------------------

    def worker_runs(self, grant: scheduler_to_driver.LeaseGranted) -> bool:
        """Whether the very process that was granted runs."""
        node = self.nodes.get(grant.node)
        if node is None or not node.alive or node.processes.get(grant.pid) != grant.worker[2:]:
            return False
        worker = node.core.workers.get(grant.worker[2:])
        return worker is not None and worker.endpoint == grant.endpoint

    def check_exclusive(self, driver: ScriptedDriver, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker process serves one driver in its life."""
        incarnation = f"{id(self.nodes[grant.node])}/{grant.endpoint}"
        owner = self._owners.setdefault(incarnation, driver.name)
        assert owner == driver.name, f"{grant.endpoint} of {owner} was granted to {driver.name}"

    def add_nested(
        self, name: str, parent: ScriptedDriver, grant: scheduler_to_driver.LeaseGranted, done: Callable[[], None]
    ) -> None:
        """A task submits nested work from its worker; the driver in there dies with the worker."""
        nested = ScriptedDriver(self, name, self.random.randint(1, 3), parent.slots, parent, grant, done)
        self.nested.append(nested)
        node = self.nodes[grant.node]

        def on_death(worker: str) -> None:
            if worker == grant.worker:
                nested.kill()
                node.on_death.remove(on_death)

        node.on_death.append(on_death)

    # -- faults -------------------------------------------------------------------------------------------------

    def _start_node(self, name: str) -> None:
        self.nodes[name] = SimulatedNode(self.clock, self.network, name, self._cpus)

    def _start_driver(self, name: str, tasks: int, slots: int) -> None:
        self.drivers.append(ScriptedDriver(self, name, tasks, slots))

    def _fault(self) -> None:
        kinds: list[tuple[str, int, Callable[[], Any]]] = [
            ("worker", 6, self._kill_worker),
            ("node", 2, self._kill_node),
            ("driver", 1, self._kill_driver),
            ("scheduler", 1, self._restart_scheduler),
            ("cut", 3, self._cut),
        ]
        weights = [weight for _, weight, _ in kinds]
        [(kind, _, fault)] = self.random.choices(kinds, weights)
        self.faults.append(f"{self.clock.now:.3f} {kind}: {fault()}")

    def _kill_worker(self) -> str:
        running = [(node, pid) for node in self.nodes.values() for pid in node.processes]
        if not running:
            return "none"
        node, pid = self.random.choice(running)
        name = node.processes[pid]
        node.kill_worker(pid, self.random.choice([-9, -11, 1, 0]))
        return f"{node.name}/{name}"

    def _kill_node(self) -> str:
        name = self.random.choice(sorted(self.nodes))
        if self.nodes[name].alive:
            self.nodes[name].kill()
            self.clock.after(self.random.uniform(0.1, 12), lambda: self._start_node(name))
        return name

    def _kill_driver(self) -> str:
        living = [driver for driver in self.drivers if driver.alive]
        if not living:
            return "none"
        driver = self.random.choice(living)
        driver.kill()
        return driver.name

    def _restart_scheduler(self) -> str:
        self.scheduler.kill()
        self._schedulers += 1
        self.scheduler = SimulatedScheduler(self.clock, self.network, self._schedulers)
        return f"k{self._schedulers}"

    def _cut(self) -> str:
        parties = [*self.nodes, *(driver.name for driver in self.drivers)]
        party = self.random.choice(sorted(parties))
        duration_s = self.random.choice([0.1, 2.0, 8.0])
        self.network.cut(party, duration_s)
        return f"{party} for {duration_s:g} s"
