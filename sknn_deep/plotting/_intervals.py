"""Prediction intervals of a regressor, with the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d

from sknn_deep.plotting._style import PALETTE, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike


class IntervalDisplay:
    """Predicted intervals, and the targets inside and outside them.

    Made by :meth:`from_estimator` or :meth:`from_predictions`. The rows are sorted by the middle of
    their interval. The title states the share of targets that lie inside: compare it with the
    requested coverage.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The targets.

    lower, upper : array-like of shape (n_samples,)
        The ends of each interval.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the intervals.

    figure_ : matplotlib Figure
        The figure that holds them.

    intervals_ : matplotlib LineCollection
        The intervals.

    points_ : list of matplotlib PathCollection
        The targets inside, then those outside.

    coverage_ : float
        Share of all targets that lie inside.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.plotting import IntervalDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (400, 1))
    >>> y = X[:, 0] + rng.normal(scale=0.2, size=400)
    >>> low, high = (
    ...     DeepMLPRegressor("quantile", (32,), quantile=level, random_state=0).fit(X, y).predict(X)
    ...     for level in (0.05, 0.95)
    ... )
    >>> display = IntervalDisplay.from_predictions(y, low, high)
    >>> print(f"{display.coverage_:.1f}")
    0.9
    """

    ax_: Axes
    figure_: Figure | SubFigure
    intervals_: LineCollection
    points_: list[PathCollection]

    def __init__(self, *, y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        self.y_true = y_true
        self.lower = lower
        self.upper = upper

    @property
    def coverage_(self) -> float:
        """Share of all targets that lie inside."""
        return float(self._is_inside().mean())

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        coverage: float = 0.9,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the intervals of a fitted regressor on rows that it was not trained on.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``predict_interval(X, coverage=...)`` that returns the lower and the
            upper end of each row, as an array of shape (n_samples, 2).

        X : array-like of shape (n_samples, n_features)
            The samples.

        y : array-like of shape (n_samples,)
            Their targets.

        coverage : float, default=0.9
            Share of the targets that the intervals should contain.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : IntervalDisplay

        Raises
        ------
        TypeError
            If the estimator has no ``predict_interval``.
        ValueError
            If lengths differ.
        """
        if not hasattr(estimator, "predict_interval"):
            raise TypeError(
                f"{type(estimator).__name__} has no predict_interval; pass the regressor itself, "
                "such as search.best_estimator_, or predict the two ends and pass them to "
                "IntervalDisplay.from_predictions(y, lower, upper)."
            )
        ends = np.asarray(estimator.predict_interval(X, coverage=coverage))
        if ends.ndim != 2 or ends.shape[1] != 2:
            raise ValueError(
                f"predict_interval returned shape {ends.shape}, not (n_samples, 2); pass the ends "
                "of one output to IntervalDisplay.from_predictions(y, lower, upper)."
            )
        return cls.from_predictions(y, *ends.T, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw intervals.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            The targets.

        lower, upper : array-like of shape (n_samples,)
            The ends of each interval.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : IntervalDisplay

        Raises
        ------
        ValueError
            If lengths differ.
        """
        y_true, lower, upper = (column_or_1d(values) for values in (y_true, lower, upper))
        check_consistent_length(y_true, lower, upper)
        return cls(y_true=y_true, lower=lower, upper=upper).plot(ax, **options)

    def plot(self, ax: Axes | None = None, *, n_rows: int = 150) -> Self:
        """Draw the intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        n_rows : int, default=150
            Largest number of rows to draw, evenly spaced among the sorted ones; the share in the
            title is over all rows.

        Returns
        -------
        self : IntervalDisplay
        """
        ax = resolve_axes(self, ax, (7, 4.2))
        y, lower, upper = map(np.asarray, (self.y_true, self.lower, self.upper))
        order = np.argsort(lower + upper, kind="stable")
        order = order[np.linspace(0, len(order) - 1, min(n_rows, len(order))).astype(int)]
        place = np.arange(len(order))
        self.intervals_ = ax.vlines(
            place, lower[order], upper[order], color=PALETTE[0], alpha=0.55, lw=1.5
        )
        is_inside = self._is_inside()[order]
        inside: dict[str, Any] = {"s": 9, "color": PALETTE[8], "label": "target inside"}
        outside = {"s": 22, "color": PALETTE[2], "marker": "D", "label": "target outside"}
        self.points_ = [
            ax.scatter(place[rows], y[order][rows], zorder=3, **style)
            for rows, style in ((is_inside, inside), (~is_inside, outside))
        ]
        ax.set_title(f"{self.coverage_:.1%} of the targets lie inside", loc="left", size="medium")
        ax.set(xlabel="rows, sorted by the middle of the interval", ylabel="target", xticks=[])
        ax.grid(axis="y", alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="upper left")
        return self

    def _is_inside(self) -> np.ndarray:
        y, lower, upper = map(np.asarray, (self.y_true, self.lower, self.upper))
        return np.asarray((lower <= y) & (y <= upper))
