"""Optuna's ask-and-tell interface: trials are asked for here, evaluated in processes, told here."""

from __future__ import annotations

from compat_tests.libraries.availability import require

optuna = require("optuna")


def objective(x):
    return (x - 2.0) ** 2


def study_with(evaluate):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=17))
    for _ in range(3):
        trials = [study.ask() for _ in range(4)]
        points = [trial.suggest_float("x", -10, 10) for trial in trials]
        for trial, value in zip(trials, evaluate(objective, points), strict=True):
            study.tell(trial, value)
    return [trial.value for trial in study.trials]


def test_ask_and_tell(executor_class):
    with executor_class(2) as executor:
        assert study_with(executor.map) == study_with(map)
