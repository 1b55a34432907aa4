"""Validated data on the host, before it is divided into batches."""

from typing import NamedTuple

import numpy as np

from sknn_deep._engine.divided_rows import DividedRows
from sknn_deep._engine.features import Features
from sknn_deep._wording import counted


class Samples(NamedTuple):
    """Validated data on the host.

    Attributes
    ----------
    X : Features of shape (n_samples, n_features)
    y : ndarray or None
        The user's targets, for scoring predictions.
    targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
        The targets that the loss takes; None stands for ``X`` itself.
    weight : ndarray of shape (n_samples,) or None
        Weights of the loss, class weights included.
    given_weight : ndarray of shape (n_samples,) or None
        The user's weights, for scoring predictions.
    """

    X: Features
    y: np.ndarray | None
    targets: np.ndarray | None
    weight: np.ndarray | None
    given_weight: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Samples":
        """Return the given rows."""
        return self._with(self.X[rows], rows)

    def own(self) -> "Samples":
        """Return the rows that this process has: all, unless they are divided."""
        X = self.X
        return self._with(X.own, X.own_rows) if isinstance(X, DividedRows) else self

    def _with(self, X: Features, rows: np.ndarray) -> "Samples":
        _, *arrays = self
        return Samples(X, *(None if part is None else part[rows] for part in arrays))


def check_weight(weight: np.ndarray | None) -> None:
    """Raise a ValueError unless some weight is positive and the sum is finite."""
    if weight is None:
        return
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"The sum of the {len(weight)} sample weights is too large for {weight.dtype}, the "
            f"largest weight is {weight.max():g}; divide them all by a number, which changes "
            "nothing but the strength of alpha."
        )
    if not weight.any():
        raise ValueError(
            f"All sample weights of {counted(len(weight), 'row')} to train on or to validate with "
            "are zero; give some rows a positive weight."
        )
