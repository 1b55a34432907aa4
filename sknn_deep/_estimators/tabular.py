"""Networks with the defaults that are best on tables.

They are the classifier and the regressor with other defaults, and nothing else that a user could
not set there: what raises the level on tables is a parameter of those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sknn_deep._estimators.classifier import ClassifierParameters, DeepMLPClassifier
from sknn_deep._estimators.inherited_docs import with_own_defaults
from sknn_deep._estimators.regressor import DeepMLPRegressor, RegressorParameters
from sknn_deep._estimators.supervised import SupervisedParameters
from sknn_deep._estimators.types import (
    Activations,
    DtypeName,
    NumericEmbeddingName,
    ScalingName,
    ScheduleName,
    Solver,
)

# Rows of a batch where there are many, and the fewest batches of an epoch.
_BATCH_SIZE, _FEWEST_BATCHES = 256, 10


@dataclass(eq=False, repr=False, kw_only=True)
class TabularDefaults(SupervisedParameters):
    """Parameters that both estimators set in another way than their bases."""

    solver: Solver = "muon"
    alpha: float = 0.0
    learning_rate: ScheduleName = "one_cycle"
    learning_rate_init: float = 0.006
    max_iter: int = 40
    early_stopping: bool = True
    validation_fraction: float = 0.2
    n_iter_no_change: int | float = 16
    dropout: float | Sequence[float] = 0.2
    dtype: DtypeName = "float32"
    allow_nan: bool = True
    scaling: ScalingName | None = "standard"
    numeric_embedding: NumericEmbeddingName | None = "piecewise_linear"
    numeric_embedding_size: int = 8
    n_bins: int = 128


@dataclass(eq=False, repr=False)
class TabularRegressorParameters(TabularDefaults, RegressorParameters):
    """The parameters of :class:`TabularMLPRegressor`, which explains them."""

    hidden_layer_sizes: int | Sequence[int] = (256, 256)
    activation: Activations = "silu"
    target_scaling: Literal["standard"] | None = field(default="standard", kw_only=True)


@dataclass(eq=False, repr=False)
class TabularClassifierParameters(TabularDefaults, ClassifierParameters):
    """The parameters of :class:`TabularMLPClassifier`, which explains them."""

    hidden_layer_sizes: int | Sequence[int] = (256, 256)
    activation: Activations = "silu"


class TabularHooks:
    """What the two estimators decide in another way than their bases."""

    batch_size: int | Literal["auto"]

    def _batch_size_for(self, n_samples: int) -> int:
        if self.batch_size != "auto":
            return super()._batch_size_for(n_samples)  # type: ignore[misc]
        # a power of two, and of few rows so many batches that an epoch is worth a few steps
        most = max(1, n_samples // _FEWEST_BATCHES)
        return min(_BATCH_SIZE, max(16, 2 ** int(np.log2(most))), n_samples)


@with_own_defaults(DeepMLPRegressor)
class TabularMLPRegressor(TabularRegressorParameters, TabularHooks, DeepMLPRegressor):
    """Multilayer perceptron regressor with defaults for tables.

    ``TabularMLPRegressor().fit(df, y)`` is all that a table of numbers, texts and gaps needs.
    """

    _trains_in_stacks = True


@with_own_defaults(DeepMLPClassifier)
class TabularMLPClassifier(TabularClassifierParameters, TabularHooks, DeepMLPClassifier):
    """Multilayer perceptron classifier with defaults for tables.

    ``TabularMLPClassifier().fit(df, y)`` is all that a table of numbers, texts and gaps needs.
    """

    _trains_in_stacks = True
