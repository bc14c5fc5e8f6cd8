"""What depends on a future is called once, whoever settles it and however late it comes."""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from distpool.driver.future import DistFuture


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_dependents_that_come_while_their_future_is_settled_are_called_once() -> None:
    called: Counter[int] = Counter()
    for _ in range(300):
        future: DistFuture[Any] = DistFuture(None)  # type: ignore[arg-type]
        due: deque[Callable[[], None]] = deque()
        settler = threading.Thread(target=partial(future.settle, "FINISHED", due=due))
        future.add_dependent(partial(called.update, [0]))
        settler.start()
        for number in range(1, 20):
            future.add_dependent(partial(called.update, [number]))
        settler.join()
        for dependent in due:
            dependent()
    assert called == dict.fromkeys(range(20), 300)


def test_a_future_on_which_a_task_depends_needs_no_condition_for_that() -> None:
    future: DistFuture[Any] = DistFuture(None)  # type: ignore[arg-type]
    future.add_dependent(lambda: None)
    due: deque[Callable[[], None]] = deque()
    future.settle("FINISHED", due=due)
    assert len(due) == 1
    assert "_condition" not in vars(future)
