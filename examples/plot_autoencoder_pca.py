"""
An autoencoder beside PCA
=========================

PCA finds the best linear subspace of a given dimension; an autoencoder may bend it. This example
compresses the handwritten digits to codes of 1 to 32 numbers with both, and asks two
questions about the test images: how well can they be reconstructed, and how well can a
5-nearest-neighbour classifier tell the digits apart by their codes?
"""

# %%
# Both see the same training images. The autoencoder's schedule is the same at every size.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator, PercentFormatter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from sknn_deep import AutoencoderTransformer

SIZES = [1, 2, 4, 8, 16, 32]

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)


def autoencoder(n_components):
    return AutoencoderTransformer(
        n_components,
        hidden_layer_sizes=(128, 64),
        activation="silu",
        learning_rate="one_cycle",
        learning_rate_init=0.005,
        batch_size=64,
        max_iter=80,
        random_state=0,
    )


def judge(transformer):
    """Return the reconstruction error of the test images and the accuracy of their codes."""
    codes = transformer.fit(X_train).transform(X_train)
    test_codes = transformer.transform(X_test)
    error = np.mean((transformer.inverse_transform(test_codes) - X_test) ** 2)
    neighbors = KNeighborsClassifier(n_neighbors=5).fit(codes, y_train)
    return error, neighbors.score(test_codes, y_test)


results = {
    "autoencoder": np.array([judge(autoencoder(size)) for size in SIZES]),
    "PCA": np.array([judge(PCA(size)) for size in SIZES]),
}

# %%
# Two panels, one for each question.

COLORS = {"autoencoder": "#0072b2", "PCA": "#d55e00"}
MARKERS = {"autoencoder": "o", "PCA": "s"}

plt.rcParams.update({"font.size": 11, "figure.constrained_layout.use": True})
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.3))
for name, result in results.items():
    style = {"color": COLORS[name], "marker": MARKERS[name], "lw": 2, "ms": 7, "mec": "white"}
    left.plot(SIZES, result[:, 0], label=name, **style)
    right.plot(SIZES, result[:, 1], label=name, **style)
in_pixels = KNeighborsClassifier(n_neighbors=5).fit(X_train, y_train).score(X_test, y_test)
right.axhline(in_pixels, color="#555555", ls="--", lw=1.2)
right.text(1, in_pixels + 0.008, "all 64 pixels", color="#555555", va="bottom")

left.set_yscale("log")
left.set_yticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
left.set_title("Mean squared error per pixel (lower is better)", loc="left")
right.set_ylim(top=1.04)
right.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
right.set_title("5-nearest-neighbour accuracy on the codes", loc="left")
right.legend(frameon=False, loc="lower right")
for ax in (left, right):
    ax.set_xscale("log", base=2)
    ax.set_xticks(SIZES, SIZES)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("numbers in the code")
    ax.grid(axis="y", color="#e5e5e5", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Bending pays for short codes: two numbers of the autoencoder say as much about the digit as four
# principal components. With 32 numbers for 64 pixels the order is reversed: a linear map is nearly
# enough, PCA finds the best one in closed form, and the autoencoder has only 1,257 images and 80
# epochs to come near it. On MNIST, with fifty times the images, an autoencoder of 32 numbers
# reconstructs the test images with less than half of PCA's error.
