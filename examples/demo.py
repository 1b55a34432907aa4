"""The main job: classify handwritten digits, compress them, and show what came out.

Trains a classifier, an autoencoder with a code of two numbers and one with a larger code, prints a
table of their results on images that no choice was made on, and draws four pictures.

    python examples/demo.py --data digits --output demo

`digits` are the 1,797 images of 8 by 8 pixels that scikit-learn contains; `mnist` are the
70,000 of 28 by 28 pixels (see `sknn_deep.datasets.fetch_mnist`).
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.base import BaseEstimator
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, summary
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import EmbeddingDisplay, LossCurveDisplay, ReconstructionDisplay

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

SEED = 0
MAX_TSNE_IMAGES = 3000  # t-SNE's time grows faster than their number
STYLE = {
    "figure.constrained_layout.use": True,
    "savefig.bbox": "tight",
    "savefig.dpi": 160,
    "savefig.pad_inches": 0.15,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
}

# Chosen on training images. All schedules are one-cycle: `learning_rate_init` is the peak, and the
# number of epochs is part of the recipe, so that patience never ends a fit early.
RECIPES = {
    "digits": {
        "classifier": {
            "hidden_layer_sizes": (128, 64),
            "normalization": "batch",
            "dropout": 0.2,
            "learning_rate_init": 1e-2,
            "batch_size": 64,
            "max_iter": 60,
            "scoring": "loss",  # of few validation images, finer than their accuracy
        },
        "small_code": {
            "hidden_layer_sizes": (64, 32, 8),
            "n_components": 2,
            "activation": "tanh",
            "learning_rate_init": 1e-2,
            "batch_size": 64,
            "max_iter": 150,
        },
        "large_code": {
            "hidden_layer_sizes": (64, 32),
            "n_components": 8,
            "activation": "silu",
            "learning_rate_init": 5e-3,
            "batch_size": 64,
            "max_iter": 150,
        },
    },
    "mnist": {
        "classifier": {
            "hidden_layer_sizes": (128, 64),
            "learning_rate_init": 5e-3,
            "batch_size": 2048,
            "max_iter": 100,
        },
        "small_code": {
            "hidden_layer_sizes": (128, 32, 8),
            "n_components": 2,
            "learning_rate_init": 3e-3,
            "batch_size": 256,
            "max_iter": 20,
        },
        "large_code": {
            "hidden_layer_sizes": (128, 64),
            "n_components": 32,
            "learning_rate_init": 3e-3,
            "batch_size": 256,
            "max_iter": 20,
        },
    },
}


@dataclass
class Images:
    """Images as rows of pixels from 0 to 1, in three parts; choices are made on the first two."""

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclass
class Result:
    """A fitted network with what it took, and for an autoencoder the PCA of the same dimension."""

    estimator: BaseEstimator
    seconds: float
    pca: PCA | None = None


def main():
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    images = load_images(arguments.data)
    results = train_networks(images, console)
    console.print(results_table(images, *results))
    console.print("MSE: mean squared error of a reconstruction, per pixel", style="dim")
    with plt.rc_context(STYLE):
        draw_pictures(images, *results, arguments.output, console)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=sorted(RECIPES), default="digits")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the pictures")
    return parser.parse_args()


def load_images(name):
    """Return a data set in three parts: MNIST's own test images, or 30 % of the digits."""
    if name == "mnist":
        mnist = fetch_mnist()
        X, y, X_test, y_test = mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
    else:
        X, y = load_digits(return_X_y=True)
        X = (X / 16).astype(np.float32)
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=SEED)
    X_train, X_val, y_train, y_val = train_test_split(
        X, y, test_size=0.1, stratify=y, random_state=SEED
    )
    return Images(name, X_train, y_train, X_val, y_val, X_test, y_test)


def train_networks(images, console):
    """Return the results of the classifier and of the two autoencoders."""
    recipes = RECIPES[images.name]
    classifier = train(
        DeepMLPClassifier(**recipes["classifier"]),
        console,
        (images.X_train, images.y_train),
        X_val=images.X_val,
        y_val=images.y_val,
    )
    autoencoders = []
    for code in ("small_code", "large_code"):
        autoencoder = AutoencoderTransformer(**recipes[code])
        result = train(autoencoder, console, (images.X_train,), X_val=images.X_val)
        result.pca = PCA(autoencoder.n_components, random_state=SEED).fit(images.X_train)
        autoencoders.append(result)
    return classifier, *autoencoders


