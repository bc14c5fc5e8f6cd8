"""Drivers and workers that pass objects to each other with the store's real rules of ownership, over a network that
delays, and with workers that die.

What is simulated is who says what when (``distpool.store.client`` lists it); what the objects contain is not.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from distpool.store.ownership import Ended, Ownership, maker_of
from distpool.wire.objects import Location
from tests.simulation.network import Clock, Network

DRIVER = "d"


class Task(msgspec.Struct):
    attempt: int
    #: What the argument consists of, and what references in it refer to.
    arguments: list[str]
    references: list[str]


class Done(msgspec.Struct):
    attempt: int
    result: list[Location]
    pinned: tuple[str, ...]


class Unpinned(msgspec.Struct):
    object_ids: list[str]


class Release(msgspec.Struct):
    object_ids: list[str]


class Process:
    """One store: what it made, views, has handles of."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.views: dict[str, int] = {}
        self.ownership = Ownership(name, lambda object_id: object_id in self.views)
        self._made = 0
        world.network.up(name, self.receive)

    def make(self) -> str:
        """A new object, with one handle."""
        self._made += 1
        object_id = f"{self.name}.{self._made}"
        self.world.memory.add(object_id)
        self.ownership.add(object_id)
        return object_id

    def view(self, object_id: str) -> None:
        assert object_id in self.world.memory, f"{self.name} maps {object_id}, which was freed"
        self.views[object_id] = self.views.get(object_id, 0) + 1

    def end_view(self, object_id: str) -> None:
        if not self.alive:
            return
        self.views[object_id] -= 1
        if not self.views[object_id]:
            del self.views[object_id]
            ended = Ended()
            self.ownership.on_view_ended(object_id, ended)
            self.dispose(ended)

    def drop(self, object_ids: list[str]) -> None:
        if self.alive:
            ended = Ended()
            self.ownership.drop(object_ids, ended)
            self.dispose(ended)

    def dispose(self, ended: Ended) -> None:
        for object_id in (*ended.own, *itertools.chain(*ended.files.values())):
            self.world.memory.discard(object_id)
        if ended.unpinned:
            self.world.network.send(self.name, DRIVER, Unpinned(ended.unpinned))
        for lender, object_ids in ended.returned.items():
            self.world.network.send(self.name, lender, Release(object_ids))

    def later(self, longest_s: float, action: Callable[[], Any]) -> None:
        self.world.clock.after(self.world.clock.random.uniform(0, longest_s), action)

    def receive(self, source: str, message: Any) -> None:
        raise NotImplementedError


