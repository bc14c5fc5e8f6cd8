"""The joblib backend ``"distpool"``, registered by importing this module.

``Parallel`` calls run in a pool that is kept between calls, as joblib's default backend does: a second call finds
workers that are up and have their imports done.  Idle workers end by themselves after a while.

Where joblib memory-maps large arrays through files, distpool's object store does the same for every value, so
``max_nbytes``, ``temp_folder`` and ``mmap_mode`` are accepted and have no effect.  Tasks may write to the arrays that
they get; nobody else sees it.  What the caller mapped from a file is the same file in the tasks.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

import joblib
from joblib.parallel import (
    TASK_PENDING,
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from distpool import joblib_discovery, joblib_memmaps
from distpool.executor import PoolSlot, checked_spec
from distpool.ordered_map import kill_calls
from distpool.task_options import current

if TYPE_CHECKING:
    from distpool.driver.spec import PoolSpec

#: Seconds after which idle workers end; joblib's own default.
IDLE_WORKER_TIMEOUT_S = 300.0
#: Pools kept for the next call; a call with other arguments needs another one.
KEPT_POOLS = 2

#: Batches grow until they take so long from being sent to their end, of which they wait about half (joblib: 0.2 s): the
#: longer, the longer one worker is left alone with the last one.  Each costs the program's own process up to half a
#: millisecond, so where many workers bring many of them, they take so much more for each, up to joblib's.
_BATCH_S, _BATCH_S_PER_WORKER = 0.1, 0.005
#: One that is far too small may become so many times as large at once (joblib: twice)...
_MOST_GROWTH = 8
#: ... but is expected to take no longer than this: the tasks to come may be longer.
_CAUTIOUS_S = 0.025
#: How long joblib's waiting thread may stay here without looking itself.
_WAIT_S = 0.1

#: What joblib hands to every backend, and what has no meaning here.
_WITHOUT_EFFECT = frozenset({"context", "max_nbytes", "mmap_mode", "temp_folder", "verbose"})


def _cpu_count() -> int:
    """The cluster's CPUs if there is one; otherwise joblib's count: it knows the same limits as ours, and
    ``LOKY_MAX_CPU_COUNT``."""
    from distpool.driver.current import works_with_cluster

    if not works_with_cluster():
        return int(joblib.cpu_count())
    from distpool.driver.capacity import default_workers

    return default_workers()


class DistpoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of a ``joblib.Parallel`` in distpool's workers.

    :param idle_worker_timeout: seconds after which idle workers end.
    :param initializer: called with ``initargs`` in each worker before its first batch.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    #: joblib's, which leaves them without types.
    _effective_batch_size: int
    _smoothed_batch_duration: float

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **arguments: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._arguments = arguments
        self._workers: _Workers | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at one time; 1 where joblib's process backends do not nest."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        obstacle = self._obstacle()
        if obstacle:
            if n_jobs != 1:
                warnings.warn(f"distpool-backed parallel loops cannot be {obstacle}, setting n_jobs=1", stacklevel=3)
            return 1
        if n_jobs < 0:
            return max(_cpu_count() + 1 + n_jobs, 1)
        return n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **arguments: Any,
    ) -> int:
        """Find or open the pool for a ``Parallel`` call."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        spec = self._spec(n_jobs, **{**self._arguments, **arguments})
        batch_s = max(_BATCH_S, n_jobs * _BATCH_S_PER_WORKER)
        self.MIN_IDEAL_BATCH_DURATION = min(batch_s, AutoBatchingMixin.MIN_IDEAL_BATCH_DURATION)
        self.parallel = parallel
        self._workers = _Workers(_kept_pools.slot_for(spec))
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        """Run a batch.  Whatever goes wrong is reported by the future: joblib also submits from callbacks, where an
        exception would reach nobody."""
        assert self._workers is not None
        if callback is not None:
            callback = self._workers.progress.announcing(callback)
        future = self._workers.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    #: joblib's name for ``submit`` before 1.5.
    apply_async = submit

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of a batch."""
        return future.result()

    def compute_batch_size(self) -> int:
        """As joblib does it, but in larger steps while a batch is over in no time: each step costs a round trip."""
        before, took_s = self._effective_batch_size, self._smoothed_batch_duration
        cautious = int(before * _CAUTIOUS_S / took_s) if took_s > 0 else 0
        if cautious <= 2 * before:
            return int(super().compute_batch_size())
        self._effective_batch_size = size = min(cautious, _MOST_GROWTH * before)
        self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION
        if self.parallel.verbose >= 10:
            self.parallel._print(f"Batch computation too fast ({took_s}s.) Setting batch_size={size}.")
        return size

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what this call has under way.  Other calls that share the pool go on undisturbed."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.abort()
            if ensure_ready and _usable(workers.slot):
                # The way through ``configure`` takes locks, and this may be a finalizer.
                self._workers = _Workers(workers.slot)
        if ensure_ready and self._workers is None:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs)

    def terminate(self) -> None:
        """The call is over; the pool stays for the next one."""
        self._workers = None
        self.reset_batch_stats()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While a nested call waits for its batches, its worker's slot is lent to them."""
        from distpool.worker import context

        if context.current() is None:
            yield
        else:
            with context.blocked():
                yield

    def _obstacle(self) -> str:
        from distpool.worker import context

        if not (self.in_main_thread() or self.nesting_level == 0):
            return "nested below threads"
        if multiprocessing.current_process().daemon and context.current() is None:
            return "called in a multiprocessing"
        return ""

    def _spec(
        self,
        n_jobs: int,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        idle_worker_timeout: float | None = None,
        **others: Any,
    ) -> PoolSpec:
        unknown = others.keys() - _WITHOUT_EFFECT
        if unknown:
            raise TypeError(f"the backend {joblib_discovery.NAME!r} has no argument {min(unknown)!r}")
        return checked_spec(
            n_jobs,
            initializer,
            initargs,
            None,
            idle_timeout_s=IDLE_WORKER_TIMEOUT_S if idle_worker_timeout is None else float(idle_worker_timeout),
            num_threads=self.inner_max_num_threads,
            environment=self._prepare_worker_env(n_jobs=n_jobs),
            finish_at_exit=False,
            label="the joblib pool",
        )


