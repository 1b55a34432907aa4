"""Grid searches against scikit-learn and skorch: ``python -m benchmarks.search``.

All contenders use the same grid, folds, data, epochs and number of processes; every network runs
all its epochs with Adam. A figure is a whole call of ``fit`` without the refit. The processes start
and import their modules in the uncounted warm-up round, and each search waits until they have
cleaned up after the previous one.

Two differences remain. skorch's networks get the penalty as Adam's ``weight_decay``, which also
applies to the biases, and they have two outputs for two classes. The best score confirms that all
contenders did search.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier

from benchmarks import harness
from benchmarks.compare import compare
from benchmarks.contenders import Work, torch_module
from sknn_deep import DeepMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV

# joblib's workers collect garbage when a task is done and its result is sent.
SECONDS_TO_TIDY_UP = 0.5
RATES = np.logspace(-4, -1, 6).tolist()
PENALTIES = [1e-5, 1e-4, 1e-3, 1e-2]
SHAPES = [(width,) * depth for width in (32, 64, 128) for depth in (1, 2)]


@dataclass
class Search:
    """A grid to search: the network, and the candidates' parameters."""

    work: Work
    n_splits: int
    rates: list[float] = field(default_factory=lambda: RATES)
    penalties: list[float] = field(default_factory=lambda: PENALTIES)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    load: Callable | None = None

    def __str__(self) -> str:
        shapes = f", {len(self.shapes)} shapes" if self.shapes else ""
        return f"{self.n_candidates} × {self.n_splits}, {self.work}{shapes}"

    @property
    def n_candidates(self) -> int:
        return len(self.rates) * len(self.penalties) * max(len(self.shapes), 1)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows in single precision, and labels."""
        if self.load is None:
            data = self.work.data()
            return data.X, data.y
        X, y = self.load(return_X_y=True)
        return scale(X).astype(np.float32), y


# either several shapes or several penalties: 24 candidates in all but the last
BY_SHAPE = {"rates": RATES[1:5], "penalties": [1e-4], "shapes": SHAPES}
WORKS = {
    "tiny": Search(Work((10, 32, 2), 32, 10, n_samples=2000), 5),
    "cancer": Search(Work((30, 32, 2), 32, 20), 5, **BY_SHAPE, load=load_breast_cancer),
    # only the widest of the shapes
    "cancer-widest": Search(
        Work((30, 128, 128, 2), 32, 20), 5, RATES[1:5], [1e-4], load=load_breast_cancer
    ),
    "wine": Search(Work((13, 32, 3), 32, 40), 5, **BY_SHAPE, load=load_wine),
    "digits": Search(Work((64, 100, 10), 200, 20), 5),
    "mnist": Search(Work((784, 128, 64, 10), 200, 1), 3, RATES[1:5], PENALTIES[1:3]),
}
# for a GPU, with --jobs 1 and --only "one fit"
LARGE_WORKS = {
    "mnist-500": Search(
        Work((784, 128, 64, 10), 200, 1),
        5,
        np.logspace(-4, -2, 10).tolist(),
        np.logspace(-5, -1, 10).tolist(),
    ),
}


def grid(search: Search, rate: str, penalty: str, shape: str, divisor: int = 1) -> dict[str, Any]:
    """Return the candidates, with a contender's parameter names."""
    candidates: dict[str, Any] = {
        rate: search.rates,
        penalty: [value / divisor for value in search.penalties],
    }
    return candidates | ({shape: search.shapes} if search.shapes else {})


def searches(search: Search, n_jobs: int) -> dict[str, Any]:
    """Return every contender's search, unfitted, by name."""
    work = search.work
    options = {"cv": search.n_splits, "n_jobs": n_jobs, "refit": False, "error_score": "raise"}
    network = {
        "hidden_layer_sizes": work.units[1:-1],
        "batch_size": work.batch_size,
        "max_iter": work.epochs,
        "n_iter_no_change": np.inf,
        "random_state": 0,
    }
    candidates = grid(search, "learning_rate_init", "alpha", "hidden_layer_sizes")
    ours = DeepMLPClassifier(**network, device=work.device)
    net = NeuralNetClassifier(
        dense,
        module__hidden=work.units[1:-1],
        module__n_in=work.units[0],
        module__n_out=work.units[-1],
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        batch_size=work.batch_size,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        device=work.device,
        verbose=0,
    )
    # in our loss, the penalty is divided by the rows of the batch
    theirs = grid(search, "lr", "optimizer__weight_decay", "module__hidden", work.batch_size)
    return {
        "sknn_deep": FusedGridSearchCV(ours, candidates, **options),
        "MLPClassifier": GridSearchCV(MLPClassifier(**network), candidates, **options),
        "DeepMLPClassifier": GridSearchCV(ours, candidates, **options),
        "skorch": GridSearchCV(net, theirs, **options),
    }


