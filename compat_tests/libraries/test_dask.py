"""dask takes an executor as its scheduler and reads ``_max_workers`` of it."""

from __future__ import annotations

from compat_tests.libraries.availability import require

dask = require("dask")


def double(x: int) -> int:
    return 2 * x


def test_executor_as_scheduler(executor_class):
    lazy = dask.delayed(sum)([dask.delayed(double)(i) for i in range(20)])
    serial = lazy.compute(scheduler="sync")
    with executor_class(2) as executor:
        assert lazy.compute(scheduler=executor) == serial


def test_processes_scheduler_with_pool(executor_class):
    import dask.multiprocessing

    lazy = [dask.delayed(double)(i) for i in range(20)]
    with executor_class(2) as executor, dask.config.set(pool=executor):
        assert dask.compute(*lazy, scheduler="processes") == dask.compute(*lazy, scheduler="sync")
