r"""Intervals that hold a share of all targets: split conformal prediction.

Each of :math:`n` rows that the network was not trained on has a score: the distance, in some unit,
by which its target lies outside the interval that the network proposes. Widened by the
:math:`\lceil (n + 1) c \rceil`-th smallest score, the proposal for a new row holds its target with
a probability of at least :math:`c`, whatever the network and the distribution are, as long as the
rows are exchangeable [1]_. The proposal decides how the widths vary:

- the prediction alone, in the units of the target: all intervals have the same width;
- the prediction, in units of its standard deviation: the width follows the predicted spread;
- two quantiles, in the units of the target [2]_.

The held-out rows are also used for early stopping, that is, to choose one epoch among several. This
makes the intervals hardly any narrower than they should be [3]_.

References
----------
.. [1] J. Lei, M. G'Sell, A. Rinaldo, R. Tibshirani, L. Wasserman (2018). Distribution-free
   predictive inference for regression. Journal of the American Statistical Association 113.
.. [2] Y. Romano, E. Patterson, E. Candès (2019). Conformalized quantile regression. NeurIPS.
.. [3] Z. Liang, Y. Zhou, M. Sesia (2023). Conformal inference is (almost) free for neural networks
   trained with early stopping. ICML.
"""

import math

import numpy as np

from sknn_deep._wording import counted


def conformal_quantile(scores: np.ndarray, coverage: float) -> np.ndarray:
    """Return the margin, in units of the scores, by which proposed intervals are widened.

    Parameters
    ----------
    scores : ndarray of shape (n_held_out, n_outputs)
    coverage : float in (0, 1)

    Returns
    -------
    margin : ndarray of shape (n_outputs,)

    Raises
    ------
    ValueError
        If there are too few rows for such a coverage.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.intervals import conformal_quantile
    >>> conformal_quantile(np.arange(1.0, 20.0)[:, np.newaxis], coverage=0.9)
    array([18.])
    """
    n_rows = len(scores)
    # the floating-point number 0.9 is slightly more than nine tenths
    rank = max(1, math.ceil((n_rows + 1) * coverage - 1e-9))
    if rank > n_rows:
        n_needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise ValueError(
            f"coverage={coverage} needs at least {counted(n_needed, 'held-out row')}, but {n_rows} "
            f"{'was' if n_rows == 1 else 'were'} held out; hold out more, or ask for less."
        )
    return np.partition(scores, rank - 1, axis=0)[rank - 1]


def at_level(quantiles: np.ndarray, levels: np.ndarray, level: float) -> np.ndarray:
    """Return the quantile of any level, interpolated linearly and clipped to the outermost levels.

    Parameters
    ----------
    quantiles : ndarray of shape (..., n_levels)
        Ascending.
    levels : ndarray of shape (n_levels,)
    level : float

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.intervals import at_level
    >>> at_level(np.array([[3.0, 4.0, 9.0]]), np.array([0.1, 0.5, 0.9]), 0.3)
    array([3.5])
    """
    if len(levels) == 1:
        return quantiles[..., 0]
    right = int(np.clip(np.searchsorted(levels, level), 1, len(levels) - 1))
    left = right - 1
    share = (level - levels[left]) / (levels[right] - levels[left])
    share = quantiles.dtype.type(np.clip(share, 0.0, 1.0))
    return quantiles[..., left] * (1 - share) + quantiles[..., right] * share


def widened(lower: np.ndarray, upper: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return intervals widened by a margin, possibly negative, on both sides.

    Parameters
    ----------
    lower, upper : ndarray of shape (n_rows, n_outputs)
    margin : ndarray of shape (n_outputs,) or (n_rows, n_outputs)

    Returns
    -------
    intervals : ndarray of shape (n_rows, n_outputs, 2)
    """
    middle = (lower + upper) / 2
    # an interval narrowed by more than its width collapses to its middle
    low, high = np.minimum(lower - margin, middle), np.maximum(upper + margin, middle)
    return np.stack([low, high], axis=-1)
