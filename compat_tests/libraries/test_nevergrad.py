"""nevergrad: ``optimizer.minimize(f, executor=...)`` submits, and asks futures whether they are done."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
ng = require("nevergrad")


def sphere(x):
    return float(np.sum((x - 0.5) ** 2))


def recommend(executor):
    parametrization = ng.p.Array(shape=(2,))
    parametrization.random_state.seed(19)
    optimizer = ng.optimizers.RandomSearch(parametrization=parametrization, budget=20, num_workers=2)
    return optimizer.minimize(sphere, executor=executor, batch_mode=True).value


def test_executor_gives_the_serial_recommendation(executor_class):
    with executor_class(2) as executor:
        assert np.array_equal(recommend(executor), recommend(None))
