"""scikit-learn: random forest on the digits

``RandomForestClassifier(n_estimators=200, n_jobs=2)`` is fitted within ``parallel_config(backend=...)`` (scikit-learn
prefers threads here; the backend is forced), twice; the second time counts.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from benchmarks.contenders import JoblibLoky
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"warm": Metric("s", "lower", ".3f"), "first": Metric("s", "lower", ".3f")}
SIZES = Sizes(full=200, quick=20)
CONTENDERS = ("distpool-joblib", "joblib", "joblib-multiprocessing")
TARGETS = [Target("warm", ratio=1, against=("joblib",))]


def measure(contender: JoblibLoky, size: int) -> dict[str, float]:
    import joblib
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    times_s = []
    for _ in range(2):
        with joblib.parallel_config(backend=contender.backend, n_jobs=contender.workers):
            started = time.perf_counter()
            forest = fitted(size, images, digits)
            times_s.append(time.perf_counter() - started)
    alone = in_series(size)
    check(bool((forest.predict_proba(images) == alone).all()), "another forest than in series")
    return {"warm": times_s[1], "first": times_s[0]}


def fitted(size: int, images: Any, digits: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=size, random_state=0).fit(images, digits)


@functools.cache
def in_series(size: int) -> Any:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    return fitted(size, images, digits).predict_proba(images)
