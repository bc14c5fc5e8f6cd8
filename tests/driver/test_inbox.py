"""What is submitted comes to the core in time: real pools, of which nobody reads a result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.driver.current import current_session
from distpool.driver.pool import WorkerPool
from distpool.driver.spec import PoolSpec
from distpool.task_options import DEFAULT, TaskOptions

pytestmark = pytest.mark.fresh_session

LARGE, SMALL, NONE = (TaskOptions(num_cpus=cpus) for cpus in (2, 1, 0))


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = current_session().open_pool(PoolSpec(max_workers=3))
    yield pool
    pool.kill()
    pool.join()


def read(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.parametrize("options", [DEFAULT, SMALL, NONE, TaskOptions(num_cpus=4)])
def test_the_first_call_of_its_size_is_seen_beside_a_long_one(
    pool: WorkerPool, options: TaskOptions, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    long = pool.submit(read, (str(gate),), options=LARGE)
    with gate.open("w"):  # it has begun
        pool.submit(abs, (-1,), options=options)
        assert not pool.shell.inbox
    long.result()


class Ends:
    """An argument; the pool is shut down while it is pickled."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    def __reduce__(self) -> Any:
        self.pool.shutdown()
        return int, ()


@pytest.mark.parametrize("depends", [False, True])
def test_a_call_that_comes_when_its_pool_has_just_ended_fails(pool: WorkerPool, depends: bool) -> None:
    other = current_session().open_pool(PoolSpec(max_workers=1))
    needed = other.submit(abs, (-1,))
    future = pool.submit(max, (Ends(pool), needed if depends else 1))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        future.result(60)
    assert needed.result() == 1
    other.shutdown()
