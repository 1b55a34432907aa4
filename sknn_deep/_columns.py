"""Means and limits of features, for dense and sparse rows, with or without missing values."""

import numpy as np
import scipy.sparse as sp

_ROWS = 4096


def column_means(X, weight: np.ndarray | None, allow_nan: bool = False) -> np.ndarray:
    """Return the weighted mean of each feature, in X's type.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
    allow_nan : bool, default=False
        Leave out what is missing; a feature that is always missing has a mean of 0.
    """
    # in double precision: in float32 the sum of many rows loses digits
    if allow_nan:
        means = _means_of_known(X, np.ones(X.shape[0]) if weight is None else weight)
    elif weight is None:
        means = X.mean(axis=0, dtype=np.float64)
    else:
        means = weight @ X / weight.sum()
    return np.asarray(means, dtype=X.dtype).ravel()


def _means_of_known(X, weight: np.ndarray) -> np.ndarray:
    sums, totals = np.zeros((2, X.shape[1]))
    for start in range(0, X.shape[0], _ROWS):  # no copy of the whole of X
        rows, weights = X[start : start + _ROWS], weight[start : start + _ROWS]
        rows = rows.toarray() if sp.issparse(rows) else rows
        is_known = ~np.isnan(rows)
        sums += weights @ np.where(is_known, rows, 0.0)
        totals += weights @ is_known
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def column_limits(X) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each feature; 0 where none is known."""
    if sp.issparse(X):
        limits = X.nanmin(axis=0).toarray().ravel(), X.nanmax(axis=0).toarray().ravel()
    else:
        limits = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
    low, high = (np.nan_to_num(limit) for limit in limits)
    return low, high


def limits(X) -> tuple[float, float]:
    """Return the smallest and the largest value that is known; zeros of sparse rows count."""
    values, options = (X.data, {"initial": 0.0}) if sp.issparse(X) else (X, {})
    low, high = (function.reduce(values, axis=None, **options) for function in (np.fmin, np.fmax))
    return float(low), float(high)