class Worker(Process):
    """Runs tasks; hides views and references that it came by, and hands some of those out again in results."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._stash: list[str] = []

    def receive(self, source: str, message: Any) -> None:
        if isinstance(message, Release):
            self.drop(message.object_ids)
            return
        for object_id in message.arguments:
            self.view(object_id)
        self.ownership.borrow(message.references)
        self.later(0.5, lambda: self._finish(message))

    def _finish(self, task: Task) -> None:
        if not self.alive:
            return
        random = self.world.clock.random
        hidden = [object_id for object_id in task.arguments if random.random() < 0.3]
        for object_id in task.arguments:
            if object_id in hidden:
                self.later(5, functools.partial(self.end_view, object_id))
            else:
                self.end_view(object_id)
        for object_id in task.references:
            if random.random() < 0.4:
                self._stash.append(object_id)
                self.later(5, functools.partial(self._unstash, object_id))
            else:
                self.drop([object_id])
        made = self.make()
        handed = [made]
        if random.random() < 0.4:
            handed.append(self.make())  # an object that a reference in the result refers to
        if self._stash and random.random() < 0.5:
            again = random.choice(self._stash)
            if again not in handed:
                self.ownership.borrow([again])
                handed.append(again)
        locations = [Location(object_id, "n", object_id, 0, 0, self.name) for object_id in handed]
        pinned = self.ownership.report([*task.arguments, *task.references])
        self.world.network.send(self.name, DRIVER, Done(task.attempt, locations, pinned))

    def _unstash(self, object_id: str) -> None:
        if self.alive:
            self._stash.remove(object_id)
            self.drop([object_id])


class Driver(Process):
    """Submits tasks with new objects, with earlier results, and with references to either."""

    def __init__(self, world: World) -> None:
        super().__init__(world, DRIVER)
        #: attempt -> (worker, handles that are kept for it)
        self.running: dict[int, tuple[str, list[str]]] = {}
        self.kept: list[list[str]] = []
        self._attempts = 0

    def submit(self) -> None:
        random = self.world.clock.random
        workers = [worker.name for worker in self.world.workers if worker.alive]
        if not workers:
            return
        arguments = [self.make()]
        if self.kept and random.random() < 0.5:
            arguments += self._again(random.choice(self.kept))
        references: list[str] = []
        if self.kept and random.random() < 0.5:
            references = self._again(random.choice(self.kept))
        elif random.random() < 0.5:
            references = [self.make()]
        self._attempts += 1
        worker = random.choice(workers)
        self.running[self._attempts] = worker, [*arguments, *references]
        self.world.network.send(self.name, worker, Task(self._attempts, arguments, references))

    def _again(self, object_ids: list[str]) -> list[str]:
        for object_id in object_ids:
            self.ownership.add(object_id)
        return list(object_ids)

    def receive(self, source: str, message: Any) -> None:
        ended = Ended()
        if isinstance(message, Unpinned):
            self.ownership.unpin(source, message.object_ids, ended)
        elif isinstance(message, Done):
            attempt = self.running.pop(message.attempt, None)
            if attempt is not None:
                self.ownership.lifetimes.pin(source, message.pinned)
            self.world.dispose_surplus(self, self.ownership.adopt(message.result))
            handles = [location.object_id for location in message.result]
            if attempt is None:
                self.drop(handles)  # of an attempt that was given up
            else:
                self.kept.append(handles)
                self.later(6, functools.partial(self._forget, handles))
                if self.world.clock.random.random() < 0.5:
                    self.view(handles[0])
                    self.later(6, functools.partial(self.end_view, handles[0]))
                    self.ownership.add(handles[0])  # a view of a result keeps its handle
                    self.later(6.1, functools.partial(self._drop_when_unviewed, handles[0]))
                self.drop(attempt[1])
        self.dispose(ended)

    def _drop_when_unviewed(self, object_id: str) -> None:
        if object_id in self.views:
            self.later(1, functools.partial(self._drop_when_unviewed, object_id))
        else:
            self.drop([object_id])

    def _forget(self, handles: list[str]) -> None:
        self.kept.remove(handles)
        self.drop(handles)

    def on_death(self, worker: str) -> None:
        """Word of a worker's end has come, behind all that it had said."""
        for attempt in [number for number, (name, _) in self.running.items() if name == worker]:
            self.drop(self.running.pop(attempt)[1])
        ended = Ended()
        self.ownership.on_death(worker, ended)
        self.dispose(ended)
        for object_id in [found for found in self.world.memory if maker_of(found) == worker]:
            if not self.ownership.keeps(object_id):
                self.world.memory.discard(object_id)


class World:
    """One run; everything follows from the seed."""

    def __init__(self, seed: int, tasks: int = 120, deaths: int = 6) -> None:
        self.clock = Clock(seed)
        self.network = Network(self.clock)
        #: What can be mapped.
        self.memory: set[str] = set()
        self.driver = Driver(self)
        self.workers: list[Worker] = []
        self._names = 0
        for _ in range(3):
            self._start_worker()
        for _ in range(tasks):
            self.clock.at(self.clock.random.uniform(0, 30), self.driver.submit)
        for _ in range(deaths):
            self.clock.at(self.clock.random.uniform(0, 30), self._kill)

    def _start_worker(self) -> None:
        self._names += 1
        self.workers.append(Worker(self, f"w{self._names}"))

    def _kill(self) -> None:
        worker = self.clock.random.choice([worker for worker in self.workers if worker.alive])
        worker.alive = False
        self.network.down(worker.name)
        self.clock.after(0.5, lambda: self.driver.on_death(worker.name))
        self._start_worker()

    def dispose_surplus(self, process: Process, surplus: dict[str, list[str]]) -> None:
        process.dispose(Ended(returned=surplus))

    def run(self) -> None:
        while self.clock.step():
            self.check()
        driver = self.driver
        assert not driver.running, driver.running
        assert not len(driver.ownership.lifetimes), driver.ownership.lifetimes.objects()
        for worker in self.workers:
            if worker.alive:
                assert not len(worker.ownership.lifetimes), (worker.name, worker.ownership.lifetimes.objects())
        assert not self.memory, f"never freed: {self.memory}"

    def check(self) -> None:
        """No handle and no view of anything that was freed."""
        alive = {process.name for process in (self.driver, *self.workers) if process.alive}
        self.driver.ownership.lifetimes.check_invariants()
        for object_id in self.driver.ownership.lifetimes.objects():
            assert object_id in self.memory, f"{object_id} is owned and gone"
        for worker in self.workers:
            if worker.alive:
                worker.ownership.lifetimes.check_invariants()
                for object_id in (*worker.views, *worker.ownership.lifetimes.objects()):
                    # A dead maker's memory is not given to anything else: views of it stay right.
                    assert object_id in self.memory or maker_of(object_id) not in alive, (
                        f"{worker.name} needs {object_id}, which was freed"
                    )
