"""The scores of a search over two parameters."""

from numbers import Real

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep.plotting._style import PALETTE, resolve_axes


class SearchSurfaceDisplay:
    """Scores of a search over two parameters.

    Made by :meth:`from_estimator`. A grid is drawn as a table of colours with the scores
    written in, anything else as points.

    Parameters
    ----------
    x, y : sequence of length n_candidates
        Values of the two parameters.

    scores : array-like of shape (n_candidates,)
        Mean score of each candidate.

    deviations : array-like of shape (n_candidates,), default=None
        Standard deviation of the score over the folds.

    x_name, y_name : str, default=""
        Names of the parameters.

    score_name : str, default="score"
        What the scores are.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

    surface_ : matplotlib AxesImage or PathCollection
        The table, or the points.

    best_ : matplotlib Artist
        What marks the best candidate.

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

    def __init__(self, *, x, y, scores, deviations=None, x_name="", y_name="", score_name="score"):
        self.x = x
        self.y = y
        self.scores = scores
        self.deviations = deviations
        self.x_name = x_name
        self.y_name = y_name
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, search, *, params=None, metric=None, ax=None, **options):
        """Draw the scores of a fitted search.

        Parameters
        ----------
        search : estimator
            Fitted, with ``cv_results_``, such as ``GridSearchCV``.

        params : (str, str), default=None
            Names of the parameters on the x and y axes; of candidates that differ in
            others, too, the best counts. None takes those that vary, which must be two.

        metric : str, default=None
            Which score, of a search with several; None is the one by which it refits.

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
            If there are more or fewer than two parameters, or names that the search does
            not have.
        """
        check_is_fitted(search, "cv_results_")
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

    def plot(self, ax=None, *, cmap="cividis", vmin=None, show_scores=True):
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        cmap : str or matplotlib Colormap, default="cividis"
            Colours, from the worst to the best score.

        vmin : float, default=None
            Score from which on the colours differ; None is the worst. Raise it where a few
            bad candidates leave all others in one colour.

        show_scores : bool, default=True
            Write the scores, with their standard deviations, into the cells of a grid.

        Returns
        -------
        self : SearchSurfaceDisplay
        """
        x_values, columns = _levels(self.x)
        y_values, rows = _levels(self.y)
        shape = len(y_values), len(x_values)
        colors = {"cmap": cmap, "vmin": vmin}
        if shape[0] * shape[1] == len(self.scores):
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

    def _plot_grid(self, colors, shape, rows, columns, show_scores):
        from matplotlib.patches import Rectangle

        ax, scores = self.ax_, np.full(shape, np.nan)
        scores[rows, columns] = self.scores
        self.surface_ = ax.imshow(scores, aspect="auto", origin="lower", **colors)
        if show_scores:
            for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
                color = _ink(self.surface_.to_rgba(scores[row, column]))
                ax.text(column, row, self._score_text(i), ha="center", va="center", color=color)
        best = np.nanargmax(self.scores)
        corner = columns[best] - 0.47, rows[best] - 0.47
        style = {"fill": False, "lw": 3, "ec": PALETTE[6]}
        self.best_ = ax.add_patch(Rectangle(corner, 0.94, 0.94, **style))

    def _score_text(self, i):
        if np.isnan(self.scores[i]):
            return "failed"
        text = f"{self.scores[i]:.3g}"
        return text if self.deviations is None else f"{text}\n± {self.deviations[i]:.1g}"

    def _plot_points(self, colors):
        ax, scores = self.ax_, np.asarray(self.scores)
        axis_values = []
        for values, axis in ((self.x, "x"), (self.y, "y")):
            if all(isinstance(value, Real) for value in values):
                axis_values.append(np.asarray(values, dtype=float))
                if min(values) > 0 and max(values) >= 20 * min(values):
                    getattr(ax, f"set_{axis}scale")("log")
            else:
                names, positions = _levels(values)
                axis_values.append(positions)
                getattr(ax, f"set_{axis}ticks")(range(len(names)), map(_label, names))
        x, y = axis_values
        order = np.argsort(scores)  # the best on top; failed ones are last and have no colour
        style = {"s": 90, "ec": "gray", "lw": 0.6, **colors}
        self.surface_ = ax.scatter(x[order], y[order], c=scores[order], **style)
        best = np.nanargmax(scores)
        style = {"s": 260, "facecolor": "none", "ec": PALETTE[6], "lw": 2.5}
        self.best_ = ax.scatter(x[best], y[best], **style)
        ax.margins(0.08)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3, lw=0.6)
        ax.set_axisbelow(True)


def _metric_name(search, metric):
    results = search.cv_results_
    known = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
    if metric is None:
        refit = getattr(search, "refit", None)
        metric = refit if refit in known else known[0]
    if metric not in known:
        raise ValueError(f"metric={metric!r} is not among those of the search: {known}.")
    return metric


def _two_parameters(candidates, params):
    """Return the names of the parameters for the x and the y axis."""
    names = list(dict.fromkeys(name for candidate in candidates for name in candidate))
    if params is not None:
        unknown = [name for name in params if name not in names]
        if unknown or len(params) != 2:
            raise ValueError(f"params={params!r} must be two of the search's parameters: {names}.")
        return tuple(params)
    varied = [name for name in names if len({repr(c.get(name)) for c in candidates}) > 1]
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


def _best_rows(candidates, x_name, y_name, scores):
    """Return for each pair of values the row of its best candidate; failed ones count least."""
    best = {}
    for row, candidate in enumerate(candidates):
        if x_name in candidate and y_name in candidate:
            key = repr(candidate[x_name]), repr(candidate[y_name])
            if key not in best or np.isnan(scores[best[key]]) or scores[row] > scores[best[key]]:
                best[key] = row
    return list(best.values())


def _levels(values):
    """Return the different values, in order where they are numbers, and the place of each."""
    keys = [repr(value) for value in values]
    levels = dict(zip(keys, values, strict=True))
    if all(isinstance(value, Real) for value in values):
        levels = dict(sorted(levels.items(), key=lambda item: item[1]))
    places = {key: place for place, key in enumerate(levels)}
    return list(levels.values()), np.array([places[key] for key in keys])


def _label(value):
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "-".join(map(str, value)) or "()"
    return str(value)


def _short(name, other):
    """Return a parameter's name without its path through a pipeline, if it stays unlike another."""
    last = name.rpartition("__")[2]
    return name if last == other.rpartition("__")[2] else last


def _ink(rgba):
    """Return black or white, whichever is read more easily on a colour."""
    return "black" if np.dot(rgba[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
