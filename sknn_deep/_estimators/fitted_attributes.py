"""The attributes that ``fit`` sets, declared for type checkers and editors.

These classes are not dataclasses, because a dataclass treats every annotation in its body as a
parameter. They only declare attributes, which exist once a fit has set them. The estimators'
docstrings document the public ones, and ``tests/test_types.py`` compares the two.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from sklearn.preprocessing import LabelBinarizer
from skorch.history import History

from sknn_deep._estimators.array_api import Home, LearnedArray
from sknn_deep._estimators.kept_engine import KeptEngine
from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep._networks.flat import Network
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._training.progress import Progress


class FittedNetwork:
    """Attributes of all three estimators."""

    module_: Network
    history_: History
    loss_: float
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    best_loss_: float | None
    best_validation_score_: float | None
    best_iter_: int
    n_iter_: int
    interrupted_: bool
    t_: int
    n_layers_: int
    out_activation_: str
    n_features_in_: int
    feature_names_in_: np.ndarray

    _progress: Progress
    _columns: TableColumns | None
    # parameters that must not change between calls
    _fixed: dict[str, Any]
    # used by the next partial_fit; a network that was moved or loaded has only the optimiser's
    # state
    _optimizer: torch.optim.Optimizer
    _kept_engine: KeptEngine
    _home: Home
    _optimizer_state: dict[str, Any] | None

    # made by scikit-learn from the signature of ``fit``
    set_fit_request: Callable[..., Self]


class FittedMLP(FittedNetwork):
    """Further attributes of the classifier and the regressor."""

    module_: MLP
    n_outputs_: int
    estimators_: list[Self]


class FittedClassifier(FittedMLP):
    """Attributes of the classifier only."""

    classes_: np.ndarray
    # with ``calibration`` only
    temperature_: float

    _label_binarizer: LabelBinarizer
    # with ``class_weight`` only
    _class_weights: np.ndarray


class FittedRegressor(FittedMLP):
    """Attributes of the regressor only."""

    # with ``target_scaling`` only
    target_center_: np.ndarray
    target_scale_: np.ndarray
    # with ``quantiles`` only
    quantiles_: np.ndarray

    _held_out_errors: np.ndarray


class FittedAutoencoder(FittedNetwork):
    """Attributes of the autoencoder only."""

    module_: Autoencoder
    # with ``scaling`` only
    feature_center_: np.ndarray
    feature_scale_: np.ndarray
    mean_: np.ndarray
    code_std_: np.ndarray
    n_dead_units_: int
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray
    offset_: float


# Set afterwards: in the class body, a value would be the default of an annotated attribute.
for _class, _names in (
    (FittedRegressor, ("target_center_", "target_scale_")),
    (
        FittedAutoencoder,
        ("mean_", "code_std_", "explained_variance_", "explained_variance_ratio_")
        + ("feature_center_", "feature_scale_"),
    ),
):
    for _name in _names:
        setattr(_class, _name, LearnedArray(_name))
