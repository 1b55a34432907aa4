"""Records the epochs of a training in skorch's history, under skorch's names."""

from typing import Any

import numpy as np
from skorch.history import History

from sknn_deep._engine.engine import EpochLosses
from sknn_deep._training.progress import Progress


class HistoryWriter:
    """Writes the epochs of a training to a history, which may contain those of earlier calls.

    Parameters
    ----------
    history : History
    """

    def __init__(self, history: History):
        self._history = history
        self.read()

    def read(self) -> None:
        """Find the smallest losses in the history, after other code has written to it."""
        self._smallest = {
            name: min((row[name] for row in self._history if name in row), default=np.inf)
            for name in ("train_loss", "valid_loss")
        }

    def begin_epoch(self) -> None:
        """Begin a row."""
        self._history.append({"batches": [], "epoch": len(self._history) + 1})

    def write_batches(self, losses: EpochLosses) -> None:
        """Write the loss of each batch."""
        for loss, size, weight_sum in zip(
            losses.values, losses.sizes, losses.weight_sums, strict=True
        ):
            if weight_sum > 0:  # else the batch was skipped
                record_batch(self._history, loss, size)

    def end_epoch(self, loss: float, progress: Progress, seconds: float) -> None:
        """Write the losses of an epoch, its validation score and its duration."""
        row = next(reversed(self._history))  # history[-1] would copy all rows
        self._write_loss(row, "train_loss", loss)
        if progress.watching:
            valid_loss, row["valid_score"] = progress.last_validation()
            self._write_loss(row, "valid_loss", valid_loss)
        row["dur"] = seconds

    def _write_loss(self, row: dict[str, Any], name: str, value: float) -> None:
        is_best = value < self._smallest[name]
        row[name], row[f"{name}_best"] = value, is_best
        if is_best:
            self._smallest[name] = value


def record_batch(history: History, loss: float, size: int) -> None:
    """Record a batch in skorch's history."""
    history.new_batch()
    history.record_batch("train_loss", loss)
    history.record_batch("train_batch_size", size)
