"""The learning rate over the epochs, and the stopping rule.

Annealing schedules, such as "cosine" and "one_cycle", run to the end. The loss may rise with the
rate, so the stopping rule on the training loss is disabled, and reaching ``max_iter`` is expected
and gives no ``ConvergenceWarning``.
"""

from typing import Any

import torch

from sknn_deep._engine.solvers import ANNEALING_SCHEDULES, annealed_rate, set_learning_rate
from sknn_deep._training.progress import Progress

# Below this learning rate the "adaptive" schedule stops, as in scikit-learn.
_SMALLEST_ADAPTIVE_RATE = 1e-6


class Schedule:
    """Sets an optimiser's learning rate according to ``learning_rate``, and decides when to stop.

    Parameters
    ----------
    estimator : estimator
        Its parameters define the schedule and the stopping rule.
    optimizer : torch.optim.Optimizer
    progress : Progress
    first_epoch : int
        Number of epochs in ``progress`` from earlier calls that do not count for the schedule.
    """

    def __init__(
        self,
        estimator: Any,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        first_epoch: int,
    ):
        self._estimator, self._optimizer = estimator, optimizer
        self._progress, self._first_epoch = progress, first_epoch
        self._is_annealed = estimator.learning_rate in ANNEALING_SCHEDULES
        self._is_sgd = estimator.solver == "sgd"

    @property
    def rate(self) -> float:
        """The current learning rate."""
        return self._optimizer.param_groups[0]["lr"]

    @property
    def expects_convergence(self) -> bool:
        """Whether running all epochs means that the training has not converged."""
        estimator = self._estimator
        if self._is_annealed:
            return False
        is_off = estimator.n_iter_no_change == float("inf") or estimator.tol == 0
        # with a warm start, scikit-learn's MLP also warns that the next call has more to do
        return not is_off or estimator.warm_start

    def rates(self, n_batches: int) -> list[float] | None:
        """Return the learning rate of each batch of the next epoch; None if it does not change."""
        if not self._is_annealed:
            return None
        estimator = self._estimator
        epochs_done = len(self._progress.loss_curve) - self._first_epoch
        return [
            annealed_rate(
                estimator.learning_rate,
                estimator.learning_rate_init,
                (epochs_done + number / n_batches) / estimator.max_iter,
            )
            for number in range(n_batches)
        ]

    def dropout_share(self) -> float:
        """Return the factor of the dropout rates in the next epoch."""
        estimator = self._estimator
        if estimator.dropout_schedule == "constant":
            return 1.0
        epochs_done = len(self._progress.loss_curve) - self._first_epoch
        return annealed_rate("flat_cosine", 1.0, epochs_done / estimator.max_iter)

    def end_epoch(self) -> None:
        """Lower the rate of the "invscaling" schedule by the number of samples seen."""
        estimator = self._estimator
        if estimator.learning_rate == "invscaling" and self._is_sgd:
            decay = (self._progress.n_samples_seen + 1) ** estimator.power_t
            set_learning_rate(self._optimizer, estimator.learning_rate_init / decay)

    def has_stagnated(self) -> bool:
        """Return whether to stop; the "adaptive" schedule lowers its rate first."""
        estimator, progress = self._estimator, self._progress
        if progress.no_improvement_count <= estimator.n_iter_no_change:
            return False
        if self._is_annealed and not progress.watching:
            return False  # the loss falls again when the rate does: run the whole schedule
        what = "Validation score" if progress.watching else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} "
            f"for {estimator.n_iter_no_change} consecutive epochs."
        )
        if estimator.learning_rate != "adaptive" or not self._is_sgd:
            self._say(f"{message} Stopping.")
            return True
        if self.rate <= _SMALLEST_ADAPTIVE_RATE:
            self._say(f"{message} Learning rate too small. Stopping.")
            return True
        set_learning_rate(self._optimizer, self.rate / 5)
        self._say(f"{message} Setting learning rate to {self.rate:f}")
        progress.no_improvement_count = 0
        return False

    def _say(self, line: str) -> None:
        if self._estimator.verbose:
            print(line)
