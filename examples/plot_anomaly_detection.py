"""
Anomalies: what an autoencoder cannot draw
==========================================

An autoencoder that has only seen ordinary samples reconstructs ordinary samples well. Unusual
samples come back distorted, so the reconstruction error tells how unusual a sample is. Here it
learns nine of the ten digits and is then shown all ten.

The digits are scikit-learn's; with ``DATA=mnist`` in the environment they are MNIST's.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from sknn_deep import AutoencoderTransformer
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import PALETTE, ReconstructionDisplay

STRANGE = 4

if is_mnist := os.environ.get("DATA") == "mnist":
    mnist = fetch_mnist()
    X, y, X_test, y_test = mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
else:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.5, random_state=0)

# %%
# A short code has room only for the digits that it was trained on.

autoencoder = AutoencoderTransformer(
    n_components=8,
    hidden_layer_sizes=(128, 64),
    activation="silu",
    batch_size=256 if is_mnist else 32,
    learning_rate="one_cycle",
    learning_rate_init=3e-3,
    max_iter=20 if is_mnist else 80,
    random_state=0,
)
autoencoder.fit(X[y != STRANGE])

# %%
# ``score_samples`` is the negative error, low for an outlier as in scikit-learn's detectors.

errors = -autoencoder.score_samples(X_test)
is_strange = y_test == STRANGE
print(f"area under the ROC curve: {roc_auc_score(is_strange, errors):.2f}")

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
bins = np.linspace(0, np.quantile(errors, 0.999), 40)
shared = {"bins": bins, "density": True, "alpha": 0.75}
ax.hist(errors[~is_strange], color=PALETTE[0], label="digits that it knows", **shared)
ax.hist(errors[is_strange], color=PALETTE[1], label=f"the {STRANGE}, never seen", **shared)
ax.set(xlabel="mean squared error per pixel", ylabel="density", yticks=[])
ax.spines[["top", "right", "left"]].set_visible(False)
ax.legend(frameon=False)

# %%
# The unknown digit stands out, with some overlap: the others have odd specimens, too. These are the
# ten images with the largest errors.

strangest = np.argsort(-errors)[:10]
ReconstructionDisplay.from_estimator(autoencoder, X_test[strangest])
plt.show()

# %%
# Most are the digit that was left out: the autoencoder draws a digit that it knows instead, and the
# error shows the difference.
