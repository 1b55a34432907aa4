"""Calibration curves of classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from sknn_deep._wording import counted
from sknn_deep.plotting._style import next_color, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike

_Z = 1.645  # 90 % of a normal distribution lie within this many standard deviations


class CalibrationDisplay:
    """The accuracy of a classifier against its confidence.

    Made by :meth:`from_estimator` or :meth:`from_predictions`. The rows are sorted by the
    probability of the predicted class and divided into groups. A calibrated classifier is right as
    often as it predicts, so its points lie on the diagonal; points below it mean that the
    classifier is overconfident. To compare classifiers in one plot, pass the axes of the first.

    scikit-learn's :class:`sklearn.calibration.CalibrationDisplay` shows the probability of one
    class of two. This one handles any number of classes, and shows confidence intervals of its
    points.

    Parameters
    ----------
    confidence : array-like of shape (n_bins,)
        Mean probability of the predicted class in each group of rows.

    accuracy : array-like of shape (n_bins,)
        Share of the rows in each group whose predicted class is right.

    counts : array-like of shape (n_bins,)
        Rows in each group.

    name : str, default=None
        Name of the classifier in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the curve.

    figure_ : matplotlib Figure
        The figure that holds them.

    line_ : matplotlib Line2D
        The curve.

    error_ : float
        Expected calibration error: the distance from the diagonal, averaged over the rows [1]_.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Weinberger (2017). On calibration of modern neural
       networks. ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import CalibrationDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = DeepMLPClassifier(
    ...     learning_rate="one_cycle", learning_rate_init=0.01, max_iter=20, random_state=0
    ... ).fit(X[:900] / 16, y[:900])
    >>> display = CalibrationDisplay.from_estimator(classifier, X[900:] / 16, y[900:])
    >>> bool(display.error_ < 0.1)
    True
    """

    ax_: Axes
    figure_: Figure | SubFigure
    line_: Line2D

    def __init__(
        self,
        *,
        confidence: ArrayLike,
        accuracy: ArrayLike,
        counts: ArrayLike,
        name: str | None = None,
    ) -> None:
        self.confidence = confidence
        self.accuracy = accuracy
        self.counts = counts
        self.name = name

    @property
    def error_(self) -> float:
        """Expected calibration error: the distance from the diagonal, averaged over the rows."""
        distances = np.abs(np.asarray(self.confidence) - np.asarray(self.accuracy))
        return float(np.average(distances, weights=np.asarray(self.counts)))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_bins: int = 10,
        name: str | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the calibration of a fitted classifier on rows that it was not trained on.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``predict_proba`` and ``classes_``.

        X : array-like of shape (n_samples, n_features)
            The samples.

        y : array-like of shape (n_samples,)
            Their classes.

        n_bins : int, default=10
            Number of groups, of about equal size. Fewer make each point more precise.

        name : str, default=None
            Name of the classifier in the legend.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. Pass ``display.ax_`` to compare classifiers.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : CalibrationDisplay

        Raises
        ------
        ValueError
            If there are fewer rows than groups, or lengths differ.
        """
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            classes=estimator.classes_,
            n_bins=n_bins,
            name=name,
            ax=ax,
            **options,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_proba: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        n_bins: int = 10,
        name: str | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the calibration of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            The classes.

        y_proba : array-like of shape (n_samples, n_classes)
            The probability of each class.

        classes : array-like of shape (n_classes,), default=None
            The class of each column of ``y_proba``; None is the sorted values of ``y_true``.

        n_bins : int, default=10
            Number of groups, of about equal size.

        name : str, default=None
            Name of the classifier in the legend.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : CalibrationDisplay

        Raises
        ------
        ValueError
            If there are fewer rows than groups, or lengths differ.
        """
        kind = type_of_target(y_true)
        if kind.startswith("multilabel") or kind.endswith("multioutput"):
            raise ValueError(
                f"y_true has shape {np.shape(y_true)}, but the display is of one class a row. Draw "
                "one of several labels at a time, for example "
                "from_predictions(y_true[:, 0], np.c_[1 - y_proba[:, 0], y_proba[:, 0]])."
            )
        labels: np.ndarray = column_or_1d(y_true)
        proba: np.ndarray = check_array(y_proba, input_name="y_proba")
        check_consistent_length(labels, proba)
        columns: np.ndarray = np.unique(labels) if classes is None else np.asarray(classes)
        if len(columns) != proba.shape[1]:
            raise ValueError(
                f"y_proba has {counted(proba.shape[1], 'column')} for "
                f"{counted(len(columns), 'class', 'classes')}; pass classes=estimator.classes_."
            )
        if not 1 <= n_bins <= len(labels):
            raise ValueError(
                f"n_bins={n_bins} does not suit {counted(len(labels), 'row')}; pass 1 to "
                f"{len(labels)}."
            )
        confidence = proba.max(axis=1)
        is_right = columns[proba.argmax(axis=1)] == labels
        groups = np.array_split(np.argsort(confidence, kind="stable"), n_bins)
        display = cls(
            confidence=[confidence[rows].mean() for rows in groups],
            accuracy=[is_right[rows].mean() for rows in groups],
            counts=[len(rows) for rows in groups],
            name=name,
        )
        return display.plot(ax, **options)

    def plot(self, ax: Axes | None = None, *, show_ranges: bool = True) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        show_ranges : bool, default=True
            Draw the 90 % confidence interval of each point's accuracy (Wilson's score interval).

        Returns
        -------
        self : CalibrationDisplay
        """
        ax = resolve_axes(self, ax, (5.2, 5))
        confidence, accuracy = np.asarray(self.confidence), np.asarray(self.accuracy)
        color = next_color(ax)
        if not ax.lines:
            ax.axline((1, 1), slope=1, color="gray", lw=1, ls=":", gid="diagonal")
        label = f"error {self.error_:.3f}"
        label = label if self.name is None else f"{self.name}: {label}"
        (self.line_,) = ax.plot(confidence, accuracy, "o-", color=color, ms=5, lw=1.5, label=label)
        if show_ranges:
            low, high = _wilson(accuracy, np.asarray(self.counts))
            ax.vlines(confidence, low, high, color=color, alpha=0.5, lw=1.5)
        ax.autoscale(axis="y")  # another classifier's curve may have set the limits
        ax.set(xlabel="confidence", ylabel="accuracy", ylim=(None, 1.02))
        ax.grid(alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="lower right")
        return self


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of Wilson's score interval: E. Wilson (1927), JASA 22(158)."""
    scale = 1 + _Z**2 / count
    middle = (share + _Z**2 / (2 * count)) / scale
    half = _Z / scale * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return middle - half, middle + half
