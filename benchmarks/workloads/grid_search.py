"""scikit-learn: grid search on the digits

``GridSearchCV(SVC(), 12 candidates, cv=3)`` within ``parallel_config(backend=..., n_jobs=2)``, twice; the second time
counts.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contenders import JoblibLoky
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"warm": Metric("s", "lower", ".3f"), "first": Metric("s", "lower", ".3f")}
#: Images used.
SIZES = Sizes(full=1797, quick=300)
CONTENDERS = ("distpool-joblib", "joblib", "joblib-multiprocessing")
TARGETS = [Target("warm", ratio=1, against=("joblib",))]
GRID = {"C": [0.1, 1, 10, 100], "gamma": [1e-4, 1e-3, 1e-2]}


def measure(contender: JoblibLoky, size: int) -> dict[str, float]:
    import joblib

    alone = scores(size)
    times_s = []
    for _ in range(2):
        with joblib.parallel_config(backend=contender.backend, n_jobs=contender.workers):
            started = time.perf_counter()
            found = scores(size)
            times_s.append(time.perf_counter() - started)
        check(found == alone, "other scores than in series")
    return {"warm": times_s[1], "first": times_s[0]}


def scores(size: int) -> Any:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), GRID, cv=3).fit(images[:size], digits[:size])
    return search.cv_results_["mean_test_score"].tolist()