CONTENDERS = ["MLPClassifier", "DeepMLPClassifier", "skorch"]  # beside sknn_deep
# On request, the time of a single fit.
ONE_FIT = "one fit"


def dense(n_in: int, hidden: tuple[int, ...], n_out: int) -> torch.nn.Sequential:
    """Return the network as a torch user would write it."""
    return torch_module(Work((n_in, *hidden, n_out), 1, 1))


def judged(search, X: np.ndarray, y: np.ndarray) -> Callable[[], tuple[float, float]]:
    """Return a contender that searches and returns its time and its best score."""

    def measure() -> tuple[float, float]:
        time.sleep(SECONDS_TO_TIDY_UP)
        start = time.perf_counter()
        search.fit(X, y)
        return time.perf_counter() - start, float(search.best_score_)

    return measure


def one_fit(search: Search, X: np.ndarray, y: np.ndarray) -> Callable[[], tuple[float, float]]:
    """Return a contender that fits our network on the first fold, without a score."""
    network = searches(search, n_jobs=1)["sknn_deep"].estimator
    rows, _ = next(StratifiedKFold(search.n_splits).split(X, y))
    seconds = harness.timed(lambda: clone(network).fit(X[rows], y[rows]))
    return lambda: (seconds(), np.nan)


def measure(search: Search, names: list[str], arguments) -> dict[str, dict[str, list]]:
    """Return the seconds and the best score of each contender in each round."""
    search = replace(search, work=replace(search.work, device=arguments.device))
    X, y = search.data()
    runs = {
        name: judged(contender, X, y)
        for name, contender in searches(search, arguments.jobs).items()
        if name in names
    }
    if ONE_FIT in names:
        runs[ONE_FIT] = one_fit(search, X, y)
    with harness.conditions(arguments):
        answers = harness.alternate(runs, arguments.rounds)
    return {
        name: dict(zip(("seconds", "score"), zip(*rounds, strict=True), strict=True))
        for name, rounds in answers.items()
    }


def own_rows() -> dict[str, Callable[[], Callable[[], float]]]:
    """Return for each search a function that prepares its measurement in one process."""

    def prepared(search: Search) -> Callable[[], float]:
        measure = judged(searches(search, n_jobs=1)["sknn_deep"], *search.data())
        return lambda: measure()[0]

    return {name: partial(prepared, search) for name, search in WORKS.items()}


def print_tables(results: dict, names: list[str]) -> None:
    """Print the time of each search, and the score of its best candidate."""
    others = [name for name in names if name != "sknn_deep"]
    times, scores = [], []
    for key, result in results.items():
        seconds = {name: figures["seconds"] for name, figures in result.items()}
        own = harness.duration(seconds["sknn_deep"])
        ratios = [harness.ratio(seconds, name) for name in others]
        search = (WORKS | LARGE_WORKS)[key]
        times.append([str(search), f"{search.work.epochs}", own, *ratios])
        means = [f"{np.mean(result[name]['score']):.4f}" for name in names]
        scores.append([str(search), *means])
    header = ["search", "epochs", "FusedGridSearchCV", *(f"{name} / ours" for name in others)]
    harness.print_table(header, times)
    harness.print_table(["best mean accuracy over the folds", *names], scores)


def main():
    """Time every search and print the ratios."""
    options = harness.parser(__doc__, rounds=5, compares=True)
    known = WORKS | LARGE_WORKS
    options.add_argument(
        "works", nargs="*", help=f"among {list(known)}; default: all but {list(LARGE_WORKS)}"
    )
    options.add_argument("--jobs", type=int, default=2, help="processes for every contender")
    options.add_argument(
        "--only",
        metavar="NAME,...",
        default=",".join(CONTENDERS),
        help=f"contenders beside sknn_deep, also {ONE_FIT!r}; default: %(default)s",
    )
    options.add_argument(
        "--device", default="cpu", help="for all but scikit-learn's classifier; default: cpu"
    )
    arguments = options.parse_args()
    if arguments.compare:
        compare("search", arguments.compare, arguments, only=arguments.works)
        return
    others = [*CONTENDERS, ONE_FIT]
    names = ["sknn_deep"] + [name for name in others if name in arguments.only.split(",")]
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.manual_seed(0)

    results = {work: measure(known[work], names, arguments) for work in arguments.works or WORKS}
    conditions = {"processes": str(arguments.jobs), "busy neighbours": str(arguments.neighbours)}
    harness.print_machine(**conditions)
    print_tables(results, names)
    harness.save(arguments.json, results, **conditions)


if __name__ == "__main__":
    main()
