"""Whatever the order of packs, views, reports and deaths: a living view never changes, and nothing is kept for good."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from distpool.store.client import ObjectStore

SIZES = st.sampled_from([64, 4096, 5000, 40_000])


class Store(RuleBasedStateMachine):
    """A driver and two workers, one of which is replaced when it dies; messages are delivered at once."""

    tasks = Bundle("tasks")
    views = Bundle("views")
    results = Bundle("results")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.generation = 0
        self.workers: dict[str, ObjectStore] = {}
        self.driver = ObjectStore(self.folder, "d-1", inline_bytes=64, on_free=self._free)
        self.dead: set[str] = set()
        for _ in range(2):
            self._start_worker()
        #: What each view must show.
        self.expected: dict[int, tuple[np.ndarray, int, str]] = {}
        self.number = 0

    def _start_worker(self) -> None:
        self.generation += 1
        name = f"w-{self.generation}"
        self.workers[name] = ObjectStore(
            self.folder, name, inline_bytes=64, on_unpinned=lambda ids, name=name: self._unpinned(name, ids)
        )

    def _unpinned(self, name: str, ids: list[str]) -> None:
        if name not in self.dead:
            self.driver.unpin(name, ids)

    def _free(self, maker: str, ids: list[str]) -> None:
        self.workers[maker].release(ids)

    @rule(target=tasks, size=SIZES)
    def submit(self, size: int):
        self.number += 1
        return self.number, self.driver.pack(np.full(size, self.number))

    @rule(target=results, size=SIZES, index=st.integers(0, 1))
    def finish(self, size: int, index: int):
        self.number += 1
        worker = self._live()[index]
        return self.number, self.driver.adopt(self.workers[worker].pack(np.full(size, self.number)).hand_over())

    def _live(self) -> list[str]:
        return [name for name in self.workers if name not in self.dead]

    @rule(target=views, task=tasks, index=st.integers(0, 1), start=st.integers(0, 63))
    def view_argument(self, task, index: int, start: int):
        return self._view(task[0], task[1].value, self._live()[index], start)

    @rule(target=views, result=results, index=st.integers(0, 1), start=st.integers(0, 63))
    def view_result(self, result, index: int, start: int):
        return self._view(result[0], result[1].value, self._live()[index], start)

    @rule(target=views, result=results, start=st.integers(0, 63))
    def view_result_in_the_driver(self, result, start: int):
        number, stored = result
        array = self.driver.unpack(stored.value, owner=stored)[start:]
        self.expected[id(array)] = (array, number, "d-1")
        return id(array)

    def _view(self, number: int, value, worker: str, start: int) -> int:
        array = self.workers[worker].unpack(value)[start:]
        self.driver.pin(worker, self.workers[worker].pinned({o.object_id for o in value.objects}))
        self.expected[id(array)] = (array, number, worker)
        return id(array)

    @rule(view=views)
    def scribble(self, view: int):
        if view in self.expected:
            array, _, holder = self.expected[view]
            self.number += 1
            array[:] = self.number
            self.expected[view] = (array, self.number, holder)

    @rule(view=consumes(views))
    def drop_view(self, view: int):
        self.expected.pop(view, None)

    @rule(task=consumes(tasks))
    def drop_task(self, task):
        task[1].release()

    @rule(result=consumes(results))
    def drop_result(self, result):
        del result

    @rule(index=st.integers(0, 1))
    def kill_worker(self, index: int):
        name = self._live()[index]
        self.dead.add(name)
        self.expected = {key: entry for key, entry in self.expected.items() if entry[2] != name}
        self.driver.process_died(name)
        self._start_worker()

    @rule()
    def trim(self):
        self.driver.trim()
        for name in self._live():
            self.workers[name].trim()

    @invariant()
    def views_show_what_they_must(self):
        for array, number, _ in self.expected.values():
            assert (array == number).all()

    @invariant()
    def books_agree(self):
        self.driver._parts.ownership.lifetimes.check_invariants()
        for store in (self.driver, *self.workers.values()):
            assert 0 <= store.recyclable_bytes <= store.backed_bytes

    def teardown(self):
        self.expected.clear()
        self.driver.close()
        for store in self.workers.values():
            store.close()
        assert os.listdir(self.folder) == []
        shutil.rmtree(self.folder)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
