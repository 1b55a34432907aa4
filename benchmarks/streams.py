"""Training on data that are read in chunks: ``python -m benchmarks.streams``.

Random float32 numbers, 0.4 GB or the size given by ``--size``, in rows of 100, are written to
Parquet files with row groups of 50,000 rows. A classifier is trained on them, 100-128-64-10 or with
the hidden layers given by ``--units``:

in memory
    ``fit`` on the array.
parquet
    ``fit(*stream_parquet(folder, window=100_000))``: parts and windows shuffled.
chunks
    ``fit(*stream_chunks(...))`` over parts of a file of the same numbers.
partial_fit
    A loop of ``partial_fit`` over the batches of the array.

Each trains in a fresh process. A rate is that of an epoch after the first, in rows per second, the
best of the alternating rounds. A peak is the memory of the whole process, from Linux's ``VmHWM``;
"import" is its memory before the data are loaded.
"""

import sys
import time
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.memory import in_fresh_process
from sknn_deep import DeepMLPClassifier
from sknn_deep.streams import stream_chunks, stream_parquet

N_FEATURES, ROW_GROUP, WINDOW, BATCH_SIZE = 100, 50_000, 100_000, 256
WAYS = ("in memory", "parquet", "chunks", "partial_fit")


def write(folder, gigabytes):
    """Write the rows to Parquet files and to a memory map; return the number of rows."""
    n_groups = max(4, int(gigabytes * 1e9 / (4 * N_FEATURES * ROW_GROUP)))
    n_rows = n_groups * ROW_GROUP
    (folder / "parquet").mkdir()
    names = [f"x{j}" for j in range(N_FEATURES)]
    mapped = np.lib.format.open_memmap(
        folder / "X.npy", mode="w+", dtype=np.float32, shape=(n_rows, N_FEATURES)
    )
    for number in range(n_groups):
        X, y = block(number)
        mapped[number * ROW_GROUP : (number + 1) * ROW_GROUP] = X
        table = pa.table([*X.T.copy(), y], names=[*names, "y"])
        pq.write_table(table, folder / "parquet" / f"{number:05}.parquet", row_group_size=ROW_GROUP)
    mapped.flush()
    return n_rows


def block(number):
    """Return rows and labels of a row group."""
    rng = np.random.default_rng(number)
    X = rng.standard_normal((ROW_GROUP, N_FEATURES), dtype=np.float32)
    return X, X[:, :10].argmax(axis=1)


def arrays(folder):
    """Return all rows and labels in memory."""
    X = np.load(folder / "X.npy")
    return X, X[:, :10].argmax(axis=1)


class Slices:
    """Chunks of the array's file."""

    def __init__(self, folder):
        self._path = folder / "X.npy"

    def __iter__(self):
        mapped = np.load(self._path, mmap_mode="r")
        with open(self._path, "rb") as file:
            file.seek(mapped.offset)
            while len(numbers := np.fromfile(file, np.float32, ROW_GROUP * N_FEATURES)):
                rows = numbers.reshape(-1, N_FEATURES)
                yield rows, rows[:, :10].argmax(axis=1)


def measure(folder, units, way, n_epochs):
    """Train in one way; return the time of an epoch after the first, and two memory peaks."""
    warnings.simplefilter("ignore")
    before = peak()
    classifier = DeepMLPClassifier(
        units, batch_size=BATCH_SIZE, max_iter=n_epochs, n_iter_no_change=np.inf,
        random_state=0, device="cpu",
    )  # fmt: skip
    if way == "partial_fit":
        X, y = arrays(folder)
        seconds = []
        for _ in range(n_epochs):
            start = time.perf_counter()
            for first in range(0, len(X), BATCH_SIZE):
                rows = slice(first, first + BATCH_SIZE)
                classifier.partial_fit(X[rows], y[rows], classes=range(10))
            seconds.append(time.perf_counter() - start)
    else:
        make = {
            "in memory": partial(arrays, folder),
            "parquet": partial(stream_parquet, folder / "parquet", target="y", window=WINDOW),
            "chunks": partial(stream_chunks, Slices(folder), window=WINDOW),
        }[way]
        classifier.fit(*make())
        seconds = classifier.history_[:, "dur"]
    return min(seconds[1:]), before, peak()


def peak():
    """Return the peak memory of the process in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main():
    """Measure every way and print rates and peaks."""
    options = harness.parser(__doc__, rounds=2)
    options.add_argument("--size", type=float, default=0.4, metavar="GB", help="of the array")
    options.add_argument("--units", type=int, nargs="+", default=(128, 64))
    options.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    arguments = options.parse_args()
    if sys.platform != "linux":
        raise SystemExit("The peak is read from /proc, which only Linux has.")
    with TemporaryDirectory() as name:
        folder = Path(name)
        n_rows, units = write(folder, arguments.size), tuple(arguments.units)
        found = {way: [] for way in arguments.ways}
        for _ in range(arguments.rounds):
            for way in arguments.ways:
                n_epochs = 2 if way == "partial_fit" else 4  # it takes many times longer
                found[way].append(in_fresh_process(measure, folder, units, way, n_epochs))
    print(f"{n_rows:,} rows of {N_FEATURES} numbers, {n_rows * N_FEATURES * 4 / 1e6:,.0f} MB")
    print("way            rows/s   of in memory   import MB   peak MB")
    best = {way: min(seconds for seconds, *_ in rounds) for way, rounds in found.items()}
    whole = best.get("in memory", np.nan)
    for way, rounds in found.items():
        _, before, after = (max(column) for column in zip(*rounds, strict=True))
        print(
            f"{way:12} {n_rows / best[way]:8,.0f} {whole / best[way]:14.2f} {before:11,.0f} "
            f"{after:9,.0f}"
        )


if __name__ == "__main__":
    main()
