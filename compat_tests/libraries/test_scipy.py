"""scipy takes ``workers=pool.map``: a map-like callable that gives results in order."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
optimize = require("scipy.optimize")
integrate = require("scipy.integrate")

BOUNDS = [(-2.0, 2.0)] * 3


def test_differential_evolution_with_pool_map(multiprocessing):
    options = {"maxiter": 5, "popsize": 5, "updating": "deferred", "polish": False}
    serial = optimize.differential_evolution(optimize.rosen, BOUNDS, rng=1, workers=1, **options)
    with multiprocessing.Pool(2) as pool:
        parallel = optimize.differential_evolution(optimize.rosen, BOUNDS, rng=1, workers=pool.map, **options)
    assert np.array_equal(serial.x, parallel.x)
    assert serial.nfev == parallel.nfev


def test_brute_with_executor_map(executor_class):
    grid = ((-1.0, 1.0),) * 2
    serial = optimize.brute(optimize.rosen, grid, Ns=5, finish=None)
    with executor_class(2) as executor:
        parallel = optimize.brute(optimize.rosen, grid, Ns=5, finish=None, workers=executor.map)
    assert np.array_equal(serial, parallel)


def test_quad_vec_with_pool_map(multiprocessing):
    serial = integrate.quad_vec(np.sin, 0.0, 3.0)
    with multiprocessing.Pool(2) as pool:
        parallel = integrate.quad_vec(np.sin, 0.0, 3.0, workers=pool.map)
    assert serial[0] == parallel[0]
