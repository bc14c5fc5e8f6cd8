"""``DistExecutor``, and what every executor on a worker pool has in common.

An executor is a thin handle: it checks its arguments, opens a pool of the session when the first call comes, and passes
calls on.  What happens to them is decided in ``distpool.driver``.

::

    DistExecutor ──┐
                   ├── PoolExecutor ──► PoolSlot ──► session.open_pool(spec) ──► WorkerPool
    ProcessPool- ──┘   submit, map,     opened once,
    Executor           shutdown, with   ended when unreferenced
"""

from __future__ import annotations

import functools
import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distpool.driver.ahead import start_ahead
from distpool.executor_standard import StandardExecutor
from distpool.ordered_map import check_arguments, in_chunks, ordered_map
from distpool.task_options import DEFAULT, TaskOptions, current, merge

if TYPE_CHECKING:
    from typing_extensions import Self

    from distpool.driver.pool import WorkerPool
    from distpool.driver.spec import PoolSpec
    from distpool.provision.address import Engine

T = TypeVar("T")
Submit = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], TaskOptions], "Future[Any]"]

#: The slots of this process by the id of their pool, so that executors which arrive in tasks share one.
_slots: weakref.WeakValueDictionary[str, PoolSlot] = weakref.WeakValueDictionary()


class PoolSlot:
    """One pool, shared by all executors that refer to it: opened by the first call, ended with the last reference.

    :param spec: what to open.
    :param address: the cluster to open it in; ``None``: the session's choice.
    :param pool: a pool that is open already.
    """

    def __init__(self, spec: PoolSpec, address: str | None = None, pool: WorkerPool | None = None) -> None:
        self.spec = spec
        self.closed = False
        self._address = address
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None
        if pool is not None:
            self._hold(pool)

    @property
    def pool(self) -> WorkerPool | None:
        """The pool, if it has been opened."""
        return self._pool

    def open(self) -> WorkerPool:
        """The pool, opened now if need be.

        :raises RuntimeError: after ``shutdown``.
        """
        with self._lock:
            if self._pool is None:
                if self.closed:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                start_ahead(self._address)
                from distpool.driver.current import current_session
                from distpool.driver.ending import executors_end

                if executors_end():
                    raise RuntimeError("cannot schedule new futures after interpreter shutdown")
                self._hold(current_session(self._address).open_pool(self.spec))
            assert self._pool is not None
            return self._pool

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """No more calls; see ``Executor.shutdown``."""
        with self._lock:
            self.closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def terminate(self) -> None:
        """End the workers with SIGTERM; calls that are not done fail."""
        with self._lock:
            self.closed = True
        if self._pool is not None:
            self._pool.terminate()

    def kill(self) -> None:
        """End the workers with SIGKILL; calls that are not done fail."""
        with self._lock:
            self.closed = True
        if self._pool is not None:
            self._pool.kill()

    def _hold(self, pool: WorkerPool) -> None:
        self._pool = pool
        _slots[pool.pool_id] = self
        # Work that is under way when the last reference goes is finished, then the workers end.
        weakref.finalize(self, pool.abandon).atexit = False


