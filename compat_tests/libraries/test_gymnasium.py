"""gymnasium's ``AsyncVectorEnv`` takes a start method by name; its workers talk through pipes and shared arrays."""

from __future__ import annotations

from compat_tests.libraries.availability import require

np = require("numpy")
gymnasium = require("gymnasium")


class Counter(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.integers(0, 10, 2).astype(np.float32)
        return self.state, {}

    def step(self, action):
        self.state = self.state + np.float32(action)
        return self.state, float(action), bool(self.state[0] > 12), False, {}


def rollout(make):
    environments = make([Counter, Counter])
    try:
        observations = [environments.reset(seed=23)[0].copy()]
        for step in range(8):
            observation, *_ = environments.step(np.array([step % 2, 1]))
            observations.append(observation.copy())
        return np.array(observations)
    finally:
        environments.close()


def test_async_vector_env_by_start_method(start_method):
    import distpool.multiprocessing  # noqa: F401 - registers the start method

    parallel = rollout(lambda makers: gymnasium.vector.AsyncVectorEnv(makers, context=start_method))
    assert np.array_equal(parallel, rollout(gymnasium.vector.SyncVectorEnv))
