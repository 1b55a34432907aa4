"""The estimators on Dask's collections, trained where their partitions are.

Each has the parameters of the estimator whose name it has after "Dask", and ``client``. How to use
them, and what is sent between the workers, is in the documentation's "Train on a Dask cluster".
"""

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
