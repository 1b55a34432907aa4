"""A map of codes in two dimensions."""

from __future__ import annotations

import os
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from sklearn.utils import check_array, check_consistent_length

from sknn_deep._wording import counted
from sknn_deep.plotting._annotations import write_names
from sknn_deep.plotting._embedding_page import InlinePage, make_page
from sknn_deep.plotting._images import as_images
from sknn_deep.plotting._labels import GREY, Labels, read_labels
from sknn_deep.plotting._legend import draw_legend, legend_width
from sknn_deep.plotting._style import PALETTE, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

_IMAGE_WIDTH = 0.6  # in cells of the grid over which images are spread


class EmbeddingDisplay:
    """Points in the plane, one for each sample, coloured by class or by a number.

    Made by :meth:`from_estimator` from a transformer with two outputs, or by
    :meth:`from_embedding` from points, such as those of t-SNE. :meth:`to_html` writes an
    interactive page.

    Parameters
    ----------
    embedding : array-like of shape (n_samples, 2)
        The points.

    y : array-like of shape (n_samples,), default=None
        Classes or numbers. Numbers with fractions, and integers with more than 30 distinct
        values, are shown on a scale; anything else names classes. Points with the value None, NaN
        or ``pandas.NA`` are unlabelled and drawn in grey.

    images : array-like of shape (n_samples, height, width), default=None
        The image of each point.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the map.

    figure_ : matplotlib Figure
        The figure that holds them.

    points_ : matplotlib PathCollection
        The points. Their order is random so that no class hides another; unlabelled points are
        drawn first, below the others.

    classes_ : ndarray of shape (n_classes,) or None
        The classes; None for numbers and without y.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sknn_deep.plotting import EmbeddingDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> display = EmbeddingDisplay.from_estimator(PCA(2).fit(X), X, y)
    >>> display.classes_
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    ax_: Axes
    figure_: Figure | SubFigure
    points_: PathCollection

    def __init__(
        self,
        *,
        embedding: ArrayLike,
        y: ArrayLike | None = None,
        images: ArrayLike | None = None,
    ) -> None:
        self.embedding = embedding
        self.y = y
        self.images = images

    @property
    def classes_(self) -> np.ndarray | None:
        """The classes; None for numbers and without y."""
        return None if self.y is None else read_labels(self.y).classes

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        image_shape: tuple[int, int] | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the rows of X as a transformer maps them.

        Parameters
        ----------
        estimator : estimator
            Fitted, with a ``transform`` of two outputs.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        y : array-like of shape (n_samples,), default=None
            Classes, or numbers for a scale of colours.

        image_shape : (int, int), default=None
            Height and width of an image, if the rows of X are images. None means square images if
            ``n_images`` is set, and no images otherwise.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If the transformer does not have two outputs, or shapes do not match.
        """
        wants_images = image_shape is not None or options.get("n_images")
        images = as_images(X, image_shape) if wants_images else None
        return cls.from_embedding(estimator.transform(X), y, images=images, ax=ax, **options)

    @classmethod
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        *,
        images: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw points.

        Parameters
        ----------
        Z : array-like of shape (n_samples, 2)
            The points.

        y : array-like of shape (n_samples,), default=None
            Classes, or numbers for a scale of colours.

        images : array-like of shape (n_samples, height, width) or (n_samples, n_pixels), \
                default=None
            The image of each point.

        image_shape : (int, int), default=None
            Height and width, for images given as rows; None means square.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If the points do not have two coordinates, or lengths differ.
        """
        points: np.ndarray = check_array(Z, input_name="Z")
        if points.shape[1] != 2:
            raise ValueError(
                f"a map needs two numbers for each sample, got {points.shape[1]}; reduce them "
                "first, for example with TSNE().fit_transform(Z), and pass them to from_embedding."
            )
        if y is not None and np.shape(y) != (len(points),):
            raise ValueError(
                f"y has shape {np.shape(y)} for {counted(len(points), 'sample')}; pass one value "
                "for each."
            )
        if images is not None:
            images = as_images(images, image_shape)
            check_consistent_length(points, images)
        return cls(embedding=points, y=y, images=images).plot(ax, **options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        size: float | None = None,
        alpha: float | None = None,
        cmap: str | Colormap = "viridis",
        legend: bool = True,
        annotate: bool = False,
        n_images: int = 0,
    ) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        size : float, default=None
            Area of a point, in square points; None depends on the number of points.

        alpha : float, default=None
            Opacity of a point; None depends on the number of points.

        cmap : str or matplotlib Colormap, default="viridis"
            Colours of numbers.

        legend : bool, default=True
            Show the legend of the colours; for many classes only the first 60.

        annotate : bool, default=False
            Write the name of each class at the median of its points, or if another name is there,
            beside it with a line. Use it for more than ten classes, whose colours are hard to tell
            apart, and for colour-blind readers.

        n_images : int, default=0
            Draw up to this many of the images, spread over the map.

        Returns
        -------
        self : EmbeddingDisplay

        Raises
        ------
        ValueError
            If images are asked for and there are none, or y holds infinite numbers.
        """
        if n_images and self.images is None:
            raise ValueError(
                f"n_images={n_images} but there are no images; make the display with "
                "from_estimator(..., n_images=...), or pass images to from_embedding."
            )
        labels = None if self.y is None else read_labels(self.y)
        width = legend_width(labels) if legend and labels is not None else 0
        ax = resolve_axes(self, ax, (6 + width, 6))
        self._draw_points(labels, size, alpha, cmap)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if legend and labels is not None:
            draw_legend(ax, self.points_, labels)
        if n_images:
            self._draw_images(n_images, labels)
        if annotate and labels is not None and labels.classes is not None:
            write_names(ax, labels.names, self._medians(labels), labels.colors)
        return self

    @overload
    def to_html(
        self,
        path: None = None,
        *,
        images: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        title: str = "Embedding",
    ) -> InlinePage: ...

    @overload
    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        images: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        title: str = "Embedding",
    ) -> Path: ...

    def to_html(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        images: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        title: str = "Embedding",
    ) -> Path | InlinePage:
        """Write the map as a single HTML page that can be panned, zoomed and filtered by class.

        The page is self-contained. With images, the image of the point under the pointer is shown.
        Without a path, a notebook shows the page below the cell.

        Parameters
        ----------
        path : str or path-like, default=None
            Where to write, such as ``"map.html"``.

        images : array-like of shape (n_samples, height, width) or (n_samples, n_pixels), \
                default=None
            The image of each point; None takes the images with which the display was made.

        image_shape : (int, int), default=None
            Height and width, for images given as rows; None means square.

        title : str, default="Embedding"
            Heading of the page.

        Returns
        -------
        page : pathlib.Path or InlinePage
            The path of the page; without a path the page itself, with its text in ``html``.

        Raises
        ------
        ImportError
            If plotly is not installed.
        ValueError
            If the numbers of images and points differ, or y holds infinite numbers.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sknn_deep.plotting import EmbeddingDisplay
        >>> X, y = load_digits(return_X_y=True)
        >>> display = EmbeddingDisplay.from_estimator(PCA(2).fit(X), X, y)
        >>> display.to_html("map.html", images=X, title="Digits")  # doctest: +SKIP
        PosixPath('map.html')
        """
        images = self.images if images is None else as_images(images, image_shape)
        if images is not None:
            check_consistent_length(self.embedding, images)
        html = make_page(
            points=np.asarray(self.embedding),
            labels=None if self.y is None else read_labels(self.y),
            images=None if images is None else np.asarray(images),
            title=title,
        )
        if path is None:
            return InlinePage(html)
        path = Path(path)
        path.write_text(html, encoding="utf-8")
        return path

    def _draw_points(
        self,
        labels: Labels | None,
        size: float | None,
        alpha: float | None,
        cmap: str | Colormap,
    ) -> None:
        import matplotlib as mpl

        points = np.asarray(self.embedding)
        n_samples = len(points)
        order = np.random.RandomState(0).permutation(n_samples)
        colors: dict[str, Any] = {"color": PALETTE[0]}
        if labels is not None:
            order = order[np.argsort(~labels.is_missing[order], kind="stable")]
            if labels.classes is None:
                scale = mpl.colormaps.get_cmap(cmap).with_extremes(bad=GREY)
                colors = {"c": labels.values[order], "cmap": scale, "plotnonfinite": True}
            else:
                colors = {"color": labels.point_colors()[order]}
        x, y = points[order].T
        self.points_ = self.ax_.scatter(
            x,
            y,
            s=np.clip(15000 / n_samples, 1.5, 30) if size is None else size,
            alpha=np.clip(25 / n_samples**0.4, 0.45, 0.8) if alpha is None else alpha,
            lw=0,
            rasterized=n_samples > 5000,  # vector files with more points open slowly
            **colors,
        )

    def _medians(self, labels: Labels) -> np.ndarray:
        """Return the median of the points of each class, of shape (n_classes, 2)."""
        points = np.asarray(self.embedding)
        codes = range(len(labels.names))
        return np.array([np.median(points[labels.values == code], axis=0) for code in codes])

    def _draw_images(self, n_images: int, labels: Labels | None) -> None:
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        images, embedding = np.asarray(self.images), np.asarray(self.embedding)
        rows = _spread(embedding, n_images)
        edges = np.full(len(images), PALETTE[0])
        if labels is not None and labels.classes is not None:
            edges = labels.point_colors()
        # slightly smaller than a cell of the grid over which they are spread
        width = self.ax_.bbox.width * 72 / self.figure_.dpi
        zoom = _IMAGE_WIDTH * width / np.sqrt(n_images) / max(images.shape[1:])
        for row in rows:
            picture = OffsetImage(images[row], zoom=zoom, cmap="gray_r", interpolation="nearest")
            frame = {"edgecolor": edges[row], "linewidth": 1.5}
            box = AnnotationBbox(picture, embedding[row], pad=0.05, bboxprops=frame)
            self.ax_.add_artist(box)


def _spread(points: np.ndarray, n_points: int) -> np.ndarray:
    """Return the indices of up to n_points points, each near the middle of a grid cell."""
    n_cells = max(isqrt(n_points), 1)
    low, high = points.min(axis=0), points.max(axis=0)
    position = (points - low) / np.where(high > low, high - low, 1) * n_cells
    cells = np.minimum(position.astype(int), n_cells - 1)
    distance = np.abs(position - cells - 0.5).max(axis=1)
    nearest_first = np.argsort(distance, kind="stable")
    _, first = np.unique(cells[nearest_first], axis=0, return_index=True)
    chosen: list[int] = []
    for row in nearest_first[np.sort(first)].tolist():
        gaps = np.abs(position[chosen] - position[row]).max(axis=1)
        if (gaps > _IMAGE_WIDTH).all():  # otherwise it would cover another one
            chosen.append(row)
    return np.array(chosen)
