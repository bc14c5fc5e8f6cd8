"""Standard ``multiprocessing`` objects in processes that did not inherit them."""

from __future__ import annotations

import gc
import importlib.machinery
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import pytest

import distpool.multiprocessing as ours
from distpool.sharing import dispatch_table, semaphores, sharing
from distpool.sharing.remote import RemoteSemLock
from tests.multiprocessing.strangers import Stranger, dumps

pytestmark = [
    pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="needs descriptors over sockets"),
    # Memory for shared values and semaphores is kept for the next ones; the resource tracker stays.
    pytest.mark.leaks("descriptors", "processes"),
]

#: Plain ``multiprocessing`` (semaphores without a name: reached through their owner), ours (in shared memory), and
#: a context whose semaphores have names.
CONTEXTS = {
    "plain": multiprocessing.get_context("fork"),
    "ours": ours.get_context("fork"),
    "named": multiprocessing.get_context("spawn"),
}


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_afterwards() -> Iterator[None]:
    yield
    gc.collect()  # the tracker removes the names of semaphores that are left, and these would be removed again
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture(params=CONTEXTS)
def context(request: pytest.FixtureRequest) -> Any:
    return CONTEXTS[request.param]


def count_up(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_locks_exclude(context: Any, kind: str) -> None:
    lock = getattr(context, kind)()
    value = multiprocessing.RawValue("i", 0)
    strangers = [Stranger(count_up, lock, value, 200) for _ in range(2)]
    count_up(lock, value, 200)
    for stranger in strangers:
        stranger.result()
    assert value.value == 600


def recurse(lock: Any) -> list[Any]:
    with lock:
        with lock:
            inside = lock._semlock._count(), lock._semlock._is_mine()
        after = lock._semlock._count()
    found: list[Any] = [*inside, after, lock._semlock._is_mine()]
    try:
        lock.release()
    except AssertionError as error:
        found.append(str(error))
    return found


def test_recursive_locks_belong_to_threads(context: Any) -> None:
    lock = context.RLock()
    assert Stranger(recurse, lock).result() == recurse(lock)
    assert lock.acquire(block=False)
    lock.release()


def bounds(semaphore: Any, lock: Any) -> list[Any]:
    found = [semaphore.get_value(), semaphore._semlock._is_zero(), semaphore.acquire(), semaphore.acquire()]
    found += [semaphore.acquire(False), semaphore.acquire(timeout=0.01), semaphore.get_value(), repr(semaphore)]
    semaphore.release()
    semaphore.release()
    try:
        semaphore.release()
    except ValueError as error:
        found.append(str(error))
    return [*found, repr(lock)]


def test_semaphores_count(context: Any) -> None:
    semaphore, lock = context.BoundedSemaphore(2), context.Lock()
    expected = bounds(semaphore, lock)
    assert Stranger(bounds, semaphore, lock).result() == expected
    assert semaphore.get_value() == 2


def hold_until_killed(lock: Any, ready: Any) -> None:
    lock.acquire()
    ready.set()
    threading.Event().wait()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_reached_through_its_owner_is_released_when_its_holder_dies(kind: str) -> None:
    plain = CONTEXTS["plain"]
    lock, ready = getattr(plain, kind)(), plain.Event()
    stranger = Stranger(hold_until_killed, lock, ready)
    ready.wait()
    assert not lock.acquire(block=False)
    os.kill(stranger.process.pid, signal.SIGKILL)
    assert lock.acquire()
    lock.release()
    with pytest.raises(EOFError):
        stranger.result()


def acquire_only(lock: Any) -> bool:
    return bool(lock.acquire())


def test_a_lock_left_acquired_on_purpose_stays_so(context: Any) -> None:
    lock = context.Lock()
    assert Stranger(acquire_only, lock).result()
    assert not lock.acquire(block=False)
    lock.release()


def answer(queue: Any, answers: Any, event: Any, condition: Any, barrier: Any) -> None:
    event.wait()
    barrier.wait()
    with condition:
        condition.notify()
    while (item := queue.get()) is not None:
        answers.put(item * item)
        if hasattr(queue, "task_done"):
            queue.task_done()


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_queues_and_what_is_built_of_locks(context: Any, kind: str) -> None:
    queue, answers = getattr(context, kind)(), context.Queue()
    event, condition, barrier = context.Event(), context.Condition(), context.Barrier(2)
    stranger = Stranger(answer, queue, answers, event, condition, barrier)
    with condition:
        event.set()
        # The stranger comes to ``notify`` only after the barrier, and into the condition only when we wait.
        barrier.wait()
        assert condition.wait(30)
    for x in range(20):
        queue.put(x)
    if kind == "JoinableQueue":
        queue.join()
    queue.put(None)
    assert [answers.get() for _ in range(20)] == [x * x for x in range(20)]
    stranger.result()
    for each in (queue, answers):
        each.close()
        if hasattr(each, "join_thread"):
            each.join_thread()


def use_values(value: Any, array: Any, raw: Any) -> list[Any]:
    with value.get_lock():
        value.value += 1
    array[0] = 2.5
    raw[1] = 7
    return [value.value, list(array), list(raw)]


def test_shared_values(context: Any) -> None:
    value, array, raw = context.Value("i", 41), context.Array("d", [1.0, 2.0]), context.RawArray("b", 3)
    assert Stranger(use_values, value, array, raw).result() == [42, [2.5, 2.0], [0, 7, 0]]
    assert (value.value, list(array), list(raw)) == (42, [2.5, 2.0], [0, 7, 0])


def echo(connection: Any) -> None:
    connection.send([connection.recv(), os.getpid()])
    connection.close()


def test_pipes_may_be_given_to_several() -> None:
    here, there = ours.Pipe()
    strangers = [Stranger(echo, there) for _ in range(2)]
    there.close()
    for _ in strangers:
        here.send("hello")
    assert sorted(here.recv() for _ in strangers) == sorted(["hello", s.process.pid] for s in strangers)
    for stranger in strangers:
        stranger.result()
    here.close()


def use_manager(shared_dict: Any, shared_lock: Any) -> None:
    with shared_lock:
        shared_dict["pid"] = os.getpid()


def test_manager_proxies() -> None:
    with ours.Manager() as manager:
        shared_dict, lock = manager.dict(), manager.RLock()
        stranger = Stranger(use_manager, shared_dict, lock)
        stranger.result()
        assert shared_dict.copy() == {"pid": stranger.process.pid}


def double_first(memory: Any) -> int:
    memory.buf[0] *= 2
    value = int(memory.buf[0])
    memory.close()
    return value


def test_shared_memory_survives_who_attached_to_it() -> None:
    memory = shared_memory.SharedMemory(create=True, size=16)
    try:
        memory.buf[0] = 21
        assert Stranger(double_first, memory).result() == 42
        assert Stranger(double_first, memory).result() == 84
        assert memory.buf[0] == 84
    finally:
        memory.close()
        memory.unlink()


def test_only_inside_sharing() -> None:
    for value in (
        ours.Lock(),
        multiprocessing.get_context("fork").RLock(),
        ours.Queue(),
        ours.Value("i"),
        ours.RawValue("i"),
        ours.Event(),
    ):
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            dumps(value)
        with sharing() as shared:
            dumps(value)
        shared.close()


def test_what_is_no_longer_shared() -> None:
    with sharing() as shared:
        packed = dumps((multiprocessing.get_context("fork").Lock(), ours.RawValue("i")))
    shared.close()
    with pytest.raises(OSError, match=r"cannot be reached|is gone"):
        pickle.loads(packed)


def test_a_lock_can_be_passed_on() -> None:
    with sharing() as shared:
        lock = pickle.loads(dumps(multiprocessing.get_context("fork").Lock()))
        assert isinstance(lock._semlock, RemoteSemLock)
        again = pickle.loads(dumps(lock))
    with again:
        assert not lock.acquire(block=False)
    shared.close()


def test_a_wait_that_is_interrupted_leaves_the_lock_usable() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    original = multiprocessing.get_context("fork").Lock()
    with sharing() as shared:
        lock = pickle.loads(dumps(original))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with original:
            main = threading.get_ident()
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1)).start()
            with pytest.raises(Interrupted):
                lock.acquire()
        # What the interrupted call asked for may be granted now, to nobody; it is taken back.
        assert lock.acquire(timeout=30)
        lock.release()
    finally:
        signal.signal(signal.SIGUSR1, before)
        shared.close()


