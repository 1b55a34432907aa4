"""Means and limits of features, for dense and sparse rows, with or without missing values.

Sums are ``einsum``'s: it reads rows of single precision as they are, and has no threads. Those of
OpenBLAS, which computes products, spin for some hundredths of a second when they are done, and
torch's would have to share the cores with them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

# Rows that are looked at together, and how many numbers they are at most: copies in double
# precision stay in the cache.
_ROWS, _NUMBERS = 4096, 2**18


def column_means(X: Any, weight: np.ndarray | None, allow_nan: bool = False) -> np.ndarray:
    """Return the weighted mean of each feature, in X's type.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
    allow_nan : bool, default=False
        Leave out what is missing; a feature that is always missing has a mean of 0.
    """
    # in double precision: in float32 the sum of many rows loses digits
    weight = np.ones(X.shape[0]) if weight is None else weight
    if allow_nan:
        means = _means_of_known(X, weight)
    elif sp.issparse(X):
        means = weight @ X / weight.sum()
    else:
        sums = sum(_weighted_sum(rows, weights) for rows, weights in _parts(X, weight))
        means = sums / weight.sum()
    return np.asarray(means, dtype=X.dtype).ravel()


def _means_of_known(X: Any, weight: np.ndarray) -> np.ndarray:
    sums, totals = np.zeros((2, X.shape[1]))
    for rows, weights in _parts(X, weight):
        rows = rows.toarray() if sp.issparse(rows) else rows
        is_known = ~np.isnan(rows)
        sums += _weighted_sum(np.where(is_known, rows, 0.0), weights)
        totals += _weighted_sum(is_known, weights)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def _weighted_sum(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("i,ij->j", weights, rows)


def _parts(X: Any, *others: np.ndarray) -> Iterator[Any]:
    """Yield rows, and what belongs to them, so few that copies of them are small."""
    n_rows = max(1, min(_ROWS, _NUMBERS // X.shape[1]))
    for start in range(0, X.shape[0], n_rows):
        part = slice(start, start + n_rows)
        yield (X[part], *(other[part] for other in others)) if others else X[part]


def column_limits(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each feature; 0 where none is known."""
    if sp.issparse(X):
        low, high = (limit.toarray().ravel() for limit in (X.nanmin(axis=0), X.nanmax(axis=0)))
    else:
        low, high = (
            function.reduce([function.reduce(rows, axis=0) for rows in _parts(X)])
            for function in (np.fmin, np.fmax)
        )
    return np.nan_to_num(low), np.nan_to_num(high)


def limits(X: Any) -> tuple[float, float]:
    """Return the smallest and the largest value that is known; zeros of sparse rows count."""
    if sp.issparse(X):
        low, high = (f.reduce(X.data, initial=0.0) for f in (np.fmin, np.fmax))
    else:
        both = [[f.reduce(rows, axis=None) for f in (np.fmin, np.fmax)] for rows in _parts(X)]
        low, high = np.fmin.reduce(both)[0], np.fmax.reduce(both)[1]
    return float(low), float(high)
