"""Predicted distributions of five tables: ``python -m benchmarks.uncertainty [--sets NAME,...]``.

Prints for each table the negative log-likelihood of the targets under the normal distributions that
a network predicts, its root mean squared error, and the share of targets inside its 90 % intervals:
mean and standard error over the published splits into training and test rows, and the CPU seconds
of a fit. For comparison, it prints the published figures of deep ensembles [1]_ on the same splits,
also of five networks with 50 hidden units.

The data are read from ``uci_splits/`` in the folder given by ``SKNN_DEEP_DATA``.

``--validation`` holds out a tenth of the training rows of each split and prints the figures on
these. Choose parameters by them, and look at the test rows only once.

References
----------
.. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
   uncertainty estimation using deep ensembles. NeurIPS, table 1.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import train_test_split

from benchmarks.harness import print_machine, print_table
from sknn_deep import TabularMLPRegressor

# Negative log-likelihood and root mean squared error of deep ensembles.
PUBLISHED = {
    "concrete": (3.06, 6.03),
    "energy": (1.38, 2.09),
    "kin8nm": (-1.20, 0.09),
    "power-plant": (2.79, 4.11),
    "yacht": (1.18, 1.58),
}
N_SPLITS = 20
COVERAGE = 0.9
# Chosen on validation rows of the first splits; one recipe for all tables.
RECIPE = {
    "loss": "normal",
    "hidden_layer_sizes": (64, 64),
    "solver": "adam",
    "learning_rate_init": 0.01,
    "max_iter": 100,
    "n_iter_no_change": np.inf,
    "validation_fraction": 0.1,
    "dropout": 0.0,
    "n_bins": 16,
    "numeric_embedding_size": 8,
    "embedding_weight_decay": 0.0,
    "n_networks": 5,
    "varied_networks": False,
}


class Figures(NamedTuple):
    """The results of one split."""

    loss: float
    error: float
    coverage: float
    seconds: float


class Splits(NamedTuple):
    """A table, and for each row a bit mask of the splits in which it is a test row."""

    X: np.ndarray
    y: np.ndarray
    tested_in: np.ndarray

    def rows(self, number: int, *, validation: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the training rows and the rows for evaluation."""
        is_test = (self.tested_in >> number & 1).astype(bool)
        train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        if validation:
            train, test = train_test_split(train, test_size=0.1, random_state=number)
        return train, test


def load(name: str) -> Splits:
    """Return a table from the data folder."""
    path = Path(os.environ["SKNN_DEEP_DATA"], "uci_splits", f"{name}.csv.gz")
    frame = pd.read_csv(path)
    y, tested_in = frame.pop("target"), frame.pop("test_in_splits")
    return Splits(frame.to_numpy(np.float64), y.to_numpy(np.float64), tested_in.to_numpy())


def measure(table: Splits, number: int, *, validation: bool) -> Figures:
    """Fit to the training rows of a split, and evaluate on the others."""
    train, rest = table.rows(number, validation=validation)
    start = time.process_time()
    model = TabularMLPRegressor(**RECIPE, random_state=number).fit(table.X[train], table.y[train])
    seconds = time.process_time() - start
    X, y = table.X[rest], table.y[rest]
    mean, std = (part.astype(np.float64) for part in model.predict(X, return_std=True))
    low, high = model.predict_interval(X, COVERAGE).T
    return Figures(
        -stats.norm.logpdf(y, mean, std).mean(),
        np.sqrt(np.mean((y - mean) ** 2)),
        np.mean((low <= y) & (y <= high)),
        seconds,
    )


def main() -> None:
    """Print a line for each requested table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(PUBLISHED), help="default: %(default)s")
    parser.add_argument("--splits", type=int, default=N_SPLITS, help="how many of the 20")
    parser.add_argument("--validation", action="store_true", help="figures of validation rows")
    options = parser.parse_args()
    names = options.sets.split(",")
    if unknown := set(names) - set(PUBLISHED):
        parser.error(f"--sets has {sorted(unknown)}; choose from {list(PUBLISHED)}.")
    print_machine(rows="validation" if options.validation else "test")
    lines = []
    for name in names:
        table = load(name)
        of_splits = np.array(
            [measure(table, k, validation=options.validation) for k in range(options.splits)]
        )
        loss, error, coverage, seconds = of_splits.mean(axis=0)
        spread = of_splits.std(axis=0) / np.sqrt(options.splits)
        loss_before, error_before = PUBLISHED[name]
        lines.append(
            [
                name,
                f"{loss:.2f} ± {spread[0]:.2f}",
                f"{loss_before:.2f}",
                f"{error:.3g} ± {spread[1]:.2g}",
                f"{error_before:.3g}",
                f"{coverage:.1%}",
                f"{seconds:.1f}",
            ]
        )
        print(lines[-1], flush=True)
    header = ["table", "negative log-likelihood", "deep ensembles", "RMSE", "deep ensembles"]
    print_table([*header, f"in intervals of {COVERAGE:.0%}", "seconds of a fit"], lines)


if __name__ == "__main__":
    main()
