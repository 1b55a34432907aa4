"""MLflow's autologging for the estimators and searches of this package.

``mlflow.sklearn.autolog`` logs parameters, metrics and models of every ``fit`` of scikit-learn's
own estimators, but not of those of other packages.
"""

from collections.abc import Callable
from typing import Any

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.hidden_activations import HiddenActivations
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep.model_selection._halving import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV

__all__ = ["autolog"]

_OURS = (
    DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer, TabularMLPClassifier,
    TabularMLPRegressor, FusedGridSearchCV, FusedRandomizedSearchCV, FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV, HiddenActivations,
)  # fmt: skip
_FINDS_ESTIMATORS = "_gen_estimators_to_patch"


def autolog(**options: Any) -> None:
    """Enable MLflow's autologging for this package's estimators as well.

    Every ``fit`` of an estimator or a search logs its parameters, the metrics on the training data
    and, of a grid or randomized search, the best parameters and a run for each of the best
    candidates. For halving searches, including scikit-learn's, MLflow logs neither.

    Parameters
    ----------
    **options : dict
        Options of ``mlflow.sklearn.autolog``: ``log_models=False``, ``max_tuning_runs=5``, ….

    Raises
    ------
    ImportError
        If MLflow is not installed, or finds estimators differently from versions 2 and 3.

    Examples
    --------
    >>> import sknn_deep.mlflow
    >>> sknn_deep.mlflow.autolog(log_models=False)  # doctest: +SKIP
    """
    import mlflow.sklearn

    find = getattr(mlflow.sklearn, _FINDS_ESTIMATORS, None)
    if find is None:
        raise ImportError(
            f"MLflow {mlflow.__version__} finds estimators in a way unknown to sknn_deep; "
            "put the network into a Pipeline, which mlflow.sklearn.autolog() logs."
        )
    if not isinstance(find, _FindsOursToo):
        setattr(mlflow.sklearn, _FINDS_ESTIMATORS, _FindsOursToo(find))
    mlflow.sklearn.autolog(**options)


class _FindsOursToo:
    """Replaces MLflow's function that finds the estimators to log."""

    def __init__(self, find: Callable[[], list[type]]):
        self._find = find

    def __call__(self) -> list[type]:
        return [*self._find(), *_OURS]
