"""How many bytes a search on a Dask cluster of two workers sends, beside those of the data.

    unshare --map-root-user --net sh -c "ip link set lo up; python -m benchmarks.dask_bytes"

Counts the bytes through Linux's loopback device, which no other process may use meanwhile.
"""

import warnings
from pathlib import Path

import joblib
import numpy as np
from distributed import Client

from sknn_deep import DeepMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV


def sent_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    (counts,) = [line.split(":")[1].split() for line in lines if line.strip().startswith("lo:")]
    return int(counts[0])


def main() -> None:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(37_500, 100))
    y = (X[:, 0] > 0).astype(int)
    network = DeepMLPClassifier((32,), max_iter=2, batch_size=500, random_state=0)
    grid = {"alpha": np.logspace(-5, -2, 8).tolist()}
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0"):
        before = sent_bytes()
        with joblib.parallel_config(backend="dask", scatter=[X, y]):
            FusedGridSearchCV(network, grid, cv=3, refit=False).fit(X, y)
        sent = sent_bytes() - before
    print(f"{X.nbytes / 1e6:.0f} MB of data, 24 fits on two workers: {sent / 1e6:.0f} MB sent")


if __name__ == "__main__":
    main()
