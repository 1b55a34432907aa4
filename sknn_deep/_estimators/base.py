"""What the three estimators share: their common parameters and the course of a fit.

Think twice before adding anything here: what only one estimator needs belongs to it.
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.callback import CallbackSupportMixin, FitCallback
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, get_tags
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.history import History

from sknn_deep._engine.batches import Batches, Chunk, whole
from sknn_deep._engine.engine import Engine
from sknn_deep._engine.in_parts import map_parts
from sknn_deep._engine.lbfgs import fit_lbfgs
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.samples import Samples, check_weight, dense
from sknn_deep._engine.solvers import (
    ANNEALING_SCHEDULES,
    DEFAULT_WEIGHT_DECAY,
    STOCHASTIC_SOLVERS,
    load_state,
    make_optimizer,
    to_arrays,
    to_tensors,
)
from sknn_deep._estimators.fitted_attributes import FittedNetwork
from sknn_deep._estimators.fitted_state import Before
from sknn_deep._estimators.types import (
    DtypeName,
    NormalizationName,
    ScheduleName,
    Scoring,
    Seed,
    SkorchCallbacks,
    Solver,
)
from sknn_deep._hardware.device import (
    OutOfMemoryError,
    accepted_dtypes,
    as_tensor,
    is_out_of_memory,
    numpy_dtype,
    on_device,
    resolve_device,
    seeded_generator,
)
from sknn_deep._hardware.memory_maps import Mapped, is_large_map
from sknn_deep._hardware.threads import fixed_threads, one_thread
from sknn_deep._networks.flat import Network
from sknn_deep._networks.layers import ACTIVATIONS, NORMALIZATIONS
from sknn_deep._networks.summary import network_layers, summary
from sknn_deep._sklearn import (
    Interval,
    Options,
    StrOptions,
    accepts_sample_weight,
    check_random_state,
    check_sample_weight,
    num_samples,
    validate_parameter_constraints,
)
from sknn_deep._training.checkpoint import CheckpointFile, TrainingCheckpoint
from sknn_deep._training.fingerprint import described_call
from sknn_deep._training.interruption import is_one_of_many
from sknn_deep._training.progress import Progress
from sknn_deep._training.sklearn_callbacks import SklearnCallbacks
from sknn_deep._training.skorch_net import Net
from sknn_deep._training.training import DivergenceError, Training, Validation, divergence_message

# What trainings by batches publish of their progress, and those by L-BFGS do not.
_PUBLISHED = (
    "loss_curve", "best_loss", "validation_scores", "validation_loss_curve",
    "best_validation_score",
)  # fmt: skip
# To look at fewer on several threads takes as long as on one.
_MANY_NUMBERS = 2**20
# What ends a training so that there is nothing to keep of it.
_LEAVE_NOTHING = (KeyboardInterrupt, torch.OutOfMemoryError, DivergenceError)


class Validated(NamedTuple):
    """Training data as an estimator validated them, and what it learned there."""

    X: Any
    y: np.ndarray | None
    targets: np.ndarray | None
    learned: dict[str, Any]


@dataclass(eq=False, repr=False, kw_only=True)
class SharedParameters:
    """The keyword-only parameters of all three estimators, in scikit-learn's order.

    They are written here once; each estimator puts its positional parameters before them and
    documents them all. The classes of parameters inherit from nothing else: to a type checker
    that knows no types of scikit-learn, a dataclass that does may take any keyword.
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
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: int | float = 10
    max_fun: int = 15000
    dropout: float | Sequence[float] = 0.0
    normalization: NormalizationName | None = None
    solver_params: dict[str, Any] | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    scoring: Scoring | None = None
    device: str | torch.device = "auto"
    dtype: DtypeName = "auto"
    callbacks: SkorchCallbacks | None = None


