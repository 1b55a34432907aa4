"""Networks with the defaults that work best on tables.

They are the classifier and the regressor with other defaults: everything that helps on tables is a
parameter of those classes, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.candidates import draw_configurations, fit_candidates
from sknn_deep._estimators.classifier import ClassifierParameters, DeepMLPClassifier
from sknn_deep._estimators.fitted_state import (
    CANDIDATES_STATE,
    CLASSIFIER_STATE,
    REGRESSOR_STATE,
)
from sknn_deep._estimators.inherited_docs import second_paragraph, with_own_defaults
from sknn_deep._estimators.regressor import DeepMLPRegressor, RegressorParameters
from sknn_deep._estimators.supervised import SupervisedParameters
from sknn_deep._estimators.types import (
    Activations,
    DropoutSchedule,
    DtypeName,
    NumericEmbeddingName,
    ScalingName,
    ScheduleName,
    Scoring,
    Solver,
)
from sknn_deep._hardware.ranks import present_ranks
from sknn_deep._sklearn import Interval

# Batch size for large tables, and the smallest number of batches per epoch.
_BATCH_SIZE, _FEWEST_BATCHES = 256, 50


@dataclass(eq=False, repr=False, kw_only=True)
class TabularDefaults(SupervisedParameters):
    """Parameters with defaults that differ from those of the base classes."""

    solver: Solver = "muon"
    alpha: float = 0.0
    learning_rate: ScheduleName = "one_cycle"
    learning_rate_init: float = 0.004
    max_iter: int = 30
    early_stopping: bool = True
    validation_fraction: float = 0.15
    n_iter_no_change: int | float = 16
    dropout: float | Sequence[float] = 0.2
    dropout_schedule: DropoutSchedule = "flat_cosine"
    adam_learning_rate_init: float | None = 0.01
    dtype: DtypeName = "float32"
    allow_nan: bool = True
    scaling: ScalingName | None = "standard"
    numeric_embedding: NumericEmbeddingName | None = "piecewise_linear"
    numeric_embedding_size: int = 12
    n_bins: int = 128
    embedding_weight_decay: float = 0.3
    n_networks: int = 4
    varied_networks: bool = True
    n_candidates: int = 1
    max_time: float | None = None
    n_jobs: int | None = None


@dataclass(eq=False, repr=False)
class TabularRegressorParameters(TabularDefaults, RegressorParameters):
    """The parameters of :class:`TabularMLPRegressor`, which explains them."""

    hidden_layer_sizes: int | Sequence[int] = (128, 128)
    activation: Activations = "silu"
    target_scaling: Literal["standard"] | None = field(default="standard", kw_only=True)


@dataclass(eq=False, repr=False)
class TabularClassifierParameters(TabularDefaults, ClassifierParameters):
    """The parameters of :class:`TabularMLPClassifier`, which explains them."""

    hidden_layer_sizes: int | Sequence[int] = (128, 128)
    activation: Activations = "silu"
    varied_networks: bool = field(default=False, kw_only=True)
    learning_rate_init: float = field(default=0.003, kw_only=True)
    max_iter: int = field(default=30, kw_only=True)
    dropout: float | Sequence[float] = field(default=0.3, kw_only=True)
    dropout_schedule: DropoutSchedule = field(default="constant", kw_only=True)
    scoring: Scoring | None = field(default="calibrated_loss", kw_only=True)
    numeric_embedding_size: int = field(default=8, kw_only=True)
    embedding_weight_decay: float = field(default=0.0, kw_only=True)
    calibration: Literal["auto", "temperature"] | None = field(default="auto", kw_only=True)


_CONSTRAINTS: dict[str, list[Any]] = {
    "varied_networks": ["boolean"],
    "n_candidates": [Interval(Integral, 1, None, closed="left")],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "n_jobs": [Integral, None],
}


class TabularHooks:
    """Methods of both estimators that differ from those of their base classes."""

    batch_size: int | Literal["auto"]
    early_stopping: bool
    activation: Activations
    n_networks: int
    varied_networks: bool
    n_candidates: int
    max_time: float | None
    n_jobs: int | None
    ensemble_weights_: np.ndarray
    _candidates: dict[str, list[Any]]

    @property
    def candidates_(self) -> pd.DataFrame:
        """The result of each candidate, one row each; only with ``n_candidates`` above 1."""
        if "_candidates" not in vars(self):
            raise AttributeError(
                "candidates_ exists once fit has tried several: set n_candidates, got "
                f"n_candidates={self.n_candidates}."
            )
        return pd.DataFrame(self._candidates)

    def _fit_networks(self, call: Call) -> None:
        if self.n_candidates > 1:
            fit_candidates(self, call)
            return
        goes_on = call.incremental or getattr(self, "warm_start", False)
        if goes_on and "ensemble_weights_" in vars(self):
            raise ValueError(
                "warm_start and partial_fit go on with networks of the same parameters, but the "
                "previous call has picked candidates. Set warm_start=False, or make a new one."
            )
        super()._fit_networks(call)  # type: ignore[misc]

    def _params_of_networks(self) -> list[dict[str, Any]]:
        estimator: Any = self
        n_units = estimator._hidden_sizes("hidden_layer_sizes")
        params: dict[str, Any] = {}
        if self.varied_networks and n_units:
            params = {"hidden_layer_sizes": (*n_units, n_units[-1]), "dropout": 0.0}
            if not isinstance(self.activation, str):
                params["activation"] = (*self.activation, *self.activation[-1:])
        n_varied = self.n_networks // 2
        return [{}] * (self.n_networks - n_varied) + [params] * n_varied

    def _jobs_of_ensemble(self) -> int | None:
        params: Any = self
        # processes that divide the rows train all networks, so n_jobs is ignored
        return self.n_jobs if params.n_processes == 1 and present_ranks() is None else 1

    def _reason_to_train_alone(self) -> str:
        if self.n_candidates > 1:
            return f"n_candidates={self.n_candidates} are networks of many shapes"
        return super()._reason_to_train_alone()  # type: ignore[misc]

    def _check_combinations(self, call: Call) -> None:
        super()._check_combinations(call)  # type: ignore[misc]
        params: Any = self
        if self.n_jobs == 0:
            raise ValueError("n_jobs=0 leaves nobody to train; pass None, or -1 for all cores.")
        if self.n_jobs not in (None, 1) and params.n_processes != 1:
            raise ValueError(
                f"n_jobs={self.n_jobs} and n_processes={params.n_processes!r} divide the networks "
                "and the rows of each among processes: set one of them, and the other to 1."
            )
        if self.n_candidates == 1:
            if self.max_time is not None:
                raise ValueError(
                    f"max_time={self.max_time} ends the drawing of candidates, got n_candidates=1; "
                    "raise n_candidates, or leave max_time at None."
                )
            return
        for name, is_given, remedy in (
            ("callbacks", params.callbacks, "leave callbacks at None"),
            ("partial_fit", call.incremental, "call fit"),
            ("warm_start", params.warm_start, "leave warm_start at False"),
            ("n_processes above 1", params.n_processes != 1, "leave n_processes at 1"),
            ("solver='lbfgs'", params.solver == "lbfgs", "choose a stochastic solver"),
            (
                "early_stopping=False without X_val",
                not self.early_stopping and call.X_val is None,
                "pass X_val and y_val, or leave early_stopping at True",
            ),
        ):
            if is_given:
                raise ValueError(
                    f"n_candidates={self.n_candidates} cannot be combined with {name}: {remedy}."
                )

    def _check_solver(self) -> bool:
        if self.early_stopping:
            raise AttributeError(
                "partial_fit holds no rows out: it is available with early_stopping=False only, "
                f"got early_stopping={self.early_stopping}. Set it to False, and pass X_val and "
                "y_val to partial_fit to record the loss and the score of rows of your own."
            )
        return super()._check_solver()  # type: ignore[misc]

    def _batch_size_for(self, n_samples: int) -> int:
        if self.batch_size != "auto":
            return super()._batch_size_for(n_samples)  # type: ignore[misc]
        # a power of two; small tables have small batches, so that an epoch has enough steps
        most = max(1, n_samples // _FEWEST_BATCHES)
        return min(_BATCH_SIZE, max(16, 2 ** int(np.log2(most))), n_samples)


# The parts of the docstring that both have, with the number of a new reference as "[new]".
_OF_BOTH = f"""
Parameters
----------
varied_networks : bool, default=True
    Whether the second half of an ensemble's networks (rounded down) have one more hidden layer, as
    wide as the last, and no dropout, whatever ``hidden_layer_sizes`` and ``dropout`` say. The
    errors of two kinds of networks are less similar, so their mean is usually more accurate. Off by
    default for classification, where networks without dropout give overconfident probabilities. No
    effect with ``n_networks=1``, with ``n_candidates`` above 1, or without hidden layers.

