"""
Denoising: an autoencoder that sees through noise
=================================================

A denoising autoencoder is trained on corrupted images, and its output is compared with the clean
ones. It cannot copy its input, so it has to learn what images look like. That is what removes noise
from images that it has never seen. Two autoencoders, one trained with noise and one without, and
PCA are given the same noisy images.

The digits are scikit-learn's; with ``DATA=mnist`` in the environment they are MNIST's.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from sknn_deep import AutoencoderTransformer
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import PALETTE, ReconstructionDisplay

if is_mnist := os.environ.get("DATA") == "mnist":
    mnist = fetch_mnist()
    X, X_test = mnist.X_train, mnist.X_test
else:
    X, X_test = train_test_split(load_digits().data / 16, test_size=0.3, random_state=0)

# %%
# The noise is drawn anew for each batch: in 30 epochs no image is seen twice in the same way.

options = {
    "n_components": 16,
    "hidden_layer_sizes": (128, 64),
    "batch_size": 128 if is_mnist else 32,
    "learning_rate": "one_cycle",
    "learning_rate_init": 5e-3,
    "max_iter": 30 if is_mnist else 80,
    "random_state": 0,
}
LEVEL = 0.4
models = {
    "with noise": AutoencoderTransformer(**options, noise=LEVEL).fit(X),
    "without noise": AutoencoderTransformer(**options).fit(X),
    "PCA": PCA(16).fit(X),
}

# %%
# Noise of the same strength, on images that none of them has seen.

rng = np.random.default_rng(0)
noisy = X_test + LEVEL * rng.standard_normal(X_test.shape)
restored = {
    name: model.inverse_transform(model.transform(noisy.astype(X.dtype)))
    for name, model in models.items()
}
ReconstructionDisplay.from_reconstructions(X_test, {"noisy": noisy, **restored})

# %%
# How much noise each of them tolerates: the error with respect to the clean image.

levels = np.linspace(0, 0.8, 9)
figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
direction = rng.standard_normal(X_test.shape)
for (name, model), color in zip(models.items(), PALETTE, strict=False):
    errors = []
    for level in levels:
        rows = (X_test + level * direction).astype(X.dtype)
        output = model.inverse_transform(model.transform(rows))
        errors.append(np.mean((output - X_test) ** 2))
    ax.plot(levels, errors, color=color, lw=2, marker="o", ms=4, label=name)
ax.axvline(LEVEL, color="0.7", lw=1, ls=":")
ax.set(xlabel="standard deviation of the noise", ylabel="mean squared error per pixel", ylim=0)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

# %%
# Without noise, the autoencoder trained without it is a little better; the other one pays for what
# it has learned to ignore, and wins as soon as there is noise.
