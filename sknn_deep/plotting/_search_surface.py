"""The scores of a search over two parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep._estimators.jobs import spelled
from sknn_deep._wording import counted
from sknn_deep.plotting._style import PALETTE, resolve_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike


class SearchSurfaceDisplay:
    """Scores of a search over two parameters.

    Made by :meth:`from_estimator`. A grid is drawn as a heat map with the scores in its cells,
    anything else as points; failed candidates are crosses.

    Parameters
    ----------
    x, y : sequence of length n_candidates
        Values of the two parameters.

    scores : array-like of shape (n_candidates,)
        Mean score of each candidate; NaN where it failed.

    deviations : array-like of shape (n_candidates,), default=None
        Standard deviation of the score over the folds.

    x_name, y_name : str, default=""
        Names of the parameters.

    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the heat map or the points.

    figure_ : matplotlib Figure
        The figure that holds them.

    surface_ : matplotlib AxesImage or PathCollection
        The heat map or the points.

    best_ : matplotlib Artist
        The mark of the best candidate.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import SearchSurfaceDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = DeepMLPClassifier(learning_rate="one_cycle", max_iter=5, random_state=0)
    >>> grid = {"hidden_layer_sizes": [(32,), (64,)], "learning_rate_init": [0.001, 0.01]}
    >>> search = GridSearchCV(classifier, grid, cv=3).fit(X / 16, y)
    >>> display = SearchSurfaceDisplay.from_estimator(search)
    >>> display.x_name, display.y_name
    ('learning_rate_init', 'hidden_layer_sizes')
    """

    ax_: Axes
    figure_: Figure | SubFigure
    surface_: AxesImage | PathCollection
    best_: Artist

    def __init__(
        self,
        *,
        x: Sequence[Any],
        y: Sequence[Any],
        scores: ArrayLike,
        deviations: ArrayLike | None = None,
        x_name: str = "",
        y_name: str = "",
        score_name: str = "score",
    ) -> None:
        self.x = x
        self.y = y
        self.scores = scores
        self.deviations = deviations
        self.x_name = x_name
        self.y_name = y_name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        search: Any,
        *,
        params: tuple[str, str] | None = None,
        metric: str | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the scores of a fitted search.

        Parameters
        ----------
        search : estimator
            Fitted, with ``cv_results_``, such as ``GridSearchCV``.

        params : (str, str), default=None
            Names of the parameters on the x and y axes. Among candidates that differ only in other
            parameters, the best is drawn; candidates that do not set both are left out. None takes
            the parameters that vary, of which there must be two.

        metric : str, default=None
            Which score to draw, for a search with several; None is the one that ``refit`` names, or
            the first.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : SearchSurfaceDisplay

        Raises
        ------
        ValueError
            If there are more or fewer than two parameters, names that the search does not
            have, no candidate with both parameters, or no finite score.
        """
        check_is_fitted(
            search, "cv_results_", msg="%(name)s has no cv_results_: pass a search, fitted."
        )
        results, metric = search.cv_results_, _metric_name(search, metric)
        x_name, y_name = _two_parameters(results["params"], params)
        scores, deviations = (results[f"{kind}_test_{metric}"] for kind in ("mean", "std"))
        rows = _best_rows(results["params"], x_name, y_name, scores)
        scoring = getattr(search, "scoring", None)
        display = cls(
            x=[results["params"][row][x_name] for row in rows],
            y=[results["params"][row][y_name] for row in rows],
            scores=scores[rows],
            deviations=deviations[rows],
            x_name=_short(x_name, y_name),
            y_name=_short(y_name, x_name),
            score_name=scoring if metric == "score" and isinstance(scoring, str) else metric,
        )
        return display.plot(ax, **options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        cmap: str | Colormap = "cividis",
        vmin: float | None = None,
        show_scores: bool = True,
    ) -> Self:
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        cmap : str or matplotlib Colormap, default="cividis"
            Colours, from the worst to the best score.

        vmin : float, default=None
            Lowest score on the colour scale; None is the worst. Raise it if a few bad candidates
            make all others look alike.

        show_scores : bool, default=True
            Write the scores, with their standard deviations, into the cells of a grid.

        Returns
        -------
        self : SearchSurfaceDisplay

        Raises
        ------
        ValueError
            If no score is finite.
        """
        scores = np.asarray(self.scores, dtype=float)
        if not np.isfinite(scores).any():
            raise ValueError(
                f"{self.score_name!r} is NaN or infinite for {counted(len(scores), 'candidate')}; "
                "search again with error_score='raise' to see why the fits or the scorer failed."
            )
        x_values, columns = _levels(self.x)
        y_values, rows = _levels(self.y)
        shape = len(y_values), len(x_values)
        colors = {"cmap": cmap, "vmin": vmin}
        if shape[0] * shape[1] == len(scores):
            ax = resolve_axes(self, ax, (1.1 * shape[1] + 2.4, 0.8 * shape[0] + 1.6))
            self._plot_grid(colors, shape, rows, columns, show_scores)
            ax.set_xticks(range(shape[1]), map(_label, x_values))
            ax.set_yticks(range(shape[0]), map(_label, y_values))
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        else:
            ax = resolve_axes(self, ax, (6.8, 4.6))
            self._plot_points(colors)
        label = f"mean {self.score_name.replace('_', ' ')} of the folds"
        bar = self.figure_.colorbar(self.surface_, ax=ax, pad=0.02, label=label)
        bar.outline.set_visible(False)
        ax.set(xlabel=self.x_name, ylabel=self.y_name)
        return self

    def _plot_grid(
        self,
        colors: dict[str, Any],
        shape: tuple[int, int],
        rows: np.ndarray,
        columns: np.ndarray,
        show_scores: bool,
    ) -> None:
        from matplotlib.patches import Rectangle

        scores = np.asarray(self.scores, dtype=float)
        table = np.full(shape, np.nan)
        table[rows, columns] = np.where(np.isfinite(scores), scores, np.nan)
        surface = self.ax_.imshow(table, aspect="auto", origin="lower", **colors)
        if show_scores:
            texts = _score_texts(scores, self.deviations)
            for row, column, text in zip(rows, columns, texts, strict=True):
                color = _ink(surface.to_rgba(table[row, column]))
                self.ax_.text(column, row, text, ha="center", va="center", color=color)
        best = np.nanargmax(scores)
        corner = columns[best] - 0.47, rows[best] - 0.47
        frame = Rectangle(corner, 0.94, 0.94, fill=False, lw=3, ec=PALETTE[6])
        self.surface_, self.best_ = surface, self.ax_.add_patch(frame)

    def _plot_points(self, colors: dict[str, Any]) -> None:
        ax, scores = self.ax_, np.asarray(self.scores, dtype=float)
        x, y = _place(self.x, ax, "x"), _place(self.y, ax, "y")
        failed = ~np.isfinite(scores)
        ax.scatter(x[failed], y[failed], s=60, marker="x", color="gray")
        order = np.argsort(scores)  # the best on top; failed ones (NaN) have no colour
        style = {"s": 90, "ec": "gray", "lw": 0.6, **colors}
        self.surface_ = ax.scatter(x[order], y[order], c=scores[order], **style)
        best = np.nanargmax(scores)
        style = {"s": 260, "facecolor": "none", "ec": PALETTE[6], "lw": 2.5}
        self.best_ = ax.scatter(x[best], y[best], **style)
        ax.margins(0.08)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3, lw=0.6)
        ax.set_axisbelow(True)


def _metric_name(search: Any, metric: str | None) -> str:
    results = search.cv_results_
    known = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
    if metric is None:
        metric = search.refit if getattr(search, "refit", None) in known else known[0]
    if metric not in known:
        raise ValueError(f"metric={metric!r} is not among those of the search: {known}.")
    return metric


def _two_parameters(
    candidates: Sequence[Mapping[str, Any]], params: tuple[str, str] | None
) -> tuple[str, str]:
    """Return the names of the parameters for the x and the y axis."""
    names = list(dict.fromkeys(name for candidate in candidates for name in candidate))
    if params is not None:
        unknown = [name for name in params if name not in names]
        if unknown or len(params) != 2:
            raise ValueError(f"params={params!r} must be two of the search's parameters: {names}.")
        return params
    varied = [name for name in names if len({spelled(c.get(name)) for c in candidates}) > 1]
    if len(varied) != 2:
        raise ValueError(
            f"a surface has two parameters, but this search varies {len(varied)}: {varied}. "
            + (
                "Name two of them with params=(x, y)."
                if len(varied) > 2
                else "Search over two, or name the axes with params=(x, y)."
            )
        )
    return varied[1], varied[0]


def _best_rows(
    candidates: Sequence[Mapping[str, Any]], x_name: str, y_name: str, scores: np.ndarray
) -> list[int]:
    """Return the row of the best candidate for each pair of values; failed ones rank last.

    Raises
    ------
    ValueError
        If no candidate sets both parameters.
    """
    best: dict[tuple[str, str], int] = {}
    for row, candidate in enumerate(candidates):
        if x_name in candidate and y_name in candidate:
            key = spelled(candidate[x_name]), spelled(candidate[y_name])
            if key not in best or np.isnan(scores[best[key]]) or scores[row] > scores[best[key]]:
                best[key] = row
    if not best:
        together = list(dict.fromkeys(tuple(candidate) for candidate in candidates))
        raise ValueError(
            f"no candidate sets both {x_name!r} and {y_name!r}; the grids of this search set "
            f"{' or '.join(map(str, map(list, together)))}. Put both into one grid, or name two "
            "that are set together with params=(x, y)."
        )
    return list(best.values())


def _levels(values: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the distinct values, sorted if they are numbers, and the position of each value."""
    keys = [spelled(value) for value in values]
    levels = dict(zip(keys, values, strict=True))
    if all(isinstance(value, Real) for value in values):
        levels = dict(sorted(levels.items(), key=lambda item: item[1]))
    places = {key: place for place, key in enumerate(levels)}
    return list(levels.values()), np.array([places[key] for key in keys])


