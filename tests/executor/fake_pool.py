"""A worker pool without workers: the test decides when which call ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from distpool.errors import SerializationError
from distpool.task_options import DEFAULT, TaskOptions

_pools: weakref.WeakValueDictionary[str, FakePool] = weakref.WeakValueDictionary()


class Unpicklable:
    """A call with one of these among its arguments cannot be submitted."""


class FakeFuture(Future):  # type: ignore[type-arg]
    """Remembers its call; ``run`` makes it."""

    def __init__(self, call: Callable[[], Any], options: TaskOptions) -> None:
        super().__init__()
        self.call = call
        self.options = options
        self.killed = False

    def run(self) -> None:
        if not self.set_running_or_notify_cancel():
            return
        try:
            result = self.call()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def kill(self) -> bool:
        self.killed = True
        return True


class FakeProcess:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signals: list[str] = []

    def terminate(self) -> None:
        self.signals.append("terminate")

    def kill(self) -> None:
        self.signals.append("kill")


class FakePool:
    """Has the interface of ``distpool.driver.pool.WorkerPool`` as far as the front doors use it."""

    def __init__(self, spec: Any, pool_id: str, at_once: bool) -> None:
        self.spec = spec
        self.pool_id = pool_id
        self.max_workers = spec.max_workers
        self.broken: BaseException | None = None
        self.closed = False
        self.submitted: list[FakeFuture] = []
        self.chunks = 0
        self.story: list[Any] = []
        self._at_once = at_once
        _pools[pool_id] = self
        self._processes = {pid: FakeProcess(pid) for pid in range(101, 101 + spec.max_workers)}

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        options: TaskOptions = DEFAULT,
    ) -> FakeFuture:
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self.broken is not None:
            raise self.broken
        if any(isinstance(argument, Unpicklable) for argument in args):
            raise SerializationError("args[0]: Unpicklable")
        future = FakeFuture(lambda: function(*args, **(kwargs or {})), options)
        self.submitted.append(future)
        if self._at_once:
            future.run()
        return future

    def submit_chunk(
        self, function: Callable[..., Any], chunk: Sequence[Any], options: TaskOptions = DEFAULT, *, starred: bool
    ) -> FakeFuture:
        self.chunks += 1
        calls = list(chunk) if starred else [(argument,) for argument in chunk]
        for arguments in calls:
            if any(isinstance(argument, Unpicklable) for argument in arguments):
                raise SerializationError("args[0]: Unpicklable")
        return self.submit(lambda: [function(*arguments) for arguments in calls], (), None, options)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        self.closed = True
        self.story.append(("shutdown", wait, cancel_futures))
        for future in self.submitted:
            if cancel_futures:
                future.cancel()
            if wait and not future.done():
                future.run()

    def leave(self, end: Callable[[], object]) -> None:
        end()

    def abandon(self) -> None:
        self.closed = True
        self.story.append("abandon")

    def terminate(self) -> None:
        self.closed = True
        self.story.append("terminate")

    def kill(self) -> None:
        self.closed = True
        self.story.append("kill")

    def join(self, timeout_s: float | None = None) -> bool:
        return self.closed

    def processes(self) -> dict[int, FakeProcess]:
        return dict(self._processes)

    def __reduce__(self) -> Any:
        return _find_pool, (self.pool_id,)

    def run_all(self) -> None:
        for future in self.submitted:
            if not future.done():
                future.run()


def _find_pool(pool_id: str) -> FakePool:
    return _pools[pool_id]


class FakeSession:
    """Opens fake pools; ``at_once`` makes calls end before ``submit`` returns."""

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.pools: list[FakePool] = []

    def open_pool(self, spec: Any) -> FakePool:
        pool = FakePool(spec, f"pool-{id(self)}-{len(self.pools)}", self.at_once)
        self.pools.append(pool)
        return pool

    @property
    def pool(self) -> FakePool:
        """The only pool that was opened."""
        (pool,) = self.pools
        return pool
