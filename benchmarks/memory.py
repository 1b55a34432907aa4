"""Memory that a fit takes beyond its data: ``python -m benchmarks.memory``.

With ``--mapped`` the data are a float32 memory map of random numbers in a temporary file, 4 GB or
the given size, and a figure is the peak memory of the whole process.

With ``--columns`` they are random float64 numbers, 0.4 GB or the given size, in an array in C or
Fortran order or in a pandas or polars frame, and the figures are for one epoch of ``fit`` and for
``predict``.

Each fit runs in a fresh process on MNIST as a float32 array of 188 MB. A figure is the peak of
resident memory during ``fit`` minus the resident memory before: copies of the data, batches, the
network. A fit of a few rows comes first, so that modules which libraries load on first use, such as
the compiler that torch's optimisers import, are not counted.

The peak is Linux's ``VmHWM``, reset before the fit through ``/proc/self/clear_refs``;
that of ``getrusage`` would start from the parent's peak.
"""

import argparse
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks import harness, train
from benchmarks.contenders import Work, in_process
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.callbacks import TrainingCheckpoint

WORKS = {
    "classifier": Work((784, 128, 64, 10), 200, 1),
    "autoencoder": Work((784, 128, 64, 32, 64, 128, 784), 200, 1),
    **{name: train.WORKS[name] for name in ("texts", "classes-10000", "targets-500")},
}
EPOCHS = (1, 5)
N_FEW = 400

CLASSES = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}
# Fits of a memory map: the estimator and its parameters.
ON_A_MAP = {
    "classifier": ("classifier", {}),
    "classifier, in order": ("classifier", {"shuffle": False}),
    "classifier, early stopping": ("classifier", {"early_stopping": True, "scoring": "accuracy"}),
    "classifier, checkpoint": ("classifier", {"callbacks": [TrainingCheckpoint("checkpoint")]}),
    "regressor": ("regressor", {}),
    "autoencoder": ("autoencoder", {}),
    "autoencoder, in order": ("autoencoder", {"shuffle": False}),
}
HOLDERS = {
    "C order": lambda columns: np.ascontiguousarray(columns.T),
    "Fortran order": lambda columns: columns.T.copy("F"),
    "pandas": lambda columns: pd.DataFrame(_apart(columns), copy=False),
    "polars": lambda columns: pl.DataFrame(_apart(columns)),
}
SHARED_ON_A_MAP = {"hidden_layer_sizes": (32,), "batch_size": 512, "max_iter": 1, "device": "cpu"}


def resident(field: str) -> float:
    """Return the resident memory of this process in MB: now ("VmRSS") or its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024 / 1e6


def peak_of_fit(name: str, work: Work, folder: Path, n_threads: int) -> float:
    """Return by how many MB a contender's fit raises the memory of this process at its peak."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    # read from a file: reused memory, freed by preparing the data here, would not be counted
    is_sparse = work.numbers_in_a_row is not None
    X = sp.load_npz(folder / "X.npz") if is_sparse else np.load(folder / "X.npy")
    y = np.load(folder / "y.npy")
    contender = in_process(work)[name]
    run, run_on_few = contender(work, X, y), contender(work, X[:N_FEW], y[:N_FEW])
    with harness.limited_threads(n_threads):
        run_on_few()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = resident("VmRSS")
        run()
    return resident("VmHWM") - before


