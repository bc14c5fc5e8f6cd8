"""What is known of an initializer that fails, at the moment when the pool is known to be broken."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Iterator
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker

import pytest

import distpool
from distpool.futures import ProcessPoolExecutor
from distpool.futures.process import BrokenProcessPool

#: The memory of a queue's locks, and the process that looks after it.
pytestmark = pytest.mark.leaks("descriptors", "processes")


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_is_left() -> Iterator[None]:
    yield
    # A session knows its workers' pool, and with it the queue, for a moment longer than they live.
    distpool.shutdown()
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def fail_with_a_log(queue):
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(QueueHandler(queue))
    logger.propagate = False
    raise ValueError("not today")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_it_put_into_a_queue_is_there(method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with ProcessPoolExecutor(2, context, initializer=fail_with_a_log, initargs=(queue,)) as executor:
        with pytest.raises(BrokenProcessPool, match="not today"):
            executor.submit(pow, 1, 1).result()
        assert "ValueError: not today" in queue.get_nowait().getMessage()
    queue.close()
    queue.join_thread()
