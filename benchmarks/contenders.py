"""How each alternative is opened, given a call, and asked for results: its own idiom, in a few lines.

``task(function)`` returns what a user of that library calls to start one call; for most it is a bound method of the
library itself, so that what is timed is the library and not this file.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from benchmarks.workload import Unsupported

Function = Callable[..., Any]


class Contender:
    """One alternative with ``workers`` worker processes; a context manager."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: Whether a task's handle may be an argument of another task.
    takes_handles: ClassVar[bool] = False
    #: The library that is needed, for a clear message when it is missing.
    package: ClassVar[str] = ""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> Any:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def task(self, function: Function) -> Function:
        raise NotImplementedError

    def result(self, handle: Any, timeout_s: float | None = None) -> Any:
        return handle.result(timeout=timeout_s)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        """All results; ``chunksize=None`` is what the library does by default."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Have every worker up, with this module and numpy imported."""
        rest = self.task(rest_a_while)
        for seconds in (0.05, 0.05, 0.0):
            self.results([rest(seconds) for _ in range(2 * self.workers)])


def rest_a_while(seconds: float) -> float:
    import numpy as np  # the arrays' workloads would pay for it otherwise

    time.sleep(seconds)
    return float(np.float64(seconds))


# ---- executors: submit and map of concurrent.futures -----------------------------------------------------------------


class _Executor(Contender):
    executor: Any

    def close(self) -> None:
        self.executor.shutdown()

    def task(self, function: Function) -> Function:
        return functools.partial(self.executor.submit, function)

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        if chunksize is None:
            return list(self.executor.map(function, items))
        return list(self.executor.map(function, items, chunksize=chunksize))


class DistpoolExecutor(_Executor):
    name, title, takes_handles = "distpool", "distpool DistExecutor", True

    def open(self) -> None:
        from distpool import DistExecutor

        self.executor = DistExecutor(self.workers)


class DistpoolFutures(_Executor):
    name, title = "distpool-futures", "distpool ProcessPoolExecutor"

    def open(self) -> None:
        from distpool.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(self.workers)


class ExecutorFork(_Executor):
    name, title, method = "executor-fork", "ProcessPoolExecutor (fork)", "fork"

    def open(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context(self.method))


class ExecutorForkserver(ExecutorFork):
    name, title, method = "executor-forkserver", "ProcessPoolExecutor (forkserver)", "forkserver"


class Loky(_Executor):
    name, title, package = "loky", "loky executor", "joblib"

    def open(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.executor = get_reusable_executor(max_workers=self.workers)


# ---- pools: apply_async and map of multiprocessing -------------------------------------------------------------------


class _Pool(Contender):
    pool: Any

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def task(self, function: Function) -> Function:
        apply_async = self.pool.apply_async
        return lambda *arguments: apply_async(function, arguments)

    def result(self, handle: Any, timeout_s: float | None = None) -> Any:
        return handle.get(timeout_s)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        if chunksize is None:
            return self.pool.map(function, items)  # type: ignore[no-any-return]
        return self.pool.map(function, items, chunksize=chunksize)  # type: ignore[no-any-return]


class DistpoolPool(_Pool):
    name, title = "distpool-pool", "distpool Pool"

    def open(self) -> None:
        import distpool.multiprocessing

        self.pool = distpool.multiprocessing.Pool(self.workers)


class PoolFork(_Pool):
    name, title, method = "pool-fork", "multiprocessing.Pool (fork)", "fork"

    def open(self) -> None:
        self.pool = multiprocessing.get_context(self.method).Pool(self.workers)


class PoolForkserver(PoolFork):
    name, title, method = "pool-forkserver", "multiprocessing.Pool (forkserver)", "forkserver"


class Mpire(_Pool):
    name, title, package = "mpire", "mpire WorkerPool", "mpire"

    def open(self) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=self.workers)

    def close(self) -> None:
        self.pool.stop_and_join()

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        return self.pool.map(function, items, chunk_size=chunksize)  # type: ignore[no-any-return]


# ---- joblib: Parallel, whole calls only ------------------------------------------------------------------------------


class JoblibLoky(Contender):
    """``joblib.Parallel``; no single calls, so only workloads that map or call ``Parallel`` themselves use it."""

    name, title, backend, package = "joblib", "joblib Parallel (loky)", "loky", "joblib"

    def open(self) -> None:
        if self.backend == "distpool":
            import distpool.joblib  # noqa: F401  (registers the backend)

    def close(self) -> None:
        if self.backend == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown()

    def parallel(self, **arguments: Any) -> Any:
        import joblib

        return joblib.Parallel(n_jobs=self.workers, backend=self.backend, **arguments)

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        import joblib

        batching = {} if chunksize is None else {"batch_size": chunksize}
        delayed = joblib.delayed(function)
        return self.parallel(**batching)(delayed(item) for item in items)  # type: ignore[no-any-return]

    def warm_up(self) -> None:
        self.map(rest_a_while, [0.05] * 4 * self.workers, chunksize=1)


class JoblibDistpool(JoblibLoky):
    name, title, backend = "distpool-joblib", "joblib Parallel (distpool)", "distpool"


class JoblibMultiprocessing(JoblibLoky):
    name, title, backend = "joblib-multiprocessing", "joblib Parallel (multiprocessing)", "multiprocessing"


