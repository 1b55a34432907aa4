"""
A longer code, and t-SNE to look at it
======================================

A code of more than two numbers keeps more of an image, but is no map. t-SNE makes one of it: points
that are close in the code stay close in the plane.

The digits are scikit-learn's, with a code of 8 numbers; with ``DATA=mnist`` in the environment they
are MNIST's, with a code of 32 in a network of 784-128-64-32 and back.
"""

import os

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from sknn_deep import AutoencoderTransformer
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import EmbeddingDisplay, ReconstructionDisplay

if is_mnist := os.environ.get("DATA") == "mnist":
    mnist = fetch_mnist()
    X, y, X_test, y_test = mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
    X_test, y_test = X_test[:5000], y_test[:5000]  # t-SNE takes its time
else:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.5, random_state=0)

# %%
# PCA with as many components, for comparison.

autoencoder = AutoencoderTransformer(
    n_components=32 if is_mnist else 8,
    hidden_layer_sizes=(128, 64),
    activation="silu",
    batch_size=256 if is_mnist else 32,
    learning_rate="one_cycle",
    learning_rate_init=3e-3,
    max_iter=20 if is_mnist else 80,
    random_state=0,
)
autoencoder.fit(X)
pca = PCA(autoencoder.n_components).fit(X)

reconstructions = {
    "autoencoder": autoencoder.inverse_transform(autoencoder.transform(X_test[:10])),
    "PCA": pca.inverse_transform(pca.transform(X_test[:10])),
}
ReconstructionDisplay.from_reconstructions(X_test[:10], reconstructions)

# %%
# The codes have the same length; the error of each image stands below it. PCA's background is grey
# and its strokes are frayed, the autoencoder's are clean.

figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
samples = {"pixels": X_test, "codes": autoencoder.transform(X_test)}
for ax, (name, data) in zip(axes, samples.items(), strict=True):
    Z = TSNE(random_state=0).fit_transform(data)
    display = EmbeddingDisplay.from_embedding(Z, y_test, ax=ax, legend=False, annotate=True)
    ax.set_title(f"t-SNE of the {data.shape[1]} {name}")
plt.show()

# %%
# Both maps show an island for each digit, though no label was used: the code has kept what tells
# digits apart, in a fraction of the numbers. To explore the map in the browser, hide digits and see
# the image under the pointer, write a page:
#
# .. code-block:: python
#
#     display.to_html("map.html", images=X_test)