def train(estimator, console, data, **validation_data):
    """Fit an estimator for its whole schedule, with a progress bar, and time it."""
    estimator.set_params(
        learning_rate="one_cycle", n_iter_no_change=estimator.max_iter, random_state=SEED
    )
    estimator.set_callbacks(ProgressBar())
    console.print(f"{describe(estimator, data[0])}, {estimator.max_iter} epochs", style="bold")
    start = time.perf_counter()
    estimator.fit(*data, **validation_data)
    return Result(estimator, time.perf_counter() - start)


def describe(estimator, X):
    """Return what a network is and the units of its layers, from the input to output or code."""
    if isinstance(estimator, AutoencoderTransformer):
        kind, n_outputs = "autoencoder", estimator.n_components
    else:
        kind, n_outputs = "classifier", 10
    units = [X.shape[1], *estimator.hidden_layer_sizes, n_outputs]
    return f"{kind} {'-'.join(map(str, units))}"


def results_table(images, classifier, *autoencoders):
    """Return the figures on the test images as a table to print."""
    table = Table(
        title=f"{images.name}: {len(images.X_test):,} test images",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("network", no_wrap=True)
    for heading in ("parameters", "seconds", "accuracy", "MSE", "PCA MSE"):
        table.add_column(heading, justify="right")
    accuracy = classifier.estimator.score(images.X_test, images.y_test)
    table.add_row(*_first_cells(images, classifier), f"{accuracy:.2%}", "", "")
    for result in autoencoders:
        error = result.estimator.reconstruction_error(images.X_test).mean()
        pca_error = mean_squared_errors(result.pca, images.X_test).mean()
        table.add_row(*_first_cells(images, result), "", f"{error:.5f}", f"{pca_error:.5f}")
    return table


def _first_cells(images, result):
    n_parameters = summary(result.estimator).n_parameters
    name = describe(result.estimator, images.X_test)
    return name, f"{n_parameters:,}", f"{result.seconds:.1f}"


def mean_squared_errors(transformer, X):
    """Return each row's mean squared error after compression and back."""
    return np.square(reconstruct(transformer, X) - X).mean(axis=1)


def reconstruct(transformer, X):
    return transformer.inverse_transform(transformer.transform(X))


def draw_pictures(images, classifier, small_code, large_code, folder, console):
    """Draw the four pictures and say where they are."""
    figures = {
        "loss_curves": draw_loss_curves(images, classifier, small_code, large_code),
        "codes_2d": draw_codes(images, small_code),
        "reconstructions": draw_reconstructions(images, small_code, large_code),
        "tsne": draw_tsne(images, large_code),
    }
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path)
        plt.close(figure)
        console.print(f"wrote {path}")


def draw_loss_curves(images, *results):
    """Draw the losses of training and validation over the epochs, one panel a network."""
    figure, axes = plt.subplots(1, len(results), figsize=(11.5, 3.6))
    for ax, result in zip(axes, results, strict=True):
        LossCurveDisplay.from_estimator(result.estimator, ax=ax)
        ax.set_title(describe(result.estimator, images.X_test))
    return figure


def draw_codes(images, result):
    """Draw the two-number codes of the test images beside their first two principal components."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.4))
    titles = {
        "Autoencoder, two units": result.estimator,
        "PCA, two components": result.pca,
    }
    for ax, (title, transformer) in zip(axes, titles.items(), strict=True):
        EmbeddingDisplay.from_estimator(
            transformer, images.X_test, images.y_test, ax=ax, annotate=True, legend=ax is axes[1]
        )
        error = mean_squared_errors(transformer, images.X_test).mean()
        ax.set_title(f"{title}: mean squared error {error:.4f}")
    return figure


def draw_tsne(images, result):
    """Draw a t-SNE map of the larger codes of test images."""
    codes = result.estimator.transform(images.X_test[:MAX_TSNE_IMAGES])
    points = TSNE(random_state=SEED).fit_transform(codes)
    display = EmbeddingDisplay.from_embedding(
        points, images.y_test[:MAX_TSNE_IMAGES], annotate=True
    )
    display.ax_.set_title(f"t-SNE of the {codes.shape[1]}-unit codes of {len(codes):,} test images")
    return display.figure_


def draw_reconstructions(images, small_code, large_code):
    """Draw the first test image of every digit above its reconstruction from each code."""
    first = [np.flatnonzero(images.y_test == digit)[0] for digit in np.unique(images.y_test)]
    X, rows = images.X_test[first], {}
    for result in (large_code, small_code):
        size = result.estimator.n_components
        rows[f"autoencoder, {size}"] = reconstruct(result.estimator, X)
        rows[f"PCA, {size}"] = reconstruct(result.pca, X)
    return ReconstructionDisplay.from_reconstructions(X, rows).figure_


if __name__ == "__main__":
    main()