class PoolExecutor(StandardExecutor):
    """An ``Executor`` whose calls run in a worker pool.

    Its methods and the errors that they raise are those of ``concurrent.futures.ProcessPoolExecutor``, with what
    Python 3.14 added, on every version of Python.
    """

    def __init__(self, slot: PoolSlot) -> None:
        self._slot = slot
        self._max_workers = slot.spec.max_workers
        self._pool_submit: Submit | None = None

    @property
    def max_workers(self) -> int:
        """How many calls run at one time."""
        return self._max_workers

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` in a worker; every keyword is the function's own.

        :raises RuntimeError: after ``shutdown``.
        :raises BrokenExecutor: when the pool cannot go on.
        """
        return (self._pool_submit or self._bind())(fn, args, kwargs, current())

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """``map(fn, *iterables)``, in workers; results come in the order of the inputs.

        :param timeout: seconds from this call within which each result must be there.
        :param chunksize: how many calls travel and return together.
        :param buffersize: the most submitted calls (or chunks) whose results have not been taken: the inputs are read
            only as results are taken, so they may be endless.  ``None``: all inputs are read and submitted at once.
        :raises TimeoutError: from the iterator, when the time is over.
        """
        check_arguments(chunksize, buffersize)
        if chunksize == 1:
            submit = functools.partial(_submit_unpacked, self.submit, fn)
            inputs: Iterable[Any] = zip(*iterables, strict=False)
            return ordered_map(submit, inputs, timeout=timeout, buffersize=buffersize, chunked=False)
        if len(iterables) == 1:
            # Tuples of one would be most of the cost of a short call.
            (inputs,), starred = iterables, False
        else:
            inputs, starred = zip(*iterables, strict=False), True
        return ordered_map(
            functools.partial(self._submit_chunk, fn, starred),
            in_chunks(inputs, chunksize),
            timeout=timeout,
            buffersize=buffersize,
            chunked=True,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the workers end when those under way are done.

        :param wait: return only then.  Ctrl-C while waiting kills the workers.
        :param cancel_futures: cancel the calls that have not started.
        """
        self._pool_submit = None
        try:
            self._slot.shutdown(wait, cancel_futures)
        except KeyboardInterrupt:
            self._slot.kill()
            raise

    def terminate_workers(self) -> None:
        """End all workers now with SIGTERM; what was running fails, what was waiting is cancelled."""
        self._force_shutdown(operation="terminate")

    def kill_workers(self) -> None:
        """End all workers now with SIGKILL; what was running fails, what was waiting is cancelled."""
        self._force_shutdown(operation="kill")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> Literal[False]:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            # Whoever pressed Ctrl-C wants the prompt back; the standard library's workers get the signal, too.
            self._slot.kill()
        self.shutdown(wait=True)
        return False

    def _bind(self) -> Submit:
        """Open the pool; from now on calls go straight to it."""
        self._pool_submit = self._slot.open().submit
        return self._pool_submit

    def _submit_chunk(self, fn: Callable[..., Any], starred: bool, chunk: Sequence[Any]) -> Future[list[Any]]:
        if self._submit_is_overridden():
            return self.submit(_call_each, fn, chunk, starred)
        return self._send_chunk(fn, chunk, starred)

    def _send_chunk(self, fn: Callable[..., Any], chunk: Sequence[Any], starred: bool) -> Future[list[Any]]:
        return self._slot.open().submit_chunk(fn, chunk, current(), starred=starred)

    def _submit_is_overridden(self) -> bool:
        """Whether a subclass or a patch wants to see every call (what it replaces is what ``map`` must call)."""
        return "submit" in self.__dict__

    def _force_shutdown(self, operation: str) -> None:
        if operation not in ("terminate", "kill"):
            raise ValueError(f"Unsupported operation: {operation!r}")
        self.shutdown(wait=False, cancel_futures=True)
        if operation == "terminate":
            self._slot.terminate()
        else:
            self._slot.kill()


class DistExecutor(PoolExecutor):
    """Runs calls on this machine's cores, or on a cluster's.

    A ``concurrent.futures.Executor`` (``isinstance`` takes it for a ``ProcessPoolExecutor``) whose futures can also be
    awaited, killed, and passed as arguments to further calls.  Where a worker dies its calls run again (see
    ``distpool.options(max_retries=...)``); nothing else notices.
    An executor may itself be an argument, or a global that a task uses: there it submits to the same pool.

    :param max_workers: how many calls run at one time; default: the CPUs of the cluster, or those that this process may
        use.
    :param mp_context: accepted and without effect; workers come from distpool's own zygote.
    :param initializer: called with ``initargs`` in each worker before its first call.
    :param max_tasks_per_child: a worker is replaced after so many calls.
    :param address: the cluster to use, as for ``distpool.init``; default: what that or ``DISTPOOL_ADDRESS`` said, or
        this machine.
    :raises TypeError, ValueError: for arguments of which ``ProcessPoolExecutor`` says the same.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        address: str | Engine | None = None,
    ) -> None:
        if address is not None and not isinstance(address, str):
            from distpool.provision.address import Engine

            if not isinstance(address, Engine):
                raise TypeError("address must be a string or None, or an engine of distpool.provision")
            address = str(address)
        spec = checked_spec(max_workers, initializer, initargs, max_tasks_per_child, address)
        self._mp_context = mp_context
        self._overrides: dict[str, Any] = {}
        super().__init__(PoolSlot(spec, address))

    def with_options(self, **overrides: Any) -> DistExecutor:
        """A handle to the same pool, whose calls have these options (over those of a ``distpool.options`` block).

        ``shutdown`` and leaving a ``with`` block end the pool, whichever handle they are called on.

        :raises TypeError, ValueError: as ``distpool.options``.
        """
        merge(DEFAULT, overrides)
        handle = _handle(type(self), self._slot)
        handle._mp_context = self._mp_context
        handle._overrides = {**self._overrides, **overrides}
        return handle

    def __reduce__(self) -> tuple[Any, ...]:
        # The pool's own pickle says how another process joins it.
        return _join, (type(self), self._slot.open(), self._overrides)

    def _bind(self) -> Submit:
        if self._overrides:
            self._pool_submit = functools.partial(_submit_with, self._slot.open(), self._overrides)
            return self._pool_submit
        return super()._bind()

    def _send_chunk(self, fn: Callable[..., Any], chunk: Sequence[Any], starred: bool) -> Future[list[Any]]:
        return self._slot.open().submit_chunk(fn, chunk, merge(current(), self._overrides), starred=starred)

    def _submit_is_overridden(self) -> bool:
        return type(self).submit is not PoolExecutor.submit or super()._submit_is_overridden()


def checked_spec(
    max_workers: int | None,
    initializer: Callable[..., Any] | None,
    initargs: Iterable[Any],
    max_tasks_per_child: int | None,
    address: str | None = None,
    **further: Any,
) -> PoolSpec:
    """The pool that an executor's arguments describe; errors as in the standard library.

    :param address: the cluster that the pool is opened in, if that is said.
    :param further: the other fields of ``PoolSpec``.
    """
    if max_workers is None:
        from distpool.driver.capacity import default_workers

        max_workers = default_workers(address)
    elif max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
    from distpool.driver.spec import PoolSpec

    return PoolSpec(
        operator.index(max_workers),
        initializer=initializer,
        initargs=tuple(initargs),
        max_tasks_per_child=max_tasks_per_child,
        **further,
    )


def _submit_unpacked(submit: Callable[..., Future[Any]], fn: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
    return submit(fn, *args)


def _submit_with(
    pool: WorkerPool,
    overrides: Mapping[str, Any],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: TaskOptions,
) -> Future[Any]:
    return pool.submit(fn, args, kwargs, merge(options, overrides))


def _call_each(fn: Callable[..., Any], chunk: Sequence[Any], starred: bool) -> list[Any]:
    """Runs in the worker: a chunk that went through an overridden ``submit``."""
    return [fn(*args) for args in chunk] if starred else [fn(arg) for arg in chunk]


def _handle(executor_type: type[DistExecutor], slot: PoolSlot) -> DistExecutor:
    executor = executor_type.__new__(executor_type)
    PoolExecutor.__init__(executor, slot)
    return executor


def _join(executor_type: type[DistExecutor], pool: WorkerPool, overrides: dict[str, Any]) -> DistExecutor:
    """Unpickles an executor: a handle to the pool that it had, wherever this runs."""
    slot = _slots.get(pool.pool_id)
    if slot is None or slot.closed:
        slot = PoolSlot(pool.spec, pool=pool)
    executor = _handle(executor_type, slot)
    executor._mp_context = None
    executor._overrides = overrides
    return executor