def _place(values: Sequence[Any], ax: Axes, name: str) -> np.ndarray:
    """Return the positions of values on the x or y axis, and set its scale or ticks."""
    if all(isinstance(value, Real) for value in values):
        if min(values) > 0 and max(values) >= 20 * min(values):
            ax.set(**{f"{name}scale": "log"})
        return np.asarray(values, dtype=float)
    levels, places = _levels(values)
    ax.set(**{f"{name}ticks": range(len(levels)), f"{name}ticklabels": map(_label, levels)})
    return places


def _score_texts(scores: np.ndarray, deviations: ArrayLike | None) -> list[str]:
    """Return the text in the cell of each candidate."""
    texts = [f"{score:#.3g}".rstrip(".") for score in scores]
    if deviations is not None:
        pairs = zip(texts, np.asarray(deviations), strict=True)
        texts = [f"{text}\n± {deviation:.1g}" for text, deviation in pairs]
    return [
        "failed" if np.isnan(score) else text for score, text in zip(scores, texts, strict=True)
    ]


def _label(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "-".join(map(str, value)) or "()"
    return str(value)


def _short(name: str, other: str) -> str:
    """Return a parameter's name without its pipeline prefix, if it stays different from another."""
    last = name.rpartition("__")[2]
    return name if last == other.rpartition("__")[2] else last


def _ink(rgba: Any) -> str:
    """Return black or white, whichever is more readable on a colour; gray if there is none."""
    if rgba[3] == 0:
        return "gray"
    return "black" if np.dot(rgba[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