def write_map(path: Path, n_bytes: float, n_features: int, *, is_sparse: bool = False) -> None:
    """Write random numbers in [0, 1) as float32; if sparse, a few rows with file holes between."""
    shape = (int(n_bytes / 4 / n_features), n_features)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    rng, at_once = np.random.default_rng(0), 4096
    for start in range(0, len(X), len(X) // 16 if is_sparse else at_once):
        rows = X[start : start + (16 if is_sparse else at_once)]
        rows[:] = rng.random(rows.shape, dtype=np.float32)


def peaks_on_a_map(case: str, path: Path) -> dict[str, float]:
    """Return the peak resident memory of this process in MB, and the time in seconds.

    Measured ``before`` a map is opened, in an epoch of ``fit``, and while all rows are predicted.
    """
    warnings.simplefilter("ignore", ConvergenceWarning)
    kind, params = ON_A_MAP[case]
    network = CLASSES[kind](**SHARED_ON_A_MAP, random_state=0).set_params(**params)
    X = np.load(path, mmap_mode="r")
    y = np.arange(len(X)) % 10
    found = {"before": resident("VmRSS")}
    for name, run in (
        ("fit", lambda: network.fit(X, y)),
        ("predict", lambda: getattr(network, "transform", getattr(network, "predict", None))(X)),
    ):
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        run()
        found[f"{name}, s"] = time.perf_counter() - start
        found[name] = resident("VmHWM")
    return found


def _apart(columns: np.ndarray) -> dict[str, np.ndarray]:
    """Return columns by name, each in its own memory, as file readers return them."""
    return {f"feature {j}": column.copy() for j, column in enumerate(columns)}


def peaks_of_columns(holder: str, is_ours: bool, n_bytes: float) -> dict[str, float]:
    """Return by how many MB an epoch of ``fit``, and ``predict``, raise this process's memory."""
    warnings.simplefilter("ignore")
    columns = np.random.default_rng(0).random((100, int(n_bytes / 800)))
    X, y = HOLDERS[holder](columns), np.arange(columns.shape[1]) % 2
    few = HOLDERS[holder](columns[:, :N_FEW])
    del columns
    network = (
        DeepMLPClassifier(max_iter=1, random_state=0, device="cpu")
        if is_ours
        else MLPClassifier(max_iter=1, random_state=0)
    )
    network.fit(few, y[:N_FEW]).predict(few)
    found = {}
    for name, run in (("fit", lambda: network.fit(X, y)), ("predict", lambda: network.predict(X))):
        Path("/proc/self/clear_refs").write_text("5")
        before, start = resident("VmRSS"), time.process_time()
        run()
        found[name] = resident("VmHWM") - before
        found[f"{name}, s"] = time.process_time() - start
    return found


def in_fresh_process(function, *arguments):
    """Return the result of a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def main():
    """Measure every fit and print the megabytes."""
    options = harness.parser(__doc__, rounds=3)
    options.add_argument(
        "--mapped",
        type=float,
        nargs="?",
        const=4.0,
        metavar="GB",
        help="measure fits of a memory map of so many gigabytes (default: 4) instead",
    )
    options.add_argument(
        "--columns",
        type=float,
        nargs="?",
        const=0.4,
        metavar="GB",
        help="measure fits of so many gigabytes (default: 0.4) by row and by column instead",
    )
    arguments = options.parse_args()
    if sys.platform != "linux":
        raise SystemExit("The peak is read from /proc, which only Linux has.")
    measure = measure_fits if arguments.mapped is None else measure_fits_on_a_map
    if arguments.columns is not None:
        measure = measure_columns
    with TemporaryDirectory() as folder:
        header, rows, results = measure(Path(folder), arguments)
    harness.print_machine()
    harness.print_table(header, rows)
    harness.save(arguments.json, results)


def measure_fits(folder: Path, arguments: argparse.Namespace):
    """Return the table of the memory of fits beyond their data, and all figures."""
    rows, results, contenders = [], {}, list(in_process(WORKS["classifier"]))
    for kind, work in WORKS.items():
        data = work.data()
        if sp.issparse(data.X):
            sp.save_npz(folder / "X.npz", data.X)
        else:
            np.save(folder / "X.npy", data.X)
        np.save(folder / "y.npy", data.y)
        for n_epochs in EPOCHS:
            task = (replace(work, epochs=n_epochs), folder, arguments.threads)
            peaks = results[f"{kind}, {n_epochs}"] = {
                name: [in_fresh_process(peak_of_fit, name, *task) for _ in range(arguments.rounds)]
                for name in in_process(work)
            }
            cells = [
                f"{np.median(peaks[name]):.0f}" if name in peaks else "–" for name in contenders
            ]
            rows.append([f"{kind}, {work}", f"{n_epochs}", *cells])
    return ["MB beyond the data", "epochs", *contenders], rows, results


def measure_fits_on_a_map(folder: Path, arguments: argparse.Namespace):
    """Return the table of the memory of processes that fit a memory map, and all figures."""
    write_map(folder / "X.npy", arguments.mapped * 1e9, n_features=1024)
    with chdir(folder):  # the checkpoint is written there
        results = {
            case: in_fresh_process(peaks_on_a_map, case, folder / "X.npy") for case in ON_A_MAP
        }
    header = [f"MB at the peak, {arguments.mapped:g} GB mapped", *results["classifier"]]
    rows = [[case, *(f"{value:.0f}" for value in each.values())] for case, each in results.items()]
    return header, rows, results


def measure_columns(folder: Path, arguments: argparse.Namespace):
    """Return the table of memory beyond data in rows and in columns, and all figures."""
    results = {
        f"{holder}, {name}": in_fresh_process(
            peaks_of_columns, holder, name == "ours", arguments.columns * 1e9
        )
        for holder in HOLDERS
        for name in ("ours", "scikit-learn")
    }
    first = next(iter(results.values()))
    header = [f"MB beyond {arguments.columns:g} GB, and CPU seconds", *first]
    rows = [
        [name, *(f"{value:.{2 * key.endswith('s')}f}" for key, value in found.items())]
        for name, found in results.items()
    ]
    return header, rows, results


if __name__ == "__main__":
    main()
