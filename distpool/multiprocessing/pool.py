"""``multiprocessing.pool`` on distpool: ``Pool`` is ours, ``ThreadPool`` and the rest the standard library's.

Data flow of a call: ``Pool`` cuts it into chunks and submits these in the caller's thread; the results
(``results``) wait on their futures.  ``imap`` and maps of very many chunks are fed by a thread (``feeding``), callbacks
run in another (``callbacks``).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from distpool.driver.ahead import start_ahead
from distpool.multiprocessing.callbacks import CallbackThread
from distpool.multiprocessing.chunk_core import usual_size
from distpool.multiprocessing.defaults import usable_cpus, worker_name
from distpool.multiprocessing.failures import as_submit_error, failed
from distpool.multiprocessing.feeding import Feed, Feeds, collect
from distpool.multiprocessing.imap import IMapIterator, IMapUnorderedIterator
from distpool.multiprocessing.maps import chunk_submitter, item_submitter, submit_all
from distpool.multiprocessing.results import ApplyResult, Callback, FedMapResult, MapResult
from distpool.multiprocessing.standard_pool import StandardPool
from distpool.ordered_map import in_chunks
from distpool.task_options import current as current_options

if TYPE_CHECKING:
    from multiprocessing.pool import ThreadPool

    from distpool.driver.pool import WorkerPool
    from distpool.driver.spec import PoolSpec

__all__ = ["Pool", "ThreadPool"]

AsyncResult = ApplyResult

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

_NO_KEYWORDS: Mapping[str, Any] = {}
#: A map of more chunks than this does not make a future for each at once.
_MOST_FUTURES = 65_536


class Pool(StandardPool):
    """A pool of worker processes with the interface, the chunking and the states of ``multiprocessing.Pool``.

    A worker that dies is replaced and its tasks run again (``max_retries`` times, see ``distpool.options``), where the
    standard library's pool waits for ever.

    :param processes: number of workers (default: the CPUs that this process may use).
    :param initializer: called as ``initializer(*initargs)`` in each worker before its first task.  ``initargs`` may
        contain locks, queues, pipes, shared values and manager proxies.
    :param maxtasksperchild: replace a worker after so many tasks (chunks).
    :param context: the ``multiprocessing`` context that made the pool, which names its workers.
    :raises ValueError: when ``processes`` or ``maxtasksperchild`` is not positive.
    :raises TypeError: when ``initializer`` is not callable.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        # First of all, so that ``__del__`` finds it if anything below raises.
        self._state = INIT
        if context is None:
            from distpool.multiprocessing.context import default_context

            context = default_context.get_context()
        self._ctx = context
        if processes is None:
            processes = usable_cpus()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        self._initializer = initializer
        # What is shared through them lives as long as somebody here holds it.
        self._initargs = tuple(initargs)
        self._maxtasksperchild = maxtasksperchild

        from distpool.driver.spec import PoolSpec

        self._workers = self._open(
            PoolSpec(
                max_workers=processes,
                initializer=initializer,
                initargs=self._initargs,
                max_tasks_per_child=maxtasksperchild,
                eager=True,
                process_name=worker_name(context),
                daemon=True,
                finish_at_exit=False,
                label="the pool",
            )
        )
        workers = self._workers
        self.callbacks = CallbackThread()
        self._feeds = Feeds(lambda: workers.shutdown(wait=False))
        self._terminate = util.Finalize(
            self, _end_unattended, args=(workers, self._feeds, self.callbacks), exitpriority=15
        )
        self._state = RUN

    def _open(self, spec: PoolSpec) -> WorkerPool:
        start_ahead()
        from distpool.driver.current import current_session

        return current_session().open_pool(spec)

    # -- calls --------------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = _NO_KEYWORDS) -> Any:
        """``func(*args, **kwds)`` in a worker."""
        return _value_of(self.apply_async(func, args, kwds))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = _NO_KEYWORDS,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> Any:
        """Start ``func(*args, **kwds)`` in a worker.

        :param callback: called with the value in a thread of the pool; must not block.
        :param error_callback: called with the exception instead.
        """
        self._check_running()
        result = ApplyResult(self, callback, error_callback)
        try:
            future: Future[Any] = self._workers.submit(func, tuple(args), kwds, current_options())
        except Exception as error:
            future = failed(as_submit_error(error))
        result.start((future,))
        return result

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """The list of ``func(x)`` for each ``x`` of ``iterable``."""
        return self._map(func, iterable, False, chunksize)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """The list of ``func(*arguments)`` for each ``arguments`` of ``iterable``."""
        return self._map(func, iterable, True, chunksize)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> Any:
        """Start ``map``; callbacks as for ``apply_async``."""
        return self._map_async(func, iterable, False, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> Any:
        """Start ``starmap``; callbacks as for ``apply_async``."""
        return self._map_async(func, iterable, True, chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> Any:
        """Like ``map``, but results are iterated over as they come, in order; ``iterable`` may be endless.

        :raises ValueError: when ``chunksize`` is less than 1.
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> Any:
        """Like ``imap``, in the order in which results come (errors as there)."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _map(
        self, func: Callable[..., Any], iterable: Iterable[Any], starred: bool, chunksize: int | None
    ) -> list[Any]:
        self._check_running()
        items = _sized(iterable)
        if not self._cuts_chunks(items, chunksize):
            values: list[Any] = _value_of(self._map_async(func, items, starred, chunksize))
            return values
        success, value = self._feeds.run(self._balanced(func, items, starred), lambda balanced: balanced.run())
        if success:
            return value  # type: ignore[no-any-return]
        try:
            raise value
        finally:
            # The exception's traceback holds this frame.
            del value

    def _cuts_chunks(self, items: Collection[Any], chunksize: int | None) -> bool:
        """Whether a map cuts its chunks as it goes.

        Not for so few items that there is nothing to decide, nor where chunks are counted.
        """
        return chunksize is None and not self._maxtasksperchild and usual_size(len(items), self._processes) > 1

    def _balanced(self, func: Callable[..., Any], items: Collection[Any], starred: bool) -> Any:
        from distpool.multiprocessing.balanced import BalancedMap

        submit = chunk_submitter(self._workers, func, starred=starred)
        return BalancedMap(items, len(items), self._processes, submit, self.wait_for_event)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        starred: bool,
        chunksize: int | None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        self._check_running()
        items = _sized(iterable)
        if self._cuts_chunks(items, chunksize):
            result = FedMapResult(self, True, callback, error_callback)
            balanced = self._balanced(func, items, starred)
            balanced.conclude, result.kill_feed = result.conclude, balanced.kill
            result.begin(lambda: self._feeds.start(balanced))
            return result
        if chunksize is None:
            chunksize = usual_size(len(items), self._processes)
        elif chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        chunked = starred or chunksize > 1
        if chunked:
            calls: Iterable[Any] = in_chunks(items, chunksize)
            submit = chunk_submitter(self._workers, func, starred=starred)
        else:
            calls, submit = items, item_submitter(self._workers, func)
        if len(items) > chunksize * _MOST_FUTURES:
            result = FedMapResult(self, chunked, callback, error_callback)
            feed = Feed(calls, submit, _MOST_FUTURES, in_order=True)
            result.kill_feed = feed.kill
            result.begin(lambda: self._feeds.start(feed))
            threading.Thread(target=collect, args=(feed, result), name="distpool-map", daemon=True).start()
            return result
        futures = MapResult(self, chunked, callback, error_callback)
        futures.start(submit_all(submit, calls))
        return futures

    def _imap(
        self, kind: type[IMapIterator], func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None
    ) -> Any:
        self._check_running()
        if chunksize is None:
            raise TypeError("chunksize must be an integer; only map works out one of its own")
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        if chunksize == 1:
            items, submit = iterable, item_submitter(self._workers, func)
        else:
            items, submit = in_chunks(iterable, chunksize), chunk_submitter(self._workers, func)
        feed = Feed(items, submit, self._processes, in_order=not issubclass(kind, IMapUnorderedIterator))
        results = kind(self, feed)
        self._feeds.start(feed)
        if chunksize == 1:
            return results
        return (item for chunk in results for item in chunk)

    # -- endings ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls; workers leave when what was asked for is done."""
        if self._state == RUN:
            self._state = CLOSE
            self._feeds.close()
            self.callbacks.close()

    def terminate(self) -> None:
        """End the workers at once.  Calls that are not done fail, and their callbacks are not called."""
        self._state = TERMINATE
        # Forget the finalizer, which would do the same in a thread.
        self._terminate.cancel()
        _end(self._workers, self._feeds, self.callbacks)

    def join(self) -> None:
        """Wait for the workers to end.

        :raises ValueError: unless ``close`` or ``terminate`` was called before.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            self._feeds.join()
            self._workers.shutdown(wait=True)
        else:
            self._workers.join()
        self.callbacks.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __del__(self, _warn: Any = warnings.warn, _RUN: str = RUN) -> None:
        # Defaults, because the module's globals may be gone by now.
        if self._state == _RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"

    # -- what other libraries read ------------------------------------------------------------------------------

    @property
    def _pool(self) -> list[Any]:
        """The worker processes: objects with the interface of ``multiprocessing.Process``."""
        return list(self._workers.processes().values())

    @property
    def _cache(self) -> dict[int, None]:
        """As many entries as there are tasks outstanding."""
        return dict.fromkeys(range(self._workers.outstanding + len(self._feeds)))

    def _repopulate_pool(self) -> None:
        """Workers that ended are replaced anyway; see that it has happened."""
        self._workers.processes()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    @staticmethod
    def wait_for_event(event: threading.Event, timeout: float | None) -> bool:
        """Wait for something that a pool's tasks bring about."""
        from distpool.driver.current import current_session

        return current_session().wait_for_event(event, timeout)


def _sized(iterable: Iterable[Any]) -> Collection[Any]:
    return iterable if hasattr(iterable, "__len__") else list(iterable)  # type: ignore[return-value]


def _value_of(result: ApplyResult) -> Any:
    """What a call gives whose caller does nothing but wait.  Ctrl-C ends it, tasks that run included: the standard
    library's workers get the signal, too."""
    try:
        return result.get()
    except KeyboardInterrupt:
        result.kill()
        raise


def _end(workers: WorkerPool, feeds: Feeds, callbacks: CallbackThread) -> None:
    callbacks.close(quiet=True)
    feeds.stop()
    workers.terminate()
    workers.join()


def _end_unattended(workers: WorkerPool, feeds: Feeds, callbacks: CallbackThread) -> None:
    """End a pool that was collected, or that is still there at the end of the program."""
    # Collection may happen in any thread, at any moment, also inside the very locks that this needs.
    try:
        threading.Thread(target=_end, args=(workers, feeds, callbacks), name="distpool-end", daemon=True).start()
    except RuntimeError:
        # No threads any more: the program ends, and nobody else is running.
        _end(workers, feeds, callbacks)


def __getattr__(name: str) -> Any:
    """What the standard module has and this one does not."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from multiprocessing import pool as standard

    try:
        return getattr(standard, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
