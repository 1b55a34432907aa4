"""Outliers by the autoencoder, PyOD's and others: ``python -m benchmarks.outliers``.

The data are of the usual kind for comparing detectors: some classes of a set are ordinary, a few
rows of another are the outliers, and labels are used only to evaluate the scores. A figure is the
mean area under the ROC curve over several draws of the rows and seeds. PyOD's autoencoder is
included, with its defaults, if PyOD is installed. "same layers" is ours with PyOD's layers,
64-32-64; for outliers we recommend a single unit in the middle.
"""

import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from benchmarks import harness
from sknn_deep import AutoencoderTransformer

try:
    from pyod.models.auto_encoder import AutoEncoder
except ImportError:
    AutoEncoder = None


def ours(X: np.ndarray, seed: int, n_components: int = 1, hidden: int = 32) -> np.ndarray:
    """Return outlier scores of our autoencoder, high for outliers like those of the others."""
    X = StandardScaler().fit_transform(X)
    detector = AutoencoderTransformer(
        n_components,
        (hidden,),
        dtype="float32",
        learning_rate="one_cycle",
        learning_rate_init=0.01,
        batch_size=32,
        max_iter=10,
        random_state=seed,
        device="cpu",
    )
    return -detector.fit(X).score_samples(X)


def same_layers(X: np.ndarray, seed: int) -> np.ndarray:
    """Return outlier scores of our autoencoder with PyOD's layers."""
    return ours(X, seed, n_components=32, hidden=64)


def pyods(X: np.ndarray, seed: int) -> np.ndarray:
    """Return outlier scores of PyOD's autoencoder, with its defaults."""
    detector = AutoEncoder(random_state=seed, verbose=0, device="cpu")
    return detector.fit(X).decision_scores_


def forests(X: np.ndarray, seed: int) -> np.ndarray:
    """Return outlier scores of an isolation forest."""
    return -IsolationForest(random_state=seed).fit(X).score_samples(X)


def neighbours(X: np.ndarray, seed: int) -> np.ndarray:
    """Return outlier scores of the local outlier factor."""
    X = StandardScaler().fit_transform(X)
    return -LocalOutlierFactor().fit(X).negative_outlier_factor_


def sets(seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, rows and outlier mask of data sets commonly used to compare detectors."""
    rng = np.random.RandomState(seed)
    cancer, digits, wine = (
        datasets.load_breast_cancer(),
        datasets.load_digits(),
        datasets.load_wine(),
    )
    for name, X, is_outlier, n_outliers in (
        ("breast cancer", cancer.data, cancer.target == 0, 21),
        ("digits, 0 among others", digits.data, digits.target == 0, 50),
        ("digits, 4 among others", digits.data, digits.target == 4, 50),
        ("wine", wine.data, wine.target == 0, 10),
    ):
        chosen = rng.permutation(np.flatnonzero(is_outlier))[:n_outliers]
        rows = np.concatenate([np.flatnonzero(~is_outlier), chosen])
        yield name, X[rows], is_outlier[rows]
    # normal clusters, and rows drawn uniformly around them, as from PyOD's generator
    ordinary = rng.normal(size=(900, 20)) @ rng.normal(size=(20, 20)) / 4 + 2
    yield "generated", np.vstack([ordinary, rng.uniform(-6, 10, (100, 20))]), np.arange(1000) >= 900


def main():
    """Print the areas and the times."""
    arguments = harness.parser(__doc__, rounds=10).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    contenders: dict[str, Callable] = {"sknn_deep": ours, "same layers": same_layers, "PyOD": pyods}
    contenders |= {"isolation forest": forests, "local outlier factor": neighbours}
    if AutoEncoder is None:
        del contenders["PyOD"]
    areas: dict[str, dict[str, list[float]]] = {}
    seconds = dict.fromkeys(contenders, 0.0)
    with harness.limited_threads(arguments.threads):
        for seed in range(arguments.rounds):
            for name, X, is_outlier in sets(seed):
                for contender, scores in contenders.items():
                    start = time.perf_counter()
                    area = roc_auc_score(is_outlier, scores(X, seed))
                    seconds[contender] += time.perf_counter() - start
                    areas.setdefault(name, {}).setdefault(contender, []).append(area)
        harness.print_machine()
    rows = [
        [name, *(f"{np.mean(of[c]):.3f} ± {np.std(of[c]):.3f}" for c in contenders)]
        for name, of in areas.items()
    ]
    rows.append(["seconds in all", *(f"{seconds[c]:.1f}" for c in contenders)])
    harness.print_table(["area under the ROC curve", *contenders], rows)
    harness.save(arguments.json, areas)


if __name__ == "__main__":
    main()