class _Workers:
    """What one ``Parallel`` call has running in a pool that it may share with others."""

    def __init__(self, slot: PoolSlot) -> None:
        self.slot = slot
        self._under_way: set[Any] = set()
        self.progress = _Progress()

    def submit(self, batch: Callable[[], Any]) -> Future[Any]:
        pool = self.slot.open()
        try:
            with joblib_memmaps.by_file_name():
                future = pool.submit(batch, (), {}, current())
        except Exception as error:
            return _failed(error, pool.broken is not None or pool.closed)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def abort(self) -> None:
        # Left to another thread: joblib aborts a generator of results that is collected in its finalizer, which runs
        # at any moment, perhaps under the very lock that ending calls needs.
        pool = self.slot.pool
        if pool is not None:
            pool.leave(functools.partial(kill_calls, list(self._under_way)))


class _Progress:
    """Tells the thread that waits for the results of a ``Parallel`` call when a batch has ended.

    joblib looks whether the next results are there, and if not, sleeps for 10 ms.  Here looking takes until they are.
    """

    def __init__(self) -> None:
        self._batch_ended = threading.Event()

    def announcing(self, callback: Callable[[Future[Any]], Any]) -> Callable[[Future[Any]], Any]:
        """joblib's callback of a batch that is about to be submitted, and what is to be called in its place."""
        if hasattr(callback, "get_status"):
            # Not a bound method: it would keep the call that it belongs to alive.
            vars(callback)["get_status"] = functools.partial(self._status, weakref.ref(callback))

        def call(future: Future[Any]) -> None:
            try:
                callback(future)
            finally:
                self._batch_ended.set()

        return call

    def _status(self, callback: weakref.ref[Any], timeout: float | None) -> Any:
        batch: Any = callback()
        look = type(batch).get_status
        status = look(batch, timeout)
        give_up = time.monotonic() + (_WAIT_S if timeout is None else min(_WAIT_S, timeout))
        while status == TASK_PENDING and not batch.parallel._aborting:
            self._batch_ended.clear()
            # It may have ended just before that.
            status = look(batch, timeout)
            if status != TASK_PENDING or not self._batch_ended.wait(give_up - time.monotonic()):
                break
            status = look(batch, timeout)
        return status


class _KeptPools:
    """The pools of past calls, most recent last.  A call holds its own reference: dropping one here ends it only when
    nobody uses it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: list[PoolSlot] = []

    def slot_for(self, spec: PoolSpec) -> PoolSlot:
        """The pool of an earlier call that wanted the same, or a new one."""
        with self._lock:
            self._slots = [slot for slot in self._slots if _usable(slot)]
            for slot in self._slots:
                if _same(slot.spec, spec):
                    self._slots.remove(slot)
                    break
            else:
                slot = PoolSlot(spec)
            self._slots.append(slot)
            dropped = self._slots[:-KEPT_POOLS]
            self._slots = self._slots[-KEPT_POOLS:]
        # Outside the lock: this may end pools.
        dropped.clear()
        return slot


_kept_pools = _KeptPools()


def _usable(slot: PoolSlot) -> bool:
    pool = slot.pool
    return pool is None or not (pool.closed or pool.broken)


def _same(one: PoolSpec, other: PoolSpec) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:
        return False  # arguments that do not compare, such as arrays


def _failed(error: Exception, pool_is_over: bool) -> Future[Any]:
    if not pool_is_over:
        cause, error = error, PicklingError(f"Could not pickle the task to send to the workers: {error}")
        error.__cause__ = cause
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


joblib_discovery.announce(joblib.parallel)
register_parallel_backend(joblib_discovery.NAME, DistpoolBackend)
