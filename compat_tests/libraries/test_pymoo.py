"""pymoo: ``StarmapParallelization(pool.starmap)`` as ``elementwise_runner``."""

from __future__ import annotations

import importlib

from compat_tests.libraries.availability import require

np = require("numpy")
require("pymoo")
ElementwiseProblem = require("pymoo.core.problem").ElementwiseProblem
GA = require("pymoo.algorithms.soo.nonconvex.ga").GA
minimize = require("pymoo.optimize").minimize


def starmap_runner(starmap):
    try:
        module = importlib.import_module("pymoo.parallelization.starmap")
    except ModuleNotFoundError:
        module = importlib.import_module("pymoo.core.problem")
    return module.StarmapParallelization(starmap)


class Sphere(ElementwiseProblem):
    def __init__(self, **kwargs):
        super().__init__(n_var=4, n_obj=1, xl=-2, xu=2, **kwargs)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = float((x**2).sum())


def best(**kwargs):
    return minimize(Sphere(**kwargs), GA(pop_size=10), ("n_gen", 5), seed=1).F


def test_pool_starmap_gives_the_serial_optimum(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        assert np.array_equal(best(elementwise_runner=starmap_runner(pool.starmap)), best())
