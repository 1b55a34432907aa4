"""Tables of numbers, categories and gaps: ``python -m benchmarks.tables [--tables NAME,...]``.

Prints for each table how well each contender predicts, as mean and standard deviation over seeds,
and the time of a fit in seconds: wall-clock time, and CPU time, which depends less on other
processes. With ``OMP_NUM_THREADS=1``, CPU times are those of a fit on one thread. The data are read
from the folder given by ``SKNN_DEEP_DATA``: ``california_housing.csv.gz``, and the others in
``tables/``.

Every contender trains on the same rows. Validation rows are used only to stop training and to
select networks, never to train on. HistGradientBoosting and scikit-learn's MLP do not see them, and
hold out training rows by their own rules. Published splits are used unchanged; otherwise a fifth of
the rows is the test set, and a fifth of the rest the validation set.

``--validation`` prints figures on the validation rows, which favour contenders that use them for
early stopping. Choose parameters by these, and look at the test rows only once. ``--folds 5``
cross-validates on the rows outside the test set, with one seed: each fold serves as the test set
once, and a fifth of the other rows is the validation set. A few unusual rows of a small test set
have less influence there.

LightGBM, XGBoost and pytabkit's RealMLP are left out if they are not installed. RealMLP and
scikit-learn's MLP do not accept missing numbers and get the median instead.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from benchmarks.harness import print_machine, print_table
from sknn_deep.datasets import fetch_california_housing

# File and target of each table beside California housing.
FILES = {
    "adult": ("adult", "income"),
    "bank": ("talent_bank", "target"),
    "cpu_act": ("talent_cpu_act", "target"),
    "diamonds": ("diamonds", "price"),
    "ames": ("ames_housing", "SalePrice"),
    "telco": ("telco_churn", "Churn"),
    "wine": ("wine_quality", "quality"),
    "covertype": ("covertype_sample", "Cover_Type"),
}
REGRESSIONS = {"california", "cpu_act", "diamonds", "ames", "wine"}
# Ranks count how many of these are better: our variants are not ranked against each other.
RIVALS = ("HistGradientBoosting", "LightGBM", "XGBoost", "RealMLP-TD-S")
# Boosting stops after this many trees without improvement, long before the maximum.
BOOSTING = {"n_estimators": 10_000, "learning_rate": 0.05}
PATIENCE = 100


@dataclass(frozen=True)
class Table:
    """Rows with targets or classes 0, 1, ..., and the training, validation and test rows."""

    X: pd.DataFrame
    y: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    is_regression: bool

    def part(self, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        """Return some rows and their targets."""
        return self.X.iloc[rows].reset_index(drop=True), self.y[rows]

    def estimator(self, module: str, prefix: str) -> Any:
        """Return the regressor or classifier class with a name prefix, such as MLPRegressor."""
        kind = "Regressor" if self.is_regression else "Classifier"
        return getattr(import_module(module), prefix + kind)

    def figure(self, model: Any, rows: np.ndarray) -> float:
        """Return the root mean squared error of a model, or its accuracy."""
        X, y = self.part(rows)
        predicted = np.ravel(model.predict(X))
        if self.is_regression:
            return float(np.sqrt(np.mean((predicted - y) ** 2)))
        return float(np.mean(predicted == y))


def load(name: str) -> Table:
    """Return a table with its published split, or else a random one."""
    if name == "california":
        housing = fetch_california_housing()
        X = pd.DataFrame(housing.data, columns=housing.feature_names)
        rows = housing.train_index, housing.validation_index, housing.test_index
        return Table(X, housing.target, *rows, is_regression=True)
    file, target = FILES[name]
    path = Path(os.environ["SKNN_DEEP_DATA"], "tables", f"{file}.csv.gz")
    X = pd.read_csv(path, na_values="?" if name == "adult" else None)
    y, part = X.pop(target), X.pop("part") if "part" in X else None
    if name == "telco":  # text, with blanks for new customers
        X["TotalCharges"] = pd.to_numeric(X["TotalCharges"], errors="coerce")
    for column in X.columns[~X.dtypes.map(pd.api.types.is_numeric_dtype)]:
        X[column] = X[column].astype("category")
    is_regression = name in REGRESSIONS
    targets = y.to_numpy(np.float64) if is_regression else pd.factorize(y, sort=True)[0]
    return Table(X, targets, *_split(len(X), part), is_regression=is_regression)


def _split(n_rows: int, part: pd.Series | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training, validation and test rows."""
    if part is None:
        train, test = train_test_split(np.arange(n_rows), test_size=0.2, random_state=0)
    else:
        train, val, test = (np.flatnonzero(part == kind) for kind in ("train", "val", "test"))
        if len(val):
            return train, val, test
    train, validation = train_test_split(train, test_size=0.2, random_state=1)
    return train, validation, test


