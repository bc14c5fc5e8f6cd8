"""Standard ``multiprocessing`` objects in the workers of pools: as arguments of initializers, and as globals."""

from __future__ import annotations

import gc
import multiprocessing as standard
import os
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import pytest

import distpool.multiprocessing as multiprocessing
from distpool import DistExecutor
from tests.support.resources import settle

pytestmark = [
    # Memory for shared values and semaphores is kept for the next ones; the resource tracker stays.
    pytest.mark.leaks("descriptors", "processes"),
]

things: Any = None


def keep(*args):
    global things
    things = args


def count_up(times):
    lock, value = things
    for _ in range(times):
        with lock:
            value.value += 1


def count_up_in_turn(times):
    (value,) = things
    for _ in range(times):
        with value.get_lock(), value.get_lock():  # it is recursive
            value.value += 1


def meet(_):
    barrier, event, condition, ready = things
    place = barrier.wait(30)
    with condition:
        ready.value += 1
        condition.notify_all()
    return place, event.wait(30)


def take(_):
    (semaphore,) = things
    return semaphore.acquire(block=False)


def exchange(x):
    queue, simple, connection, array, raw = things
    queue.put(("queue", x))
    simple.put(("simple", x))
    connection.send(("pipe", x))
    with array.get_lock():
        array[0] += x
    raw[x] = 1.5 * x


def through_manager(x):
    dictionary, values, namespace, queue = things
    dictionary[x] = os.getpid()
    values.append(x)
    namespace.last = x
    queue.put(x)


def look(name):
    block = shared_memory.SharedMemory(name)
    found = bytes(block.buf[:3])
    block.buf[0] += 1
    block.close()
    return found


def locked(_):
    return things[0].acquire(timeout=0)


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_afterwards() -> Iterator[None]:
    yield
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture(params=["default", "fork", "spawn", "distpool", "plain"])
def context(request: pytest.FixtureRequest) -> Any:
    """``plain``: the objects are the standard module's, made for a start method that leaves them no name."""
    if request.param == "plain":
        return standard.get_context("fork")
    return multiprocessing.get_context(None if request.param == "default" else request.param)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_locks_exclude(context: Any, kind: str) -> None:
    lock, value = getattr(context, kind)(), context.RawValue("i", 0)
    with multiprocessing.Pool(2, keep, (lock, value)) as pool:
        result = pool.map_async(count_up, [200] * 4, chunksize=1)
        for _ in range(200):
            with lock:
                value.value += 1
        result.get(50)
    assert value.value == 1000


def test_values_with_locks(context: Any) -> None:
    value = context.Value("q", 5)
    with multiprocessing.Pool(2, keep, (value,)) as pool:
        pool.map(count_up_in_turn, [100] * 4, chunksize=1)
    assert value.value == 405


def test_barrier_event_and_condition(context: Any) -> None:
    barrier, event, condition, ready = context.Barrier(2), context.Event(), context.Condition(), context.Value("i", 0)
    with multiprocessing.Pool(2, keep, (barrier, event, condition, ready)) as pool:
        result = pool.map_async(meet, range(2), chunksize=1)
        with condition:
            assert condition.wait_for(lambda: ready.value == 2, 30)
        event.set()
        assert sorted(result.get(30)) == [(0, True), (1, True)]


def test_semaphores_count(context: Any) -> None:
    semaphore = context.Semaphore(3)
    with multiprocessing.Pool(2, keep, (semaphore,)) as pool:
        assert sorted(pool.map(take, range(5), chunksize=1)) == [False, False, True, True, True]
    assert not semaphore.acquire(block=False)


def test_queues_pipes_and_arrays(context: Any) -> None:
    queue, simple, array, raw = context.Queue(), context.SimpleQueue(), context.Array("i", 2), context.RawArray("d", 6)
    here, there = context.Pipe()
    with multiprocessing.Pool(2, keep, (queue, simple, there, array, raw)) as pool:
        for x in range(6):
            pool.apply(exchange, (x,))
        assert sorted(queue.get(timeout=30) for _ in range(6)) == [("queue", x) for x in range(6)]
        assert [simple.get() for _ in range(6)] == [("simple", x) for x in range(6)]
        assert [here.recv() for _ in range(6)] == [("pipe", x) for x in range(6)]
    assert array[:] == [15, 0]
    assert raw[:] == [0, 1.5, 3, 4.5, 6, 7.5]
    queue.close()
    queue.join_thread()
    here.close()
    there.close()


