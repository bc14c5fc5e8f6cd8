"""A scikit-learn grid search on the handwritten digits, on every core.

An ordinary scikit-learn program: nothing in it knows about distpool.
"""

import json
import sys
import time

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC


def main():
    images, digits = load_digits(return_X_y=True)
    grid = {"C": [0.1, 1, 10, 100], "gamma": [1e-4, 5e-4, 1e-3, 5e-3], "kernel": ["rbf", "sigmoid"]}
    search = GridSearchCV(SVC(), grid, cv=5, n_jobs=-1)
    started = time.perf_counter()
    with joblib.parallel_config(backend="loky"):
        search.fit(images, digits)
    seconds = time.perf_counter() - started
    result = {
        "fits": len(search.cv_results_["params"]) * search.n_splits_,
        "best": search.best_params_,
        "score": search.best_score_,
        "scores": search.cv_results_["mean_test_score"].tolist(),
    }
    json.dump({"result": result, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
