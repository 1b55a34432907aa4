"""scikit-learn's common metrics, without checking the targets again for every fit of a fold.

On a test set of a hundred rows, scikit-learn's log loss takes a millisecond, a third of the fit of
a small network in a stack: each call determines anew the type of the targets, the labels and the
label of each row. Here this is done once per test set. The formulas are scikit-learn's [1]_, with
the same order and precision of operations, so the scores are identical. All other cases are left to
scikit-learn, which handles the exceptions and messages.

References
----------
.. [1] The functions of these names in ``sklearn.metrics``, version 1.9.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score

from sknn_deep._sklearn import MultimetricScorer, PassthroughScorer, PlainScorer


class ScoredRows:
    """Rows to score on, and cached properties of their targets for the metrics.

    Parameters
    ----------
    X, y : array-like
        As passed to a scorer.
    """

    def __init__(self, X: Any, y: Any):
        self.X, self.y = X, y

    @cached_property
    def targets(self) -> np.ndarray | None:
        """The targets as an array, or None if they are of an unusual type or missing."""
        is_plain = type(self.y) is np.ndarray or type(self.y).__name__ == "Series"
        dtype = getattr(self.y, "dtype", None)
        if not (is_plain and isinstance(dtype, np.dtype) and dtype.kind in "biufU"):
            return None
        targets = np.asarray(self.y)
        return targets if len(targets) > 1 else None

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct labels, and the index of each row's label; empty unless targets are 1d."""
        targets = self.targets
        if targets is None or targets.ndim != 1 or targets.dtype.kind not in "biU":
            return np.empty(0), np.empty(0, dtype=np.intp)
        labels, numbers = np.unique(targets, return_inverse=True)
        return labels, numbers

    def columns(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return targets of shape (n_rows, n_outputs), and their sums of squares about the mean."""
        if dtype not in self._columns:
            y = np.asarray(self.y).reshape(len(self.y), -1).astype(dtype, copy=False)
            sums = ((y - np.average(y, axis=0)) ** 2).sum(axis=0)
            self._columns[dtype] = y, sums
        return self._columns[dtype]

    @cached_property
    def _columns(self) -> dict[np.dtype, tuple[np.ndarray, np.ndarray]]:
        return {}


def quick_score(scorer: Any, estimator: Any, rows: ScoredRows) -> float | dict[str, float] | None:
    """Return the score of a scikit-learn scorer, or None if the scorer itself has to be called.

    Parameters
    ----------
    scorer : callable
        The scorer of a search, without metadata.
    estimator : estimator
        Fitted. Its ``predict`` and ``predict_proba`` are scored, as by a scorer.
    rows : ScoredRows
    """
    scorers = scorer._scorers if isinstance(scorer, MultimetricScorer) else {"": scorer}
    found = {name: _metric_of(own, estimator) for name, own in scorers.items()}
    if None in found.values() or rows.targets is None:
        return None
    outputs: dict[str, Any] = {}
    scores = {}
    for name, (method, metric, sign) in found.items():  # type: ignore[misc]
        if method not in outputs:
            try:
                outputs[method] = getattr(estimator, method)(rows.X)
            except Exception:  # the scorer calls it again, and handles the error
                return None
        score = metric(outputs[method], estimator, rows)
        if score is None or not math.isfinite(score):
            return None
        scores[name] = sign * score
    return scores if isinstance(scorer, MultimetricScorer) else scores[""]


def _metric_of(scorer: Any, estimator: Any) -> tuple[str, Callable, int] | None:
    """Return the method of an estimator that a scorer calls, the metric, and the score's sign."""
    if type(scorer) is PassthroughScorer:  # the estimator's own score
        own = getattr(type(estimator), "score", None)
        metrics = {RegressorMixin.score: _r2, ClassifierMixin.score: _accuracy}
        return ("predict", metrics[own], 1) if own in metrics else None
    if type(scorer) is not PlainScorer or scorer._kwargs:
        return None
    known = _METRICS.get(scorer._score_func)
    if known is None or scorer._response_method != known[0]:
        return None
    return *known, scorer._sign


def _accuracy(predicted: Any, estimator: Any, rows: ScoredRows) -> float | None:
    targets = rows.targets
    labels, _ = rows.labels
    is_usual = is_classifier(estimator) and len(labels) and type(predicted) is np.ndarray
    if not is_usual or targets is None or predicted.dtype.kind != targets.dtype.kind:
        return None
    return float(np.average(targets == predicted)) if predicted.shape == targets.shape else None


def _log_loss(probabilities: Any, estimator: Any, rows: ScoredRows) -> float | None:
    """Return the mean logarithm of the probability of the right label, negated."""
    labels, numbers = rows.labels
    classes: Any = getattr(estimator, "classes_", None)
    if not (is_classifier(estimator) and len(labels) >= 2 and np.array_equal(labels, classes)):
        return None
    if type(probabilities) is not np.ndarray or probabilities.dtype.kind != "f":
        return None
    if probabilities.shape != (len(numbers), len(labels)):
        return None
    if len(labels) == 2:  # scikit-learn keeps the second column
        second = probabilities[:, 1]
        right = np.where(numbers == 1, second, 1 - second)
    else:
        right = probabilities[np.arange(len(numbers)), numbers]
    eps = np.finfo(right.dtype).eps
    return float(np.average(-np.log(np.clip(right, eps, 1 - eps))))


def _mean_squared_error(predicted: Any, estimator: Any, rows: ScoredRows) -> float | None:
    pair = _targets_and_predicted(predicted, rows)
    if pair is None:
        return None
    y, predicted, _ = pair
    return float(np.average(np.average((y - predicted) ** 2, axis=0)))


def _r2(predicted: Any, estimator: Any, rows: ScoredRows) -> float | None:
    """Return the coefficient of determination, the mean over outputs."""
    pair = _targets_and_predicted(predicted, rows)
    if pair is None:
        return None
    y, predicted, total = pair
    residual = ((y - predicted) ** 2).sum(axis=0)
    if not (residual.all() and total.all()):
        return None
    return float(np.average(1 - residual / total))


def _targets_and_predicted(
    predicted: Any, rows: ScoredRows
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return both as columns of one type, and the sums of squares of the targets."""
    targets = rows.targets
    if type(predicted) is not np.ndarray or targets is None or predicted.dtype.kind != "f":
        return None
    if predicted.shape != targets.shape or targets.dtype.kind not in "iuf" or targets.ndim > 2:
        return None
    if predicted.dtype.itemsize < 4 or not np.isfinite(predicted).all():
        return None
    floating = [array.dtype for array in (targets, predicted) if array.dtype.kind == "f"]
    dtype = np.result_type(*floating)
    y, total = rows.columns(dtype)
    return y, predicted.reshape(y.shape).astype(dtype, copy=False), total


# Keyed by the function: another metric of the same name may do anything.
_METRICS: dict[Callable, tuple[str, Callable]] = {
    accuracy_score: ("predict", _accuracy),
    log_loss: ("predict_proba", _log_loss),
    mean_squared_error: ("predict", _mean_squared_error),
    r2_score: ("predict", _r2),
}
