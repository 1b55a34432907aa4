"""The weights of a network's first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep.plotting._images import GAP, as_images, draw_image, frame_images
from sknn_deep.plotting._style import resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike
    from sklearn.base import BaseEstimator


class WeightsDisplay:
    """The weights of the units in the first layer, as images.

    Made by :meth:`from_estimator`.

    Parameters
    ----------
    weights : array-like of shape (n_units, height, width)
        The weights of each unit.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the images.

    figure_ : matplotlib Figure
        The figure that holds them.

    images_ : list of matplotlib AxesImage
        One for each unit.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import WeightsDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = DeepMLPClassifier((32,), learning_rate="one_cycle", max_iter=5).fit(X, y)
    >>> display = WeightsDisplay.from_estimator(classifier, n_units=20)
    >>> len(display.images_)
    20
    """

    ax_: Axes
    figure_: Figure | SubFigure
    images_: list[AxesImage]

    def __init__(self, *, weights: ArrayLike) -> None:
        self.weights = weights

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        image_shape: tuple[int, int] | None = None,
        n_units: int = 50,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the weights of the units with the largest weights.

        Parameters
        ----------
        estimator : estimator
            A fitted network, of this package or another with ``coefs_``.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_units : int, default=50
            Largest number of units to draw, those with the largest norm of weights first.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : WeightsDisplay

        Raises
        ------
        TypeError
            If the estimator is not a network.
        ValueError
            If the features do not have this shape.
        """
        weights = _first_weights(estimator)
        strongest = np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")[:n_units]
        return cls(weights=as_images(weights[strongest], image_shape)).plot(ax, **options)

    def plot(
        self, ax: Axes | None = None, *, n_columns: int = 10, cmap: str | Colormap = "RdBu_r"
    ) -> Self:
        """Draw the weights.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        n_columns : int, default=10
            Images in a row.

        cmap : str or matplotlib Colormap, default="RdBu_r"
            Colours, with zero in the middle.

        Returns
        -------
        self : WeightsDisplay
        """
        weights = np.asarray(self.weights)
        n_columns = min(n_columns, len(weights))
        height = weights.shape[1] / weights.shape[2]
        n_rows = -(-len(weights) // n_columns)
        size = n_columns * (1 + GAP), n_rows * (height + GAP)
        ax = resolve_axes(self, ax, (0.75 * size[0] + 1, 0.75 * size[1] + 0.2))
        limit = np.quantile(np.abs(weights), 0.995)  # a few large weights would make the rest pale
        self.images_ = []
        for i, image in enumerate(weights):
            row, column = divmod(i, n_columns)
            position = column * (1 + GAP), row * (height + GAP)
            limits = {"vmin": -limit, "vmax": limit, "cmap": cmap}
            self.images_.append(draw_image(ax, image, *position, **limits))
        frame_images(ax, *size)
        ax.set_yticks([])
        bar = self.figure_.colorbar(self.images_[0], ax=ax, shrink=0.8, pad=0.02, label="weight")
        bar.outline.set_visible(False)
        return self


def _first_weights(estimator: Any) -> np.ndarray:
    """Return the weights of the first layer, of shape (n_units, n_features)."""
    check_is_fitted(estimator)
    if hasattr(estimator, "coefs_"):
        return np.asarray(estimator.coefs_[0]).T
    if hasattr(estimator, "module_"):
        return np.asarray(estimator.module_.linear_layers()[0].weight.detach().cpu())
    raise TypeError(
        f"{type(estimator).__name__} has no layers; pass a network, such as pipeline[-1], "
        "search.best_estimator_ or ensemble.estimators_[0]."
    )