def tabular(table: Table, seed: int, **params: Any) -> Any:
    """Return our fitted estimator, with its defaults except for some parameters."""
    model = table.estimator("sknn_deep", "TabularMLP")(random_state=seed, **params)
    X_val, y_val = table.part(table.validation)
    return model.fit(*table.part(table.train), X_val=X_val, y_val=y_val)


def hist_gradient_boosting(table: Table, seed: int) -> Any:
    """Return scikit-learn's boosted trees, fitted with their defaults."""
    model = table.estimator("sklearn.ensemble", "HistGradientBoosting")(random_state=seed)
    return model.fit(*table.part(table.train))


def scikit_learn_mlp(table: Table, seed: int) -> Any:
    """Return scikit-learn's network, fitted with its defaults in the usual pipeline."""
    X, y = table.part(table.train)
    numbers, categories = list(X.select_dtypes("number")), list(X.select_dtypes("category"))
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), categories),
    )
    mlp = table.estimator("sklearn.neural_network", "MLP")(random_state=seed)
    if table.is_regression:
        mlp = TransformedTargetRegressor(mlp, transformer=StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are the default
        return make_pipeline(columns, mlp).fit(X, y)


def lightgbm(table: Table, seed: int) -> Any:
    """Return LightGBM's trees, with early stopping on the validation rows."""
    model = table.estimator("lightgbm", "LGBM")(**BOOSTING, random_state=seed, verbose=-1)
    stop = import_module("lightgbm").early_stopping(PATIENCE, verbose=False)
    X_val, y_val = table.part(table.validation)
    return model.fit(*table.part(table.train), eval_X=X_val, eval_y=y_val, callbacks=[stop])


def xgboost(table: Table, seed: int) -> Any:
    """Return XGBoost's trees, with early stopping on the validation rows."""
    options = {"early_stopping_rounds": PATIENCE, "enable_categorical": True}
    model = table.estimator("xgboost", "XGB")(**BOOSTING, **options, random_state=seed)
    validation = [table.part(table.validation)]
    return model.fit(*table.part(table.train), eval_set=validation, verbose=False)


def real_mlp(table: Table, seed: int, variant: str) -> Any:
    """Return a variant of pytabkit's RealMLP, fitted with its defaults."""
    (X, y), (X_val, y_val) = table.part(table.train), table.part(table.validation)
    fill = FunctionTransformer(pd.DataFrame.fillna, kw_args={"value": X.median(numeric_only=True)})
    model = table.estimator("pytabkit", f"RealMLP_{variant}_")(device="cpu", random_state=seed)
    model.fit(fill.transform(X), y, X_val=fill.transform(X_val), y_val=y_val)
    return make_pipeline(fill, model)


Contender = Callable[[Table, int], Any]


def contenders(
    n_candidates: int, n_jobs: int | None = None, max_time: float | None = None
) -> dict[str, Contender]:
    """Return the contenders whose packages are installed, by name."""
    ours = partial(tabular, n_jobs=n_jobs)
    found: dict[str, Contender] = {
        "TabularMLP": ours,
        "networks of one kind": partial(ours, varied_networks=False),
        "one network": partial(tabular, n_networks=1),
        "one network for 10 epochs": partial(tabular, n_networks=1, max_iter=10),
    }
    if n_candidates > 1:
        found[f"{n_candidates} candidates"] = partial(
            ours, n_candidates=n_candidates, max_time=max_time
        )
    found["HistGradientBoosting"] = hist_gradient_boosting
    found["scikit-learn's MLP"] = scikit_learn_mlp
    if find_spec("lightgbm"):
        found["LightGBM"] = lightgbm
    if find_spec("xgboost"):
        found["XGBoost"] = xgboost
    if find_spec("pytabkit"):
        found["RealMLP-TD"] = partial(real_mlp, variant="TD")
        found["RealMLP-TD-S"] = partial(real_mlp, variant="TD_S")
    return found


def folds(table: Table, n_folds: int) -> list[Table]:
    """Return a table for each fold of the non-test rows, with that fold as test rows."""
    rows = np.sort(np.concatenate([table.train, table.validation]))
    found = []
    for rest, fold in KFold(n_folds, shuffle=True, random_state=0).split(rows):
        train, validation = train_test_split(rows[rest], test_size=0.2, random_state=1)
        found.append(replace(table, train=train, validation=validation, test=rows[fold]))
    return found


def measure(contender: Contender, runs: list[tuple[Table, int]], part: str) -> np.ndarray:
    """Return the figure, and wall-clock and CPU seconds of a fit, shape (n_runs, 3).

    Parameters
    ----------
    contender : callable
    runs : list of (Table, int)
        Each with its seed.
    part : {"validation", "test"}
        The rows on which the figure is computed.
    """
    measured = []
    for table, seed in runs:
        start, work = time.perf_counter(), time.process_time()
        model = contender(table, seed)
        seconds, work = time.perf_counter() - start, time.process_time() - work
        measured.append((table.figure(model, getattr(table, part)), seconds, work))
    return np.array(measured)


def ranks(figures: dict[str, float], *, is_error: bool) -> dict[str, int]:
    """Return for each contender one plus the number of rivals that are better."""
    sign = 1 if is_error else -1
    errors = {name: sign * figure for name, figure in figures.items()}
    rivals = [errors[name] for name in RIVALS if name in errors]
    return {name: 1 + sum(rival < own for rival in rivals) for name, own in errors.items()}


def main() -> None:
    """Print the figures of each requested table, then the mean ranks."""
    names = ["california", *FILES]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", default=",".join(names), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5, help="fits of each contender")
    parser.add_argument("--candidates", type=int, default=64, help="1 leaves that contender out")
    parser.add_argument("--max-time", type=float, help="seconds after which no more are drawn")
    parser.add_argument("--jobs", type=int, help="processes that train networks of ours")
    parser.add_argument("--only", help="contenders, as they are printed; default: all")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--validation", action="store_true", help="figures of validation rows")
    rows.add_argument("--folds", type=int, help="cross-validate on rows that are not test rows")
    options = parser.parse_args()
    chosen = options.tables.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"--tables has {sorted(unknown)}; choose from {names}.")
    if options.folds is not None and options.folds < 2:
        parser.error(f"--folds is {options.folds}; give at least 2.")
    part = "validation" if options.validation else "test"
    print_machine(rows=f"{options.folds} folds" if options.folds else part)
    found = contenders(options.candidates, options.jobs, options.max_time)
    if options.only:
        wanted = options.only.split(",")
        if absent := set(wanted) - set(found):
            parser.error(f"--only has {sorted(absent)}; choose from {sorted(found)}.")
        found = {contender: found[contender] for contender in wanted}
    all_ranks: dict[str, list[int]] = {contender: [] for contender in found}
    for name in chosen:
        table = load(name)
        runs = [(table, seed) for seed in range(options.seeds)]
        if options.folds:
            runs = [(fold, 0) for fold in folds(table, options.folds)]
        kind = "RMSE" if table.is_regression else "accuracy"
        lines, means = [], {}
        for contender, fit in found.items():
            figures, seconds, work = measure(fit, runs, part).T
            means[contender] = figures.mean()
            # CPU time of other processes is not counted
            is_known = not options.jobs or getattr(fit, "func", None) is not tabular
            times = f"{seconds.mean():.1f}", f"{work.mean():.1f}" if is_known else "–"
            lines.append([contender, f"{figures.mean():.5g}", f"{figures.std():.2g}", *times])
        columns = f"{name}, {len(table.train):,} rows", kind, "deviation", "seconds", "processor's"
        print_table(list(columns), lines)
        for contender, rank in ranks(means, is_error=table.is_regression).items():
            all_ranks[contender].append(rank)
    mean_ranks = [[name, f"{np.mean(each):.2f}"] for name, each in all_ranks.items()]
    print_table([f"among {', '.join(RIVALS)}", "mean rank"], mean_ranks)


if __name__ == "__main__":
    main()
