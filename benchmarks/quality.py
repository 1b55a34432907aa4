"""Quality on real data: ``python -m benchmarks.quality [NAME ...]``.

Trains the recipes of the README and prints their test figures as a Markdown table.

How the recipes came about: MNIST's classifier was picked among twelve by accuracy on
10,000 held-out training images, after an earlier recipe had come close to its bound on the
test set; California housing's regressor among some twenty-five by the error on the
validation rows, with the test error printed beside it. The figures are therefore those of
recipes whose test error had been seen, and may be a little optimistic.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.datasets import fetch_california_housing, fetch_mnist


def plain_classifier():
    """784-128-64-10, ten epochs of plain Adam."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten epochs are what is asked for
        return _mnist_accuracy(DeepMLPClassifier((128, 64), batch_size=128, max_iter=10))


def recipe_classifier():
    """784-128-64-10, twenty epochs: one-cycle, batch normalisation, dropout."""
    classifier = DeepMLPClassifier(
        (128, 64),
        batch_size=64,
        max_iter=20,
        learning_rate="one_cycle",
        learning_rate_init=5e-3,
        normalization="batch",
        dropout=0.2,
    )
    return _mnist_accuracy(classifier)


def autoencoder_32():
    """784-128-64-32-64-128-784, twenty epochs, one-cycle."""
    return _mnist_error(AutoencoderTransformer(32, (128, 64), **_AUTOENCODER))


def autoencoder_2():
    """784-128-32-8-2-8-32-128-784, twenty epochs, one-cycle."""
    return _mnist_error(AutoencoderTransformer(2, (128, 32, 8), **_AUTOENCODER))


def california_housing():
    """8-256-256-256-1, sixty epochs, standard scaling, the published split."""
    housing = fetch_california_housing()
    scaler = StandardScaler().fit(housing.data[housing.train_index])
    X = scaler.transform(housing.data).astype(np.float32)
    train_y = housing.target[housing.train_index]
    y = ((housing.target - train_y.mean()) / train_y.std()).astype(np.float32)
    regressor = DeepMLPRegressor(
        "huber",
        (256, 256, 256),
        huber_delta=0.25,
        batch_size=256,
        max_iter=60,
        learning_rate="one_cycle",
        learning_rate_init=5e-3,
        n_iter_no_change=np.inf,
        random_state=0,
    )
    train, valid, test = (
        getattr(housing, f"{part}_index") for part in ("train", "validation", "test")
    )
    regressor.fit(X[train], y[train], X_val=X[valid], y_val=y[valid])
    error = np.sqrt(np.mean((regressor.predict(X[test]) - y[test]) ** 2)) * train_y.std()
    return "root mean squared error", error, "–"


_AUTOENCODER = {
    "batch_size": 128,
    "max_iter": 20,
    "learning_rate": "one_cycle",
    "learning_rate_init": 3e-3,
    "random_state": 0,
}
RECIPES = [plain_classifier, recipe_classifier, autoencoder_32, autoencoder_2, california_housing]
# What each figure has to reach: accuracies at least, errors at most.
BOUNDS = {
    "plain_classifier": (">=", 0.976),
    "recipe_classifier": (">=", 0.983),
    "autoencoder_32": ("<=", 0.0095),
    "autoencoder_2": ("<=", 0.0385),
    "california_housing": ("<=", 0.50),
}


def _mnist_accuracy(classifier):
    mnist = fetch_mnist()
    classifier.set_params(random_state=0).fit(mnist.X_train, mnist.y_train)
    return "accuracy", classifier.score(mnist.X_test, mnist.y_test), "–"


def _mnist_error(autoencoder):
    mnist = fetch_mnist()
    autoencoder.fit(mnist.X_train)
    pca = PCA(autoencoder.n_components, random_state=0).fit(mnist.X_train)
    reconstruction = pca.inverse_transform(pca.transform(mnist.X_test))
    pca_error = np.mean((reconstruction - mnist.X_test) ** 2)
    error = autoencoder.reconstruction_error(mnist.X_test).mean()
    return "mean squared error", error, f"PCA {pca_error:.5f}"


def main():
    """Train the recipes asked for, print a row for each; fail where one misses its bound."""
    names = [recipe.__name__ for recipe in RECIPES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=str(names))
    chosen = parser.parse_args().names or names
    print("| recipe | test figure | value | bound | for comparison | seconds |")
    print("|---|---|---|---|---|---|")
    missed = []
    for recipe in RECIPES:
        name = recipe.__name__
        if name not in chosen:
            continue
        start = time.perf_counter()
        measure, value, comparison = recipe()
        seconds = f"{time.perf_counter() - start:.0f}"
        sign, bound = BOUNDS[name]
        if not (value >= bound if sign == ">=" else value <= bound):
            missed.append(name)
        what = recipe.__doc__.rstrip(".")
        cells = (what, measure, f"{value:.5f}", f"{sign} {bound}", comparison, seconds)
        print("|", " | ".join(cells), "|", flush=True)
    if missed:
        raise SystemExit(f"missed their bounds: {', '.join(missed)}")


if __name__ == "__main__":
    main()
