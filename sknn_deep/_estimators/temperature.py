r"""Calibrated probabilities: temperature scaling [1]_.

The raw output :math:`z` of a trained network is divided by one number :math:`T`, chosen so that the
log loss on held-out rows is smallest. An overconfident network has :math:`T > 1`. The order of the
classes, and so the predicted labels, are unchanged. For an ensemble, the softmax of :math:`z` is
the mean of the probabilities: scaling the networks before taking the mean would leave it
underconfident [2]_.

The loss is convex in :math:`1 / T`. If the network is right on all rows, it has no minimum and
:math:`T` would tend to zero. So the targets are smoothed as if there were one more row of unknown
class, as in Platt scaling [3]_.

References
----------
.. [1] C. Guo, G. Pleiss, Y. Sun, K. Weinberger (2017). On calibration of modern neural networks.
   ICML.
.. [2] R. Rahaman, A. Thiery (2021). Uncertainty quantification and deep ensembles. NeurIPS.
.. [3] J. Platt (1999). Probabilistic outputs for support vector machines and comparisons to
   regularized likelihood methods. Advances in Large Margin Classifiers.
.. [4] E. Berta, D. Holzmüller, M. I. Jordan, F. Bach (2025). Rethinking early stopping: refine,
   then calibrate. arXiv:2501.19195.
"""

import numpy as np
import scipy.optimize
import scipy.special

# Limit of the temperature and its inverse; values beyond it are no longer calibration.
_LARGEST = 100.0


def best_temperature(
    logits: np.ndarray,
    targets: np.ndarray,
    sample_weight: np.ndarray | None,
    tolerance: float = 1e-10,
) -> float:
    """Return the temperature with the smallest log loss.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_outputs)
    targets : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Class indices for a softmax; 0 and 1 for independent labels.
    sample_weight : ndarray of shape (n_rows,) or None
    tolerance : float, default=1e-10
        Relative error of the temperature.

    Returns
    -------
    temperature : float
        Between 0.01 and 100.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.temperature import best_temperature
    >>> logits = np.array([[10.0], [10.0], [10.0], [-10.0]])
    >>> round(best_temperature(logits, np.array([[1], [1], [0], [0]]), None))
    12
    """
    weight = np.ones(len(logits)) if sample_weight is None else sample_weight
    counts = weight > 0
    logits, targets, weight = logits[counts].astype(np.float64), targets[counts], weight[counts]
    n_rows = len(logits)
    known = n_rows / (n_rows + 1)
    if targets.ndim == 1:
        activation = _softmax
        right = np.eye(logits.shape[1])[targets] * known + (1 - known) / logits.shape[1]
    else:
        activation = scipy.special.expit
        right = targets * known + (1 - known) / 2

    def slope(log_inverse: float) -> float:
        """Return the derivative of the loss with respect to 1 / T."""
        excess = activation(np.exp(log_inverse) * logits) - right
        return float(weight @ (excess * logits).sum(axis=1))

    low, high = -np.log(_LARGEST), np.log(_LARGEST)
    if slope(low) >= 0:  # the network is wrong more often than right
        return _LARGEST
    if slope(high) <= 0:
        return 1 / _LARGEST
    return float(np.exp(-scipy.optimize.brentq(slope, low, high, xtol=tolerance)))


def calibrated_loss(
    logits: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None
) -> float:
    """Return the log loss at the best temperature, which calibration cannot reduce further [4]_.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_outputs)
    targets : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        As in :func:`best_temperature`.
    sample_weight : ndarray of shape (n_rows,) or None

    Returns
    -------
    loss : float
        Mean over the rows, of the sum over independent labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.temperature import calibrated_loss
    >>> targets = np.array([[1], [1], [0], [0]])
    >>> sure = np.array([[9.0], [9.0], [9.0], [-9.0]])
    >>> loss = calibrated_loss(sure, targets, None)
    >>> bool(np.isclose(loss, calibrated_loss(sure / 5, targets, None), atol=1e-5))
    True
    """
    # a low tolerance suffices: near the minimum, the loss changes with the square of the error
    temperature = best_temperature(logits, targets, sample_weight, tolerance=1e-3)
    logits = logits.astype(np.float64) / temperature
    if targets.ndim == 1:
        of_class = np.take_along_axis(logits, targets[:, np.newaxis], axis=1)[:, 0]
        losses = scipy.special.logsumexp(logits, axis=1) - of_class
    else:  # log(1 + exp(z)) for 0, log(1 + exp(-z)) for 1
        losses = np.logaddexp(0, np.where(targets > 0, -logits, logits)).sum(axis=1)
    return float(np.average(losses, weights=sample_weight))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(logits, axis=1)
