"""The score threshold of outliers."""

from typing import Literal

import numpy as np

# Scores whose relative difference is smaller are considered equal, except for rounding.
_EQUAL = 1e-4


def outlier_offset(
    errors: np.ndarray, weight: np.ndarray, contamination: float | Literal["auto"]
) -> float:
    """Return the score below which a row is an outlier; scores are negative errors.

    Parameters
    ----------
    errors : ndarray of shape (n_rows,)
        Reconstruction errors of training rows; NaN for a row without known features.
    weight : ndarray of shape (n_rows,)
        A row with a weight of 2 counts as two.
    contamination : float or "auto"
        The share of the weights that should lie below the threshold; or "auto" for a fence [1]_,
        one interquartile range beyond the upper quartile, on the cube roots of the errors: those of
        squared normal numbers are nearly normal [2]_, and 2 % of them lie beyond.

    References
    ----------
    .. [1] J. W. Tukey (1977). Exploratory data analysis. Addison-Wesley.
    .. [2] E. B. Wilson, M. M. Hilferty (1931). The distribution of chi-square. PNAS 17(12).

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.outlier_offset import outlier_offset
    >>> errors = np.arange(1.0, 11.0)
    >>> outlier_offset(errors, np.ones(10), 0.2)
    -8.5
    """
    counts = (weight > 0) & ~np.isnan(errors)
    errors, weight = errors[counts].astype(np.float64), weight[counts].astype(np.float64)
    if len(errors) == 0:  # no row has known features, so none is unusual
        return -np.inf
    if contamination == "auto":
        roots = np.cbrt(errors)
        low, high = np.quantile(roots, [0.25, 0.75], weights=weight, method="inverted_cdf")
        return -float((high + (high - low)) ** 3) * (1 + _EQUAL)
    order = np.argsort(-errors)
    scores, below = -errors[order], np.cumsum(weight[order])
    # the first inlier is the row at which the cumulative weight exceeds the share
    stays = scores[np.searchsorted(below, contamination * below[-1] * (1 + 1e-9), side="right")]
    # halfway between two scores, rounding cannot change the side of a row
    lower = scores[scores < stays * (1 + _EQUAL)]
    return float((stays + (lower[-1] if len(lower) else stays * (1 + _EQUAL))) / 2)
