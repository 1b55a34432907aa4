"""Detects regression targets whose scale is far from 1, on which training fails.

Initial outputs have size 1, an optimiser such as Adam changes them by about its learning rate in
each step, and ``tol`` is absolute. So a target in dollars is out of reach, and a target of size
0.001 has a loss below ``tol`` before anything is learned.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from sknn_deep._engine.distributions import Quantiles, negative_log_likelihood
from sknn_deep._engine.losses import Loss

# A target counts as scaled if its root mean square is at most _LARGEST_SIZE and some value is at
# least _SMALLEST_REACH from the mean. The output of common scalers satisfies both.
_LARGEST_SIZE, _SMALLEST_REACH = 10.0, 0.5
# Targets whose deviation is at most this share of their size are constant except for rounding.
_CONSTANT = 1e-7
# A network whose loss is above this share of a constant's has learned little.
_POOR = 0.9


@np.errstate(over="ignore", invalid="ignore")  # infinite squares need no warning
def odd_size(targets: np.ndarray, weight: np.ndarray | None) -> float | None:
    """Return the scale of targets as a power of ten if it is far from 1, otherwise None.

    Parameters
    ----------
    targets : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,) or None

    Examples
    --------
    >>> import numpy as np
    >>> y = np.random.RandomState(0).randn(1000, 1)
    >>> [odd_size(part, None) for part in (y, 250_000 + 90_000 * y, 0.002 * y)]
    [None, 100000.0, 0.001]
    """
    if weight is None and targets.dtype == np.float32:  # without a copy in double precision
        mean = np.add.reduce(targets, axis=0, dtype=np.float64) / len(targets)
        square = np.einsum("ij,ij->", targets, targets, dtype=np.float64) / targets.size
    elif weight is None:
        mean = np.add.reduce(targets, axis=0) / len(targets)
        square = np.vdot(targets, targets) / targets.size
    else:
        targets = targets.astype(np.float64, copy=False)
        share = weight / weight.sum()
        mean, square = share @ targets, (share @ np.square(targets)).mean()
    size = math.sqrt(square)
    deviation = math.sqrt(max(square - mean @ mean / len(mean), 0.0))
    if not math.isfinite(size) or deviation <= _CONSTANT * size:
        return None
    if size > _LARGEST_SIZE:
        return 10.0 ** round(math.log10(size))
    # if the standard deviation reaches the limit, so does some value
    if deviation >= _SMALLEST_REACH or np.abs(targets - mean).max() >= _SMALLEST_REACH:
        return None
    return 10.0 ** round(math.log10(deviation))


def is_poor(
    value: float, loss: Loss, targets: np.ndarray, weight: np.ndarray | None, level: float | None
) -> bool:
    """Return whether a network's loss is about that of a constant prediction, or worse.

    Parameters
    ----------
    value : float
        The network's loss, as ``loss_curve_`` reports it.
    loss : Loss
    targets : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,) or None
    level : float or None
        Level of the quantile that is the best constant for this loss; None for the mean.
    """
    targets = targets.astype(np.float64)
    if level is None:
        constant = np.average(targets, axis=0, weights=weight)
    else:
        constant = np.quantile(targets, level, axis=0)
    output = torch.from_numpy(np.broadcast_to(constant, targets.shape).copy())
    losses = loss.per_sample(output, torch.from_numpy(targets)).numpy()
    return value > _POOR * loss.reported_scale * np.average(losses, weights=weight)


def is_poor_distribution(
    value: float, targets: np.ndarray, weight: np.ndarray | None, levels: Sequence[float] | None
) -> bool:
    """Return whether a network's loss is about that of one distribution for all rows, or worse.

    Parameters
    ----------
    value : float
        The network's loss, as ``loss_curve_`` reports it.
    targets : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,) or None
    levels : sequence of float or None
        Levels of the quantiles; None for a normal distribution.
    """
    targets = targets.astype(np.float64)
    of_rows = torch.from_numpy(targets)
    if levels is None:
        mean = np.average(targets, axis=0, weights=weight)
        variance = np.average(np.square(targets - mean), axis=0, weights=weight)
        of_all = torch.from_numpy(mean), torch.from_numpy(variance)
        losses = negative_log_likelihood(*of_all, of_rows)
        # the gain in likelihood from a mean squared error smaller by that factor
        worst = np.average(losses.mean(dim=-1).numpy(), weights=weight) + 0.5 * math.log(_POOR)
    else:
        quantiles = Quantiles(levels)
        constant = torch.from_numpy(np.quantile(targets, quantiles.levels, axis=0))
        losses = quantiles.pinball(constant.expand(len(targets), *constant.shape), of_rows)
        worst = _POOR * np.average(losses.mean(dim=-1).numpy(), weights=weight)
    return bool(value > worst)
