"""Costs that do not grow with the data, against scikit-learn: ``python -m benchmarks.overhead``.

``fit`` trains for one epoch on 100 rows of 5 features, a single batch, with 100 hidden
units. A further epoch is the difference between 201 epochs and one, divided by 200. For "with early
stopping", scikit-learn's estimators and ours hold out a tenth of the rows. Imports are timed in
fresh interpreters that import torch and scikit-learn's networks, with and without ``sknn_deep``; a
figure is the difference between the two in a round.
"""

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks import harness
from benchmarks.compare import compare
from sknn_deep import DeepMLPClassifier, DeepMLPRegressor

N_EPOCHS = 201


def fixed_costs(classifier: type, regressor: type) -> dict[str, Callable[[], float]]:
    """Return a function that measures each cost of a package's networks."""
    X, y = make_classification(100, 5, random_state=0)
    fitted = classifier(max_iter=1).fit(X, y)

    def fit(max_iter: int, **params):
        return classifier(max_iter=max_iter, n_iter_no_change=np.inf, **params).fit(X, y)

    def further_epoch(**params) -> Callable[[], float]:
        one, all_of_them = (harness.timed(lambda n=n: fit(n, **params)) for n in (1, N_EPOCHS))
        return lambda: (all_of_them() - one()) / (N_EPOCHS - 1)

    return {
        "fit a classifier": harness.repeated(lambda: fit(1)),
        "fit a regressor": harness.repeated(lambda: regressor(max_iter=1).fit(X, y)),
        "a further epoch": further_epoch(),
        "a further epoch, with early stopping": further_epoch(early_stopping=True),
        "clone": harness.repeated(lambda: clone(fitted)),
        "pickle and unpickle": harness.repeated(lambda: pickle.loads(pickle.dumps(fitted))),
    }


def own_rows() -> dict[str, Callable[[], Callable[[], float]]]:
    """Return for each cost a function that prepares its measurement for sknn_deep alone."""
    costs = fixed_costs(DeepMLPClassifier, DeepMLPRegressor)
    return {name: partial(costs.get, name) for name in costs}


def fresh_interpreter(statement: str) -> Callable[[], float]:
    """Return a contender that times an interpreter from start to exit."""
    command = [sys.executable, "-c", statement]
    return harness.timed(lambda: subprocess.run(command, check=True, cwd=Path(__file__).parents[1]))


def main():
    """Time every cost and print the ratios."""
    arguments = harness.parser(__doc__, compares=True).parse_args()
    if arguments.compare:
        compare("overhead", arguments.compare, arguments)
        return
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, results = [], {}
    with harness.conditions(arguments):
        ours = fixed_costs(DeepMLPClassifier, DeepMLPRegressor)
        scikit_learn = fixed_costs(MLPClassifier, MLPRegressor)
        for name in ours:
            runs = {"sknn_deep": ours[name], "scikit-learn": scikit_learn[name]}
            seconds = results[name] = harness.alternate(runs, arguments.rounds)
            medians = [harness.duration(seconds[package]) for package in runs]
            rows.append([name, *medians, harness.ratio(seconds, "scikit-learn")])
        harness.print_machine(**{"busy neighbours": str(arguments.neighbours)})

    basis = "import torch, sklearn.neural_network"
    imports = {"without": basis, "with": f"{basis}, sknn_deep"}
    runs = {name: fresh_interpreter(statement) for name, statement in imports.items()}
    seconds = results["import"] = harness.alternate(runs, arguments.rounds)
    low, middle, high = np.quantile(
        np.subtract(seconds["with"], seconds["without"]), [0.25, 0.5, 0.75]
    )
    added = f"{middle:.2f} s ({low:.2f} to {high:.2f})"
    rows.append(["import, beyond torch and scikit-learn", added, "–", "–"])

    harness.print_table(["cost", "ours", "scikit-learn", "scikit-learn / ours"], rows)
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