n_candidates : int, default=1
    Number of configurations to try. Above 1, they are drawn from the space below, except for the
    first, which is the estimator's own. Each network stops early by its score on the validation
    rows, or is abandoned if it falls behind. The ensemble that predicts the validation rows best is
    kept; it is found by greedy selection with replacement [new]_. Networks that diverge are left
    out. A fit takes about as long as that many networks, or less if some fall behind. Ctrl-C ends
    it and keeps an ensemble of the candidates trained so far. ``n_networks`` is ignored. For
    scikit-learn's callbacks, such as ``ProgressBar``, each candidate is one task.

max_time : float or None, default=None
    Time limit in seconds. After that, no further candidates are drawn, those in training stop at
    the end of their epoch, and the ensemble is selected from the candidates so far. The result then
    depends on the speed of the machine. Only with ``n_candidates`` above 1.

n_jobs : int or None, default=None
    Number of joblib workers, among which candidates or the networks of an ensemble are divided.
    -1 means one worker per core; None means 1 unless in a ``joblib.parallel_config`` block. Workers
    are processes that share the cores. Starting them takes a few seconds the first time, so they
    only pay off in longer fits. Without ``max_time``, results differ by rounding errors at most,
    because the last digit of a product may depend on the number of threads. No effect on up to four
    candidates, which train together, on a single network, or in ``partial_fit``. On a GPU leave it
    at None: the workers would share its memory. Cannot be combined with ``n_processes``.