def test_reducers_of_others_are_left_alone() -> None:
    class Foreign:
        pass

    multiprocessing.reducer.ForkingPickler.register(Foreign, lambda obj: (int, ()))
    try:
        table = dispatch_table()
        assert table is not None
        assert Foreign not in table
        assert dispatch_table() is table
    finally:
        del multiprocessing.reducer.ForkingPickler._extra_reducers[Foreign]


def test_modules_that_another_thread_is_about_to_import_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in them is not in use yet, and not all of it is there."""
    for name in ("reduction", "synchronize", "connection", "heap"):
        module = types.ModuleType(f"multiprocessing.{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        module.__spec__._initializing = True  # type: ignore[attr-defined]
        with sharing(), monkeypatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            dispatch_table()
    with sharing():
        assert multiprocessing.connection.Connection in (dispatch_table() or {})


@pytest.mark.skipif(not semaphores.available(), reason="needs glibc")
def test_ours_need_no_tracker_and_leave_no_name() -> None:
    lock = ours.get_context("distpool").Lock()
    assert lock._semlock.name is None
    assert type(lock) is type(multiprocessing.Lock())
    for value in (-1, 2**31):
        with pytest.raises(OSError, match="Invalid argument"):
            ours.Semaphore(value)
    with pytest.raises(TypeError):
        ours.Semaphore(1.5)  # type: ignore[arg-type]
