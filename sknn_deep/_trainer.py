"""The training loop: skorch's net with its loop replaced, and SciPy's L-BFGS.

The contract with callbacks is skorch's: ``net.history``, ``net.module_``,
``net.optimizer_`` and the notifications. What differs is what costs time there: batches
are gathered on the device without a ``DataLoader``, the host reads the loss once per
epoch, and batch-level notifications are sent only when a callback listens.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochScoring, LRScheduler
from skorch.dataset import Dataset
from torch import Tensor

from sknn_deep._backprop import Backprop
from sknn_deep._batches import Batches, Chunk
from sknn_deep._engine import Engine
from sknn_deep._losses import Loss
from sknn_deep._network import Network
from sknn_deep._optimizers import (
    ANNEALING_SCHEDULES,
    annealed_rate,
    set_learning_rate,
)
from sknn_deep._threads import Pace, one_thread
from sknn_deep._validation import check_optimize_result, lbfgs_verbosity

# Below this learning rate the "adaptive" schedule gives up, as in scikit-learn.
_SMALLEST_ADAPTIVE_RATE = 1e-6


@dataclass
class Validation:
    """A held-out set: ``evaluate()`` returns its loss and its score (greater is better)."""

    dataset: Dataset
    evaluate: Callable[[], tuple[float, float]]


@dataclass
class Progress:
    """What training has come to; it lives on through ``partial_fit`` and warm starts.

    The stopping rule is scikit-learn's: an epoch without an improvement of at least
    ``tol`` over the best counts, more than ``n_iter_no_change`` in a row stop.
    """

    loss_curve: list[float] = field(default_factory=list)
    best_loss: float | None = np.inf
    validation_scores: list[float] | None = None
    validation_loss_curve: list[float] | None = None
    best_validation_score: float | None = None
    best_iter: int = 0
    watching: bool = False
    best_snapshot: list[Tensor] | None = None
    no_improvement_count: int = 0
    n_samples_seen: int = 0

    def watch_validation(self, network: Network) -> None:
        """Go by a validation set from now on.

        The present weights are the best so far where an earlier call ended with the best
        of its own; otherwise nothing is kept until a score is a number.
        """
        self.watching = True
        if self.validation_scores is None:
            self.validation_scores, self.validation_loss_curve = [], []
            self.best_validation_score, self.best_loss = -np.inf, None
        if np.isfinite(self.best_validation_score):
            self.best_snapshot = network.snapshot()

    def stop_watching(self) -> None:
        """Forget the snapshot, which the network has been restored to."""
        self.watching, self.best_snapshot = False, None

    def add_loss(self, loss: float, tol: float) -> None:
        """Judge an epoch by its training loss."""
        if self.best_loss is None:
            self.best_loss = np.inf
        self._count(loss > self.best_loss - tol)
        self.best_loss = min(self.best_loss, loss)  # a NaN never becomes the best
        self.best_iter = len(self.loss_curve)

    def add_validation(self, loss: float, score: float, tol: float, network: Network) -> None:
        """Judge an epoch by its validation score."""
        self.validation_loss_curve.append(loss)
        self.validation_scores.append(score)
        self._count(score < self.best_validation_score + tol)
        if np.isfinite(score) and score > self.best_validation_score:
            self.best_validation_score = score
            self.best_iter = len(self.loss_curve)
            self.best_snapshot = network.snapshot()

    def _count(self, without_improvement: bool) -> None:
        self.no_improvement_count = self.no_improvement_count + 1 if without_improvement else 0


class Trainer(NeuralNet):
    """skorch's net around a network, an optimiser and our epoch loop.

    Parameters
    ----------
    estimator : estimator
        Its parameters say how to train (``alpha``, ``learning_rate``, ``tol``, …).
    network : Network
        On its device, initialised.
    loss : Loss
    optimizer : torch.optim.Optimizer
    weight_decay : float
    progress : Progress
    history : skorch.history.History or None
        Continued where one is given.
    callbacks : list of skorch callbacks
    records_batches : bool
        Whether the history keeps the loss of every batch.
    scored : estimator
        Through which skorch's scoring callbacks predict.
    """

    def __init__(
        self,
        estimator,
        network: Network,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        weight_decay: float,
        progress: Progress,
        history,
        callbacks,
        records_batches: bool,
        scored,
    ):
        super().__init__(
            network,
            criterion=_Constant(loss),
            optimizer=_Constant(optimizer),
            callbacks=callbacks,
            train_split=None,
            device=None,
            verbose=int(estimator.verbose),
            use_caching=False,
        )
        self._estimator, self._scored = estimator, scored
        self._progress = progress
        self._has_modes = network.has_dropout or network.has_normalization
        self._engine = Engine(
            network,
            loss,
            optimizer,
            alpha=estimator.alpha,
            weight_decay=weight_decay,
            max_grad_norm=estimator.max_grad_norm,
            product_dtype=torch.bfloat16 if estimator.dtype == "bfloat16" else None,
        )
        self.initialize()
        # known to skorch's callbacks only now: it would move the module and break its views
        self.device = str(network.flat.device)
        self.history_ = history if history is not None else self.history_
        self._smallest = {
            name: min((row[name] for row in self.history if name in row), default=np.inf)
            for name in ("train_loss", "valid_loss")
        }
        self._records_batches = records_batches
        self._hears_batches = any(_listens_to_batches(callback) for _, callback in self.callbacks_)
        if self._hears_batches:
            self._engine.listener = self

    def __getstate__(self):
        # what is pickled (skorch's ``Checkpoint(f_pickle=…)``) predicts; it does not train
        state = super().__getstate__()
        state.pop("_engine")
        return state

    @property
    def _default_callbacks(self):
        return []

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        pass  # the batch enters the history with its loss, in _record_batch

    def __setattr__(self, name, value):
        if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
            super().__setattr__(name, value)
        else:  # skorch would look it up among the components of torch, which takes longer
            object.__setattr__(self, name, value)

    def on_epoch_begin(self, net, **kwargs):
        self.history.append({"batches": [], "epoch": len(self.history) + 1})

    def initialize_optimizer(self, triggered_directly=None):
        self.optimizer_ = self.optimizer()
        return self

    def train(
        self,
        batches: Batches,
        validation: Validation | None,
        random_state: np.random.RandomState,
        *,
        incremental: bool = False,
    ) -> int:
        """Train for ``max_iter`` epochs or until the stopping rule or a callback says so.

        Parameters
        ----------
        batches : Batches
        validation : Validation or None
        random_state : RandomState
            Draws the permutation of each epoch.
        incremental : bool
            Train one epoch only, without a word about convergence (``partial_fit``).

        Returns
        -------
        n_iter : int
            Epochs trained.
        """
        X, y, sets = None, None, {"dataset_train": None, "dataset_valid": None}
        if self.callbacks_:
            X, y = batches.X, batches.y
            sets["dataset_train"] = Dataset(X, y, length=len(batches))
            if validation is not None:
                sets["dataset_valid"] = validation.dataset
        max_iter = 1 if incremental else self._estimator.max_iter
        self._n_epochs_before = len(self._progress.loss_curve)
        self._first_epoch = 0 if incremental else self._n_epochs_before
        try:
            self.notify("on_train_begin", X=X, y=y)
            for n_iter in range(1, max_iter + 1):
                if self._run_epoch(batches, validation, random_state, n_iter, sets):
                    break
            else:
                self._warn_unless_converged(incremental)
        except KeyboardInterrupt:
            self.module_.eval()
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            self._engine.close()
            if self.history and "train_loss" not in self.history[-1]:
                self.history.pop()  # the epoch that was not finished
        if validation is not None:
            self._restore_best()
        self.notify("on_train_end", X=X, y=y)
        return len(self._progress.loss_curve) - self._n_epochs_before

    def _restore_best(self) -> None:
        if self._progress.best_snapshot is not None:
            self.module_.restore(self._progress.best_snapshot)
        elif self._progress.validation_scores and self.module_.flat.isfinite().all():
            warnings.warn(
                "The validation score was never a finite number, so the weights of the last epoch "
                f"are kept. Check scoring={self._estimator.scoring!r} and the validation set.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _run_epoch(self, batches, validation, random_state, n_iter, sets) -> bool:
        """Train one epoch and judge it; return whether training should stop."""
        progress, estimator = self._progress, self._estimator
        start = time.perf_counter()
        self.notify("on_epoch_begin", **sets)
        if estimator.shuffle:
            batches.shuffle(random_state)
        loss = self._train_epoch(batches)
        progress.n_samples_seen += len(batches)
        progress.loss_curve.append(loss)
        self._say(f"Iteration {n_iter}, loss = {loss:.8f}")
        if validation is None:
            progress.add_loss(loss, estimator.tol)
        else:
            progress.add_validation(*validation.evaluate(), estimator.tol, self.module_)
            self._say(f"Validation score: {progress.validation_scores[-1]:f}")
        self._record(loss, time.perf_counter() - start)
        self._end_of_epoch_rate()
        if self._end_epoch(sets):
            return True
        if not math.isfinite(loss) and not self.module_.flat.isfinite().all():
            self._warn_of_divergence(loss, n_iter)
            return True
        return self._has_stagnated()

    def _end_epoch(self, sets) -> bool:
        """Tell every callback of the end of an epoch; return whether one asks to stop."""
        self.on_epoch_end(self, **sets)
        stop = False
        for _, callback in self.callbacks_:
            try:
                callback.on_epoch_end(self, **sets)
            except KeyboardInterrupt:  # skorch's callbacks ask in this way
                stop = True
        return stop

    def _train_epoch(self, batches: Batches) -> float:
        """Train on every batch; return the mean loss over the rows."""
        engine, epochs_done = self._engine, len(self._progress.loss_curve) - self._first_epoch
        sizes, weight_sums = [], []
        # in one place: a small tensor kept from each batch would split the memory between them
        results = self.module_.flat.new_empty((2, batches.n_batches))
        if self._has_modes:
            self.module_.train()
        engine.freeze()
        with one_thread():
            engine.pace.resume()
            for chunk in batches:
                rates = self._annealed_rates(epochs_done, len(sizes), chunk, batches)
                done = slice(len(sizes), len(sizes) + len(chunk.parts))
                results[0, done], results[1, done] = self._train(chunk, rates)
                sizes += [part.stop - part.start for part in chunk.parts]
                weight_sums += chunk.weight_sums
            engine.pace.pause()
        if self._has_modes:
            self.module_.eval()
        # the one time in an epoch that the host waits for the device
        on_host = results.cpu().numpy().astype(np.float64)
        values = engine.reported_losses(*on_host, weight_sums)
        if self._records_batches and not self._hears_batches:
            for value, size, weight_sum in zip(values.tolist(), sizes, weight_sums, strict=True):
                if weight_sum > 0:  # else the batch was skipped
                    self._record_batch(value, size)
        return float(np.dot(values, sizes)) / len(batches)

    def _train(self, chunk: Chunk, rates: list[float] | None) -> tuple[Tensor, Tensor]:
        try:
            return self._engine.train(chunk, rates)
        except (AssertionError, RuntimeError) as error:
            if not self._engine.in_optimizer or isinstance(error, torch.OutOfMemoryError):
                raise
            estimator = self._estimator
            raise ValueError(
                f"solver={estimator.solver!r} with solver_params={estimator.solver_params!r} "
                f"failed in a step: {error}"
            ) from error

    def _record_batch(self, loss: float, size: int) -> None:
        self.history.new_batch()
        self.history.record_batch("train_loss", loss)
        self.history.record_batch("train_batch_size", size)

    # skorch's events of single batches, sent where a callback listens

    def batch_begins(self, X: Tensor, target: Tensor) -> None:
        self._batch = (X, target)
        self.notify("on_batch_begin", batch=self._batch, training=True)

    def gradient_is_known(self) -> None:
        named = list(self.module_.named_parameters())
        self.notify("on_grad_computed", named_parameters=named, batch=self._batch, training=True)

    def batch_ends(self, X: Tensor, target: Tensor, loss: Tensor, raw: Tensor) -> None:
        self._record_batch(loss.item(), len(X))
        step = {"loss": loss, "y_pred": raw}
        self.notify("on_batch_end", batch=(X, target), training=True, **step)

    def _annealed_rates(
        self, epochs_done: int, batches_done: int, chunk: Chunk, batches: Batches
    ) -> list[float] | None:
        """Return the learning rate of each batch of a chunk, where a schedule sets it."""
        estimator = self._estimator
        if estimator.learning_rate not in ANNEALING_SCHEDULES:
            return None
        return [
            annealed_rate(
                estimator.learning_rate,
                estimator.learning_rate_init,
                (epochs_done + (batches_done + i) / batches.n_batches) / estimator.max_iter,
            )
            for i in range(len(chunk.parts))
        ]

    def _end_of_epoch_rate(self) -> None:
        """Let the "invscaling" schedule fall with the number of samples seen."""
        estimator = self._estimator
        if estimator.learning_rate == "invscaling" and estimator.solver == "sgd":
            decay = (self._progress.n_samples_seen + 1) ** estimator.power_t
            set_learning_rate(self.optimizer_, estimator.learning_rate_init / decay)

    def _has_stagnated(self) -> bool:
        """Return whether to stop; the "adaptive" schedule lowers its rate first."""
        estimator, progress = self._estimator, self._progress
        watching = progress.watching
        if progress.no_improvement_count <= estimator.n_iter_no_change:
            return False
        if estimator.learning_rate in ANNEALING_SCHEDULES and not watching:
            return False  # the loss falls again as the rate does: run the whole course
        what = "Validation score" if watching else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} "
            f"for {estimator.n_iter_no_change} consecutive epochs."
        )
        rate = self.optimizer_.param_groups[0]["lr"]
        if estimator.learning_rate != "adaptive" or estimator.solver != "sgd":
            self._say(f"{message} Stopping.")
            return True
        if rate <= _SMALLEST_ADAPTIVE_RATE:
            self._say(f"{message} Learning rate too small. Stopping.")
            return True
        set_learning_rate(self.optimizer_, rate / 5)
        self._say(f"{message} Setting learning rate to {rate / 5:f}")
        progress.no_improvement_count = 0
        return False

    def _record(self, loss: float, seconds: float) -> None:
        """Write the epoch into skorch's history, under skorch's names."""
        progress = self._progress
        row = next(reversed(self.history))  # history[-1] would copy all rows
        losses = {"train_loss": loss}
        if progress.watching:
            losses["valid_loss"] = progress.validation_loss_curve[-1]
            row["valid_score"] = progress.validation_scores[-1]
        for name, value in losses.items():
            row[name], row[f"{name}_best"] = value, value < self._smallest[name]
            self._smallest[name] = min(value, self._smallest[name])
        row["dur"] = seconds

    def _say(self, line: str) -> None:
        if self._estimator.verbose:
            print(line)

    def _warn_unless_converged(self, incremental: bool) -> None:
        if not incremental and self._estimator.learning_rate not in ANNEALING_SCHEDULES:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self._estimator.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _warn_of_divergence(self, loss: float, n_iter: int) -> None:
        if self._progress.best_snapshot is not None:
            warnings.warn(
                f"Training diverged in iteration {n_iter} (loss={loss}); the weights of the "
                f"best validation score (epoch {self._progress.best_iter}) are kept. Scale "
                f"the input or lower learning_rate_init={self._estimator.learning_rate_init}.",
                ConvergenceWarning,
                stacklevel=2,
            )

    # skorch's scoring callbacks treat the net as the estimator that they score

    @property
    def classes_(self):
        return self._scored.classes_

    def predict(self, X):
        return self._scored.predict(X)

    def predict_proba(self, X):
        return self._scored.predict_proba(X)

    def score(self, X, y=None):
        return self._scored.score(X, y)

    def __sklearn_tags__(self):
        return self._scored.__sklearn_tags__()


def fit_lbfgs(
    network: Network,
    loss: Loss,
    chunk: Chunk,
    *,
    alpha: float,
    tol: float,
    max_iter: int,
    max_fun: int,
    verbose: bool,
) -> tuple[float, int]:
    """Minimise the loss over the whole set with SciPy's L-BFGS-B [1]_.

    Parameters
    ----------
    network : Network
        Its present weights are the start; it holds the optimum afterwards.
    loss : Loss
    chunk : Chunk
        The whole set in one batch.
    alpha, tol, max_iter, max_fun, verbose
        As of the estimators.

    Returns
    -------
    loss : float
        The loss at the optimum, penalty included, on the scale that is reported.
    n_iter : int

    References
    ----------
    .. [1] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu (1995). A limited memory algorithm for
       bound constrained optimization. SIAM J. Sci. Comput. 16(5).
    """
    pace = Pace.of(network.flat.device)
    work = Backprop([network], loss, pace=pace).workspace(chunk)
    work.load(chunk)
    (program,) = work.programs
    rate = alpha / chunk.weight_sums[0]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        network.flat.copy_(torch.from_numpy(flat))
        with one_thread():
            for kernel in program:
                kernel()
            pace.step_done()
        weights = network.weights
        weights.grad.add_(weights, alpha=rate)
        value = work.loss(0).item() + 0.5 * rate * torch.dot(weights, weights).item()
        return value, network.flat.grad.cpu().numpy().astype(np.float64)

    network.train()
    result = scipy.optimize.minimize(
        loss_and_gradient,
        network.flat.cpu().numpy().astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        options={
            "maxfun": max_fun, "maxiter": max_iter, "gtol": tol, **lbfgs_verbosity(verbose),
        },
    )  # fmt: skip
    network.flat.copy_(torch.from_numpy(result.x))
    network.learn_statistics(chunk.X)
    network.eval()
    penalty = 0.5 * rate * torch.dot(network.weights, network.weights).item()
    reported = (result.fun - penalty) * loss.reported_scale + penalty
    return float(reported), int(check_optimize_result("lbfgs", result, max_iter))


class _Constant:
    """What skorch calls to make its criterion and optimiser; a lambda would not pickle."""

    def __init__(self, value):
        self._value = value

    def __call__(self):
        return self._value


def _listens_to_batches(callback: Callback) -> bool:
    """Return whether a callback does anything with the events of single batches."""
    if type(callback) is EpochScoring:
        return False  # it would cache predictions, which the net tells it not to
    if type(callback) is LRScheduler:
        return callback.step_every == "batch"
    events = ("on_batch_begin", "on_batch_end", "on_grad_computed")
    return any(getattr(type(callback), event) is not getattr(Callback, event) for event in events)
