"""Estimators for Dask collections, trained on the workers that hold the partitions.

Each has the parameters of the estimator whose name follows "Dask", and ``client``. The
documentation's "Train on a Dask cluster" explains how to use them, and what is sent between the
workers.
"""

try:
    import dask.array
    import dask.dataframe  # noqa: F401
    import distributed  # noqa: F401
except ImportError as error:
    raise ImportError(
        "sknn_deep.dask needs Dask with its arrays and DataFrames, and distributed: "
        "pip install sknn_deep[dask]"
    ) from error

from sknn_deep.dask._estimators import (
    DaskAutoencoderTransformer,
    DaskDeepMLPClassifier,
    DaskDeepMLPRegressor,
    DaskTabularMLPClassifier,
    DaskTabularMLPRegressor,
)

__all__ = [
    "DaskAutoencoderTransformer",
    "DaskDeepMLPClassifier",
    "DaskDeepMLPRegressor",
    "DaskTabularMLPClassifier",
    "DaskTabularMLPRegressor",
]
