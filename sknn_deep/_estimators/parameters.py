"""The parameters that the three estimators share: names, defaults, valid values, combinations.

Names, order, defaults, constraints and messages are scikit-learn 1.9's where its MLPs have the
parameter, so that changing an import is all that a user does. New parameters are keyword-only
and off by default.

The estimators are dataclasses: shared fields are written once, and the generated ``__init__``
only assigns, with the signature that scikit-learn inspects. Their docstrings are nevertheless
written out in full, because ``help()`` is where people read; ``tests/test_documentation.py``
compares the defaults there with the signature.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import get_scorer_names
from sklearn.utils import get_tags

from sknn_deep._engine.features import Features
from sknn_deep._engine.solvers import (
    ANNEALING_SCHEDULES,
    DEFAULT_WEIGHT_DECAY,
    STOCHASTIC_SOLVERS,
)
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.callback_parameter import (
    callback_params,
    check_callback,
    with_callback_params,
)
from sknn_deep._estimators.parameter_advice import advice_for
from sknn_deep._estimators.types import (
    DropoutSchedule,
    DtypeName,
    NormalizationName,
    ScheduleName,
    Scoring,
    Seed,
    SkorchCallbacks,
    Solver,
    Splitter,
)
from sknn_deep._networks.layers import ACTIVATIONS, NORMALIZATIONS
from sknn_deep._sklearn import (
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sknn_deep._user_warnings import warn_user

# Types whose equal values are interchangeable.
_PLAIN = (bool, int, float, str)


@dataclass(eq=False, repr=False, kw_only=True)
class SharedParameters:
    """The keyword-only parameters of all three estimators, in scikit-learn's order.

    They are written here once; each estimator puts its positional parameters before them and
    documents them all. The classes of parameters inherit from nothing else: a type checker without
    scikit-learn's types would accept any keyword for a dataclass with a base class from there.
    """

    solver: Solver = "adam"
    alpha: float = 0.0001
    batch_size: int | Literal["auto"] = "auto"
    learning_rate: ScheduleName = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Seed | None = None
    tol: float = 1e-4
    verbose: bool | int = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    validation_splitter: Splitter | Literal["stratified"] | None = None
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: int | float = 10
    max_fun: int = 15000
    dropout: float | Sequence[float] = 0.0
    dropout_schedule: DropoutSchedule = "constant"
    normalization: NormalizationName | None = None
    solver_params: dict[str, Any] | None = None
    weight_decay: float | None = None
    adam_learning_rate_init: float | None = None
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    scoring: Scoring | None = None
    device: str | torch.device = "auto"
    dtype: DtypeName = "auto"
    float32_precision: Literal["highest", "high"] | None = None
    n_processes: int | Literal["torchrun"] = 1
    callbacks: SkorchCallbacks | None = None


class NetworkParameters(SharedParameters, CallbackSupportMixin, BaseEstimator):
    """The valid values of the shared parameters, and what they mean for a network."""

    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS}), type],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", *ANNEALING_SCHEDULES})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "validation_splitter": [HasMethods(["split", "get_n_splits"]), None],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple, np.ndarray],
        "dropout_schedule": [StrOptions({"constant", "flat_cosine"})],
        "normalization": [StrOptions(set(NORMALIZATIONS)), None],
        "solver_params": [dict, None],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "adam_learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema_decay": [Interval(Real, 0, 1, closed="neither"), None],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64", "bfloat16"})],
        "float32_precision": [StrOptions({"highest", "high"}), None],
        "n_processes": [Interval(Integral, 1, None, closed="left"), StrOptions({"torchrun"})],
        "callbacks": [list, tuple, None],
    }

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        # cached: scikit-learn inspects the signature in every call of get_params, fit and clone
        return super()._get_param_names()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether to also return the parameters of nested estimators, and callbacks and their
            parameters by skorch's names, such as "callbacks__EarlyStopping__patience".

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep=deep)
        return params | callback_params(self.callbacks) if deep else params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, including those of nested estimators and callbacks.

        Parameters
        ----------
        **params : dict
            By the names that ``get_params`` returns.

        Returns
        -------
        self : estimator
        """
        of_callbacks = {key: params[key] for key in params if key.startswith("callbacks__")}
        super().set_params(**{key: params[key] for key in params if key not in of_callbacks})
        if of_callbacks:
            self.callbacks = with_callback_params(self.callbacks, of_callbacks)
        return self

    @classmethod
    @cache
    def _valid_defaults(cls) -> dict[str, Any]:
        """Return the defaults of the parameters, except those that a subclass forbids."""
        signature = inspect.signature(cls.__init__)
        defaults = {name: signature.parameters[name].default for name in cls._get_param_names()}
        for name, value in list(defaults.items()):
            try:
                validate_parameter_constraints(
                    cls._parameter_constraints, {name: value}, cls.__name__
                )
            except ValueError:
                del defaults[name]
        return defaults

    def _validate_params(self) -> None:
        # skip validation of parameters left at their defaults, which most are
        valid, missing = self._valid_defaults(), object()
        params = [(name, getattr(self, name)) for name in self._get_param_names()]
        chosen = {
            name: value
            for name, value in params
            if value is not valid.get(name, missing)
            and not (type(value) in _PLAIN and self._is_valid(name, value))
        }
        if not chosen:
            return
        try:
            validate_parameter_constraints(self._parameter_constraints, chosen, type(self).__name__)
        except InvalidParameterError as error:
            advice = self._advice_of_parameters(chosen, error)
            raise InvalidParameterError(" ".join(filter(None, (str(error), advice)))) from None

    @classmethod
    @lru_cache(maxsize=2**12, typed=True)
    def _is_valid(cls, name: str, value: float | str) -> bool:
        """Return whether a value is valid for a parameter, regardless of other parameters."""
        try:
            validate_parameter_constraints(cls._parameter_constraints, {name: value}, cls.__name__)
        except InvalidParameterError:
            return False
        return True

    def _advice_of_parameters(self, params: dict[str, Any], error: InvalidParameterError) -> str:
        """Return a suggestion for the parameter that scikit-learn rejects."""
        name = next(name for name in params if str(error).startswith(f"The {name!r} parameter"))
        options = [
            option
            for constraint in self._parameter_constraints[name]
            if isinstance(constraint, Options)
            for option in constraint.options
            if isinstance(option, str)
        ]
        return advice_for(name, params[name], options)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def _hidden_sizes(self, name: str) -> list[int]:
        """Return a parameter's sizes of hidden layers as a list of positive integers."""
        sizes = getattr(self, name)
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if not all(isinstance(size, Integral) for size in sizes):
            raise ValueError(f"{name} must be integers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"{name} must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _layer_options(self, n_hidden: int) -> tuple[list[str], list[float]]:
        """Return activation and dropout rate of each hidden layer."""
        activations = self._per_layer("activation", n_hidden)
        known = set(ACTIVATIONS)
        unknown = [name for name in activations if not (isinstance(name, str) and name in known)]
        if unknown:
            advice = advice_for("activation", unknown[0], ACTIVATIONS)
            raise ValueError(
                f"activation must be among {sorted(ACTIVATIONS)}, got {unknown}. {advice}".strip()
            )
        dropout = self._per_layer("dropout", n_hidden)
        if not all(isinstance(rate, Real) and 0 <= float(rate) < 1 for rate in dropout):
            raise ValueError(f"dropout must be numbers in [0, 1), got {dropout}.")
        return activations, [float(rate) for rate in dropout]

    def _per_layer(self, name: str, n_hidden: int) -> list[Any]:
        """Return a parameter's value for each hidden layer."""
        value = getattr(self, name)
        if isinstance(value, str) or np.ndim(value) == 0:
            return [value] * n_hidden
        if len(value) != n_hidden:
            raise ValueError(
                f"{name} must be one value or one per hidden layer ({n_hidden}), "
                f"got {len(value)}: {value}."
            )
        return list(value)

    def _decoupled_weight_decay(self) -> float:
        """Return ``weight_decay``, or the solver's default for it."""
        if self.weight_decay is not None:
            return self.weight_decay
        return DEFAULT_WEIGHT_DECAY.get(self.solver, 0.0) if isinstance(self.solver, str) else 0.0

    def _embedding_weight_decay(self) -> float:
        """Return the decoupled weight decay of the vectors that an input layer learns."""
        return 0.0

    def _batch_size_for(self, n_samples: int) -> int:
        """Return the batch size for training on this many rows."""
        if self.batch_size == "auto":
            return min(200, n_samples)
        if self.batch_size > n_samples:
            warn_user(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            )
        return min(self.batch_size, n_samples)

    def _check_enough_rows(self, n_samples: int) -> None:
        """Refuse a single row if batch normalisation needs statistics."""
        if self.normalization == "batch" and n_samples < 2:
            raise ValueError(
                f"normalization='batch' needs at least two samples, got n_samples={n_samples}; "
                "pass more rows or use normalization='layer'."
            )


def check_combinations(
    estimator: NetworkParameters, call: Call, sources_of_chance: Sequence[tuple[str, bool]]
) -> None:
    """Refuse parameters and arguments that are valid one by one but not together.

    Parameters
    ----------
    estimator : estimator
    call : Call
    sources_of_chance : sequence of (str, bool)
        Parameters that make the loss random, and whether they are in use.
    """
    if call.incremental and estimator.early_stopping:
        own, splitter = _validation_set(estimator), estimator.validation_splitter
        unused = "" if splitter is None else f", so validation_splitter={splitter!r} is not asked"
        raise ValueError(
            "partial_fit does not support early_stopping=True: it trains one epoch and holds no "
            f"rows out{unused}. Set early_stopping=False, and pass {own} to partial_fit to record "
            "the loss and the score of rows of your own."
        )
    if call.incremental and estimator.ema_decay is not None:
        raise ValueError(
            f"partial_fit does not support ema_decay={estimator.ema_decay}, an average over the "
            "steps of a whole training. Set ema_decay=None, or call fit."
        )
    solver = estimator.solver
    if isinstance(solver, type) and not issubclass(solver, torch.optim.Optimizer):
        raise ValueError(
            f"solver={solver!r} is not a torch.optim.Optimizer class; pass one, or one "
            f"of {['lbfgs', *STOCHASTIC_SOLVERS]}."
        )
    if estimator.normalization == "batch" and estimator.batch_size == 1:
        raise ValueError(
            "normalization='batch' needs at least two samples per batch, got batch_size=1; "
            "raise batch_size or use normalization='layer'."
        )
    for callback in estimator.callbacks or []:
        check_callback(callback)
    if (call.X_val is None) != (call.y_val is None) and get_tags(estimator).target_tags.required:
        raise ValueError("X_val and y_val must be passed together, got only one of them.")
    if call.sample_weight_val is not None and call.X_val is None:
        raise ValueError("sample_weight_val was passed without X_val; pass both or neither.")
    _check_splitter(estimator, call)
    if solver == "lbfgs":
        _check_lbfgs(estimator, call, sources_of_chance)


def _validation_set(estimator: NetworkParameters) -> str:
    """Return the names of the arguments that pass the user's validation set."""
    return "X_val and y_val" if get_tags(estimator).target_tags.required else "X_val"


def _check_splitter(estimator: NetworkParameters, call: Call) -> None:
    """Refuse a splitter that would not be called, and groups that would not be used."""
    splitter = estimator.validation_splitter
    # an ensemble passes on validated rows, however they were chosen
    is_users = call.X_val is not None and not isinstance(call.X_val, Features)
    if splitter is not None and is_users and not call.incremental:
        raise ValueError(
            f"Both X_val and validation_splitter={splitter!r} say which rows are held out. Pass "
            "one of them: fit without X_val, or validation_splitter=None."
        )
    if splitter is not None and not estimator.early_stopping and call.X_val is None:
        own = _validation_set(estimator)
        remedy = f"pass {own} to partial_fit" if call.incremental else "set early_stopping=True"
        raise ValueError(
            f"validation_splitter={splitter!r} chooses the rows that early stopping holds out, got "
            f"early_stopping=False; {remedy}, or leave validation_splitter at None."
        )
    if call.groups is not None and (splitter is None or splitter == "stratified"):
        raise ValueError(
            f"groups are for a validation_splitter, got validation_splitter={splitter!r}; pass one "
            "that reads them, such as GroupShuffleSplit(n_splits=1)."
        )


def _check_lbfgs(
    estimator: NetworkParameters, call: Call, sources_of_chance: Sequence[tuple[str, bool]]
) -> None:
    for name, is_given, reason in (
        ("callbacks", estimator.callbacks, "there are no epochs to call them in"),
        *((name, used, "it needs a deterministic loss") for name, used in sources_of_chance),
        ("X_val", call.X_val is not None, "it does not stop early"),
        ("validation_splitter", estimator.validation_splitter is not None, "it holds no rows out"),
        ("ema_decay", estimator.ema_decay is not None, "there are no steps along batches"),
        ("dtype='bfloat16'", estimator.dtype == "bfloat16", "it needs exact gradients"),
        (
            "float32_precision='high'",
            estimator.float32_precision == "high",
            "it needs exact gradients",
        ),
    ):
        if is_given:
            raise ValueError(
                f"solver='lbfgs' does not support {name}: {reason}. "
                "Choose a stochastic solver such as 'adam'."
            )
