"""
How wide, how deep? A grid search over hidden layers
====================================================

The sizes of the hidden layers are one parameter, so a grid search over them is scikit-learn's
``GridSearchCV`` with a list of tuples. Here it looks at five widths and three depths of a
classifier of handwritten digits, in a pipeline that scales the pixels inside each fold.
"""

# %%
# Fifteen networks, each trained on three folds. A one-cycle schedule of few epochs is enough to
# compare them, and makes a search several times faster than waiting for a constant rate.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep import DeepMLPClassifier

WIDTHS, DEPTHS = [8, 16, 32, 64, 128], [1, 2, 3]

X, y = load_digits(return_X_y=True)
classifier = DeepMLPClassifier(
    learning_rate="one_cycle",
    learning_rate_init=0.01,
    batch_size=100,
    max_iter=15,
    random_state=0,
)
pipeline = make_pipeline(MinMaxScaler(), classifier)
sizes = [(width,) * depth for depth in DEPTHS for width in WIDTHS]
search = GridSearchCV(pipeline, {"deepmlpclassifier__hidden_layer_sizes": sizes}, cv=3)
search.fit(X.astype(np.float32), y)
print(f"best: {search.best_params_}, accuracy {search.best_score_:.3f}")

# %%
# The results come in the order of the grid: one row for each depth.

accuracy = search.cv_results_["mean_test_score"].reshape(len(DEPTHS), len(WIDTHS))
spread = search.cv_results_["std_test_score"].reshape(accuracy.shape)

plt.rcParams.update({"font.size": 11, "figure.constrained_layout.use": True})
figure, ax = plt.subplots(figsize=(8, 4.2))
# Most networks are good: the power spreads the colours over the upper end.
picture = ax.imshow(accuracy, cmap="cividis", norm=PowerNorm(4), aspect="auto")
for (row, column), value in np.ndenumerate(accuracy):
    dark = picture.norm(value) < 0.5
    label = f"{100 * value:.1f} %\n± {100 * spread[row, column]:.1f}"
    ax.text(column, row, label, ha="center", va="center", color="white" if dark else "black")
row, column = np.unravel_index(accuracy.argmax(), accuracy.shape)
frame = plt.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, lw=3, ec="#d55e00")
ax.add_patch(frame)
ax.set_xticks(range(len(WIDTHS)), WIDTHS)
ax.set_yticks(range(len(DEPTHS)), DEPTHS)
ax.set(xlabel="units in each hidden layer", ylabel="hidden layers")
ax.set_title("Accuracy on held-out digits, three folds (best framed)", loc="left")
ax.spines[:].set_visible(False)
ax.tick_params(length=0)
plt.show()

# %%
# Width pays first: eight units are too few to keep ten digits apart, and a third layer as narrow
# loses more of what the first has lost. A second layer pays from 64 units on, a third does not, and
# the best six networks differ by about as much as the folds do. Each candidate could be trained for
# longer now, or judged on more folds.
