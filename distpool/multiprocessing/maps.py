"""What ``map`` and ``starmap`` submit: their iterables, in chunks of a given size or item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from distpool.multiprocessing.failures import as_submit_error, failed
from distpool.ordered_map import kill_calls
from distpool.task_options import current as current_options

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool

Submit = Callable[[Any], "Future[Any]"]

_NO_KEYWORDS: dict[str, Any] = {}


def item_submitter(workers: WorkerPool, function: Callable[[Any], Any]) -> Submit:
    """Submits ``function(item)``, with the options that hold now; what raises is a future that has failed."""
    options = current_options()

    def submit(item: Any) -> Future[Any]:
        try:
            return workers.submit(function, (item,), _NO_KEYWORDS, options)
        except Exception as error:
            return failed(as_submit_error(error))

    return submit


def chunk_submitter(workers: WorkerPool, function: Callable[..., Any], *, starred: bool = False) -> Submit:
    """The same for chunks of items, or, if ``starred``, of tuples of arguments."""
    options = current_options()

    def submit(chunk: Any) -> Future[Any]:
        try:
            return workers.submit_chunk(function, chunk, options, starred=starred)
        except Exception as error:
            return failed(as_submit_error(error))

    return submit


def submit_all(submit: Submit, items: Iterable[Any]) -> list[Future[Any]]:
    """The futures of all items; an exception of the iterable counts as one last failed task."""
    futures: list[Future[Any]] = []
    try:
        for item in items:
            futures.append(submit(item))  # noqa: PERF401 - what was submitted must be known when the next item raises
    except KeyboardInterrupt:
        kill_calls(futures)
        raise
    except Exception as error:
        futures.append(failed(error))
    return futures
