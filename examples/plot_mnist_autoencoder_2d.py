"""
Digits on a map: an autoencoder with two numbers
================================================

How much of an image fits into two numbers? An autoencoder is trained to encode each digit as a
point in the plane and to draw it again from there. It is not told which digit it is.

The digits are scikit-learn's; with ``DATA=mnist`` in the environment they are MNIST's, and the
layers 784-128-32-8-2 and back.
"""

import os

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from sknn_deep import AutoencoderTransformer
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import EmbeddingDisplay, ReconstructionDisplay

if is_mnist := os.environ.get("DATA") == "mnist":
    mnist = fetch_mnist()
    X, y, X_test, y_test = mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
else:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.5, random_state=0)

# %%
# Hidden units that are bounded, as those of tanh are, spread the codes evenly. A notebook shows
# the fitted network with its layers.

autoencoder = AutoencoderTransformer(
    n_components=2,
    hidden_layer_sizes=(128, 32, 8),
    activation="tanh",
    batch_size=256 if is_mnist else 32,
    learning_rate="one_cycle",
    learning_rate_init=5e-3,
    max_iter=20 if is_mnist else 100,
    random_state=0,
)
autoencoder.fit(X)

# %%
# The code has two units, so the codes of the test images are a map as they are. PCA's first two
# components are another.

pca = PCA(2).fit(X)
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
EmbeddingDisplay.from_estimator(autoencoder, X_test, y_test, ax=left, legend=False, annotate=True)
EmbeddingDisplay.from_estimator(pca, X_test, y_test, ax=right, legend=False, annotate=True)
left.set_title(f"autoencoder: {autoencoder.score(X_test):.0%} of the variance")
right.set_title(f"PCA: {pca.explained_variance_ratio_.sum():.0%} of the variance")

# %%
# The autoencoder gives most digits an arm or an island of their own; PCA lays them over each
# other. With the images drawn at their points, the transitions can be seen.

images = {"image_shape": (28, 28) if is_mnist else (8, 8), "n_images": 400}
EmbeddingDisplay.from_estimator(autoencoder, X_test, y_test, **images)

# %%
# Neighbours look alike: the slant changes along an arm, and where two digits meet, it takes a
# second look to tell which is which.

reconstructions = {
    "autoencoder": autoencoder.inverse_transform(autoencoder.transform(X_test[:10])),
    "PCA": pca.inverse_transform(pca.transform(X_test[:10])),
}
ReconstructionDisplay.from_reconstructions(X_test[:10], reconstructions)
plt.show()

# %%
# Two numbers of the autoencoder draw a clean digit, now and then the wrong one. Two of PCA draw a
# blur of several.
