"""Accuracy with ``dtype="bfloat16"`` beside float32: ``python -m benchmarks.bfloat16 [NAME ...]``.

Both types train the same networks from the same weights on the same rows in the same order, once
for each seed, and the figure is measured on the test rows. A difference within two of its standard
errors is within the variation between seeds. All networks have layers that are rounded; their times
are in ``benchmarks.train``.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from benchmarks import harness
from benchmarks.tables import load
from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPRegressor,
)
from sknn_deep.datasets import fetch_california_housing, fetch_mnist


class Task(NamedTuple):
    """An estimator, its rows, and how it is scored."""

    network: str
    measure: str
    estimator: Any
    train: tuple
    test: tuple
    score: Callable[[Any, tuple], float]


def accuracy(fitted: Any, test: tuple) -> float:
    """Return the share of rows that are classified correctly."""
    return float(fitted.score(*test))


def root_mean_squared_error(fitted: Any, test: tuple) -> float:
    """Return a regressor's error."""
    X, y = test
    return float(np.sqrt(np.mean((fitted.predict(X) - y) ** 2)))


def mean_squared_error(fitted: Any, test: tuple) -> float:
    """Return the error of an autoencoder's reconstruction."""
    (X,) = test
    return float(np.mean((fitted.inverse_transform(fitted.transform(X)) - X) ** 2))


def mnist() -> Task:
    """5,000 images, 784-128-64-10, 15 epochs with batches of 200."""
    data = fetch_mnist()
    estimator = DeepMLPClassifier((128, 64), batch_size=200, max_iter=15)
    train = data.X_train[:5000].astype(np.float32), data.y_train[:5000]
    test = data.X_test.astype(np.float32), data.y_test
    return Task("784-128-64-10", "test accuracy", estimator, train, test, accuracy)


def wide() -> Task:
    """5,000 images, 784-512-512-10, 15 epochs with batches of 1,000: activations stay rounded."""
    task = mnist()
    estimator = DeepMLPClassifier((512, 512), batch_size=1000, max_iter=15)
    return task._replace(network="784-512-512-10", estimator=estimator)


def digits() -> Task:
    """1,347 images of 8 × 8 pixels, 64-256-256-10 with batch normalisation and dropout."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, *labels = train_test_split(
        (X / 16).astype(np.float32), y, random_state=0, stratify=y
    )
    estimator = DeepMLPClassifier(
        (256, 256), batch_size=200, max_iter=30, normalization="batch", dropout=0.2
    )
    train, test = (X_train, labels[0]), (X_test, labels[1])
    return Task("64-256-256-10", "test accuracy", estimator, train, test, accuracy)


def california() -> Task:
    """The published split, standardised, 8-256-256-1, 15 epochs with batches of 256."""
    housing = fetch_california_housing()
    rows = housing.train_index
    X = housing.data.astype(np.float32)
    X = (X - X[rows].mean(axis=0)) / X[rows].std(axis=0)
    y = housing.target.astype(np.float32)
    estimator = DeepMLPRegressor("squared_error", (256, 256), batch_size=256, max_iter=15)
    train, test = ((X[i], y[i]) for i in (rows, housing.test_index))
    return Task("8-256-256-1", "test RMSE", estimator, train, test, root_mean_squared_error)


def wine() -> Task:
    """Wine quality with the defaults of the tabular regressor, but one network and 20 epochs."""
    table = load("wine")
    estimator = TabularMLPRegressor(n_networks=1, max_iter=20)
    train, test = table.part(table.train), table.part(table.test)
    return Task("tabular", "test RMSE", estimator, train, test, root_mean_squared_error)


def autoencoder() -> Task:
    """5,000 images, 784-128-64-32 and back, 10 epochs with batches of 256."""
    data = fetch_mnist()
    estimator = AutoencoderTransformer(32, (128, 64), batch_size=256, max_iter=10)
    train = (data.X_train[:5000].astype(np.float32),)
    test = (data.X_test.astype(np.float32),)
    measure = "test mean squared error"
    return Task("784-128-64-32 and back", measure, estimator, train, test, mean_squared_error)


TASKS = {task.__name__: task for task in (mnist, wide, digits, california, wine, autoencoder)}
DTYPES = ("float32", "bfloat16")


def figures(task: Task, seed: int) -> list[float]:
    """Return the test figure of each type."""
    results = []
    for dtype in DTYPES:
        fitted = task.estimator.set_params(dtype=dtype, device="cpu", random_state=seed)
        results.append(task.score(fitted.fit(*task.train), task.test))
    return results


def row(make: Callable[[], Task], n_seeds: int) -> tuple[list[str], list]:
    """Return the cells of a task, and its figures for each seed."""
    task, start = make(), time.perf_counter()
    results = np.array([figures(task, seed) for seed in range(n_seeds)])
    difference = results[:, 1] - results[:, 0]
    error = difference.std(ddof=1) / np.sqrt(n_seeds)
    means = [f"{own.mean():.5f} ± {own.std(ddof=1):.5f}" for own in results.T]
    cells = [make.__name__, task.network, task.measure, *means]
    cells += [f"{difference.mean():+.5f} ± {error:.5f}", f"{time.perf_counter() - start:.0f}"]
    return cells, results.tolist()


def main():
    """Train every task with all seeds and print a row for each."""
    options = harness.parser(__doc__, rounds=20)
    options.add_argument("tasks", nargs="*", help=f"among {list(TASKS)}; default: all")
    arguments = options.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    with harness.limited_threads(arguments.threads):
        rows = {name: row(TASKS[name], arguments.rounds) for name in arguments.tasks or TASKS}
    harness.print_machine()
    header = ["data", "network", "measure", *DTYPES, "difference ± standard error", "seconds"]
    harness.print_table(header, [cells for cells, _ in rows.values()])
    harness.save(arguments.json, {name: results for name, (_, results) in rows.items()})


if __name__ == "__main__":
    main()
