"""emcee takes ``pool=`` and uses its ``map``; the log-probability function is pickled once per sampler and walker."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
emcee = require("emcee")


def log_probability(x, scale):
    return -0.5 * np.sum((x / scale) ** 2)


def chain(pool):
    rng = np.random.default_rng(3)
    start = rng.normal(size=(12, 3))
    sampler = emcee.EnsembleSampler(12, 3, log_probability, args=(2.0,), pool=pool)
    sampler._random = np.random.RandomState(5)
    sampler.run_mcmc(start, 10)
    return sampler.get_chain()


def test_pool_gives_the_serial_chain(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        assert np.array_equal(chain(pool), chain(None))


def test_executor_as_pool(executor_class):
    with executor_class(2) as executor:
        assert np.array_equal(chain(executor), chain(None))
