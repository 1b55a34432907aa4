"""Searches that are large, and searches by halving: ``python -m benchmarks.halving``.

The first table searches 1,000 candidates of a 10-32-2 network in five folds. scikit-learn's search
over its own classifier is timed on a sample of the candidates, and extrapolated.

The second compares a halving search over the number of epochs with the full grid, both fused, in
one process. It also says whether both find the same winner, or else how far the mean score of
halving's winner is below the full grid's best, with the standard error of that difference over the
folds. A difference of less than one standard error counts as a tie: other folds might reverse it
[1]_.

References
----------
.. [1] L. Breiman, J. Friedman, R. Olshen, C. Stone (1984). Classification and regression trees,
   section 3.4.3, on the one-standard-error rule.
"""

import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale

from benchmarks import harness
from benchmarks.contenders import Work
from sknn_deep import DeepMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV, FusedHalvingGridSearchCV

# 1,000 candidates
THOUSAND = Work((10, 32, 2), 32, 10, n_samples=2000)
MANY = {
    "learning_rate_init": np.logspace(-4, -1, 50).tolist(),
    "alpha": np.logspace(-5, 0, 20).tolist(),
}
# 54 candidates, trained for a 27th, a ninth, a third or all of the epochs
TO_HALVE = {
    "learning_rate_init": np.logspace(-4, -1, 9).tolist(),
    "alpha": np.logspace(-4, 1, 6).tolist(),
}
EPOCHS = 243
DATA = {
    "digits": (load_digits, (100,), 200),
    "breast cancer": (load_breast_cancer, (32,), 32),
    "wine": (load_wine, (32,), 32),
}


def network(cls: type, hidden: tuple[int, ...], batch_size: int, epochs: int) -> Any:
    """Return a network that runs all its epochs at a constant learning rate."""
    return cls(
        hidden_layer_sizes=hidden,
        batch_size=batch_size,
        max_iter=epochs,
        n_iter_no_change=np.inf,
        random_state=0,
    )


def measure_thousand(rounds: int, n_sampled: int) -> dict[str, list[float]]:
    """Return the seconds of both searches in each round, scikit-learn's from a sample."""
    data, work = THOUSAND.data(), THOUSAND
    candidates = list(ParameterGrid(MANY))
    drawn = np.random.RandomState(0).choice(len(candidates), n_sampled, replace=False)
    sample = [{name: [value] for name, value in candidates[i].items()} for i in drawn]
    options = {"cv": 5, "refit": False, "error_score": "raise"}
    settings = work.units[1:-1], work.batch_size, work.epochs
    ours = FusedGridSearchCV(network(DeepMLPClassifier, *settings), MANY, **options)
    theirs = GridSearchCV(network(MLPClassifier, *settings), sample, **options)
    answers = harness.alternate(
        {
            "sknn_deep": harness.timed(lambda: ours.fit(data.X, data.y)),
            "MLPClassifier": harness.timed(lambda: theirs.fit(data.X, data.y)),
        },
        rounds,
    )
    factor = len(candidates) / n_sampled
    answers["MLPClassifier"] = [seconds * factor for seconds in answers["MLPClassifier"]]
    return answers


def measure_halving(name: str, rounds: int) -> dict[str, Any]:
    """Return the times of both searches in each round, and the candidates they found."""
    load, hidden, batch_size = DATA[name]
    X, y = load(return_X_y=True)
    X = scale(X).astype(np.float32)
    options = {"cv": 5, "refit": False, "scoring": "neg_log_loss", "error_score": "raise"}
    ours = network(DeepMLPClassifier, hidden, batch_size, EPOCHS)
    full = FusedGridSearchCV(ours, TO_HALVE, **options)
    halving = FusedHalvingGridSearchCV(
        ours, TO_HALVE, resource="max_iter", max_resources=EPOCHS, return_train_score=False,
        **options,
    )  # fmt: skip
    answers = harness.alternate(
        {
            "sknn_deep": harness.timed(lambda: halving.fit(X, y)),
            "full grid": harness.timed(lambda: full.fit(X, y)),
        },
        rounds,
    )
    found = {key: value for key, value in halving.best_params_.items() if key != "max_iter"}
    place = full.cv_results_["params"].index(found)
    behind, error = difference(full, full.best_index_, place)
    return {
        "seconds": answers,
        "same": found == full.best_params_,
        "behind": behind,
        "standard error": error,
        "rungs": list(zip(halving.n_candidates_, halving.n_resources_, strict=True)),
    }


def difference(search: Any, first: int, second: int) -> tuple[float, float]:
    """Return the difference of two candidates' mean scores, and its standard error."""
    folds = [search.cv_results_[f"split{i}_test_score"] for i in range(search.n_splits_)]
    differences = np.array([scores[first] - scores[second] for scores in folds])
    return differences.mean(), differences.std(ddof=1) / len(differences) ** 0.5


def verdict(result: dict[str, Any]) -> str:
    """Return in words whether halving found the full grid's winner."""
    if result["same"]:
        return "yes"
    behind, error = result["behind"], result["standard error"]
    is_tie = "a tie" if behind <= error else "no"
    return f"{is_tie}, {behind:.4f} ± {error:.4f} behind"


def main() -> None:
    """Time the searches and print the ratios."""
    options = harness.parser(__doc__, rounds=3)
    options.add_argument("names", nargs="*", help=f"among thousand and {list(DATA)}; default: all")
    options.add_argument("--sample", type=int, default=10, help="candidates timed of 1,000")
    arguments = options.parse_args()
    names = arguments.names or ["thousand", *DATA]
    warnings.simplefilter("ignore", ConvergenceWarning)
    results: dict[str, Any] = {}
    with harness.limited_threads(arguments.threads):
        for name in names:
            if name == "thousand":
                results[name] = measure_thousand(arguments.rounds, arguments.sample)
            else:
                results[name] = measure_halving(name, arguments.rounds)
    harness.print_machine()
    if "thousand" in results:
        seconds = results["thousand"]
        harness.print_table(
            ["search", "FusedGridSearchCV", "MLPClassifier / ours"],
            [
                [
                    f"1000 × 5, {THOUSAND}",
                    harness.duration(seconds["sknn_deep"]),
                    harness.ratio(seconds, "MLPClassifier"),
                ]
            ],
        )
    rows = [
        [
            name,
            ", ".join(f"{n} × {epochs}" for n, epochs in result["rungs"]),
            harness.duration(result["seconds"]["sknn_deep"]),
            harness.ratio(result["seconds"], "full grid"),
            verdict(result),
        ]
        for name, result in results.items()
        if name != "thousand"
    ]
    if rows:
        harness.print_table(
            ["data", "candidates × epochs", "halving", "full grid / halving", "same winner"], rows
        )
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
