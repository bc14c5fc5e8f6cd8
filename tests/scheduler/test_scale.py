"""Small versions of what ``python -m benchmarks.scheduler`` measures: that it works, not how fast."""

from __future__ import annotations

import pytest

from benchmarks import scheduler
from distpool.scheduler.fairness import FairQueue
from distpool.wire.resources import Shape


@pytest.mark.parametrize("shape", scheduler.SHAPES.values(), ids=scheduler.SHAPES)
def test_leases_come_and_go(shape: Shape) -> None:
    assert scheduler.core_rate(20, 500, 4, shape) > 0


def test_a_scheduler_process_with_many_agents() -> None:
    figures = scheduler.process(60, 200, 0.2)
    assert figures["agents"] == 60


def test_a_queue_does_not_grow_when_keys_go_up_and_down() -> None:
    keys = dict.fromkeys(range(10), 0.0)
    queue: FairQueue[int] = FairQueue(lambda item: (keys[item], item))
    for item in keys:
        queue.add(item)
    for number in range(10_000):
        item = number % 9 + 1  # never the best
        keys[item] += 2
        queue.best()
        keys[item] -= 1 + number % 2
        queue.touch(item)
    assert len(queue._heap) < 100
    assert queue.best() == 0
