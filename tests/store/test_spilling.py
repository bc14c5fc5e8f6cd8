"""A node whose memory is too small: objects go to disk and come back, producers wait, and the books are right."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from distpool.errors import ObjectLostError, ObjectStoreFullError
from distpool.node.loop import Loop
from distpool.store import core
from distpool.store.client import ObjectStore
from distpool.store.link import Asked
from distpool.store.service import StoreService
from distpool.store.settings import StoreSettings
from distpool.store.spill import SpillFolder
from distpool.wire.channel import Channel
from distpool.wire.codec import encode
from distpool.wire.store_client_to_agent import StoreHello

MB = 1 << 20


class Node:
    """The agent's part, in a thread of its own; stores of several processes in this one."""

    def __init__(self, root: Path, budget_bytes: int, spill_uri: str = "") -> None:
        self.folder = root / "memory"
        self.spill = root / "spill"
        self.folder.mkdir(exist_ok=True)
        endpoint = f"ipc://{root}/a"
        self.context = zmq.Context()
        self.channel = Channel(self.context, b"a-n")
        self.channel.bind(endpoint)
        self.loop = Loop()
        self.service = StoreService(
            self.loop, self.channel, "n", endpoint, str(self.folder), str(self.spill), budget_bytes, spill_uri
        )
        for fd in self.channel.descriptors:
            self.loop.watch(fd, self._serve)
        self._wake_read, self._wake_write = os.pipe()
        self.loop.watch(self._wake_read, self._do)
        self._todo: list = []
        self.stores: list[ObjectStore] = []
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def _serve(self) -> None:
        for peer, frames in self.channel.drain_woken():
            self.service.on_message(peer, frames)

    def _do(self) -> None:
        os.read(self._wake_read, 1)
        self._todo.pop(0)()

    def do(self, function) -> None:
        """In the loop's thread, and wait for it."""
        done = threading.Event()
        self._todo.append(lambda: (function(), done.set()))
        os.write(self._wake_write, b"x")
        assert done.wait(20)

    def store(self, name: str) -> ObjectStore:
        store = ObjectStore(self.folder, name)
        self.stores.append(store)
        return store

    def used_bytes(self) -> int:
        total = 0
        for entry in os.scandir(self.folder):
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # spilled since the folder was read
                    total += entry.stat().st_blocks * 512
        return total

    def settle(self) -> None:
        """Until the agent has heard what was said."""
        for store in self.stores:
            if store._parts.room._link is not None:
                store.describe_node()

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.do(self.loop.stop)
        self.thread.join()
        self.service.close()
        self.channel.close()
        self.context.destroy(linger=0)
        os.close(self._wake_read)
        os.close(self._wake_write)


@pytest.fixture
def node(tmp_path_factory):
    # Socket paths may not be long.
    root = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    nodes = []

    def start(budget_bytes: int, **options) -> Node:
        nodes.append(Node(root, budget_bytes, **options))
        return nodes[-1]

    yield start
    for started in nodes:
        started.close()
    shutil.rmtree(root)


def array(i: int, size: int = 4 * MB) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, size, "u1")


def test_more_than_memory_holds(node):
    here = node(20 * MB)
    store = here.store("d-1")
    kept = [store.pack(array(i)) for i in range(15)]
    assert here.used_bytes() <= 20 * MB
    assert os.listdir(here.spill)
    for i, packed in enumerate(kept):
        assert (store.unpack(packed.value) == array(i)).all()
    del kept, packed
    store.trim()
    assert os.listdir(here.spill) == []
    here.settle()
    assert here.used_bytes() == 0


