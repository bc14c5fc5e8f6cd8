"""What a front door wants of its pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class PoolSpec(NamedTuple):
    """What a front door wants of its pool.

    :param max_workers: its budget of slots; a worker takes one, unless ``num_cpus`` says otherwise.
    :param initializer: called with ``initargs`` once in each worker.
    :param max_tasks_per_child: replace a worker after so many tasks.
    :param max_retries: how often a task runs again when its worker dies, unless its options say otherwise.
    :param strict: a worker that dies breaks the pool, as in ``concurrent.futures.ProcessPoolExecutor``.
    :param eager: start all workers at once instead of as tasks come.
    :param idle_timeout_s: give idle workers back after this time.
    :param process_name: workers are called ``<process_name>-<n>``.
    :param daemon: the ``daemon`` flag that tasks see on ``multiprocessing.current_process()``.
    :param num_threads: thread budget of a worker for BLAS, OpenMP and the like (None: cores divided by workers).
    :param environment: environment variables on top of this process's.
    :param finish_at_exit: at interpreter exit, wait for submitted tasks (as executors do) instead of ending them.
    :param label: the pool's name in error messages.
    """

    max_workers: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    max_retries: int = 3
    strict: bool = False
    eager: bool = False
    idle_timeout_s: float | None = None
    process_name: str = "DistPoolWorker"
    daemon: bool = False
    num_threads: int | None = None
    environment: Mapping[str, str] | None = None
    finish_at_exit: bool = True
    label: str = "the pool"
