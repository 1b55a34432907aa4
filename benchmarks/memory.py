"""Memory that a fit takes beyond its data: ``python -m benchmarks.memory``.

Each fit runs in a fresh process on MNIST as a float32 array of 188 MB. A figure is the peak of
resident memory during ``fit`` less what was resident before: copies of the data, batches, the
network. Before stands a fit of a few rows, so that what libraries load at their first use is
not counted, such as the compiler that torch's optimisers import.

The peak is Linux's ``VmHWM``, reset before the fit through ``/proc/self/clear_refs``;
``getrusage``'s would start from the parent's.
"""

import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness
from benchmarks.contenders import Work, in_process

WORKS = {
    "classifier": Work((784, 128, 64, 10), 200, 1),
    "autoencoder": Work((784, 128, 64, 32, 64, 128, 784), 200, 1),
}
EPOCHS = (1, 5)
N_FEW = 400


def resident(field: str) -> float:
    """Return the resident memory of this process in MB: now ("VmRSS") or its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024 / 1e6


def peak_of_fit(name: str, work: Work, folder: Path, n_threads: int) -> float:
    """Return by how many MB a contender's fit raises the memory of this process at its peak."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    # read as they are: memory that preparing them had freed would be used again, unseen
    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    contender = in_process(work)[name]
    run, run_on_few = contender(work, X, y), contender(work, X[:N_FEW], y[:N_FEW])
    with harness.limited_threads(n_threads):
        run_on_few()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = resident("VmRSS")
        run()
    return resident("VmHWM") - before


def in_fresh_process(function, *arguments):
    """Return what a function answers in a process of its own, which imports anew."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def main():
    """Measure every fit and print the megabytes."""
    arguments = harness.parser(__doc__, rounds=3).parse_args()
    if sys.platform != "linux":
        raise SystemExit("The peak is read from /proc, which only Linux has.")
    rows, results = [], {}
    with TemporaryDirectory() as folder:
        for kind, work in WORKS.items():
            data = work.data()
            np.save(Path(folder, "X.npy"), data.X)
            np.save(Path(folder, "y.npy"), data.y)
            for n_epochs in EPOCHS:
                task = (replace(work, epochs=n_epochs), Path(folder), arguments.threads)
                peaks = results[f"{kind}, {n_epochs}"] = {
                    name: [
                        in_fresh_process(peak_of_fit, name, *task) for _ in range(arguments.rounds)
                    ]
                    for name in in_process(work)
                }
                cells = [f"{np.median(megabytes):.0f}" for megabytes in peaks.values()]
                rows.append([f"{kind}, {work}", f"{n_epochs}", *cells])
    harness.print_machine()
    header = ["MB beyond the data", "epochs", *in_process(WORKS["classifier"])]
    harness.print_table(header, rows)
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
