"""
One data set, four losses
=========================

The loss decides what a regression network predicts: the squared error asks for the mean of the
target, the absolute error for its median, the quantile loss for the level that you choose, and
Huber's loss lies between mean and median. On clean symmetric data the first two agree. Here the
noise grows from left to right, and one point in twenty is an outlier far above the rest.
"""

# %%
# A wave with noise of growing width, and outliers that pull on one side only.

import matplotlib.pyplot as plt
import numpy as np

from sknn_deep import DeepMLPRegressor

rng = np.random.default_rng(0)
n_samples = 2000
x = rng.uniform(-2, 2, n_samples)


def wave(x):
    return np.sin(2 * x) + 0.4 * x


y = wave(x) + (0.1 + 0.12 * (x + 2)) * rng.standard_normal(n_samples)
outlier = rng.random(n_samples) < 1 / 20
y[outlier] += rng.uniform(3, 6, outlier.sum())
X = x[:, np.newaxis]


def fit(loss, **options):
    regressor = DeepMLPRegressor(
        loss,
        hidden_layer_sizes=(64, 64),
        activation="silu",
        learning_rate="one_cycle",
        learning_rate_init=0.01,
        batch_size=100,
        max_iter=80,
        random_state=0,
        **options,
    )
    return regressor.fit(X, y)


# %%
# Three of the losses for the middle, and two quantiles for a band that should hold 80 % of the
# points, outliers included.

grid = np.linspace(-2, 2, 300)
middle = {
    "squared error": fit("squared_error"),
    "Huber": fit("huber", huber_delta=0.5),
    "absolute error": fit("absolute_error"),
}
low, high = fit("quantile", quantile=0.1), fit("quantile", quantile=0.9)
inside = np.mean((low.predict(X) <= y) & (y <= high.predict(X)))

COLORS = {"squared error": "#d55e00", "Huber": "#009e73", "absolute error": "#0072b2"}
LINES = {"squared error": "-", "Huber": "-.", "absolute error": "--"}

plt.rcParams.update({"font.size": 11, "figure.constrained_layout.use": True})
figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
for ax in axes:
    ax.scatter(x, y, s=9, color="#9a9a9a", alpha=0.45, lw=0)
    ax.plot(grid, wave(grid), color="black", lw=1.4, label="without noise")
    ax.set(xlabel="x", xlim=(-2, 2), ylim=(-2.3, 8.5))
    ax.spines[["top", "right"]].set_visible(False)
for name, regressor in middle.items():
    prediction = regressor.predict(grid[:, np.newaxis])
    axes[0].plot(grid, prediction, color=COLORS[name], ls=LINES[name], lw=2.4, label=name)
axes[0].set_title("The middle: outliers pull the mean, not the median", loc="left")
axes[0].set_ylabel("y")

band = [regressor.predict(grid[:, np.newaxis]) for regressor in (low, high)]
axes[1].fill_between(grid, *band, color="#56b4e9", alpha=0.35, lw=0, label="quantiles 10 % to 90 %")
for edge in band:
    axes[1].plot(grid, edge, color="#0072b2", lw=1.6)
axes[1].set_title(f"A prediction band: {100 * inside:.0f} % of the points inside", loc="left")
for ax in axes:
    ax.legend(loc="upper left", facecolor="white", edgecolor="none", framealpha=0.9)
plt.show()

# %%
# The squared error follows the mean, which the outliers lift everywhere. The absolute error keeps
# to the median, and so nearly does Huber's loss, whose gradient no outlier can exceed. The band
# widens with the noise without being told about it.
