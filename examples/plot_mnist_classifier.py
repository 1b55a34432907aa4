"""
A classifier of handwritten digits
==================================

A network of 128 and 64 hidden units learns to read digits. Three pictures show how: the loss
while it trains, what it confuses in the end, and what its first layer looks for.

The digits are scikit-learn's, of 8 by 8 pixels; with ``DATA=mnist`` in the environment they are
MNIST's, and the network is the 784-128-64-10 of many introductions.
"""

import os

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from sknn_deep import DeepMLPClassifier, summary
from sknn_deep.datasets import fetch_mnist
from sknn_deep.plotting import LossCurveDisplay, WeightsDisplay

if os.environ.get("DATA") == "mnist":
    mnist = fetch_mnist()
    X, y, X_test, y_test = mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
else:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.3, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.1, random_state=0)

# %%
# The layers and their parameters, before any training.

classifier = DeepMLPClassifier(
    (128, 64),
    batch_size=64,
    learning_rate="one_cycle",
    learning_rate_init=5e-3,
    max_iter=20,
    n_iter_no_change=20,
    random_state=0,
)
summary(classifier, n_features=X.shape[1], n_classes=10)

# %%
# The validation images are never trained on. After every epoch the network is scored on them, and
# at the end the weights of the best epoch are restored.

classifier.fit(X_train, y_train, X_val=X_val, y_val=y_val)
LossCurveDisplay.from_estimator(classifier)
print(f"accuracy on the test images: {classifier.score(X_test, y_test):.3f}")

# %%
# Both losses fall together for the first epochs. Then the training images are known by heart and
# only their loss keeps falling: the gap is what does not generalise to new images.

ConfusionMatrixDisplay.from_estimator(classifier, X_test, y_test, cmap="Blues", colorbar=False)

# %%
# Nearly all images lie on the diagonal. Those off it are mistakes that people make, too.

WeightsDisplay.from_estimator(classifier, n_units=40)
plt.show()

# %%
# Each image is one unit of the first layer: it answers to ink where it is red, and is silenced by
# ink where it is blue. On MNIST many have found a stroke at one place; the small digits show less.
# At the borders, where there is never any ink, the weights are still the random initial ones.
