"""References: what they refer to lives exactly as long as something can still ask for it, whoever has them."""

from __future__ import annotations

import copy
import gc
import pickle
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from distpool.errors import DependencyError, SerializationError
from distpool.store.client import ObjectStore
from distpool.store.handles import StoredPacked
from distpool.store.references import ObjectRef
from distpool.wire.driver_to_worker import Value

SIZE = 70_000


class Node:
    """Stores of some processes on one folder; messages between them are delivered when asked, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores: dict[str, ObjectStore] = {}
        self.drivers: dict[str, str] = {}
        self.mail: list[tuple[str, str, list[str]]] = []

    def start(self, name: str, driver: str = "") -> ObjectStore:
        self.drivers[name] = driver
        self.stores[name] = store = ObjectStore(
            self.folder,
            name,
            on_free=lambda to, ids: self.mail.append(("release", to, ids)),
            on_unpinned=lambda ids: self.mail.append(("unpin " + name, driver, ids)),
        )
        return store

    def deliver(self) -> None:
        gc.collect()
        while self.mail:
            what, to, ids = self.mail.pop(0)
            if what == "release":
                self.stores[to].release(ids)
            else:
                self.stores[to].unpin(what.split()[1], ids)

    @property
    def objects(self) -> int:
        """How many are somewhere in memory, used."""
        self.deliver()
        return sum(len(store._parts.endings.slots) for store in self.stores.values())

    def put(self, store: ObjectStore, value: object) -> ObjectRef:
        return ObjectRef(store.pack(value, by_reference=True), store)

    def call(self, driver: ObjectStore, worker: ObjectStore, function, *args):
        """What a task does with the two stores."""
        packed = driver.pack((args, {}))
        values = [handle._packed.value for handle in packed.dependencies]
        arguments, _ = worker.unpack(packed.value, values)
        result = function(*arguments)
        del arguments
        answer = worker.pack(result, by_reference=True).hand_over()
        del result
        locations = [*packed.value.objects, *(location for value in values for location in value.objects)]
        driver.pin(worker.owner, worker.pinned([location.object_id for location in locations]))
        stored = driver.adopt(answer)
        del packed
        # Whoever reads the result does so later.
        self.deliver()
        return driver.unpack(answer, owner=stored)

    def close(self) -> None:
        for store in self.stores.values():
            store.close()


@pytest.fixture
def node(tmp_path: Path):
    node = Node(tmp_path)
    yield node
    node.close()


@pytest.fixture
def pair(node: Node):
    return node.start("d-1"), node.start("w-1", "d-1")


def numbers(i: int) -> np.ndarray:
    return np.full(SIZE, i)


def test_a_reference_gives_the_value_each_time(node, pair):
    driver, _ = pair
    ref = node.put(driver, numbers(3))
    one, two = ref.result(), ref.result()
    one[:] = 0
    assert two[5] == 3
    assert ref.done()
    assert not ref.cancelled()
    assert ref.exception() is None
    assert copy.deepcopy([ref]) == [ref]
    assert "560,000 bytes" in repr(ref) or "560," in repr(ref)
    del one, two
    assert node.objects == 1
    del ref
    assert node.objects == 0


def test_small_values_need_no_memory(node, pair):
    ref = node.put(pair[0], {"a": 1})
    assert ref.result() == {"a": 1}
    assert node.objects == 0


def test_a_view_outlives_its_reference(node, pair):
    view = node.put(pair[0], numbers(3)).result()[7:9]
    assert node.objects == 1
    assert view.tolist() == [3, 3]
    del view
    assert node.objects == 0


def test_as_an_argument_it_is_the_value(node, pair):
    driver, worker = pair
    ref = node.put(driver, numbers(3))
    assert node.call(driver, worker, lambda a, d: (a[0], d["k"][0].sum()), ref, {"k": [ref]}) == (3, 3 * SIZE)
    del ref
    assert node.objects == 0


def test_inside_a_stored_object_it_stays_a_reference(node, pair):
    driver, worker = pair
    inner = node.put(driver, numbers(3))
    outer = node.put(driver, [inner, numbers(4)])
    del inner
    assert node.objects == 2
    assert node.call(driver, worker, lambda pair: (type(pair[0]), pair[0].result()[0], pair[1][0]), outer) == (
        ObjectRef,
        3,
        4,
    )
    [kept, _] = outer.result()
    del outer, _
    assert node.objects == 1
    assert kept.result()[0] == 3
    del kept
    assert node.objects == 0


def test_a_borrower_keeps_it(node, pair):
    driver, worker = pair
    stash = []
    outer = node.put(driver, [node.put(driver, numbers(3))])
    node.call(driver, worker, lambda refs: stash.extend(refs), outer)
    del outer
    assert node.objects == 1
    assert stash[0].result()[0] == 3
    view = stash.pop().result()
    assert node.objects == 1
    del view
    assert node.objects == 0


def test_a_borrowed_reference_comes_back(node, pair):
    driver, worker = pair
    stash = []
    outer = node.put(driver, [node.put(driver, numbers(3))])
    node.call(driver, worker, lambda refs: stash.extend(refs), outer)
    del outer
    back = node.call(driver, worker, lambda: stash.pop())
    assert node.objects == 1
    assert back.result()[0] == 3
    del back
    assert node.objects == 0


def test_ownership_moves_with_a_result(node, pair):
    driver, worker = pair
    refs = node.call(driver, worker, lambda: [node.put(worker, numbers(i)) for i in range(3)])
    assert [ref.result()[0] for ref in refs] == [0, 1, 2]
    assert node.objects == 3
    del refs[0]
    assert node.objects == 2
    assert node.call(driver, worker, lambda a: a[0], refs[0]) == 1
    refs.clear()
    assert node.objects == 0


def test_the_maker_may_keep_a_reference_and_hand_it_out_again(node, pair):
    driver, worker = pair
    stash = []

    def make():
        stash.append(node.put(worker, numbers(5)))
        return stash[0]

    first = node.call(driver, worker, make)
    second = node.call(driver, worker, lambda: stash[0])
    del first
    assert node.objects == 1
    assert second.result()[0] == 5
    stash.clear()
    assert node.objects == 1
    again = node.call(driver, worker, lambda a: a[1], second)
    assert again == 5
    del second
    assert node.objects == 0


def test_results_that_nobody_reads_take_their_references_along(node, pair):
    driver, worker = pair
    answer = worker.pack([node.put(worker, numbers(5)), numbers(6)], by_reference=True).hand_over()
    stored = driver.adopt(answer)
    assert node.objects == 2
    del stored
    assert node.objects == 0


def test_references_nested_deeply(node, pair):
    driver, worker = pair

    def make():
        ref = node.put(worker, numbers(0))
        for i in range(1, 5):
            ref = node.put(worker, [ref, numbers(i)])
        return ref

    ref = node.call(driver, worker, make)
    assert node.objects == 5
    for i in range(4, 0, -1):
        ref, array = ref.result()
        assert array[0] == i
        del array
        assert node.objects == i
    assert ref.result()[0] == 0
    del ref
    assert node.objects == 0


def test_a_borrower_lends_to_its_own_workers(node, pair):
    driver, worker = pair
    nested = node.start("w-2", "w-1")
    stash = []
    outer = node.put(driver, [node.put(driver, numbers(3))])

    def pass_on(refs):
        node.call(worker, nested, lambda inner: stash.extend(inner), node.put(worker, refs))

    node.call(driver, worker, pass_on, outer)
    del outer
    assert node.objects == 1
    assert stash[0].result()[0] == 3
    back = node.call(driver, worker, lambda: node.call(worker, nested, lambda: stash.pop()))
    assert back.result()[1] == 3
    assert node.objects == 1
    del back
    assert node.objects == 0


def test_a_dead_borrower_keeps_nothing(node, pair):
    driver, worker = pair
    stash = []
    outer = node.put(driver, [node.put(driver, numbers(3))])
    node.call(driver, worker, lambda refs: stash.extend(refs), outer)
    del outer
    assert node.objects == 1
    driver.process_died("w-1")
    assert node.objects == 0
    stash.clear()
    gc.collect()
    node.mail.clear()


def test_what_a_dead_maker_handed_over_stays(node, pair):
    driver, worker = pair
    ref = node.call(driver, worker, lambda: node.put(worker, [node.put(worker, numbers(1)), numbers(2)]))
    driver.process_died("w-1")
    inner, array = ref.result()
    assert (inner.result()[0], array[0]) == (1, 2)
    del ref, inner, array
    node.deliver()
    assert list(node.folder.iterdir()) == []


def test_futures_become_references(node, pair):
    driver, _ = pair
    future = _future_of(driver, numbers(7))
    ref = node.put(driver, [future])
    del future
    [inner] = ref.result()
    assert type(inner) is ObjectRef
    assert inner.result()[0] == 7
    failed: Future[object] = _ReducedFuture()
    failed.set_exception(ZeroDivisionError("no"))
    with pytest.raises(DependencyError, match="ZeroDivisionError: no"):
        node.put(driver, [failed])


class _ReducedFuture(Future):  # type: ignore[type-arg]
    def __reduce__(self):
        from distpool.store.serialization import reduce_dependency

        return reduce_dependency(self)


def _future_of(store, value):
    future = _ReducedFuture()
    future._packed = store.pack(value)
    assert isinstance(future._packed, StoredPacked)
    future.set_result(None)
    return future


def test_plain_pickle_refuses(node, pair):
    ref = node.put(pair[0], numbers(1))
    with pytest.raises(SerializationError):
        pickle.dumps(ref)
    with pytest.raises(SerializationError):
        pickle.loads(pair[0].pack([ref], by_reference=True).value.payload)
    assert Value(b"").objects == ()
