"""Means and limits of features, with or without missing values, and rows to learn scales from."""

from collections.abc import Sequence

import numpy as np

from sknn_deep._engine.features import Features, SparseRows
from sknn_deep._engine.samples import check_weight
from sknn_deep._user_warnings import warn_user

# Scales and quantiles come from at most this many rows, or this many numbers if rows are wide.
_ROWS_OF_SCALES, _NUMBERS_OF_SCALES = 200_000, 2**25
# In single precision, the values of a column should span at least this many representable steps.
_FEWEST_STEPS, ROWS_TO_LOOK_AT = 64, 20_000
# Wider sparse features are neither scaled nor embedded, since that would make zeros non-zero.
_WIDEST_SPARSE = 10_000


def column_means(X: Features, weight: np.ndarray | None, allow_nan: bool = False) -> np.ndarray:
    """Return the weighted mean of each feature, in X's type.

    Parameters
    ----------
    X : Features of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
    allow_nan : bool, default=False
        Leave out missing values; a feature that is always missing has a mean of 0.
    """
    # in double precision: in float32 the sum of many rows loses digits
    if allow_nan:
        sums, totals = X.known_sums(np.ones(len(X)) if weight is None else weight)
        means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    else:
        means = X.weighted_sums(weight) / (len(X) if weight is None else weight.sum())
    return means.astype(X.dtype, copy=False)


def column_limits(X: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each feature; 0 where none is known."""
    low, high = (np.nan_to_num(limit) for limit in X.column_limits())
    return low, high


def refuse_wide_sparse(X: Features, **parameters: str | None) -> None:
    """Refuse to densify sparse features of very many columns.

    Parameters
    ----------
    X : Features
    **parameters : str or None
        Parameters that would densify them, by name.
    """
    used = [f"{name}={value!r}" for name, value in parameters.items() if value is not None]
    if used and X.kind == SparseRows.kind and X.shape[1] > _WIDEST_SPARSE:
        raise ValueError(
            f"X is sparse with {X.shape[1]:,} features, of which {' and '.join(used)} would make "
            "dense ones. Scale them by MaxAbsScaler, which keeps zeros, and leave "
            f"{' and '.join(name for name in parameters)} at None; or pass at most "
            f"{_WIDEST_SPARSE:,} features, as TruncatedSVD or SelectKBest leave them."
        )


def warn_of_coarse(values: np.ndarray, names: Sequence[str]) -> None:
    """Warn of columns whose numbers differ by little more than the resolution of single precision.

    Numbers near 2e9, such as seconds since 1970, are rounded to multiples of 128.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        NaN where a number is missing. Double precision needs no check.
    names : sequence of str
        Names of the columns in the warning.
    """
    if values.dtype != np.float32 or not len(values):
        return
    values = values[:: -(-len(values) // ROWS_TO_LOOK_AT)]
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    size = np.maximum(np.abs(low), np.abs(high))
    for j in np.flatnonzero(np.isfinite(size)):
        step = float(np.spacing(np.float32(size[j])))
        # warn of a constant column only if integers are rounded: it may not have been constant
        # before
        if high[j] - low[j] < _FEWEST_STEPS * step and (low[j] < high[j] or step > 1):
            warn_user(
                f"{names[int(j)]} holds numbers near {size[j]:.4g} that differ by at most "
                f"{high[j] - low[j]:.3g}, and single precision rounds them to multiples of "
                f"{step:.3g}. Set dtype='float64', or subtract a constant before."
            )


def rows_to_scale_by(
    X: Features, weight: np.ndarray | None, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows from which scales are learned, and their weights.

    Parameters
    ----------
    X : Features of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
        Rows of weight 0 are left out.
    rows : ndarray of int, default=None
        Rows to choose from; None for all.
    """
    chosen = np.arange(len(X)) if rows is None else rows
    if weight is not None:
        check_weight(weight[chosen])
        chosen = chosen[weight[chosen] > 0]
    most = min(_ROWS_OF_SCALES, max(1, _NUMBERS_OF_SCALES // X.shape[1]))
    some = chosen[:: -(-len(chosen) // most)]
    return np.asarray(X.take(some)), None if weight is None else weight[some]
