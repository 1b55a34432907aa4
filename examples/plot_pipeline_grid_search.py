"""
A pipeline, and a grid search over its network
==============================================

The network is a step like any other: scaling is learned inside each fold, and a grid search varies
the sizes of the hidden layers and the learning rate together, since the one depends on the other.
``FusedGridSearchCV`` gives the answer of scikit-learn's ``GridSearchCV``, and trains the networks
of one shape at once.

The digits are scikit-learn's; with ``DATA=mnist`` in the environment they are 10,000 of MNIST's.
"""

import os

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep import DeepMLPClassifier
from sknn_deep.datasets import fetch_mnist
from sknn_deep.model_selection import FusedGridSearchCV
from sknn_deep.plotting import SearchSurfaceDisplay

if os.environ.get("DATA") == "mnist":
    X, y = fetch_mnist(return_X_y=True)
    X, y = X[:10_000], y[:10_000]
else:
    X, y = load_digits(return_X_y=True)

# %%
# Six sizes and five peaks of the learning rate, each trained on three folds. A one-cycle schedule
# of few epochs is enough to compare them.

classifier = DeepMLPClassifier(
    learning_rate="one_cycle", batch_size=100, max_iter=15, random_state=0
)
pipeline = make_pipeline(MinMaxScaler(), classifier)
grid = {
    "deepmlpclassifier__hidden_layer_sizes": [
        (16,), (64,), (256,), (16, 16), (64, 64), (256, 256)
    ],
    "deepmlpclassifier__learning_rate_init": [0.001, 0.003, 0.01, 0.03, 0.1],
}  # fmt: skip
search = FusedGridSearchCV(pipeline, grid, cv=3).fit(X, y)
print(search.best_params_, f"{search.best_score_:.3f}")

SearchSurfaceDisplay.from_estimator(search, vmin=0.85)
plt.show()

# %%
# Read it row by row: the best learning rate falls from 0.1 to 0.01 as the network grows, so that
# a search over the sizes alone would have favoured the large ones. At their best rates, networks
# with 64 or more units differ by about as much as the folds do (the number after ±): the smallest
# of them is enough.
