"""What happens between the decision that a call has ended and the moment in which its future knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import distpool
from distpool.driver.current import current_session
from distpool.driver.pool import WorkerPool
from distpool.driver.session import Session
from distpool.driver.shell import Settled
from distpool.driver.spec import PoolSpec
from distpool.task_options import TaskOptions

pytestmark = pytest.mark.fresh_session


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = current_session().open_pool(PoolSpec(max_workers=1))
    yield pool
    pool.kill()
    pool.join()


def before_settling(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Settled], None]) -> None:
    settle = Session.settle

    def late(session: Session, settled: Settled) -> None:
        meanwhile(settled)
        settle(session, settled)

    monkeypatch.setattr(Session, "settle", late)


def fail() -> None:
    raise ValueError


@pytest.mark.parametrize("of", ["a pool that is too small", "a call that fails"])
def test_a_call_that_has_failed_is_not_cancelled(monkeypatch: pytest.MonkeyPatch, pool: WorkerPool, of: str) -> None:
    cancelled: list[bool] = []
    argument = pool.submit(fail)

    def cancel(settled: Settled) -> None:
        cancelled.extend(future.cancel() for future, *_ in settled if future is not argument)

    before_settling(monkeypatch, cancel)
    if of == "a call that fails":
        error, future = distpool.DependencyError, pool.submit(print, (argument,))
    else:
        error, future = distpool.InfeasibleError, pool.submit(print, options=TaskOptions(num_cpus=2))
    with pytest.raises(error):
        future.result()
    assert argument.exception() is not None
    assert cancelled == [False]
    assert pool.outstanding == 0
