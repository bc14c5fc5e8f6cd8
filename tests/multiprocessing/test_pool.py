"""The pool's interface, on workers that are threads."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import pickle
import threading
import weakref
from collections.abc import Iterator

import pytest

import distpool.multiprocessing as ours
import distpool.multiprocessing.pool as our_pool
from distpool.errors import WorkerDiedError
from tests.multiprocessing import tasks
from tests.multiprocessing.fake_workers import FakePool
from tests.multiprocessing.tasks import IterationError, numbers, product, square


@pytest.fixture
def pool() -> Iterator[FakePool]:
    tasks.gate.clear()
    with FakePool(2) as pool:
        yield pool
        tasks.gate.set()
    pool.join()


def test_all_call_styles(pool: FakePool) -> None:
    squares = [x * x for x in range(100)]
    pairs = list(zip(range(100), range(100, 0, -1), strict=True))
    products = [x * y for x, y in pairs]
    assert pool.apply(square, (5,)) == 25
    assert pool.apply(square, (), {"x": 3}) == 9
    assert pool.apply(square, [4]) == 16
    assert pool.apply_async(square, (5,)).get() == 25
    assert pool.map(square, range(100)) == squares
    assert pool.map(square, (x for x in range(100)), chunksize=7) == squares
    assert pool.map_async(square, range(100)).get() == squares
    assert pool.starmap(product, pairs) == products
    assert pool.starmap(product, map(list, pairs), chunksize=20) == products
    assert pool.starmap_async(product, pairs).get() == products
    assert list(pool.imap(square, range(100))) == squares
    assert list(pool.imap(square, range(100), chunksize=7)) == squares
    assert sorted(pool.imap_unordered(square, range(100))) == squares
    assert sorted(pool.imap_unordered(square, range(100), chunksize=7)) == squares


@pytest.mark.parametrize(("length", "chunksize"), [(1, 1), (8, 1), (9, 2), (100, 13), (1000, 125)])
def test_where_chunks_are_counted_they_are_a_quarter_of_a_workers_share(length: int, chunksize: int) -> None:
    with FakePool(2, maxtasksperchild=3) as pool:
        pool.starmap(product, zip(range(length), range(length), strict=True))
        sizes = [len(args[0]) for _, args, _ in pool._workers.submissions]
    assert sizes[0] == chunksize
    assert sum(sizes) == length
    assert all(size == chunksize for size in sizes[:-1])


def test_default_chunks_begin_small(pool: FakePool) -> None:
    assert pool.map(square, range(1000)) == [x * x for x in range(1000)]
    sizes = [len(args[0]) for _, args, _ in pool._workers.submissions]
    assert sizes[0] == 1
    assert sum(sizes) == 1000
    assert max(sizes) <= 125


def test_default_chunks_of_a_call_with_callbacks(pool: FakePool) -> None:
    values: list[object] = []
    result = pool.starmap_async(product, [(x, 2) for x in range(500)], callback=values.append)
    assert result.get() == [2 * x for x in range(500)]
    assert values == [result.get()]
    failed = pool.map_async(tasks.fail_odd, range(500), error_callback=values.append)
    with pytest.raises(ValueError, match="1"):
        failed.get()
    assert isinstance(values[1], ValueError)


def test_a_pool_that_is_closed_ends_when_a_map_with_default_chunks_is_over(pool: FakePool) -> None:
    result = pool.map_async(square, range(2000))
    pool.close()
    pool.join()
    assert result.ready()
    assert result.get() == [x * x for x in range(2000)]


def test_empty_iterables(pool: FakePool) -> None:
    called: list[object] = []
    assert pool.map(square, []) == []
    assert pool.map(square, [], chunksize=1) == []
    assert pool.starmap(product, []) == []
    assert list(pool.imap(square, [])) == []
    assert list(pool.imap_unordered(square, [], 3)) == []
    result = pool.map_async(square, [], callback=called.append)
    assert result.ready()
    assert result.successful()
    assert called == []


def test_a_map_of_very_many_chunks(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_pool, "_MOST_FUTURES", 10)
    values: list[object] = []
    result = pool.map_async(square, range(500), 1, values.append)
    assert result.get() == [x * x for x in range(500)]
    assert values == [result.get()]
    with pytest.raises(ValueError, match="1"):
        pool.map(tasks.fail_odd, range(500), 1)
    with pytest.raises(IterationError):
        pool.map(square, _Sized(500, raise_at=300), 1)


class _Sized:
    def __init__(self, length: int, raise_at: int) -> None:
        self._length = length
        self._raise_at = raise_at

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return numbers(self._length, self._raise_at)


class TestErrors:
    def test_of_a_task_arrive_with_the_remote_traceback(self, pool: FakePool) -> None:
        for call in (
            lambda: pool.apply(tasks.fail),
            lambda: pool.map(tasks.fail, [1]),
            lambda: next(pool.imap(tasks.fail, [1])),
            lambda: next(pool.imap(tasks.fail, [1], 2)),
        ):
            with pytest.raises(KeyError) as info:
                call()
            assert type(info.value.__cause__) is multiprocessing.pool.RemoteTraceback
            assert "in fail" in info.value.__cause__.tb

    def test_the_first_of_a_map_counts_and_all_tasks_have_run(self, pool: FakePool) -> None:
        result = pool.map_async(tasks.fail_odd, range(40), chunksize=1)
        with pytest.raises(ValueError, match="1"):
            result.get()
        assert not result.successful()
        assert pool._workers.outstanding == 0

    def test_what_cannot_be_pickled_fails_the_call_and_not_the_pool(self, pool: FakePool) -> None:
        with pytest.raises(RuntimeError, match="cannot pickle"):
            pool.map(square, [tasks.Unpicklable()] * 10)
        with pytest.raises(RuntimeError, match="cannot pickle"):
            pool.apply(square, (tasks.Unpicklable(),))
        result = pool.apply_async(lambda: 1)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            result.get()
        assert pool.apply(square, (2,)) == 4

    def test_a_result_that_cannot_be_pickled(self, pool: FakePool) -> None:
        seen: list[BaseException] = []
        result = pool.apply_async(tasks.unpicklable, error_callback=seen.append)
        with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="cannot be pickled") as info:
            result.get()
        assert seen == [info.value]

    @pytest.mark.leaks("descriptors")  # the standard library's heap of shared memory, made by its first user
    def test_locks_may_not_be_arguments_of_tasks(self, pool: FakePool) -> None:
        lock = ours.Lock()
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            pool.apply(tasks.identity, (lock,))

    def test_of_the_iterable(self, pool: FakePool) -> None:
        with pytest.raises(IterationError) as info:
            pool.map(square, numbers(10, raise_at=3), 1)
        assert info.value.__cause__ is None
        with pytest.raises(IterationError):
            pool.map(square, _Sized(10, raise_at=3), 1)
        with pytest.raises(TypeError):
            pool.map(square, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            next(pool.imap(square, 3))

    @pytest.mark.parametrize(("chunksize", "before"), [(1, 7), (2, 6), (4, 4)])
    def test_of_the_iterable_of_imap_comes_in_its_place(self, pool: FakePool, chunksize: int, before: int) -> None:
        results = pool.imap(square, numbers(20, raise_at=7), chunksize)
        assert [next(results) for _ in range(before)] == [x * x for x in range(before)]
        with pytest.raises(IterationError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_of_the_iterable_of_imap_unordered(self, pool: FakePool) -> None:
        found = set()
        with pytest.raises(IterationError):
            for value in pool.imap_unordered(square, numbers(20, raise_at=7)):
                found.add(value)
        assert found <= {x * x for x in range(7)}

    def test_of_a_task_does_not_end_imap_of_single_items(self, pool: FakePool) -> None:
        results = pool.imap(tasks.fail_odd, range(4))
        assert next(results) == 0
        with pytest.raises(ValueError, match="1"):
            next(results)
        assert next(results) == 2

    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_chunksize(self, pool: FakePool, chunksize: int) -> None:
        for method in (pool.map, pool.imap, pool.imap_unordered):
            with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
                method(square, [1], chunksize)

    @pytest.mark.parametrize("processes", [0, -1])
    def test_processes(self, processes: int) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            FakePool(processes)

    @pytest.mark.parametrize("value", [0, -1, 0.5, "12"])
    def test_maxtasksperchild(self, value: object) -> None:
        with pytest.raises(ValueError, match="maxtasksperchild"):
            FakePool(1, maxtasksperchild=value)  # type: ignore[arg-type]

    def test_initializer(self) -> None:
        with pytest.raises(TypeError, match="callable"):
            FakePool(1, initializer=1)  # type: ignore[arg-type]


class TestAsyncResult:
    @pytest.mark.parametrize("callback", [None, lambda value: None])
    def test_before_and_after(self, pool: FakePool, callback: object) -> None:
        result = pool.apply_async(tasks.wait_for_gate, (7,), callback=callback)
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout=0)
        result.wait(0.001)
        assert len(pool._cache) == 1
        tasks.gate.set()
        result.wait()
        assert result.ready()
        assert result.successful()
        assert result.get() == result.get(0) == 7
        assert pool._cache == {}

    def test_a_time_out_of_the_task_is_not_ours(self, pool: FakePool) -> None:
        with pytest.raises(TimeoutError, match="of the task"):
            pool.apply_async(_time_out).get(10)

    def test_is_the_standard_librarys_by_type(self, pool: FakePool) -> None:
        assert isinstance(pool, multiprocessing.pool.Pool)
        assert isinstance(pool.apply_async(square), multiprocessing.pool.AsyncResult)
        assert isinstance(pool.map_async(square, [1]), multiprocessing.pool.MapResult)
        assert isinstance(pool.imap(square, [1]), multiprocessing.pool.IMapIterator)
        assert isinstance(pool.imap_unordered(square, [1]), multiprocessing.pool.IMapUnorderedIterator)
        assert our_pool.AsyncResult is our_pool.ApplyResult
        assert our_pool.ThreadPool is multiprocessing.pool.ThreadPool
        assert our_pool.MaybeEncodingError is multiprocessing.pool.MaybeEncodingError

    def test_arguments_and_results_are_let_go(self, pool: FakePool) -> None:
        argument = _Referable()
        seen = weakref.ref(argument)
        result = pool.apply_async(tasks.identity, (argument,))
        value = weakref.ref(result.get())
        pool._workers.submissions.clear()
        del argument, result
        gc.collect()
        assert seen() is None
        assert value() is None


class _Referable:
    pass


def _time_out() -> None:
    raise TimeoutError("of the task")


class TestCallbacks:
    def test_have_run_when_the_result_is_ready(self, pool: FakePool) -> None:
        called: list[object] = []
        pool.map_async(int, ["1"], callback=called.append, error_callback=called.append).wait()
        assert called == [[1]]
        pool.map_async(int, ["a"], callback=called.append, error_callback=called.append).wait()
        assert isinstance(called[1], ValueError)
        pool.apply_async(square, (3,), callback=called.append).get()
        assert called[2] == 9

    def test_run_in_one_thread_in_order_of_completion(self, pool: FakePool) -> None:
        calls: list[tuple[int, int]] = []
        with FakePool(1) as single:
            for x in range(50):
                single.apply_async(
                    tasks.identity, (x,), callback=lambda value: calls.append((value, threading.get_ident()))
                )
            single.close()
            single.join()
        assert [value for value, _ in calls] == list(range(50))
        assert len({thread for _, thread in calls}) == 1

    def test_that_raise_are_reported_and_harm_nobody(self, pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
        reported: list[type] = []
        monkeypatch.setattr("sys.excepthook", lambda kind, *_: reported.append(kind))
        result = pool.apply_async(square, (3,), callback=tasks.fail)
        assert result.get() == 9
        assert pool.apply_async(square, (4,), callback=lambda _: None).get() == 16
        assert reported == [KeyError]

    def test_may_use_the_pool(self, pool: FakePool) -> None:
        done = threading.Event()
        more = []

        def again(value: int) -> None:
            more.append(pool.apply_async(square, (value,)).get())
            done.set()

        pool.apply_async(square, (3,), callback=again)
        assert done.wait(10)
        assert more == [81]

    def test_are_not_called_after_terminate(self) -> None:
        tasks.gate.clear()
        called: list[object] = []
        pool = FakePool(1)
        results = [
            pool.apply_async(tasks.wait_for_gate, callback=called.append, error_callback=called.append)
            for _ in range(3)
        ]
        ender = threading.Thread(target=pool.terminate)
        ender.start()
        while not pool._workers.terminated:
            ender.join(0.001)
        tasks.gate.set()
        ender.join()
        pool.join()
        with pytest.raises(WorkerDiedError):
            results[2].get()
        assert called == []


class TestImap:
    @pytest.mark.parametrize("method", ["imap", "imap_unordered"])
    @pytest.mark.parametrize("chunksize", [1, 5])
    def test_of_an_endless_iterable(self, pool: FakePool, method: str, chunksize: int) -> None:
        pulled = 0

        def endless() -> Iterator[int]:
            nonlocal pulled
            for x in itertools.count():
                pulled = x
                yield x

        results = getattr(pool, method)(tasks.wait_for_gate, endless(), chunksize)
        tasks.gate.set()
        assert len(list(itertools.islice(results, 100))) == 100
        # Nobody takes more, so nothing more is pulled than fits into the window.
        assert pulled < 100 + 2 * 1024 * chunksize
        pool.terminate()

    def test_is_lazy_at_the_start(self, pool: FakePool) -> None:
        pulled = []
        enough = threading.Event()

        def endless() -> Iterator[int]:
            for x in itertools.count():
                pulled.append(x)
                if x == 15:
                    enough.set()
                yield x

        results = pool.imap(tasks.wait_for_gate, endless())
        enough.wait()
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout=0.05)
        assert len(pulled) == 16
        tasks.gate.set()
        assert results.next() == 0
        pool.terminate()

    def test_whose_input_waits_for_its_output(self, pool: FakePool) -> None:
        first = threading.Event()

        def feedback() -> Iterator[int]:
            yield 1
            first.wait()
            yield 2

        results = pool.imap(square, feedback())
        assert next(results) == 1
        first.set()
        assert list(results) == [4]

    def test_with_time_out(self, pool: FakePool) -> None:
        for method in (pool.imap, pool.imap_unordered):
            tasks.gate.clear()
            results = method(tasks.wait_for_gate, [5])
            with pytest.raises(multiprocessing.TimeoutError):
                results.next(0.001)
            tasks.gate.set()
            assert results.next(10) == 5
            with pytest.raises(StopIteration):
                results.next()

    @pytest.mark.parametrize("method", ["imap", "imap_unordered"])
    def test_looked_at_only_after_join(self, method: str) -> None:
        pool = FakePool(2)
        results = getattr(pool, method)(square, range(5000))
        pool.close()
        pool.join()
        assert sorted(results) == [x * x for x in range(5000)]

    def test_never_looked_at(self) -> None:
        pool = FakePool(2)
        pool.imap(square, range(5000))
        gc.collect()
        pool.close()
        pool.join()
        assert len(pool._workers.submissions) == 5000

    def test_cut_short_by_terminate_does_not_look_complete(self, pool: FakePool) -> None:
        results = pool.imap(tasks.wait_for_gate, itertools.count())
        ender = threading.Thread(target=pool.terminate)
        ender.start()
        while not pool._workers.terminated:
            ender.join(0.001)
        tasks.gate.set()
        with pytest.raises(WorkerDiedError):
            while True:
                next(results)
        ender.join()


class TestStates:
    def test_closed(self) -> None:
        pool = FakePool(1)
        result = pool.apply_async(square, (3,))
        with pytest.raises(ValueError, match="Pool is still running"):
            pool.join()
        pool.close()
        for call in (pool.apply, pool.apply_async):
            with pytest.raises(ValueError, match="Pool not running"):
                call(square, (1,))
        for method in (pool.map, pool.starmap, pool.map_async, pool.starmap_async, pool.imap, pool.imap_unordered):
            with pytest.raises(ValueError, match="Pool not running"):
                method(square, [1])
        with pytest.raises(ValueError, match="Pool not running"):
            pool.__enter__()
        pool.join()
        assert result.get() == 9
        pool.close()
        pool.terminate()
        pool.join()

    def test_context_manager_terminates(self) -> None:
        with FakePool(1) as pool:
            pass
        assert pool._state == "TERMINATE"
        assert pool._workers.terminated
        pool.join()

    def test_what_others_read(self, pool: FakePool) -> None:
        assert pool._processes == len(pool._pool) == 2
        assert pool._pool[0].pid == 1001
        assert pool._state == our_pool.RUN == "RUN"
        assert pool._ctx is ours.get_context()
        assert repr(pool) == "<tests.multiprocessing.fake_workers.FakePool state=RUN pool_size=2>"
        with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
            pickle.dumps(pool)

    def test_what_the_workers_are_asked_to_be(self) -> None:
        with FakePool(3, square, [7], maxtasksperchild=5, context=ours.get_context("spawn")) as pool:
            assert pool.spec.max_workers == 3
            assert pool.spec.initializer is square
            assert pool.spec.initargs == (7,)
            assert pool.spec.max_tasks_per_child == 5
            assert pool.spec.process_name == "SpawnPoolWorker"
            assert pool.spec.eager
            assert pool.spec.daemon

    def test_collected_while_running(self) -> None:
        pool = FakePool(1)
        workers = pool._workers
        with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
            del pool
        workers.join()
        assert workers.terminated

    def test_a_failed_constructor_is_silent_when_collected(self) -> None:
        with pytest.raises(ValueError):
            FakePool(0)
        gc.collect()
