"""
From a laptop to a Dask cluster
===============================

The same script trains on a laptop, in one process, and on a cluster whose workers have parts of the
data: only the import differs. With ``SCHEDULER=tcp://...`` in the environment it uses that cluster;
without it, two workers in this process stand in for one.
"""

import os

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client

from sknn_deep import DeepMLPRegressor
from sknn_deep.dask import DaskDeepMLPRegressor
from sknn_deep.plotting import LossCurveDisplay

scheduler = os.environ.get("SCHEDULER")
workers = {"n_workers": 2, "processes": False, "dashboard_address": ":0"}
client = Client(scheduler) if scheduler else Client(**workers)

# %%
# Each block of rows is made by the worker that will have it. Real data would be read there, such as
# by ``dask.dataframe.read_parquet``.


def make_rows(block_id):
    """Return 2,500 rows of ten features, and behind them the target."""
    rng = np.random.default_rng(block_id[0])
    rows = rng.normal(size=(2500, 10))
    target = np.sin(2 * rows[:, 0]) + rows[:, 1] * rows[:, 2] + 0.1 * rng.normal(size=2500)
    return np.column_stack([rows, target])


table = da.map_blocks(make_rows, chunks=((2500,) * 4, (11,)), dtype=float, meta=np.empty((0, 0)))
X, y = table[:, :10], table[:, 10]

# %%
# A laptop: Dask's arrays are put together in memory, and one process trains on them.

options = {
    "hidden_layer_sizes": (64, 64),
    "learning_rate": "one_cycle",
    "max_iter": 15,
    "random_state": 0,
}
laptop = DeepMLPRegressor(**options).fit(X, y)

# %%
# A cluster: each worker trains on its blocks.

cluster = DaskDeepMLPRegressor(**options).fit(X, y)
print(f"Largest difference of a weight: {np.abs(cluster.coefs_[0] - laptop.coefs_[0]).max():.0e}")

# %%
# Predictions are arrays of Dask, computed where the rows are when they are asked for.

predicted = cluster.predict(X)
error = da.sqrt(((predicted - y) ** 2).mean())
print(predicted)
print(f"Root mean squared error: {error.compute():.3f}")

# %%
# ``to_local()`` needs no Dask any more: it predicts for arrays, pickles and is saved.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
LossCurveDisplay.from_estimator(cluster.to_local(), ax=axes[0])
rows = make_rows((4,))
axes[1].plot(rows[:, 10], cluster.to_local().predict(rows[:, :10]), ".", alpha=0.2)
axes[1].set(xlabel="target of new rows", ylabel="prediction")
client.close()
plt.show()
