"""Permutation importance of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.inspection import permutation_importance

from sknn_deep._wording import counted
from sknn_deep.plotting._style import PALETTE, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike


class ImportanceDisplay:
    """How much a model's score falls when the values of a feature are shuffled.

    Made by :meth:`from_estimator`, which shuffles, or by :meth:`from_importances` from the result
    of :func:`sklearn.inspection.permutation_importance`. A bar is the mean over the repetitions,
    and each repetition is a point, so that random variation can be told from importance. If two
    features carry nearly the same information, each appears less important than it is.

    Parameters
    ----------
    importances : array-like of shape (n_features, n_repeats)
        Decrease of the score in each repetition.

    feature_names : sequence of str, default=None
        Names of the features; None numbers them.

    score_name : str, default="score"
        Name of the score, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the bars.

    figure_ : matplotlib Figure
        The figure that holds them.

    bars_ : matplotlib BarContainer
        The bars, the most important feature first.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sknn_deep import TabularMLPClassifier
    >>> from sknn_deep.plotting import ImportanceDisplay
    >>> X, y = load_wine(return_X_y=True, as_frame=True)
    >>> classifier = TabularMLPClassifier(n_networks=1, random_state=0).fit(X, y)
    >>> display = ImportanceDisplay.from_estimator(classifier, X, y, random_state=0)
    >>> len(display.bars_)
    13
    """

    ax_: Axes
    figure_: Figure | SubFigure
    bars_: BarContainer

    def __init__(
        self,
        *,
        importances: ArrayLike,
        feature_names: Sequence[str] | None = None,
        score_name: str = "score",
    ) -> None:
        self.importances = importances
        self.feature_names = feature_names
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        scoring: Any = None,
        n_repeats: int = 5,
        random_state: int | np.random.RandomState | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Shuffle each column of X in turn, and draw the decrease of the score.

        Parameters
        ----------
        estimator : estimator
            Fitted.

        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows that it was not trained on.

        y : array-like of shape (n_samples,)
            Their targets.

        scoring : str or callable, default=None
            A scorer; None is the estimator's own score.

        n_repeats : int, default=5
            How often each column is shuffled.

        random_state : int, RandomState instance or None, default=None
            Draws the permutations.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : ImportanceDisplay
        """
        result = permutation_importance(
            estimator, X, y, scoring=scoring, n_repeats=n_repeats, random_state=random_state
        )
        return cls.from_importances(
            result,
            feature_names=list(X.columns) if hasattr(X, "columns") else None,
            score_name=scoring if isinstance(scoring, str) else "score",
            ax=ax,
            **options,
        )

    @classmethod
    def from_importances(
        cls,
        result: Any,
        *,
        feature_names: Sequence[str] | None = None,
        score_name: str = "score",
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw importances that are already computed.

        Parameters
        ----------
        result : Bunch or array-like of shape (n_features, n_repeats)
            What ``permutation_importance`` returned, or its ``importances``.

        feature_names : sequence of str, default=None
            Names of the features; None numbers them.

        score_name : str, default="score"
            Name of the score, for the axis.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : ImportanceDisplay

        Raises
        ------
        ValueError
            If the number of names differs from the number of features.
        """
        importances = np.asarray(getattr(result, "importances", result), dtype=float)
        if importances.ndim != 2:
            raise ValueError(
                f"importances have shape {importances.shape}; pass one row for each feature and "
                "one column for each repetition."
            )
        if feature_names is not None and len(feature_names) != len(importances):
            raise ValueError(
                f"feature_names has {counted(len(feature_names), 'entry', 'entries')} for "
                f"{counted(len(importances), 'feature')}; pass one for each."
            )
        display = cls(importances=importances, feature_names=feature_names, score_name=score_name)
        return display.plot(ax, **options)

    def plot(self, ax: Axes | None = None, *, n_features: int = 20) -> Self:
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        n_features : int, default=20
            Largest number of features to draw, the most important first.

        Returns
        -------
        self : ImportanceDisplay
        """
        importances = np.asarray(self.importances, dtype=float)
        means = importances.mean(axis=1)
        first = np.argsort(-means, kind="stable")[:n_features]
        names = self.feature_names or [f"feature {i}" for i in range(len(means))]
        ax = resolve_axes(self, ax, (6.4, 0.32 * len(first) + 1))
        place = np.arange(len(first))
        self.bars_ = ax.barh(place, means[first], color=PALETTE[0], height=0.65)
        n_repeats = importances.shape[1]
        ax.scatter(
            importances[first].ravel(),
            np.repeat(place, n_repeats),
            s=14,
            color=PALETTE[1],
            edgecolor="gray",
            lw=0.5,
            zorder=3,
            label="each shuffle",
        )
        ax.axvline(0, color="gray", lw=1)
        ax.set_yticks(place, [str(names[row]) for row in first], parse_math=False)
        ax.invert_yaxis()
        ax.set_xlabel(f"drop in {self.score_name.replace('_', ' ')} when shuffled")
        ax.grid(axis="x", alpha=0.3, lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.legend(frameon=False, loc="lower right", scatteryoffsets=[0.5])
        return self
