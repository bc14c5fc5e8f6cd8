"""dynesty takes ``pool=`` with ``queue_size=``, and has a pool of its own that hides the likelihood in a global."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
dynesty = require("dynesty")


def log_likelihood(x):
    return float(-0.5 * np.sum(x**2))


def prior_transform(u):
    return 10.0 * (u - 0.5)


def evidence(pool):
    sampler = dynesty.NestedSampler(
        log_likelihood,
        prior_transform,
        2,
        nlive=30,
        rstate=np.random.default_rng(7),
        pool=pool,
        queue_size=2,
        sample="rwalk",
    )
    sampler.run_nested(maxiter=60, print_progress=False, add_live=False)
    return np.asarray(sampler.results.logl)


class Serial:
    """The same queue without processes, so that both runs draw the same random numbers."""

    map = staticmethod(lambda function, items: list(map(function, items)))


def test_pool_gives_the_serial_samples(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        assert np.array_equal(evidence(pool), evidence(Serial()))
