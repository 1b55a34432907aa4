"""The course of a training: what happens before, between and after its epochs.

An epoch itself is trained by an :class:`Engine`, or for a stack of networks in
``_fused.py``; a :class:`Training` says with which rates, judges the loss and the validation
score, and decides when to stop.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.dataset import Dataset
from skorch.history import History
from torch import Tensor

from sknn_deep._batches import Batches
from sknn_deep._engine import Engine, EpochLosses
from sknn_deep._losses import Loss
from sknn_deep._net import Net, record_batch
from sknn_deep._network import Network
from sknn_deep._optimizers import ANNEALING_SCHEDULES, annealed_rate, set_learning_rate

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


class Training:
    """One network's way through its epochs.

    Parameters
    ----------
    estimator : estimator
        Its parameters say how to train (``learning_rate``, ``tol``, …).
    network : Network
        On its device, initialised.
    loss : Loss
    optimizer : torch.optim.Optimizer
    penalties : dict
        ``alpha``, ``weight_decay`` and ``max_grad_norm``, as of :class:`Engine`.
    batches : Batches
    validation : Validation or None
    random_state : RandomState
        Draws the permutation of each epoch.
    progress : Progress
    history : History
        Of the epochs before, written to.
    net : Net or None
        Through which callbacks hear of the training; None without callbacks.
    incremental : bool
        Train one epoch only, without a word about convergence (``partial_fit``).

    Attributes
    ----------
    is_done : bool
        Whether the stopping rule, a callback or ``max_iter`` says that it is enough.
    """

    def __init__(
        self,
        estimator,
        network: Network,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        penalties: dict[str, float | None],
        batches: Batches,
        validation: Validation | None,
        random_state: np.random.RandomState,
        progress: Progress,
        history: History,
        net: Net | None,
        incremental: bool = False,
    ):
        self.estimator, self.network, self.loss = estimator, network, loss
        self.optimizer, self.penalties = optimizer, penalties
        self.batches, self.net, self.is_done = batches, net, False
        self._validation, self._random_state = validation, random_state
        self._progress, self._history, self._incremental = progress, history, incremental
        self._records_batches = bool(estimator.callbacks) and not net.hears_batches
        self._max_iter = 1 if incremental else estimator.max_iter
        self._n_epochs_before = len(progress.loss_curve)
        self._first_epoch = 0 if incremental else self._n_epochs_before
        self._data: dict = {"X": None, "y": None}
        self._datasets = {"dataset_train": None, "dataset_valid": None}
        if net is not None:
            self._data = {"X": batches.X, "y": batches.y}
            self._datasets["dataset_train"] = Dataset(*self._data.values(), length=len(batches))
            if validation is not None:
                self._datasets["dataset_valid"] = validation.dataset
        self._smallest = {
            name: min((row[name] for row in history if name in row), default=np.inf)
            for name in ("train_loss", "valid_loss")
        }

    @property
    def n_iter(self) -> int:
        """The number of epochs trained."""
        return len(self._progress.loss_curve) - self._n_epochs_before

    def run(self, engine: Engine) -> None:
        """Train to the end with an engine."""
        engine.listener = self.net if self.net is not None and self.net.hears_batches else None
        try:
            self.begin()
            while not self.is_done:
                self.end_epoch(self._train_epoch(engine, self.begin_epoch()))
        except KeyboardInterrupt:
            self.network.eval()
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            engine.close()
            if self._history and "train_loss" not in self._history[-1]:
                self._history.pop()  # the epoch that was not finished
        self.end()

    def begin(self) -> None:
        """Announce the training."""
        self._notify("on_train_begin", **self._data)

    def begin_epoch(self) -> list[float] | None:
        """Shuffle; return the learning rate of each batch, where a schedule sets it."""
        self._start = time.perf_counter()
        self._history.append({"batches": [], "epoch": len(self._history) + 1})
        self._notify("on_epoch_begin", **self._datasets)
        if self.estimator.shuffle:
            self.batches.shuffle(self._random_state)
        return self._annealed_rates()

    def end_epoch(self, losses: EpochLosses) -> None:
        """Judge an epoch; see whether it was the last."""
        progress, estimator = self._progress, self.estimator
        if self._records_batches:
            self._record_batches(losses)
        loss = float(np.dot(losses.values, losses.sizes)) / len(self.batches)
        progress.n_samples_seen += len(self.batches)
        progress.loss_curve.append(loss)
        self._say(f"Iteration {self.n_iter}, loss = {loss:.8f}")
        if self._validation is None:
            progress.add_loss(loss, estimator.tol)
        else:
            progress.add_validation(*self._validation.evaluate(), estimator.tol, self.network)
            self._say(f"Validation score: {progress.validation_scores[-1]:f}")
        self._record(loss, time.perf_counter() - self._start)
        self._end_of_epoch_rate()
        self.is_done = self._should_stop(loss)
        if not self.is_done and self.n_iter == self._max_iter:
            self.is_done = True
            self._warn_unless_converged()

    def end(self) -> None:
        """Put the best weights back, where a validation set found them; announce the end."""
        if self._validation is not None:
            self._restore_best()
        self._notify("on_train_end", **self._data)

    def _train_epoch(self, engine: Engine, rates: list[float] | None) -> EpochLosses:
        try:
            return engine.train_epoch(self.batches, rates)
        except (AssertionError, RuntimeError) as error:
            if not engine.in_optimizer or isinstance(error, torch.OutOfMemoryError):
                raise
            estimator = self.estimator
            raise ValueError(
                f"solver={estimator.solver!r} with solver_params={estimator.solver_params!r} "
                f"failed in a step: {error}"
            ) from error

    def _should_stop(self, loss: float) -> bool:
        if self.net is not None and self.net.end_epoch(self._datasets):
            return True
        if not math.isfinite(loss) and not self.network.flat.isfinite().all():
            self._warn_of_divergence(loss)
            return True
        return self._has_stagnated()

    def _notify(self, event: str, **kwargs) -> None:
        if self.net is not None:
            self.net.notify(event, **kwargs)

    def _restore_best(self) -> None:
        if self._progress.best_snapshot is not None:
            self.network.restore(self._progress.best_snapshot)
        elif self._progress.validation_scores and self.network.flat.isfinite().all():
            warnings.warn(
                "The validation score was never a finite number, so the weights of the last epoch "
                f"are kept. Check scoring={self.estimator.scoring!r} and the validation set.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _record_batches(self, losses: EpochLosses) -> None:
        for loss, size, weight_sum in zip(
            losses.values.tolist(), losses.sizes, losses.weight_sums, strict=True
        ):
            if weight_sum > 0:  # else the batch was skipped
                record_batch(self._history, loss, size)

    def _annealed_rates(self) -> list[float] | None:
        estimator = self.estimator
        if estimator.learning_rate not in ANNEALING_SCHEDULES:
            return None
        n_batches = self.batches.n_batches
        epochs_done = len(self._progress.loss_curve) - self._first_epoch
        return [
            annealed_rate(
                estimator.learning_rate,
                estimator.learning_rate_init,
                (epochs_done + number / n_batches) / estimator.max_iter,
            )
            for number in range(n_batches)
        ]

    def _end_of_epoch_rate(self) -> None:
        """Let the "invscaling" schedule fall with the number of samples seen."""
        estimator = self.estimator
        if estimator.learning_rate == "invscaling" and estimator.solver == "sgd":
            decay = (self._progress.n_samples_seen + 1) ** estimator.power_t
            set_learning_rate(self.optimizer, estimator.learning_rate_init / decay)

    def _has_stagnated(self) -> bool:
        """Return whether to stop; the "adaptive" schedule lowers its rate first."""
        estimator, progress = self.estimator, self._progress
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
        rate = self.optimizer.param_groups[0]["lr"]
        if estimator.learning_rate != "adaptive" or estimator.solver != "sgd":
            self._say(f"{message} Stopping.")
            return True
        if rate <= _SMALLEST_ADAPTIVE_RATE:
            self._say(f"{message} Learning rate too small. Stopping.")
            return True
        set_learning_rate(self.optimizer, rate / 5)
        self._say(f"{message} Setting learning rate to {rate / 5:f}")
        progress.no_improvement_count = 0
        return False

    def _record(self, loss: float, seconds: float) -> None:
        """Write the epoch into skorch's history, under skorch's names."""
        progress = self._progress
        row = next(reversed(self._history))  # history[-1] would copy all rows
        losses = {"train_loss": loss}
        if progress.watching:
            losses["valid_loss"] = progress.validation_loss_curve[-1]
            row["valid_score"] = progress.validation_scores[-1]
        for name, value in losses.items():
            row[name], row[f"{name}_best"] = value, value < self._smallest[name]
            self._smallest[name] = min(value, self._smallest[name])
        row["dur"] = seconds

    def _say(self, line: str) -> None:
        if self.estimator.verbose:
            print(line)

    def _warn_unless_converged(self) -> None:
        if not self._incremental and self.estimator.learning_rate not in ANNEALING_SCHEDULES:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.estimator.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _warn_of_divergence(self, loss: float) -> None:
        if self._progress.best_snapshot is not None:
            warnings.warn(
                f"Training diverged in iteration {self.n_iter} (loss={loss}); the weights of the "
                f"best validation score (epoch {self._progress.best_iter}) are kept. Scale "
                f"the input or lower learning_rate_init={self.estimator.learning_rate_init}.",
                ConvergenceWarning,
                stacklevel=2,
            )
