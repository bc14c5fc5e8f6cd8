"""scikit-learn's tests of what runs in parallel, with two jobs and the ``"distpool"`` backend in force."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compat_tests.suites.base import SuiteUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from compat_tests.runner.interpreter import Interpreter
    from compat_tests.runner.nursery import Nursery

#: Model selection, ensembles, multi-output, feature selection, and whatever else takes ``n_jobs``.
_MODULES = (
    "sklearn.compose.tests.test_column_transformer",
    "sklearn.decomposition.tests.test_dict_learning",
    "sklearn.ensemble.tests.test_bagging",
    "sklearn.ensemble.tests.test_forest",
    "sklearn.ensemble.tests.test_iforest",
    "sklearn.ensemble.tests.test_stacking",
    "sklearn.ensemble.tests.test_voting",
    "sklearn.feature_selection.tests.test_rfe",
    "sklearn.inspection.tests.test_permutation_importance",
    "sklearn.linear_model.tests.test_coordinate_descent",
    "sklearn.linear_model.tests.test_logistic",
    "sklearn.model_selection.tests.test_search",
    "sklearn.model_selection.tests.test_validation",
    "sklearn.tests.test_calibration",
    "sklearn.tests.test_multiclass",
    "sklearn.tests.test_multioutput",
    "sklearn.tests.test_pipeline",
    "sklearn.utils.tests.test_parallel",
)
#: Those of their thousands of tests whose subject is what runs in parallel, a few minutes' worth.
_SUBJECTS = (
    "n_jobs",
    "parallel",
    "memmap",
    "joblib",
    "grid_search",
    "permutation_importance_correlated",
    "stacking_classifier_iris",
    "cross_val_predict",
    "cross_val_score",
    "cross_validate",
    "learning_curve",
    "multi_target_reg",
    "multi_output_class",
)


class ScikitLearn:
    """Targets beside ``distpool``: joblib's ``loky``, for what fails with processes as such; and no patch at all."""

    name = "sklearn"
    title = "scikit-learn"
    targets = ("distpool", "loky", "stdlib")
    timeout_s = 300.0

    def prepare(self, interpreter: Interpreter, cache: Path) -> Mapping[str, str]:
        for package in ("scikit-learn", "pytest"):
            if package not in interpreter.packages:
                raise SuiteUnavailable(f"{package} is not installed for {interpreter.path}")
        # Collecting runs OpenMP loops, and GNU's OpenMP does not survive a fork once it has threads.
        return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def patch(self, target: str) -> None:
        pass

    def serve(self, nursery: Nursery, target: str) -> None:
        from compat_tests.suites import pytest_runs

        def before_test() -> None:
            if target != "stdlib":
                import joblib

                joblib.parallel_config(backend=target, n_jobs=2)

        if target == "distpool":
            import distpool.joblib  # noqa: F401 - registers the backend
        # Names relative to the package: many of its files have the same name.
        (package,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr,misc]
        chosen = ["--rootdir", package, "-k", f"({' or '.join(_SUBJECTS)}) and not array_api"]
        pytest_runs.serve(nursery, [*chosen, "--pyargs", *_MODULES], before_test)


SUITE = ScikitLearn()
