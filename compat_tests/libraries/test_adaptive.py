"""adaptive's ``BlockingRunner`` takes an executor, asks how many workers it has, and waits for first results."""

from __future__ import annotations

from compat_tests.libraries.availability import require

adaptive = require("adaptive")


def square(x):
    return x * x


def test_blocking_runner(executor_class):
    learner = adaptive.SequenceLearner(square, sequence=list(range(20)))
    with executor_class(2) as executor:
        adaptive.BlockingRunner(learner, goal=adaptive.SequenceLearner.done, executor=executor)
    assert [learner.data[i] for i in range(20)] == [square(i) for i in range(20)]
