"""A search for the best parameters of a model: scikit-learn's, whose parallel loops run on the cluster by joblib.

A support vector machine learns to read handwritten digits. Which of its parameters work best is found by trying:
each draw of parameters is fitted and scored several times on different parts of the data. scikit-learn runs these
fits with joblib, and ``parallel_config(backend="hpclaunch")`` sends them to the workers. The images are sent once.

    python 05_model_search.py
    python 05_model_search.py --cluster slurm --jobs 8 --draws 200

Needs scikit-learn: pip install scikit-learn.
"""

from __future__ import annotations

import time

import joblib
import numpy as np
from _cluster import arguments, open_cluster
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

from hpclaunch import Client

PARAMETERS = {
    "C": np.logspace(-6, 6, 30),
    "gamma": np.logspace(-8, 8, 30),
    "tol": np.logspace(-4, -1, 30),
    "class_weight": [None, "balanced"],
}


def main() -> None:
    """Search on the cluster and print what was found."""
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=20, help="draws of parameters (default: 20)")
    parser.add_argument("--images", type=int, default=600, help="images to learn from (default: 600)")
    options = parser.parse_args()

    digits = load_digits()
    images, answers = digits.data[: options.images], digits.target[: options.images]
    search = RandomizedSearchCV(SVC(kernel="rbf"), PARAMETERS, cv=5, n_iter=options.draws, random_state=0)
    with open_cluster(options) as cluster, Client(cluster) as client:
        client.wait_for_workers(1)
        began = time.perf_counter()
        with joblib.parallel_config(backend="hpclaunch"):
            search.fit(images, answers)
        took = time.perf_counter() - began
    print(f"{5 * options.draws} fits on {options.images} images took {took:.1f} s")
    best = ", ".join(f"{name}={search.best_params_[name]}" for name in sorted(search.best_params_))
    print(f"best score in cross-validation: {search.best_score_:.3f} with {best}")
    others = search.score(digits.data[options.images :], digits.target[options.images :])
    print(f"score on the other images: {others:.3f}")


if __name__ == "__main__":
    main()
