"""``concurrent.futures.process`` on distpool's workers: ``ProcessPoolExecutor``; every other name is the original's."""

from __future__ import annotations

import concurrent.futures.process
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from distpool.errors import SerializationError
from distpool.executor import PoolExecutor, PoolSlot, checked_spec

__all__ = ["BrokenProcessPool", "ProcessPoolExecutor"]

T = TypeVar("T")

#: ``operation`` of ``_force_shutdown``, which only Python 3.14's module names.
_TERMINATE = "terminate"
_KILL = "kill"


class ProcessPoolExecutor(PoolExecutor):
    """A drop-in for ``concurrent.futures.ProcessPoolExecutor``, and an instance of it as far as ``isinstance`` goes.

    It keeps that class's contract where ``DistExecutor``'s differs: a worker that dies breaks the pool
    (``BrokenProcessPool``), and what cannot be pickled is reported by the future and not by ``submit``.  What later
    versions of Python added works on every version.

    :param max_workers: how many processes; default: the CPUs that this process may use.
    :param mp_context: workers come from distpool's zygote whatever it says; as in the original, its start method tells
        whether all workers start with the first call ("fork") or as calls come, and "fork" rules out
        ``max_tasks_per_child``.
    :param initializer: called with ``initargs`` in each worker before its first call.
    :param max_tasks_per_child: a worker is replaced after so many calls.
    :raises TypeError, ValueError: as the original does, with its messages.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if mp_context is None:
            mp_context = multiprocessing.get_context(None if max_tasks_per_child is None else "spawn")
        forks = mp_context.get_start_method(allow_none=False) == "fork"
        spec = checked_spec(
            max_workers,
            initializer,
            initargs,
            max_tasks_per_child,
            strict=True,
            eager=forks,
            process_name=_process_name(mp_context),
            label="the process pool",
        )
        if max_tasks_per_child is not None and forks:
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method;"
                " supply a different mp_context."
            )
        self._mp_context = mp_context
        self._initializer = initializer
        self._initargs = initargs
        self._max_tasks_per_child = max_tasks_per_child
        PoolExecutor.__init__(self, PoolSlot(spec))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See ``PoolExecutor.submit``.  A call that cannot be pickled fails through its future."""
        try:
            return super().submit(fn, *args, **kwargs)
        except SerializationError as error:
            return _failed(error)

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object; a DistExecutor can be passed to tasks")

    def _send_chunk(self, fn: Callable[..., Any], chunk: Sequence[Any], starred: bool) -> Future[list[Any]]:
        try:
            return super()._send_chunk(fn, chunk, starred)
        except SerializationError as error:
            return _failed(error)

    def _submit_is_overridden(self) -> bool:
        return type(self).submit is not ProcessPoolExecutor.submit or super()._submit_is_overridden()

    def _force_shutdown(self, operation: str) -> None:
        if operation not in (_TERMINATE, _KILL):
            raise ValueError(f"Unsupported operation: {operation!r}")
        processes = self._processes or {}
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes.values():
            # The handles' own methods: programs replace them.
            if operation == _TERMINATE:
                process.terminate()
            else:
                process.kill()


def _process_name(mp_context: Any) -> str:
    """What the workers of the original would be called (without their number)."""
    name = getattr(getattr(mp_context, "Process", None), "__name__", "")
    return name if isinstance(name, str) and name.endswith("Process") else "Process"


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


def __getattr__(name: str) -> Any:
    return getattr(concurrent.futures.process, name)
