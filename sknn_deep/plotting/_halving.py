"""The candidates of a halving search, rung by rung."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep._estimators.jobs import spelled
from sknn_deep._wording import counted
from sknn_deep.plotting._style import PALETTE, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike


class HalvingDisplay:
    """Scores of the candidates of a halving search against the resources they were given.

    Made by :meth:`from_estimator`. Each candidate is a line that ends at the rung where it was
    dropped. The best one is highlighted.

    Parameters
    ----------
    candidates : array-like of shape (n_rows,)
        Number of the candidate in each row of the search's results, from 0.

    resources : array-like of shape (n_rows,)
        Amount of the resource used for the candidate, such as epochs or rows.

    scores : array-like of shape (n_rows,)
        Mean score over the folds; NaN where the fits failed.

    best : int
        The candidate that the search chose.

    resource_name : str, default="resources"
        Name of the resource.

    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the lines.

    figure_ : matplotlib Figure
        The figure that holds them.

    lines_ : list of matplotlib Line2D
        One for each candidate; that of the best one comes last.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.experimental import enable_halving_search_cv
    >>> from sklearn.model_selection import HalvingGridSearchCV
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import HalvingDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = DeepMLPClassifier(learning_rate="one_cycle", random_state=0)
    >>> rates = {"learning_rate_init": [1e-4, 1e-3, 1e-2, 1e-1]}
    >>> search = HalvingGridSearchCV(
    ...     classifier, rates, resource="max_iter", min_resources=2, max_resources=8, factor=2,
    ...     cv=2,
    ... ).fit(X[:400] / 16, y[:400])
    >>> display = HalvingDisplay.from_estimator(search)
    >>> len(display.lines_)
    4
    """

    ax_: Axes
    figure_: Figure | SubFigure
    lines_: list[Line2D]

    def __init__(
        self,
        *,
        candidates: ArrayLike,
        resources: ArrayLike,
        scores: ArrayLike,
        best: int,
        resource_name: str = "resources",
        score_name: str = "score",
    ) -> None:
        self.candidates = candidates
        self.resources = resources
        self.scores = scores
        self.best = best
        self.resource_name = resource_name
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, search: Any, *, ax: Axes | None = None, **options: Any) -> Self:
        """Draw the rungs of a fitted halving search.

        Parameters
        ----------
        search : estimator
            Fitted, such as ``HalvingGridSearchCV``: its ``cv_results_`` have a column
            "n_resources".

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : HalvingDisplay

        Raises
        ------
        ValueError
            If the search is not a halving search, or no score is finite.
        """
        check_is_fitted(
            search, "cv_results_", msg="%(name)s has no cv_results_: pass a search, fitted."
        )
        results = search.cv_results_
        if "n_resources" not in results:
            raise ValueError(
                f"{type(search).__name__} gives all candidates the same resources; pass a halving "
                "search, or draw this one with SearchSurfaceDisplay."
            )
        resource = getattr(search, "resource", "resources")
        numbers: dict[tuple, int] = {}
        candidates = [
            numbers.setdefault(_without(resource, params), len(numbers))
            for params in results["params"]
        ]
        scoring = getattr(search, "scoring", None)
        display = cls(
            candidates=candidates,
            resources=results["n_resources"],
            scores=results["mean_test_score"],
            best=candidates[search.best_index_],
            resource_name=resource.rpartition("__")[2],
            score_name=scoring if isinstance(scoring, str) else "score",
        )
        return display.plot(ax, **options)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the lines.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : HalvingDisplay

        Raises
        ------
        ValueError
            If no score is finite.
        """
        candidates, resources = np.asarray(self.candidates), np.asarray(self.resources)
        scores = np.asarray(self.scores, dtype=float)
        if not np.isfinite(scores).any():
            raise ValueError(
                f"{self.score_name!r} is NaN or infinite in {counted(len(scores), 'row')}; "
                "search again with error_score='raise' to see why the fits or the scorer failed."
            )
        ax = resolve_axes(self, ax, (6.8, 4.4))
        rungs = np.unique(resources)
        place = np.searchsorted(rungs, resources)  # rungs grow by a factor: evenly spaced
        others = [number for number in np.unique(candidates) if number != self.best]
        self.lines_ = []
        for number in [*others, self.best]:
            rows = np.flatnonzero(candidates == number)
            rows = rows[np.argsort(place[rows])]
            is_best = number == self.best
            style: dict[str, Any] = {
                "color": PALETTE[6],
                "lw": 2.5,
                "ms": 7,
                "zorder": 3,
                "label": "chosen",
            }
            if not is_best:
                opacity = float(np.clip(8 / len(others), 0.3, 0.8))
                style = {"color": PALETTE[0], "lw": 1.2, "ms": 4, "alpha": opacity}
            self.lines_ += ax.plot(place[rows], scores[rows], marker="o", **style)
        counts = [len(np.unique(candidates[resources == rung])) for rung in rungs]
        ticks = [
            f"{rung:g}\n{counted(count, 'candidate')}"
            for rung, count in zip(rungs, counts, strict=True)
        ]
        ax.set_xticks(range(len(rungs)), ticks)
        ax.set_xlabel(self.resource_name)
        ax.set_ylabel(f"mean {self.score_name.replace('_', ' ')} of the folds")
        ax.grid(axis="y", alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="lower right")
        return self


def _without(resource: str, params: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return a candidate's parameters without the resource, which identify it on the next rung."""
    return tuple((name, spelled(value)) for name, value in params.items() if name != resource)