# ---- frameworks ------------------------------------------------------------------------------------------------------


class Ray(Contender):
    name, title, takes_handles, package = "ray", "Ray", True, "ray"

    def open(self) -> None:
        # As little as it can be, and nothing written to the user's home or reported to anybody.
        os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
        import ray

        self.ray = ray
        ray.init(
            num_cpus=self.workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            **self.settings(),
        )

    def settings(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.ray.shutdown()

    def task(self, function: Function) -> Function:
        if isinstance(function, functools.partial):  # ray.remote refuses what is not a function
            remote = self.ray.remote(function.func).remote
            return functools.partial(remote, *function.args, **function.keywords)
        return self.ray.remote(function).remote  # type: ignore[no-any-return]

    def result(self, handle: Any, timeout_s: float | None = None) -> Any:
        return self.ray.get(handle, timeout=timeout_s)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return self.ray.get(list(handles))  # type: ignore[no-any-return]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        if chunksize is not None and chunksize > 1:
            raise Unsupported("Ray has no chunks")
        task = self.task(function)
        return self.results([task(item) for item in items])


class RayPut(Ray):
    """Ray with what is large ``put`` by hand first, as its documentation advises."""

    name, title = "ray-put", "Ray (put by hand)"

    def task(self, function: Function) -> Function:
        if isinstance(function, functools.partial):
            function = functools.partial(function.func, *map(self.ray.put, function.args))
        return super().task(function)


class Dask(Contender):
    name, title, takes_handles, package = "dask", "Dask distributed", True, "distributed"

    def open(self) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)
        self.client = Client(self.cluster)

    def close(self) -> None:
        self.client.close()
        self.cluster.close()

    def task(self, function: Function) -> Function:
        # Without pure=False, equal calls would run once.
        return functools.partial(self.client.submit, function, pure=False)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return self.client.gather(list(handles))  # type: ignore[no-any-return]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        batching = {} if chunksize is None else {"batch_size": chunksize}
        return self.results(self.client.map(function, list(items), pure=False, **batching))


class DaskScatter(Dask):
    """Dask with what is large scattered by hand first."""

    name, title = "dask-scatter", "Dask (scattered by hand)"

    def task(self, function: Function) -> Function:
        if isinstance(function, functools.partial):
            scattered = [self.client.scatter(argument, broadcast=True) for argument in function.args]
            return functools.partial(self.client.submit, function.func, *scattered, pure=False)
        return super().task(function)


class Ipyparallel(Contender):
    name, title, package = "ipyparallel", "ipyparallel", "ipyparallel"

    def open(self) -> None:
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=self.workers, log_level=40)
        self.client = self.cluster.start_and_connect_sync()
        self.view = self.client.load_balanced_view()

    def close(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()

    def task(self, function: Function) -> Function:
        return functools.partial(self.view.apply_async, function)

    def result(self, handle: Any, timeout_s: float | None = None) -> Any:
        return handle.get(-1 if timeout_s is None else timeout_s)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        if chunksize is None:
            return self.client[:].map_sync(function, items)  # type: ignore[no-any-return]
        return list(self.view.map_sync(function, items, chunksize=chunksize))


class Parsl(Contender):
    name, title, takes_handles, package = "parsl", "Parsl HTEX", True, "parsl"

    def open(self) -> None:
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        # Its helpers are programs that it finds by name.
        os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
        self.folder = tempfile.TemporaryDirectory(prefix="parsl-")
        executor = HighThroughputExecutor(
            address="127.0.0.1",
            max_workers_per_node=self.workers,
            cores_per_worker=1,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        parsl.clear()
        self.parsl = parsl
        self.kernel = parsl.load(
            Config(executors=[executor], run_dir=self.folder.name, usage_tracking=0, initialize_logging=False)
        )

    def close(self) -> None:
        self.kernel.cleanup()
        self.folder.cleanup()

    def task(self, function: Function) -> Function:
        if isinstance(function, functools.partial):
            return functools.partial(self.parsl.python_app(function.func), *function.args, **function.keywords)
        return self.parsl.python_app(function)  # type: ignore[no-any-return]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Sequence[Any]:
        if chunksize is not None and chunksize > 1:
            raise Unsupported("Parsl has no map")
        task = self.task(function)
        return self.results([task(item) for item in items])


ALL: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (
        DistpoolExecutor, DistpoolFutures, DistpoolPool, JoblibDistpool,
        ExecutorFork, ExecutorForkserver, PoolFork, PoolForkserver, Loky, JoblibLoky, JoblibMultiprocessing, Mpire,
        Ray, RayPut, Dask, DaskScatter, Ipyparallel, Parsl,
    )
}  # fmt: skip

OURS = tuple(name for name in ALL if name.startswith("distpool"))
POOLS = ("pool-fork", "pool-forkserver")
EXECUTORS = ("executor-fork", "executor-forkserver")
#: Those that take single calls and their results; what most workloads want.
SUBMIT = (
    "distpool", "distpool-futures", "distpool-pool", *EXECUTORS, *POOLS, "loky", "mpire", "ray", "dask", "ipyparallel",
    "parsl",
)  # fmt: skip
#: Those that map.
MAP = (*SUBMIT, "joblib", "distpool-joblib")
