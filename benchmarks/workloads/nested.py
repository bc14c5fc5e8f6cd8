"""Tasks that start tasks: 8 x 8

Eight tasks each start eight more and add up their results, all on two workers. Where the tasks of one pool cannot use
it, each makes a pool of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"whole": Metric("s", "lower", ".3f")}
SIZES = Sizes(full=8, quick=4)
CONTENDERS = ("distpool", "distpool-futures", "executor-fork", "executor-forkserver", "loky", "ray", "dask")
TARGETS = [Target("whole", value=0.06)]


def inner(number: int) -> int:
    return number * number


def outer_same_executor(executor: Any, number: int, size: int) -> int:
    return sum(future.result() for future in [executor.submit(inner, number + i) for i in range(size)])


def outer_own_executor(method: str, number: int, size: int) -> int:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        return sum(executor.map(inner, range(number, number + size)))


def outer_own_distpool(_: str, number: int, size: int) -> int:
    from distpool.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as executor:
        return sum(executor.map(inner, range(number, number + size)))


def outer_own_loky(_: str, number: int, size: int) -> int:
    from joblib.externals.loky import get_reusable_executor

    return sum(get_reusable_executor(max_workers=2).map(inner, range(number, number + size)))


def outer_ray(_: str, number: int, size: int) -> int:
    import ray

    task = ray.remote(inner)
    return int(sum(ray.get([task.remote(number + i) for i in range(size)])))


def outer_dask(_: str, number: int, size: int) -> int:
    from distributed import worker_client

    with worker_client() as client:
        return int(sum(client.gather(client.map(inner, range(number, number + size), pure=False))))


_OUTER = {
    "distpool-futures": outer_own_distpool,
    "loky": outer_own_loky,
    "ray": outer_ray,
    "dask": outer_dask,
}


def measure(contender: Contender, size: int) -> dict[str, float]:
    expected = [sum(i * i for i in range(number, number + size)) for number in range(size)]
    started = time.perf_counter()
    if contender.name == "distpool":
        call, first = contender.task(outer_same_executor), contender.executor  # type: ignore[attr-defined]
    else:
        call, first = contender.task(_OUTER.get(contender.name, outer_own_executor)), getattr(contender, "method", "")
    results = contender.results([call(first, number, size) for number in range(size)])
    elapsed = time.perf_counter() - started
    check(list(results) == expected)
    return {"whole": elapsed}
