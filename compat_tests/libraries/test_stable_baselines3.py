"""stable-baselines3's ``SubprocVecEnv`` takes a start method by name and pickles the makers with cloudpickle."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
require("stable_baselines3")
vec_env = require("stable_baselines3.common.vec_env")


def make():
    from compat_tests.libraries.test_gymnasium import Counter

    return Counter()


def rollout(environments):
    try:
        environments.seed(29)
        first = environments.reset()
        return np.array([first, *(environments.step(np.array([step % 2, 1]))[0].copy() for step in range(8))])
    finally:
        environments.close()


def test_subproc_vec_env_by_start_method(start_method):
    import distpool.multiprocessing  # noqa: F401 - registers the start method

    parallel = rollout(vec_env.SubprocVecEnv([make, make], start_method=start_method))
    assert np.array_equal(parallel, rollout(vec_env.DummyVecEnv([make, make])))
