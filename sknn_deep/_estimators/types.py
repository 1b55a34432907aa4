"""Types of the parameters and of the data that users pass, for type checkers and editors.

The names that a parameter may have are listed as literals, so that an editor completes them and
a checker finds a misspelt one. ``tests/test_types.py`` compares them with what ``fit`` accepts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from skorch.callbacks import Callback

ActivationName: TypeAlias = Literal[
    "identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish",
    "softplus",
]  # fmt: skip
# A list of names is rarely inferred as literals: `["relu"] * 3` is a list of str.
Activations: TypeAlias = ActivationName | Sequence[str]
SolverName: TypeAlias = Literal[
    "lbfgs", "sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "muon",
]  # fmt: skip
Solver: TypeAlias = SolverName | type[torch.optim.Optimizer]
ScheduleName: TypeAlias = Literal[
    "constant", "invscaling", "adaptive", "cosine", "one_cycle", "flat_cosine", "coslog4",
]  # fmt: skip
DropoutSchedule: TypeAlias = Literal["constant", "flat_cosine"]
RegressionLossName: TypeAlias = Literal[
    "squared_error", "poisson", "absolute_error", "huber", "quantile", "normal"
]
ReconstructionLossName: TypeAlias = Literal[
    "squared_error", "absolute_error", "huber", "log_loss", "cosine"
]
ScalingName: TypeAlias = Literal["standard", "robust"]
NumericEmbeddingName: TypeAlias = Literal["piecewise_linear", "periodic"]
# Column names, column numbers or a mask.
CategoricalFeatures: TypeAlias = Literal["from_dtype"] | Sequence[Any] | np.ndarray | None
NormalizationName: TypeAlias = Literal["batch", "layer"]
NoiseKind: TypeAlias = Literal["gaussian", "masking", "salt_pepper"]
DtypeName: TypeAlias = Literal["auto", "float32", "float64", "bfloat16"]

Scoring: TypeAlias = str | Callable[..., float]
Seed: TypeAlias = int | np.random.RandomState
SkorchCallback: TypeAlias = Callback | type[Callback]
SkorchCallbacks: TypeAlias = Sequence[SkorchCallback | tuple[str, SkorchCallback]]


class SparseRows(Protocol):
    """A SciPy sparse matrix or array; SciPy's own type stubs may not be installed."""

    def tocsr(self) -> Any: ...


# Rows of features: arrays, nested lists, DataFrames and tensors; or sparse. Annotations quote it,
# and ArrayLike, because signatures in ``help`` would otherwise spell out the nine types of NumPy's
# alias.
MatrixLike: TypeAlias = ArrayLike | SparseRows


class Splitter(Protocol):
    """An object that divides rows into folds, such as scikit-learn's ``KFold``."""

    def split(self, X: Any, y: Any, /) -> Iterable[tuple[Any, Any]]: ...


CrossValidation: TypeAlias = int | Splitter | Iterable[tuple[Any, Any]]
