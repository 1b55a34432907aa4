"""The state of a training: losses, scores, the stopping rule."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from sknn_deep._engine.optimizer_state import is_number
from sknn_deep._networks.flat import Network


class DivergenceError(ValueError):
    """Training has diverged: the weights or the loss are not finite."""


def divergence_message(what: str) -> str:
    """Return scikit-learn's message for non-finite weights or losses."""
    return (
        f"Solver produced non-finite {what}. The input data may contain large values and need to "
        "be preprocessed."
    )


@dataclass
class Progress:
    """The progress of a training, which persists through ``partial_fit`` and warm starts.

    The stopping rule is scikit-learn's: training stops after more than ``n_iter_no_change``
    consecutive epochs without an improvement of at least ``tol`` over the best.
    """

    loss_curve: list[float] = field(default_factory=list)
    best_loss: float | None = np.inf
    validation_scores: list[float] | None = None
    validation_loss_curve: list[float] | None = None
    best_validation_score: float | None = None
    best_iter: int = 0
    watching: bool = False
    keeps_best: bool = True
    best_snapshot: list[Tensor] | None = None
    no_improvement_count: int = 0
    n_samples_seen: int = 0

    def watch_validation(self, network: Network, keeps_best: bool = True) -> None:
        """Judge by a validation set from now on.

        The current weights are the best so far if an earlier call ended with its best weights;
        otherwise no snapshot is kept until a score is finite.

        Parameters
        ----------
        network : Network
        keeps_best : bool, default=True
            Whether to keep a snapshot of the weights with the best score.
        """
        self.watching, self.keeps_best = True, keeps_best
        if self.validation_scores is None:
            self.validation_scores, self.validation_loss_curve = [], []
            self.best_validation_score, self.best_loss = -np.inf, None
        best = self.best_validation_score
        if keeps_best and best is not None and np.isfinite(best):
            self.best_snapshot = network.snapshot()

    def stop_watching(self) -> None:
        """Release the snapshot, to which the network has been restored."""
        self.watching, self.best_snapshot = False, None

    def check(self) -> None:
        """Raise a ValueError if a training cannot continue with these values.

        They come from a file that may have been tampered with.
        """
        curves = [self.loss_curve, self.validation_scores, self.validation_loss_curve]
        bests = [self.best_loss, self.best_validation_score]
        counts = [self.best_iter, self.no_improvement_count, self.n_samples_seen]
        is_validated = self.validation_scores is not None
        if not (
            all(isinstance(curve, list) and all(map(is_number, curve)) for curve in curves[:1])
            and all(curve is None or all(map(is_number, curve)) for curve in curves)
            and all(best is None or is_number(best) for best in bests)
            and is_validated == (self.best_validation_score is not None)
            and is_validated == (self.validation_loss_curve is not None)
            and (is_validated or self.best_loss is not None)
            and all(isinstance(count, Integral) and count >= 0 for count in counts)
            and isinstance(self.watching, bool)
            and isinstance(self.keeps_best, bool)
        ):
            raise ValueError("its progress is none that a training can have made.")

    def load(self, values: dict[str, Any]) -> None:
        """Load all values, writing the curves into the existing lists."""
        curves = ("loss_curve", "validation_scores", "validation_loss_curve")
        present = {name: getattr(self, name) for name in curves}
        vars(self).update(values)
        for name, curve in present.items():
            if curve is not None:
                curve[:] = values[name]
                setattr(self, name, curve)

    def mark(self) -> tuple[dict[str, Any], int, int]:
        """Return a mark for :meth:`back_to`."""
        return dict(vars(self)), len(self.loss_curve), len(self.validation_scores or ())

    def back_to(self, mark: tuple[dict[str, Any], int, int]) -> None:
        """Roll back to a mark, keeping the same list objects."""
        values, n_losses, n_scores = mark
        vars(self).update(values)
        del self.loss_curve[n_losses:]
        for curve in (self.validation_scores, self.validation_loss_curve):
            if curve is not None:
                del curve[n_scores:]

    def add_loss(self, loss: float, tol: float) -> None:
        """Judge an epoch by its training loss."""
        if self.best_loss is None:
            self.best_loss = np.inf
        self._count(loss > self.best_loss - tol)
        self.best_loss = min(self.best_loss, loss)  # a NaN never becomes the best
        self.best_iter = len(self.loss_curve)

    def add_validation(self, loss: float, score: float, tol: float, network: Network) -> None:
        """Judge an epoch by its validation score."""
        losses, scores, best = self._validation()
        losses.append(loss)
        scores.append(score)
        self._count(score < best + tol)
        if np.isfinite(score) and score > best:
            self.best_snapshot = network.snapshot() if self.keeps_best else None
            self.best_validation_score = score
            self.best_iter = len(self.loss_curve)

    def last_validation(self) -> tuple[float, float]:
        """Return the loss and the score of the last epoch on the validation set."""
        losses, scores, _ = self._validation()
        return losses[-1], scores[-1]

    def _validation(self) -> tuple[list[float], list[float], float]:
        """Return the losses, the scores and the best score of the validation set."""
        curves = self.validation_loss_curve, self.validation_scores
        # watch_validation() has created them
        return *curves, self.best_validation_score  # type: ignore[return-value]

    def _count(self, without_improvement: bool) -> None:
        self.no_improvement_count = self.no_improvement_count + 1 if without_improvement else 0


def are_epochs(rows: list[dict[str, Any]]) -> bool:
    """Return whether rows form a valid history, in which callbacks may record anything."""
    losses = ("train_loss", "valid_loss")
    return all(
        isinstance(row, dict)
        and isinstance(row.get("batches"), list)
        and all(is_number(row.get(name, 0.0)) for name in losses)
        for row in rows
    )
