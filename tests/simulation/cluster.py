"""A whole cluster on a virtual clock, the faults that befall it, and what must hold in spite of them."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

from distpool.wire import scheduler_to_driver
from tests.simulation.driver import SimulatedDriver, SimulatedTime
from tests.simulation.load import LOADS, WEIGHTS
from tests.simulation.network import Clock, Network
from tests.simulation.objects import Objects
from tests.simulation.parties import SCHEDULER, SimulatedNode, SimulatedScheduler
from tests.simulation.program import Program
from tests.simulation.worker import SimulatedWorker

#: By then everything must be done.
_END_S = 400.0
_MOST_EVENTS = 200_000


class Cluster:
    """One run; everything follows from the seed."""

    def __init__(self, seed: int, nodes: int = 3, cpus: int = 3, drivers: int = 3, faults: int | None = None) -> None:
        self.clock = Clock(seed)
        self.random = self.clock.random
        load = self._load = LOADS[seed % len(LOADS)]
        faults = load.faults if faults is None else faults
        #: from when on there are no faults
        self.calm_at = load.calm_s
        self.network = Network(self.clock)
        self.network.duplicates = self.random.choice([0.0, 0.0, 0.05])
        self.objects = Objects()
        self._cpus = cpus
        self._schedulers = 1
        self._incarnations = 0
        #: driver -> what it computes
        self.programs: dict[str, Program] = {}
        self.scheduler = SimulatedScheduler(self.clock, self.network, self._schedulers)
        #: workers that were stopped because memory ran short
        self.stopped_for_memory: set[str] = set()
        self.nodes: dict[str, SimulatedNode] = {}
        for number in range(nodes):
            self._start_node(f"n{number}")
        self.drivers: list[SimulatedDriver] = []
        self.nested: list[SimulatedDriver] = []
        #: worker incarnation -> driver that was granted it
        self._owners: dict[str, str] = {}
        self.faults: list[str] = []
        #: workers that ended, other than with their node, before they were set up
        self.failed_starts = 0
        self._events = 0
        for number in range(drivers):
            tasks = 100 if self.random.random() < load.many else self.random.randint(1, 30)
            program = Program(
                f"d{number}", self.random.getrandbits(32), tasks, self.random.randint(1, load.slots), 0, load
            )
            self.programs[program.name] = program
            self.clock.at(self.random.uniform(0, 3), functools.partial(self._start_driver, program))
        #: Half of the faults strike at a moment, half at a step: much happens in few moments.
        self._fault_steps = {self.random.randint(1, 2000) for _ in range(faults // 2)}
        for _ in range(faults - len(self._fault_steps)):
            self.clock.at(self.random.uniform(0, self.calm_at), self._fault)
        self.clock.at(self.calm_at, self.network.heal)

    def run(self) -> None:
        """Run to the end and check what must be true then."""
        collecting = gc.isenabled()
        # Finalizers are part of what happens, so they must happen at the same step each time.
        gc.disable()
        gc.freeze()
        try:
            with SimulatedTime(self.clock):
                self._run()
        finally:
            gc.unfreeze()
            if collecting:
                gc.enable()

    def _run(self) -> None:
        while self._step():
            if self.clock.now > self.calm_at + 15 and not self._events % 64 and self._is_quiet():
                break
        stuck = [driver.name for driver in self.drivers if driver.alive]
        assert not stuck, f"{stuck} did not finish; faults: {self.faults}"
        assert self._is_quiet(), f"left: {self._left()}; faults: {self.faults}"
        self.scheduler.core.check_invariants()
        for node in self.nodes.values():
            if node.alive:
                node.store.check()

    def _step(self) -> bool:
        if self.clock.now >= _END_S or not self.clock.step():
            return False
        self._events += 1
        assert self._events < _MOST_EVENTS, f"no end after {self._events} events at {self.clock.now:.3f} s"
        if self._events in self._fault_steps and self.clock.now < self.calm_at:
            self._fault()
        return True

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Go on from within an event, as other threads and processes do while one waits."""
        while not done():
            assert self._step(), f"somebody waits for ever; faults: {self.faults}"

    @property
    def events(self) -> int:
        """How many there have been."""
        return self._events

    def _is_quiet(self) -> bool:
        return not any(driver.alive for driver in self.drivers + self.nested) and not self._left()

    def _left(self) -> list[str]:
        book = self.scheduler.core.book
        left = [f"lease {name}" for name in book.leases]
        left += [f"pool {name}" for name in book.pools]
        left += [f"driver {name}" for name in book.drivers]
        for node in self.nodes.values():
            if node.alive:
                left += [f"worker {node.name}/{name}" for name in (*node.leased(), *node.stopping())]
            else:
                left += [f"lost node {node.name}"] if node.name in book.nodes else []
        left += [f"object {name}" for name in self.objects.left()]
        return left

    # -- what the parties ask of their surroundings -------------------------------------------------------------

    def holds(self, driver: str, lease: str) -> bool:
        """Whether a driver lives and believes to hold a lease."""
        return any(party.name == driver and party.alive and party.holds(lease) for party in self.drivers + self.nested)

    def check_exclusive(self, driver: SimulatedDriver, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker process serves one driver in its life."""
        owner = self._owners.setdefault(grant.worker, driver.name)
        assert owner == driver.name, f"{grant.worker} of {owner} was granted to {driver.name}"

    def add_nested(self, worker: SimulatedWorker, parent: str, lease: str, pool: str) -> SimulatedDriver:
        """A task submits nested work from its worker; the driver in there dies with the worker."""
        outer = self.programs[parent]
        name = f"{parent}/{len(self.nested)}"
        program = Program(name, self.random.getrandbits(32), 0, outer.slots, outer.depth + 1, outer.load)
        self.programs[name] = program
        nested = SimulatedDriver(self, program, worker, lease, pool)
        self.nested.append(nested)
        return nested

    # -- faults -------------------------------------------------------------------------------------------------

    def _start_node(self, name: str) -> None:
        self._incarnations += 1
        self.nodes[name] = SimulatedNode(self, name, self._incarnations, self._cpus)

    def _start_driver(self, program: Program) -> None:
        self.drivers.append(SimulatedDriver(self, program))

    def _fault(self) -> None:
        befalls: dict[str, Callable[[], str]] = {
            "worker": self._kill_worker,
            "node": self._kill_node,
            "driver": self._kill_driver,
            "scheduler": self._restart_scheduler,
            "cut": self._cut,
            "reset": self._reset,
            "link": self._break_link,
        }
        weights = {**WEIGHTS, **self._load.weights}
        [kind] = self.random.choices(list(weights), list(weights.values()))
        self.faults.append(f"{self.clock.now:.6f} {kind}: {befalls[kind]()}")

    def _kill_worker(self) -> str:
        running = [worker for node in self.nodes.values() for worker in node.processes.values()]
        if not running:
            return "none"
        worker = self.random.choice(running)
        self.nodes[worker.site].kill_worker(worker.pid, self.random.choice([-9, -11, 1, 0]))
        return f"{worker.site}/{worker.name}"

    def _kill_node(self) -> str:
        name = self.random.choice(sorted(self.nodes))
        if not self.nodes[name].alive:
            return "none"
        self.nodes[name].kill()
        others = [node for node in self.nodes.values() if node.alive]
        if others and self.random.random() < self._load.gone:
            return f"{name} for good"
        self.clock.after(self.random.uniform(0.1, self._load.back_s), lambda: self._start_node(name))
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
        number = self._schedulers

        def start() -> None:
            if number == self._schedulers:
                self.scheduler = SimulatedScheduler(self.clock, self.network, number)

        self.clock.after(self.random.choice([0.0, 0.5, 8.0]), start)
        return f"k{self._schedulers}"

    def _cut(self) -> str:
        sites = [SCHEDULER, *self.nodes, *(driver.name for driver in self.drivers)]
        site = self.random.choice(sorted(sites))
        duration_s = self.random.choice([0.1, 2.0, 8.0])
        self.network.cut(site, duration_s)
        return f"{site} for {duration_s:g} s"

    def _break_link(self) -> str:
        living = [driver for driver in (*self.drivers, *self.nested) if driver.alive]
        return self.random.choice(living).lose_link() if living else "none"

    def _reset(self) -> str:
        """A connection to the scheduler breaks: what was under way is lost, and the other side says hello again."""
        parties: list[Any] = [node for node in self.nodes.values() if node.alive]
        parties += [driver for driver in (*self.drivers, *self.nested) if driver.alive]
        if not parties:
            return "none"
        party = self.random.choice(parties)
        self.network.reset(party.name, SCHEDULER)
        self.clock.after(self.random.uniform(0.0, 0.5), party.reconnect)
        return str(party.name)