Attributes
----------
candidates_ : DataFrame
    One row per candidate: "validation_loss" in the target's units, "weight" in the ensemble,
    "n_iter", "seconds" and its parameters. Only with ``n_candidates`` above 1.

ensemble_weights_ : ndarray of shape (n_members,)
    Weight of each of ``estimators_``, the candidates in the ensemble. Only with ``n_candidates``
    above 1.

Notes
-----
The defaults were chosen on the validation rows of several tables. A batch has 256 rows, or fewer if
an epoch would otherwise have fewer than fifty batches. Early stopping holds out random rows; for
time series, pass the last rows as ``X_val`` and ``y_val``.

The first four candidates differ from the estimator only in their learning rates and weight decay,
and train together. All others are drawn from this space:

{second_paragraph(draw_configurations)}

References
----------
.. [new] R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes (2004). Ensemble selection from
   libraries of models. ICML.
"""


@with_own_defaults(DeepMLPRegressor, _OF_BOTH)
class TabularMLPRegressor(TabularRegressorParameters, TabularHooks, DeepMLPRegressor):
    """Multilayer perceptron regressor with defaults for tables.

    ``TabularMLPRegressor().fit(df, y)`` is all that a table of numbers, strings and missing values
    needs: it is a :class:`DeepMLPRegressor` that scales and embeds numbers, takes categories and
    missing values, scales the target, and uses early stopping on held-out rows.

    See Also
    --------
    DeepMLPRegressor : The same with the defaults of scikit-learn's MLP.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.datasets import load_diabetes
    >>> from sknn_deep import TabularMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    >>> X["sex"] = X["sex"].map({1: "one", 2: "two"})
    >>> X.loc[::7, "bmi"] = None
    >>> regressor = TabularMLPRegressor(random_state=0).fit(X[::2], y[::2])
    >>> regressor.score(X[1::2], y[1::2]) > 0.4
    True
    >>> regressor.is_categorical_[:3]
    array([False,  True, False])
    """

    _trains_in_stacks = True
    _parameter_constraints: ClassVar[dict] = {
        **DeepMLPRegressor._parameter_constraints,
        **_CONSTRAINTS,
    }
    _fitted_state: ClassVar = REGRESSOR_STATE | CANDIDATES_STATE

    def _validation_scoring(self) -> Any:
        # with few rows, the squared error of a single unpredictable row would decide the best epoch
        return super()._validation_scoring() or "neg_mean_absolute_error"


@with_own_defaults(DeepMLPClassifier, _OF_BOTH)
class TabularMLPClassifier(TabularClassifierParameters, TabularHooks, DeepMLPClassifier):
    """Multilayer perceptron classifier with defaults for tables.

    ``TabularMLPClassifier().fit(df, y)`` is all that a table of numbers, strings and missing values
    needs: it is a :class:`DeepMLPClassifier` that scales and embeds numbers, takes categories and
    missing values, and uses early stopping on held-out rows.

    See Also
    --------
    DeepMLPClassifier : The same with the defaults of scikit-learn's MLP.

    Examples
    --------
    >>> import pandas as pd
    >>> from sknn_deep import TabularMLPClassifier
    >>> X = pd.DataFrame({"size": [1.0, 2.0, None, 8.0] * 50, "kind": list("aabb") * 50})
    >>> y = ["small", "small", "large", "large"] * 50
    >>> classifier = TabularMLPClassifier(random_state=0).fit(X, y)
    >>> classifier.predict(pd.DataFrame({"size": [1.5, None], "kind": ["a", "b"]}))
    array(['small', 'large'], dtype='<U5')
    """

    _trains_in_stacks = True
    _parameter_constraints: ClassVar[dict] = {
        **DeepMLPClassifier._parameter_constraints,
        **_CONSTRAINTS,
    }
    _fitted_state: ClassVar = CLASSIFIER_STATE | CANDIDATES_STATE