class BaseDeepNetwork(SharedParameters, FittedNetwork, CallbackSupportMixin, BaseEstimator):
    """Training of a dense network.

    A subclass provides ``_validate_training_data``, ``_validate_held_out_data``,
    ``_planned_output``, ``_network_config``, ``_make_network``, ``_make_loss`` and
    ``_default_score``.
    """

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
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple, np.ndarray],
        "normalization": [StrOptions(set(NORMALIZATIONS)), None],
        "solver_params": [dict, None],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64", "bfloat16"})],
        "callbacks": [list, tuple, None],
    }

    # the attributes that are set where training data are validated
    _learned_from_data: ClassVar[tuple[str, ...]] = (
        "n_features_in_", "feature_names_in_", "n_outputs_", "out_activation_",
    )  # fmt: skip

    # "allow-nan" for an estimator that knows what to do with missing values
    _ensure_all_finite: ClassVar = True

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        # scikit-learn reads the signature anew in every call of get_params, fit and clone
        return super()._get_param_names()

    @classmethod
    @cache
    def _valid_defaults(cls) -> dict[str, Any]:
        """Return the defaults of the parameters, but for those that a subclass forbids."""
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
        # most parameters are left at their defaults
        valid, missing = self._valid_defaults(), object()
        params = self.get_params(deep=False).items()
        chosen = {name: value for name, value in params if value is not valid.get(name, missing)}
        validate_parameter_constraints(self._parameter_constraints, chosen, type(self).__name__)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")

    @property
    def device_(self) -> str:
        """The device that the fitted network is on, as torch writes it."""
        check_is_fitted(self)
        return str(self.module_.flat.device)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def _fit(
        self, X, y=None, sample_weight=None, *, incremental=False, held_out=(None, None, None)
    ):
        """Train the network; the course of ``fit`` and ``partial_fit``.

        Parameters
        ----------
        X, y, sample_weight
            As given by the user.
        incremental : bool
            Train one epoch and keep the optimiser's state (``partial_fit``).
        held_out : (X_val, y_val, sample_weight_val)
            The user's validation set, or Nones.
        """
        try:
            self._check_combinations(incremental, held_out)
            device = resolve_device(self.device)
            # the caller may have switched gradients off
            with torch.inference_mode(False), torch.enable_grad(), on_device(device):
                return self._train((X, y, sample_weight), incremental, held_out)
        except (TypeError, ValueError):
            # scikit-learn validates the parameters in the first call of partial_fit only
            if incremental:
                self._validate_params()
            raise

    def _train(self, given, incremental: bool, held_out):
        """Validate, train, check: what ``_fit`` does once torch's modes are set."""
        checkpoint = self._open_checkpoint(incremental)
        before = Before(self, goes_on=incremental or self.warm_start)
        with nullcontext() if checkpoint is None else fixed_threads(checkpoint.n_threads):
            with before.restored_on_error():
                random_state, *sets = self._take_in(given, incremental, held_out, checkpoint)
                n_epochs = 0 if self.solver == "lbfgs" else self.max_iter
                callbacks = [] if incremental else self._sklearn_callbacks(given, n_epochs)
                training = None
                if self.solver != "lbfgs":
                    training = self._training(*sets, random_state, incremental, callbacks)
                    training.begin()
            try:
                with self._memory_explained(num_samples(given[0]), self._network_dtype):
                    if training is None:
                        self._fit_lbfgs(sets[0], callbacks)
                    else:
                        training.run(self._engine(training), checkpoint)
            except BaseException as error:
                # after an error of the user's own code there are the epochs before it to keep
                if training is None or not training.n_iter or isinstance(error, _LEAVE_NOTHING):
                    before.restore()
                else:
                    self._take_over(training)
                raise
            try:
                self._finish(training, sets[0], incremental)
            except KeyboardInterrupt:  # so late that nothing shall be lost
                self._finish(training, sets[0], incremental)
                if is_one_of_many():
                    raise
                self.interrupted_ = True
                warnings.warn("Training interrupted by user.", stacklevel=2)
        return self

    def _finish(
        self, training: Training | None, batches: Batches | Chunk, incremental: bool
    ) -> None:
        """Do what comes after the training, here and in subclasses."""
        self._take_over(training)
        self._after_training(batches, incremental)

    @contextmanager
    def _memory_explained(self, n_samples: int, dtype: np.dtype | type) -> Iterator[None]:
        """Say of a training that runs out of memory what it needs, and what to change."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error) or isinstance(error, OutOfMemoryError):
                raise
            raise OutOfMemoryError(self._memory_needed(n_samples, dtype, error)) from error

    def _memory_needed(self, n_samples: int, dtype: np.dtype | type, error: Exception) -> str:
        config = self._network_config(np.empty((0, self.n_features_in_), dtype))
        layers = network_layers(config, self.out_activation_)
        itemsize = config.get("encoder", config)["dtype"].itemsize
        n_parameters = sum(layer.n_parameters for layer in layers)
        n_rows, takes_batches = n_samples, self.solver != "lbfgs"
        if takes_batches:
            n_rows = min(n_samples, 200 if self.batch_size == "auto" else self.batch_size)
        # weights, gradients, two moments; pre-activations, activations and their gradients
        of_network = 4 * n_parameters * itemsize
        of_batch = 3 * n_rows * sum(layer.units for layer in layers) * itemsize
        remedies = [f"lower hidden_layer_sizes={self.hidden_layer_sizes!r}"]
        fewer_rows = f"choose a batch_size below {n_rows}"
        if not takes_batches:
            fewer_rows = "choose solver='adam', which takes the rows in batches"
        remedies.insert(0 if of_batch > of_network else 1, fewer_rows)
        if itemsize == 8:
            remedies.append("choose dtype='float32'")
        device = resolve_device(self.device)
        if device.type != "cpu":
            remedies.append("train with device='cpu'")
        return (
            f"Training on device='{device}' ran out of memory. It takes about "
            f"{(of_network + of_batch) / 1e9:.3g} GB: {of_network / 1e9:.3g} GB for a network of "
            f"{n_parameters:,} parameters with gradients and the optimiser's state, and "
            f"{of_batch / 1e9:.3g} GB for {n_rows:,} rows at once. To take less, "
            f"{', or '.join(remedies)}. The first that did not fit: {str(error).splitlines()[0]}"
        )

    def _begin_fit(
        self,
        X,
        y,
        sample_weight=None,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        *,
        validated: Validated | None = None,
    ) -> Training:
        """Do what ``fit`` does before the first epoch, for networks trained as a stack.

        ``validated`` holds X and y as another one with the same parameters validated them.
        """
        if not get_config()["skip_parameter_validation"]:
            self._validate_params()
        held_out = (X_val, y_val, sample_weight_val)
        self._check_combinations(False, held_out)
        with Before(self, goes_on=False).restored_on_error():
            random_state, *sets = self._take_in(
                (X, y, sample_weight), False, held_out, validated=validated
            )
            return self._training(*sets, random_state)

    def _validated_data(self, training: Training) -> Validated:
        """Return the data that a training began with, for others."""
        samples, own = training.batches.samples, vars(self)
        learned = {name: own[name] for name in self._learned_from_data if name in own}
        return Validated(samples.X, samples.y, samples.targets, learned)

    def _end_fit(self, training: Training) -> None:
        """Do what ``fit`` does after the last epoch."""
        try:
            training.end()
        finally:
            self._take_over(training)
        self._after_training(training.batches, incremental=False)

    def _after_training(self, batches: Batches | Chunk, incremental: bool) -> None:
        """Look at what a network has learned from its training data."""

    def _take_in(
        self,
        given,
        incremental: bool,
        held_out,
        checkpoint: CheckpointFile | None = None,
        validated: Validated | None = None,
    ):
        """Validate the data and make the network ready.

        Returns
        -------
        random_state : RandomState
        batches : Batches, or with L-BFGS a Chunk
        validation : Validation or None
        """
        random_state = check_random_state(self.random_state)
        if checkpoint is None:
            samples = self._prepare(*given, random_state, incremental, validated)
            return random_state, *self._arrange(samples, held_out, random_state)[:2]
        first = checkpoint.first_random_state(random_state)
        samples = self._prepare(*given, first, incremental)
        *sets, held_out_samples = self._arrange(samples, held_out, first)
        checkpoint.belongs_to(self._described_call(samples, held_out_samples))
        # the user's own generator goes on, too, where it is to be reproduced
        is_own = isinstance(self.random_state, np.random.RandomState)
        return random_state if is_own else first, *sets

    def _open_checkpoint(self, incremental: bool) -> CheckpointFile | None:
        """Return the file in which the training is kept, where the user wants one."""
        checkpoints = [
            callback
            for callback in map(_unnamed, self.callbacks or [])
            if isinstance(callback, TrainingCheckpoint)
        ]
        if not checkpoints:
            return None
        if incremental:
            raise ValueError(
                "partial_fit does not support TrainingCheckpoint: it trains one epoch on data that "
                "the next call does not have. Set callbacks=None, or call fit."
            )
        if len(checkpoints) > 1:
            raise ValueError(
                f"callbacks holds {len(checkpoints)} of TrainingCheckpoint; pass one of them."
            )
        return checkpoints[0].open()

    def _other_callbacks(self) -> list:
        """Return the callbacks that skorch's net tells of the training."""
        return [
            callback
            for callback in self.callbacks or []
            if not isinstance(_unnamed(callback), TrainingCheckpoint)
        ]

    def _described_call(self, samples: Samples, held_out: Samples | None) -> dict[str, Any]:
        """Return what tells this call of ``fit`` from another."""
        data = {"X": samples.X, "y": samples.y, "sample_weight": samples.given_weight}
        if held_out is not None:
            named = {"X_val": held_out.X, "y_val": held_out.y}
            data |= {**named, "sample_weight_val": held_out.given_weight}
        if self.warm_start and self.n_iter_:
            learned = [tensor.cpu().numpy().ravel() for tensor in self.module_.snapshot()]
            data["the network that warm_start goes on with"] = np.concatenate(learned)
        callbacks = [_description(callback) for callback in self._other_callbacks()]
        device = str(self.module_.flat.device)
        return described_call(self, data, device=device, callbacks=callbacks)

    def _prepare(
        self, X, y, sample_weight, random_state, incremental: bool, validated=None
    ) -> Samples:
        """Validate the data and make the network ready, a new one or that of the last call."""
        first_pass = not hasattr(self, "module_") or not (self.warm_start or incremental)
        device = resolve_device(self.device)
        dtypes = accepted_dtypes(self.dtype, device)
        if not first_pass:
            dtypes = [self._network_dtype]
        if validated is None:
            X, y, targets = self._validate_training_data(X, y, dtypes, incremental, first_pass)
        else:
            X, y, targets, learned = validated
            vars(self).update(learned)
        given_weight = check_sample_weight(sample_weight, X)
        weight = self._weigh_classes(y, given_weight, learn=True)
        samples = Samples(X, y, targets, weight, given_weight)
        with self._memory_explained(X.shape[0], X.dtype):
            if first_pass:
                self._start(samples, random_state, device)
            else:
                self._resume(X, device, incremental)
        if self.module_.is_random:
            # drawn only where it is used: without dropout scikit-learn's draws follow
            self.module_.set_generator(seeded_generator(random_state, device, self.t_))
        return samples

    def _arrange(
        self, samples: Samples, held_out, random_state
    ) -> tuple[Batches | Chunk, Validation | None, Samples | None]:
        """Return the batches to train on, the validation set, and that of the user, if any."""
        n_samples = samples.X.shape[0]
        if self.solver == "lbfgs":
            self._check_enough_rows(n_samples)
            flat = self.module_.flat
            with self._memory_explained(n_samples, self._network_dtype):
                return whole(samples, device=flat.device, dtype=flat.dtype), None, None
        rows, validation, own_set = None, None, None
        if held_out[0] is not None:
            own_set = self._validate_held_out(*held_out)
            validation = self._validation(own_set)
        elif self.early_stopping:
            rows, held_out_rows = self._split(samples, random_state)
            validation = self._validation(samples.take(held_out_rows))
            n_samples = len(rows)
        batch_size = self._clipped_batch_size(n_samples)
        with self._memory_explained(n_samples, self._network_dtype):
            return self._make_batches(samples, rows, batch_size), validation, own_set

    def _check_combinations(self, incremental: bool, held_out) -> None:
        """Refuse parameters and arguments that are valid one by one but not together."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if isinstance(self.solver, type) and not issubclass(self.solver, torch.optim.Optimizer):
            raise ValueError(
                f"solver={self.solver!r} is not a torch.optim.Optimizer class; pass one, or one "
                f"of {['lbfgs', *STOCHASTIC_SOLVERS]}."
            )
        if self.normalization == "batch" and self.batch_size == 1:
            raise ValueError(
                "normalization='batch' needs at least two samples per batch, got batch_size=1; "
                "raise batch_size or use normalization='layer'."
            )
        for callback in self.callbacks or []:
            self._check_callback(callback)
        X_val, y_val, sample_weight_val = held_out
        if (X_val is None) != (y_val is None) and self._needs_y:
            raise ValueError("X_val and y_val must be passed together, got only one of them.")
        if sample_weight_val is not None and X_val is None:
            raise ValueError("sample_weight_val was passed without X_val; pass both or neither.")
        if self.solver == "lbfgs":
            self._check_lbfgs(has_validation_set=X_val is not None)

    def _check_lbfgs(self, has_validation_set: bool) -> None:
        for name, given, reason in (
            ("callbacks", self.callbacks, "there are no epochs to call them in"),
            *((name, given, "it needs a deterministic loss") for name, given in self._chances()),
            ("X_val", has_validation_set, "it does not stop early"),
            ("dtype='bfloat16'", self.dtype == "bfloat16", "it needs exact gradients"),
        ):
            if given:
                raise ValueError(
                    f"solver='lbfgs' does not support {name}: {reason}. "
                    "Choose a stochastic solver such as 'adam'."
                )

    def _chances(self) -> list[tuple[str, bool]]:
        """Return the parameters by which the loss is random, and whether they are in use."""
        return [("dropout", any(np.ravel(self.dropout) != 0))]

    def _check_callback(self, callback) -> None:
        callback = _unnamed(callback)
        is_class = isinstance(callback, type) and issubclass(callback, Callback)
        if is_class and issubclass(callback, TrainingCheckpoint):
            raise TypeError("callbacks holds the class TrainingCheckpoint; pass an instance.")
        if is_class or isinstance(callback, Callback):
            return
        remedy = (
            "register scikit-learn's callbacks with set_callbacks(...)"
            if isinstance(callback, FitCallback)
            else "pass instances of skorch.callbacks.Callback"
        )
        raise TypeError(f"callbacks holds {callback!r}, which is no skorch callback; {remedy}.")

    @property
    def _network_dtype(self) -> type:
        """NumPy's name of the type in which the fitted network computes."""
        return numpy_dtype(self.module_.flat.dtype)

    @property
    def _needs_y(self) -> bool:
        return get_tags(self).target_tags.required

    def _weigh_classes(self, y, sample_weight, learn: bool):
        """Return the weights of the loss; classifiers fold class weights in."""
        return sample_weight

    def _start(
        self, samples: Samples, random_state: np.random.RandomState, device: torch.device
    ) -> None:
        """Make a new network and forget what was learned before."""
        self.n_iter_, self.t_ = 0, 0
        with one_thread():  # to wake several takes longer than they save
            self.module_ = self._make_network(samples.X, device)
            self.module_.initialize(random_state, self._initial_activations())
        self.module_.eval()
        self._progress = Progress()
        self.history_ = None
        self._fixed = self._fixed_parameters()
        for name in _PUBLISHED:
            vars(self).pop(f"{name}_", None)
        self._forget_optimizer()

    def _forget_optimizer(self) -> None:
        for name in ("_optimizer", "_optimizer_state"):
            vars(self).pop(name, None)

    def _resume(self, X, device: torch.device, incremental: bool) -> None:
        """Check that the network of an earlier call can go on, and move it where asked."""
        asked = _flat_items(self._network_config(X)) | self._fixed_parameters()
        present = _flat_items(self.module_.config) | self._fixed
        if not incremental:  # a warm start has a new optimiser
            present["solver"] = asked["solver"]
        changes = [
            f"{key} {present[key]} -> {asked[key]}" for key in asked if asked[key] != present[key]
        ]
        if changes:
            raise ValueError(
                "warm_start and partial_fit go on with the network of the previous call; the "
                f"present parameters and data ask for another one ({', '.join(changes)}). Set "
                "warm_start=False, or make a new estimator."
            )
        if not incremental:
            self._fixed = {**self._fixed, "solver": self.solver}
            self._forget_optimizer()
        self._move_to(device)

    def _move_to(self, device: torch.device) -> None:
        """Move the network, and what its optimiser has come to."""
        if self.module_.flat.device == device:
            return
        self.module_.to(device)
        state = self._get_optimizer_state()
        self._forget_optimizer()
        if state is not None:
            self._optimizer_state = state

    def _fixed_parameters(self) -> dict[str, Any]:
        """Return parameters, beside the network's own, that may not change between calls."""
        return {"dtype": self.dtype, "solver": self.solver}

    def _sklearn_callbacks(self, given, n_epochs: int) -> list[SklearnCallbacks]:
        """Return the bridge to the callbacks set with ``set_callbacks``, if any are."""
        if not getattr(self, "_skl_callbacks", None):
            return []
        return [SklearnCallbacks(self, n_epochs, *given)]

    def _fit_lbfgs(self, chunk: Chunk, callbacks: list[SklearnCallbacks]) -> None:
        for callback in callbacks:
            callback.on_train_begin(None)
        self.loss_, self.n_iter_, self.interrupted_ = fit_lbfgs(
            self.module_,
            self._make_loss(),
            chunk,
            alpha=self.alpha,
            tol=self.tol,
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            verbose=self.verbose is True or self.verbose >= 1,
        )
        self.best_iter_ = self.n_iter_
        for callback in callbacks:
            callback.on_train_end(None)
        is_finite = self.module_.is_finite()
        if not is_finite or not np.isfinite(self.loss_):
            what = "loss" if is_finite else "parameter weights"
            raise DivergenceError(
                f"{divergence_message(what)} The loss was {self.loss_:g}: scale the input "
                "(StandardScaler) and large targets."
            )
        if self.interrupted_:
            if is_one_of_many():
                raise KeyboardInterrupt
            warnings.warn("Training interrupted by user.", stacklevel=2)

    def _training(
        self,
        batches: Batches,
        validation: Validation | None,
        random_state: np.random.RandomState,
        incremental: bool = False,
        sklearn_callbacks: Sequence[SklearnCallbacks] = (),
    ) -> Training:
        """Return the course of a training by batches."""
        network, progress = self.module_, self._progress
        if validation is not None:
            progress.watch_validation(network)
        self._publish(progress)
        if self.history_ is None:
            self.history_ = History()
        parts = {
            "loss": self._make_loss(),
            "optimizer": self._make_optimizer(incremental),
            "history": self.history_,
        }
        own, net = self._other_callbacks(), None
        if own or sklearn_callbacks:
            net = Net(
                network,
                **parts,
                callbacks=[*sklearn_callbacks, *own],
                records_batches=bool(own),
                verbose=int(self.verbose),
                scored=self._without_feature_names(),
            )
        return Training(
            self,
            network,
            **parts,
            penalties={
                "alpha": self.alpha,
                "weight_decay": self._weight_decay(),
                "max_grad_norm": self.max_grad_norm,
            },
            batches=batches,
            validation=validation,
            random_state=random_state,
            progress=progress,
            net=net,
            incremental=incremental,
        )

    def _engine(self, training: Training) -> Engine:
        """Return what trains one network's epochs."""
        return Engine(
            training.network,
            training.loss,
            training.optimizer,
            **training.penalties,
            product_dtype=torch.bfloat16 if self.dtype == "bfloat16" else None,
        )

    def _take_over(self, training: Training | None) -> None:
        """Let go of what only a training needs, and set what it has come to; None is L-BFGS's."""
        self.module_.eval()
        self.module_.set_generator(None)
        self._progress.stop_watching()
        if training is not None:
            self.n_iter_, self.interrupted_ = training.n_iter, training.interrupted
            self._publish(self._progress)

    def _publish(self, progress: Progress) -> None:
        """Set scikit-learn's fitted attributes from the progress of the training."""
        for name in _PUBLISHED:
            setattr(self, f"{name}_", getattr(progress, name))
        self.best_iter_ = progress.best_iter
        self.t_ = progress.n_samples_seen
        if progress.loss_curve:
            self.loss_ = progress.loss_curve[-1]

    def _make_batches(self, samples: Samples, rows, batch_size: int) -> Batches:
        """Return training batches, all long enough for what the network computes over them."""
        self._check_enough_rows(samples.X.shape[0] if rows is None else len(rows))
        return Batches(
            samples,
            rows=rows,
            batch_size=batch_size,
            min_batch_size=2 if self.normalization == "batch" else 1,
            device=self.module_.flat.device,
            dtype=self.module_.flat.dtype,
        )

    def _check_enough_rows(self, n_samples: int) -> None:
        if self.normalization == "batch" and n_samples < 2:
            raise ValueError(
                f"normalization='batch' needs at least two samples, got n_samples={n_samples}; "
                "pass more rows or use normalization='layer'."
            )

    def _clipped_batch_size(self, n_samples: int) -> int:
        if self.batch_size == "auto":
            return min(200, n_samples)
        if self.batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. "
                "It is going to be clipped",
                stacklevel=2,
            )
        return min(self.batch_size, n_samples)

    def _split(self, samples: Samples, random_state) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and the rows held out, drawn as scikit-learn does."""
        train, held_out = train_test_split(
            np.arange(samples.X.shape[0]),
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(samples.targets),
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        return train, held_out

    def _stratify(self, targets):
        """Return the labels by which a validation set is stratified, if any."""
        return None

    def _validate_held_out(self, X, y, sample_weight) -> Samples:
        X, y, targets = self._validate_held_out_data(X, y, self._network_dtype)
        given_weight = check_sample_weight(sample_weight, X)
        weight = self._weigh_classes(y, given_weight, learn=False)
        return Samples(X, y, targets, weight, given_weight)

    def _validation(self, samples: Samples) -> Validation:
        """Return a validation set that knows its loss and its score."""
        network, loss, scoring = self.module_, self._make_loss(), self._validation_scoring()
        check_weight(samples.weight)

        # a network that diverges has a score that is no number, and the training judges that
        @np.errstate(over="ignore", invalid="ignore")
        def evaluate() -> tuple[float, float]:
            value, raw = _evaluate_loss(network, loss, samples, keep=scoring is None)
            if scoring == "loss":
                return value, -value
            if scoring is None:
                return value, self._default_score(raw, samples.y, samples.given_weight)
            return value, self._scorer_score(scoring, samples)

        dataset = Dataset(samples.X, samples.y, length=samples.X.shape[0])
        return Validation(dataset, evaluate)

    def _validation_scoring(self):
        """Return what early stopping goes by; None is the score of the raw output."""
        return self.scoring

    def _scorer_score(self, scoring, samples: Samples) -> float:
        """Return the user's score, weighted by the user's weights where it takes any."""
        scorer = check_scoring(self, scoring)
        weights = {}
        if samples.given_weight is not None and accepts_sample_weight(scorer):
            weights["sample_weight"] = samples.given_weight
        X = samples.X
        if isinstance(X, Mapped) and callable(scoring):
            X = np.asarray(X)  # the user's own code may do anything with it
        try:
            return float(scorer(self._without_feature_names(), X, samples.y, **weights))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"scoring={scoring!r} failed on the validation set: {error}. Pass a scorer that "
                f"suits {type(self).__name__} and returns one number, or scoring='loss'."
            ) from error

    def _without_feature_names(self):
        """Return a twin around the same network that predicts for arrays without warning."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        vars(twin).pop("feature_names_in_", None)
        return twin

    def _make_optimizer(self, incremental: bool) -> torch.optim.Optimizer:
        """Return a new optimiser, or in ``partial_fit`` the one of the call before."""
        if incremental and hasattr(self, "_optimizer"):
            present = {id(self.module_.flat), *map(id, self.module_.parameters())}
            groups = self._optimizer.param_groups
            if all(id(param) in present for group in groups for param in group["params"]):
                return self._optimizer
            self._optimizer_state = self._get_optimizer_state()  # the network was moved
        self._optimizer = make_optimizer(
            self.solver,
            self.module_,
            lr=self.learning_rate_init,
            momentum=self.momentum,
            nesterov=self.nesterovs_momentum,
            betas=(self.beta_1, self.beta_2),
            eps=self.epsilon,
            solver_params=self.solver_params,
        )
        state = vars(self).pop("_optimizer_state", None)
        if incremental and state is not None:
            load_state(self._optimizer, to_tensors(state), has_moved=True)
        return self._optimizer

    def _weight_decay(self) -> float:
        if self.weight_decay is not None:
            return self.weight_decay
        return DEFAULT_WEIGHT_DECAY.get(self.solver, 0.0) if isinstance(self.solver, str) else 0.0

    def _get_optimizer_state(self):
        if hasattr(self, "_optimizer"):
            return to_arrays(self._optimizer.state_dict())
        return getattr(self, "_optimizer_state", None)

    def __getstate__(self):
        # an optimiser refers to the network's tensors: it pickles as arrays on the CPU
        state = super().__getstate__().copy()
        if state.pop("_optimizer", None) is not None:
            state["_optimizer_state"] = self._get_optimizer_state()
        return state

    def _planned_network(
        self, n_features: int, n_classes: int | None, n_outputs: int | None
    ) -> tuple[dict[str, Any], str]:
        """Return configuration and output activation of the network that ``fit`` would make."""
        sizes = {"n_features": n_features, "n_classes": n_classes, "n_outputs": n_outputs}
        for name, size in sizes.items():
            if size is not None and not (isinstance(size, Integral) and size >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
        plan = clone(self)
        plan._validate_params()
        plan.n_outputs_, plan.out_activation_ = plan._planned_output(n_classes, n_outputs)
        return plan._network_config(np.empty((0, n_features))), plan.out_activation_

    def _get_fitted_attr_html(self, doc_link=""):
        # what scikit-learn's diagrams show of a fitted estimator, alone or in a pipeline
        attributes = super()._get_fitted_attr_html(doc_link)
        html = attributes._repr_html_inner() + summary(self)._repr_html_()
        attributes._html_repr = lambda: html
        return attributes

    def _hidden_sizes(self, name: str) -> list[int]:
        """Return a parameter's sizes of hidden layers as a list, refusing what is no size."""
        sizes = getattr(self, name)
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if not all(isinstance(size, Integral) for size in sizes):
            raise ValueError(f"{name} must be integers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"{name} must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _per_layer(self, name: str, n_hidden: int) -> list:
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

    def _layer_options(self, n_hidden: int) -> tuple[list[str], list[float]]:
        """Return activation and dropout rate of each hidden layer."""
        activations = self._per_layer("activation", n_hidden)
        known = set(ACTIVATIONS)
        unknown = [name for name in activations if not (isinstance(name, str) and name in known)]
        if unknown:
            raise ValueError(f"activation must be among {sorted(ACTIVATIONS)}, got {unknown}.")
        dropout = self._per_layer("dropout", n_hidden)
        if not all(isinstance(rate, Real) and 0 <= rate < 1 for rate in dropout):
            raise ValueError(f"dropout must be numbers in [0, 1), got {dropout}.")
        return activations, [float(rate) for rate in dropout]

    def _validate_input(self, X):
        """Return X for prediction, in the network's floating-point type."""
        if self._is_as_in_fit(X):  # what is left to validate of a common array
            if not _is_surely_finite(X):
                assert_all_finite(
                    X,
                    allow_nan=self._ensure_all_finite == "allow-nan",
                    estimator_name=type(self).__name__,
                    input_name="X",
                )
            return X
        check_is_fitted(self)
        return self._validate_rows(X, dtypes=[self._network_dtype], reset=False)

    def _is_as_in_fit(self, X) -> bool:
        """Return whether X is an array in memory that the fitted network can read as it is."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.flags.c_contiguous
            and self.__sklearn_is_fitted__()
            and X.dtype == self._network_dtype
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
            and not is_large_map(X)
        )

    def _validate_rows(self, X, *y, dtypes: list[type], reset: bool, **options):
        """Return X, and y where it is given, as arrays; a large memory map stays in its file.

        Parameters
        ----------
        X, *y
            As given by the user.
        dtypes : list of type
            Those that X may have; others become the first.
        reset : bool
        **options
            As of ``validate_data``.
        """
        options |= {"accept_sparse": "csr", "order": "C", "reset": reset}
        if isinstance(X, Mapped):  # rows of the training's own, that a scorer has passed on
            return (X, *y) if y else X
        if not is_large_map(X):
            # others are looked at once they are converted, which may make numbers infinite
            is_known = _is_surely_finite(X) and X.dtype in dtypes
            options["ensure_all_finite"] = False if is_known else self._ensure_all_finite
            return _native(validate_data(self, X, *y, dtype=dtypes, **options))
        # what would read all of it is done piece by piece
        validated = validate_data(self, X, *y, dtype=None, ensure_all_finite=False, **options)
        array, *rest = validated if y else (validated,)
        rows = Mapped(array, array.dtype if array.dtype in dtypes else dtypes[0])
        if not get_config()["assume_finite"]:
            for piece in rows.pieces():
                assert_all_finite(
                    piece,
                    allow_nan=self._ensure_all_finite == "allow-nan",
                    estimator_name=type(self).__name__,
                    input_name="X",
                )
        return (rows, *rest) if y else rows

    def _map_rows(self, function, X) -> np.ndarray:
        """Apply a part of the network to the rows of validated X, chunk by chunk.

        Parameters
        ----------
        function : callable
            Maps a tensor of shape (rows, n_features) to one with as many rows.
        X : {ndarray, CSR matrix} of shape (n_samples, n_features)

        Returns
        -------
        output : ndarray with n_samples rows
        """
        flat, n_samples = self.module_.flat, X.shape[0]
        outputs: list[np.ndarray] = []  # one for all rows, made when the first ones are known

        def apply(part: slice) -> None:
            rows = function(dense(X[part], flat.device, flat.dtype)).cpu().numpy()
            if len(rows) == n_samples:
                outputs.append(rows)
                return
            if not outputs:
                outputs.append(np.empty((n_samples, *rows.shape[1:]), rows.dtype))
            outputs[0][part] = rows

        map_parts(apply, n_samples, self.module_)
        return outputs[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _is_surely_finite(X) -> bool:
    """Return whether a large array is without NaN and infinity, because its sum is.

    The sum is torch's, on its threads. Where it does not tell, scikit-learn has to look.
    """
    tensor = as_tensor(X)
    if tensor is None or tensor.numel() < _MANY_NUMBERS or get_config()["assume_finite"]:
        return False
    return bool(tensor.sum().isfinite())


def _evaluate_loss(
    network: Network, loss: Loss, samples: Samples, keep: bool
) -> tuple[float, np.ndarray | None]:
    """Return the mean loss over a validation set and, to keep, the raw output of every row."""
    device, dtype = network.flat.device, network.flat.dtype

    def evaluate(part: slice) -> tuple[float, float, np.ndarray | None]:
        X = dense(samples.X[part], device, dtype)
        target, weight = (
            None if array is None else dense(array[part], device, dtype)
            for array in (samples.targets, samples.weight)
        )
        raw = network(X)
        losses = loss.per_sample(raw, X if target is None else loss.encoded(target, raw))
        total = losses.sum() if weight is None else torch.dot(losses, weight)
        weight_sum = float(len(X)) if weight is None else weight.sum().item()
        return total.item(), weight_sum, raw.cpu().numpy() if keep else None

    parts = map_parts(evaluate, samples.X.shape[0], network)
    totals, weight_sums, outputs = zip(*parts, strict=True)
    value = sum(totals) / sum(weight_sums) * loss.reported_scale
    return value, np.concatenate(outputs) if keep else None


def _native(validated):
    """Return what was validated, X in the byte order of the machine, as torch needs it.

    Of arrays scikit-learn converts the order with the type, but not of DataFrames.
    """
    if isinstance(validated, tuple):
        return _native(validated[0]), *validated[1:]
    return validated.astype(validated.dtype.newbyteorder("="), copy=False)


def _unnamed(callback):
    """Return a callback without the name that skorch lets go with it."""
    return callback[1] if _is_named(callback) else callback


def _is_named(callback) -> bool:
    return isinstance(callback, tuple) and len(callback) == 2


def _description(callback) -> list:
    """Return the name that a callback was given, its class, and its parameters."""
    name = [callback[0]] if _is_named(callback) else []
    callback = _unnamed(callback)
    if isinstance(callback, type):
        return [*name, callback]
    return [*name, type(callback), callback.get_params(deep=False)]


def _flat_items(config: dict[str, Any]) -> dict[str, Any]:
    """Return a network's configuration without nesting, for a comparison entry by entry."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            items |= {f"{key} {name}": part for name, part in value.items()}
        else:
            items[key] = value
    return items