def test_what_is_looked_at_stays(node):
    here = node(20 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    first = driver.pack(array(0))
    view = worker.unpack(first.value)
    kept = [driver.pack(array(i)) for i in range(1, 10)]
    assert first.value.objects[0].segment in os.listdir(here.folder)
    assert (view == array(0)).all()
    for i, packed in enumerate(kept):
        assert (worker.unpack(packed.value) == array(i + 1)).all()


def test_another_process_makes_room(node):
    here = node(20 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    kept = [driver.pack(array(i)) for i in range(4)]
    values = [worker.pack(array(10 + i)).hand_over() for i in range(4)]
    stored = [driver.adopt(value) for value in values]
    assert here.used_bytes() <= 20 * MB
    for i, packed in enumerate(kept):
        assert (worker.unpack(packed.value) == array(i)).all()
    for i, value in enumerate(values):
        assert (driver.unpack(value) == array(10 + i)).all()
    del stored


def test_freed_memory_of_another_process_is_fetched_back(node):
    here = node(20 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    kept = [driver.pack(array(i)) for i in range(4)]
    del kept
    assert driver.recyclable_bytes >= 16 * MB
    stay = [worker.pack(array(i)) for i in range(4)]
    assert driver.backed_bytes < 16 * MB
    assert not here.spill.exists()
    del stay


def test_small_objects_move_together(node):
    here = node(20 * MB)
    store = here.store("d-1")
    kept = [store.pack(array(i, 100_000)) for i in range(400)]
    assert here.used_bytes() <= 20 * MB
    for i in range(0, 400, 7):
        assert (store.unpack(kept[i].value) == array(i, 100_000)).all()
    assert len(os.listdir(here.spill)) >= 2
    del kept
    store.trim()
    assert os.listdir(here.spill) == []


def test_memory_that_is_copied_to_disk_stays_where_it_is_also_when_its_object_ends(node, monkeypatch):
    here = node(18 * MB)
    store = here.store("d-1")
    kept = [store.pack(array(i)) for i in range(4)]
    of_segment = {packed.value.objects[0].segment: i for i, packed in enumerate(kept)}
    really_store = SpillFolder.store
    outcomes = []

    def end_and_store(folder, name, *arguments):
        i = of_segment[name]
        kept[i].release()
        with store._lock:
            # For somebody else, who finds that there is no room: without pages, until somebody reads in its place.
            slot = store._parts.room.memory.allocate(4 * MB)
        try:
            path = really_store(folder, name, *arguments)
            right = (np.fromfile(path, "u1") == array(i)).all()
            outcomes.append((right, os.stat(slot.segment.path).st_blocks))
            return path
        except OSError as error:
            outcomes.append(error)
            raise
        finally:
            with store._lock:
                store._parts.room.memory.free(slot)

    monkeypatch.setattr(SpillFolder, "store", end_and_store)
    made = store.pack(array(4))
    here.settle()
    assert outcomes == [(True, 0)] * len(outcomes) != []
    assert os.listdir(here.spill) == []
    assert here.used_bytes() == store.backed_bytes <= 18 * MB
    assert (store.unpack(made.value) == array(4)).all()


def test_who_waits_is_told_when_room_came_free_because_nothing_had_to_be_copied(node, monkeypatch):
    here = node(18 * MB)
    store = here.store("d-1")
    packed = store.pack(array(0))
    really_store = SpillFolder.store
    asked = Asked()
    store._parts.room._waiting.add(asked)

    def end_and_store(*arguments):
        packed.release()
        asked.wait(20)  # as yet there is no room: it is being copied
        assert store.backed_bytes == 4 * MB
        return really_store(*arguments)

    monkeypatch.setattr(SpillFolder, "store", end_and_store)
    assert store._parts.room.on_spill(packed.value.objects[0].segment) == (0, "")
    assert store.backed_bytes == 0
    assert asked._wakes.qsize() == 1
    store._parts.room._waiting.discard(asked)
    assert os.listdir(here.spill) == []


def test_a_producer_waits_for_the_consumer(node, monkeypatch):
    monkeypatch.setattr(core, "PATIENCE_S", 30.0)
    monkeypatch.setattr(core, "LONGEST_WAIT_S", 30.0)
    here = node(11 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    taken = [worker.pack(array(0)).hand_over(), worker.pack(array(1)).hand_over()]
    views = [driver.unpack(value) for value in taken]
    made = []
    producer = threading.Thread(target=lambda: made.append(worker.pack(array(2)).hand_over()))
    producer.start()
    while not here.service._core._wishes:
        assert producer.is_alive()
        select.select([], [], [], 0.001)
    assert not made
    worker.release([taken[0].objects[0].object_id])
    producer.join(20)
    assert (driver.unpack(made[0]) == array(2)).all()
    assert not here.spill.exists()
    views.clear()  # not sooner: what nobody views may go to disk at any time
    worker.release([value.objects[0].object_id for value in (taken[1], made[0])])


def test_when_all_memory_is_looked_at_new_objects_go_to_disk(node):
    here = node(12 * MB)
    store = here.store("d-1")
    kept = [store.pack(array(i)) for i in range(2)]
    views = [store.unpack(packed.value) for packed in kept]
    kept += [store.pack(array(i)) for i in range(2, 5)]
    assert here.used_bytes() <= 12 * MB
    for i, packed in enumerate(kept):
        assert (store.unpack(packed.value) == array(i)).all()
    assert all((view == array(i)).all() for i, view in enumerate(views))


def test_an_object_larger_than_the_budget(node):
    here = node(12 * MB)
    store = here.store("d-1")
    packed = store.pack(array(1, 30 * MB))
    assert (store.unpack(packed.value) == array(1, 30 * MB)).all()
    assert here.used_bytes() == 0
    packed.release()
    assert os.listdir(here.spill) == []


def test_a_dead_client_is_not_charged_for(node):
    here = node(20 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    value = worker.pack(array(1, 12 * MB)).hand_over()
    stored = driver.adopt(value)
    here.settle()
    charged = here.service._core.allowed_bytes
    worker._parts.room._link.close()  # as the kernel would
    here.do(lambda: here.service.on_worker_exited("w-1"))
    driver.process_died("w-1")
    assert here.service._core.allowed_bytes < charged
    assert here.service._core.orphaned_bytes >= 12 * MB
    assert (driver.unpack(value) == array(1, 12 * MB)).all()
    del stored
    assert here.used_bytes() == 0
    kept = [driver.pack(array(i)) for i in range(4)]
    assert len(kept) == 4


def test_dead_makers_spilled_segments_go_with_their_last_owner(node):
    here = node(12 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    values = [worker.pack(array(i)).hand_over() for i in range(6)]
    stored = [driver.adopt(value) for value in values[:5]]
    driver.process_died("w-1")
    for i in range(5):
        assert (driver.unpack(values[i]) == array(i)).all()
    with pytest.raises(ObjectLostError):
        driver.unpack(values[5])
    stored.clear()
    assert not [name for name in os.listdir(here.spill) if name.startswith("w-1")]


def test_what_the_dead_left_is_moved_to_disk(node):
    here = node(20 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    stored = [driver.adopt(worker.pack(array(i)).hand_over()) for i in range(4)]
    here.settle()
    worker._parts.room._link.close()
    here.do(lambda: here.service.on_worker_exited("w-1"))
    driver.process_died("w-1")
    assert here.service._core.orphaned_bytes >= 16 * MB
    kept = [driver.pack(array(10 + i)) for i in range(4)]
    assert here.used_bytes() <= 20 * MB
    assert {location.segment for packed in kept for location in packed.value.objects} <= {*os.listdir(here.folder)}
    assert [name for name in os.listdir(here.spill) if name.startswith("w-1.")]
    for i, value in enumerate(stored):
        assert (driver.unpack(value.value, owner=value) == array(i)).all()
    stored.clear()
    del value
    driver.do_chores()
    assert not [name for name in [*os.listdir(here.spill), *os.listdir(here.folder)] if name.startswith("w-1.")]


def test_the_spill_folder_is_removed_by_somebody(node):
    here = node(12 * MB)
    store = here.store("d-1")
    kept = [store.pack(array(i)) for i in range(6)]
    gone = set(os.listdir(here.spill))
    shutil.rmtree(here.spill)
    for i, packed in enumerate(kept):
        if packed.value.objects[0].segment in gone:
            with pytest.raises(ObjectLostError, match="was removed"):
                store.unpack(packed.value)
        else:
            assert (store.unpack(packed.value) == array(i)).all()
    more = [store.pack(array(i)) for i in range(6)]
    for i, packed in enumerate(more):
        assert (store.unpack(packed.value) == array(i)).all()


def test_a_full_disk_is_an_error_with_the_sizes(node, monkeypatch):
    monkeypatch.setattr(core, "PATIENCE_S", 0.01)
    here = node(12 * MB)
    store = here.store("d-1")
    here.spill.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(here.spill)]).returncode:
        pytest.skip("needs the right to mount")
    try:
        kept = []
        with pytest.raises(ObjectStoreFullError, match=r"no room for 4,194,304 bytes.*budget is 12,582,912 bytes"):
            for i in range(10):
                kept.append(store.pack(array(i)))
        assert len(kept) >= 4
        for i, packed in enumerate(kept):
            assert (store.unpack(packed.value) == array(i)).all()
        del packed
        kept.pop()
        kept.append(store.pack(array(77)))
        assert (store.unpack(kept[-1].value) == array(77)).all()
        kept.clear()
        store.close()
    finally:
        subprocess.run(["umount", "-l", str(here.spill)], check=True)


def test_another_file_system(node, tmp_path):
    pytest.importorskip("pyarrow.fs")
    far = tmp_path / "far"
    far.mkdir()
    here = node(12 * MB, spill_uri=f"slow+{far}")
    # Any URI of pyarrow's will do; a local one would be used directly, so it is put in here.
    for store in (driver := here.store("d-1"), worker := here.store("w-1")):
        store._parts.room.folder.look()
        store._parts.room.folder.spill.uri = far.as_uri()
    kept = [driver.pack(array(i)) for i in range(6)]
    assert len(os.listdir(far)) >= 2
    assert not [name for name in os.listdir(here.spill) if "d" not in name.rpartition(".")[2]]
    for i, packed in enumerate(kept):
        assert (worker.unpack(packed.value) == array(i)).all()
    del kept, packed
    driver.trim()
    assert os.listdir(far) == []
    assert os.listdir(here.spill) == []


def test_closing_wakes_who_waits(node, monkeypatch):
    monkeypatch.setattr(core, "PATIENCE_S", 30.0)
    monkeypatch.setattr(core, "LONGEST_WAIT_S", 30.0)
    here = node(6 * MB)
    store = here.store("d-1")
    packed = store.pack(array(0))
    view = store.unpack(packed.value)
    errors = []

    def produce():
        try:
            store.pack(array(1))
        except ValueError as error:
            errors.append(str(error))

    producer = threading.Thread(target=produce)
    producer.start()
    while not here.service._core._wishes:
        time.sleep(0)
    store.close()
    producer.join(20)
    assert errors == ["the object store of this process is closed"]
    assert (view == array(0)).all()


def test_many_threads_of_many_processes(node):
    here = node(24 * MB)
    stores = [here.store(f"w-{i}") for i in range(3)]
    problems = []

    def work(store: ObjectStore, seed: int) -> None:
        kept = {}
        for i in range(25):
            number = seed * 100 + i
            kept[number] = store.pack(array(number, MB))
            if len(kept) > 5:
                oldest, packed = next(iter(kept.items()))
                other = stores[i % 3]
                if not (other.unpack(packed.value) == array(oldest, MB)).all():
                    problems.append(oldest)
                del kept[oldest], packed

    threads = [threading.Thread(target=work, args=(store, i)) for i, store in enumerate([*stores, *stores])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not problems
    here.settle()
    books = here.service._core
    assert sum(client.allowed_bytes for client in books.clients.values()) <= books.budget_bytes
    for store in stores:
        assert store.backed_bytes <= (store._parts.room.allowed_bytes or 0)
        assert not store._parts.room._reserved_bytes


def test_contents(node):
    here = node(12 * MB)
    driver, worker = here.store("d-1"), here.store("w-1")
    kept = [driver.pack(array(i)) for i in range(4)]
    value = worker.pack(array(9, MB)).hand_over()
    stored = driver.adopt(value)
    worker.describe_node()
    told = driver.describe_node()
    assert told.budget_bytes == 12 * MB
    by_id = {facts.object_id: facts for facts in told.clients["d-1"].objects}
    assert [by_id[packed.value.objects[0].object_id].size_bytes for packed in kept] == [4 * MB] * 4
    assert {facts.where for facts in by_id.values()} == {"memory", "disk"}
    assert by_id[value.objects[0].object_id].kind == "adopted"
    assert [facts.size_bytes for facts in told.clients["w-1"].objects] == [MB]
    del stored


def test_settings(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTPOOL_STORE_BYTES", raising=False)
    monkeypatch.delenv("DISTPOOL_SPILL_URI", raising=False)
    assert StoreSettings.make() == StoreSettings()
    assert StoreSettings.make().budget_bytes(tmp_path, 100 * MB) == 30 * MB
    assert StoreSettings.make(1 << 61).budget_bytes(tmp_path, 100 * MB) < shutil.disk_usage(tmp_path).total
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "1e6")
    assert StoreSettings.make().budget_bytes(tmp_path, 100 * MB) == 1_000_000
    assert StoreSettings.make(2e6).store_bytes == 2_000_000
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "many")
    with pytest.raises(ValueError, match="DISTPOOL_STORE_BYTES must be a number of bytes, not 'many'"):
        StoreSettings.make()
    for wrong in (0, -1, float("nan"), float("inf"), "1e6"):
        with pytest.raises(ValueError, match="store_bytes must be a number of bytes, at least 1"):
            StoreSettings.make(wrong)
    monkeypatch.delenv("DISTPOOL_STORE_BYTES")
    monkeypatch.setenv("DISTPOOL_INLINE_BYTES", "64k")
    with pytest.raises(ValueError, match="DISTPOOL_INLINE_BYTES must be a number of bytes, not '64k'"):
        StoreSettings.make()


def test_places_to_spill_to(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "1e6")
    monkeypatch.setenv("DISTPOOL_SPILL_URI", tmp_path.as_uri())
    assert StoreSettings.make().spill_folder == str(tmp_path)
    assert StoreSettings.make(spill_uri=str(tmp_path)).spill_folder == str(tmp_path)
    with pytest.raises(ValueError, match="no folder that this user can write to; make it first"):
        StoreSettings.make(spill_uri=f"{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="must be a URI such as 'file:///big/disk'"):
        StoreSettings.make(spill_uri="bucket/path")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"spill_uri is s3://bucket/path, .* pip install pyarrow") as caught:
        StoreSettings.make(spill_uri="s3://key:secret@bucket/path?token=secret")
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert StoreSettings.make(spill_uri="gs://bucket/path/").spill_uri == "gs://bucket/path"


def test_who_is_dead_by_the_time_it_is_heard_is_charged_nothing(node):
    here = node(20 * MB)
    driver = here.store("d-1")
    before = driver.describe_node().allowed_bytes
    ended = subprocess.Popen(["true"])
    ended.wait()
    here.do(lambda: here.service.on_message(b"o-w-1", [encode(StoreHello(ended.pid, MB))]))
    assert driver.describe_node().allowed_bytes == before
