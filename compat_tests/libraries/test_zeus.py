"""zeus takes ``pool=`` and uses its ``map``."""

from __future__ import annotations

import random

from compat_tests.libraries.availability import require

np = require("numpy")
zeus = require("zeus")


def log_probability(x):
    return -0.5 * np.sum(x**2)


def chain(pool):
    np.random.seed(11)
    random.seed(11)
    start = np.random.randn(8, 2)
    sampler = zeus.EnsembleSampler(8, 2, log_probability, pool=pool, verbose=False)
    sampler.run_mcmc(start, 5, progress=False)
    return sampler.get_chain()


def test_pool_gives_the_serial_chain(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        assert np.array_equal(chain(pool), chain(None))