@pytest.mark.parametrize("method", [None, "spawn", "distpool"])
def test_manager_proxies(method: str | None) -> None:
    with multiprocessing.get_context(method).Manager() as manager:
        dictionary, values, namespace, queue = manager.dict(), manager.list(), manager.Namespace(), manager.Queue()
        with multiprocessing.Pool(2, keep, (dictionary, values, namespace, queue)) as pool:
            pids = {process.pid for process in pool._pool}
            pool.map(through_manager, range(6), chunksize=1)
        assert sorted(values) == sorted(dictionary.keys()) == sorted(queue.get() for _ in range(6)) == list(range(6))
        assert set(dictionary.values()) <= pids
        assert namespace.last in range(6)
        with multiprocessing.Pool(2) as pool:
            # As an argument of a task, too.
            pool.apply(dictionary.update, ({"later": 1},))
        assert dictionary["later"] == 1


def put_into(values, *things):
    values.extend(things)
    return len(values)


def test_what_only_a_call_refers_to_lives_until_the_call_is_over() -> None:
    with standard.Manager() as manager, DistExecutor(1) as executor:
        assert executor.submit(put_into, manager.list(), 1, 2).result() == 2
        assert executor.submit(put_into, values=manager.list()).result() == 0
        assert list(executor.map(put_into, (manager.list([n]) for n in range(5)))) == [1] * 5
        # Its pickle lies in the store.
        assert executor.submit(put_into, manager.list(), *("long" * 1000 + str(n) for n in range(50))).result() == 50
        # It is kept back, and goes to a worker later.
        number = executor.submit(abs, -3)
        assert executor.submit(put_into, manager.list(), number).result() == 1
        futures = [executor.submit(put_into, manager.list()) for _ in range(5)]
        assert futures[-1].result() == 0
        # Nothing is kept longer than that: the manager's own object is all that is left.
        del futures
        gc.collect()
        assert settle(lambda: ["left"] * manager._number_of_objects(), 20) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [True, False])
def test_shared_memory_outlives_the_workers_that_looked_at_it(before: bool) -> None:
    """Whether the block, and with it the resource tracker, is older than the workers or not."""
    if before:
        block = shared_memory.SharedMemory(create=True, size=100)
    with multiprocessing.Pool(2, maxtasksperchild=1) as pool:
        pool.map(abs, range(2))
        if not before:
            block = shared_memory.SharedMemory(create=True, size=100)
        block.buf[:3] = b"abc"
        assert [pool.apply(look, (block.name,)) for _ in range(3)] == [b"abc", b"bbc", b"cbc"]
    pool.join()
    again = shared_memory.SharedMemory(block.name)
    assert bytes(again.buf[:3]) == b"dbc"
    again.close()
    block.close()
    block.unlink()


def test_workers_that_start_late_get_the_same_objects() -> None:
    lock, value = multiprocessing.Lock(), multiprocessing.RawValue("i", 0)
    with multiprocessing.Pool(2, keep, (lock, value), maxtasksperchild=1) as pool:
        pool.map(count_up, [10] * 10, chunksize=1)
    assert value.value == 100


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_executors_initializers_may_get_locks(kind: str) -> None:
    """``tqdm``'s ``process_map`` does this."""
    lock = getattr(standard.get_context("fork"), kind)()
    with DistExecutor(1, initializer=keep, initargs=(lock,)) as executor:
        with lock:
            assert not executor.submit(locked, 0).result(30)
        assert executor.submit(locked, 0).result(30)


def test_globals_of_the_users_own_modules_are_shared(run_script: Any, tmp_path: Any) -> None:
    (tmp_path / "project.py").write_text("""
import multiprocessing
lock = multiprocessing.Lock()
total = multiprocessing.Value("i", 0)
log = {"queue": multiprocessing.Queue()}

def work(x):
    for _ in range(100):
        with lock:
            total.value += 1
    log["queue"].put(x)
""")
    source = """
import distpool.multiprocessing as mp
import project

with mp.Pool(3) as pool:
    pool.map(project.work, range(6), chunksize=1)
    print(project.total.value, sorted(project.log["queue"].get(timeout=20) for _ in range(6)))
"""
    assert run_script(source) == "600 [0, 1, 2, 3, 4, 5]\n"
