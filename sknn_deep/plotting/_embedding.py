"""A map of codes in two dimensions."""

from math import isqrt

import numpy as np
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target

from sknn_deep.plotting._embedding_page import write_page
from sknn_deep.plotting._images import as_images
from sknn_deep.plotting._style import PALETTE, resolve_axes

_MAX_CLASSES = 30  # integers of more values than this are a scale, not names


class EmbeddingDisplay:
    """Points in the plane, one a sample, coloured by class or by a number.

    Made by :meth:`from_estimator` from a transformer with two outputs, by
    :meth:`from_embedding` from points, such as those of t-SNE. :meth:`to_html` writes an
    interactive page.

    Parameters
    ----------
    embedding : array-like of shape (n_samples, 2)
        The points.

    y : array-like of shape (n_samples,), default=None
        Classes, or numbers: floating-point numbers with fractions, or integers of more
        than 30 values, are shown on a scale.

    images : array-like of shape (n_samples, height, width), default=None
        The images behind the points.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

    points_ : matplotlib PathCollection
        The points, in an order drawn at random so that no class lies on top.

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

    def __init__(self, *, embedding, y=None, images=None):
        self.embedding = embedding
        self.y = y
        self.images = images

    @property
    def classes_(self):
        """The classes; None for numbers and without y."""
        return None if self.y is None or _is_scale(self.y) else np.unique(self.y)

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, image_shape=None, ax=None, **options):
        """Draw where a transformer puts the rows of X.

        Parameters
        ----------
        estimator : estimator
            Fitted, with a ``transform`` of two outputs.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        y : array-like of shape (n_samples,), default=None
            Classes, or numbers for a scale of colours.

        image_shape : (int, int), default=None
            Height and width of an image, if the rows of X are images to be shown.

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
            If the transformer has not two outputs, or the shapes do not agree.
        """
        images = None if image_shape is None else as_images(X, image_shape)
        return cls.from_embedding(estimator.transform(X), y, images=images, ax=ax, **options)

    @classmethod
    def from_embedding(cls, Z, y=None, *, images=None, image_shape=None, ax=None, **options):
        """Draw points.

        Parameters
        ----------
        Z : array-like of shape (n_samples, 2)
            The points.

        y : array-like of shape (n_samples,), default=None
            Classes, or numbers for a scale of colours.

        images : array-like of shape (n_samples, height, width) or (n_samples, n_pixels), \
                default=None
            The images behind the points.

        image_shape : (int, int), default=None
            Height and width, for images that come as rows; None is a square.

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
            If the points do not lie in the plane, or the lengths do not agree.
        """
        Z = check_array(Z, input_name="Z", ensure_all_finite=True)
        if Z.shape[1] != 2:
            raise ValueError(
                f"a map needs two numbers for each sample, got {Z.shape[1]}; reduce them first, "
                "for example with TSNE().fit_transform(Z), and pass them to from_embedding."
            )
        y = None if y is None else np.asarray(y)
        if y is not None and y.shape != (len(Z),):
            raise ValueError(
                f"y has shape {y.shape} for {len(Z)} samples; pass one value for each."
            )
        if images is not None:
            images = as_images(images, image_shape)
            check_consistent_length(Z, images)
        return cls(embedding=Z, y=y, images=images).plot(ax, **options)

    def plot(
        self,
        ax=None,
        *,
        size=None,
        alpha=None,
        cmap="viridis",
        legend=True,
        annotate=False,
        n_images=0,
    ):
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        size : float, default=None
            Area of a point, in square points; None follows from their number.

        alpha : float, default=None
            Opacity of a point; None follows from their number.

        cmap : str or matplotlib Colormap, default="viridis"
            Colours of numbers.

        legend : bool, default=True
            Show what the colours mean.

        annotate : bool, default=False
            Write the name of each class on the median of its points: the surest way for
            eyes that confuse colours.

        n_images : int, default=0
            Draw up to that many of the images, spread over the map.

        Returns
        -------
        self : EmbeddingDisplay

        Raises
        ------
        ValueError
            If images are asked for and there are none.
        """
        if n_images and self.images is None:
            raise ValueError(
                f"n_images={n_images} but there are no images; pass image_shape to "
                "from_estimator, or images to from_embedding."
            )
        ax = resolve_axes(self, ax, (6 + self._legend_width() * legend, 6))
        n_samples = len(self.embedding)
        order = np.random.RandomState(0).permutation(n_samples)
        if self.y is not None and self.classes_ is None:
            colors = {"c": np.asarray(self.y)[order], "cmap": cmap}
        else:
            colors = {"color": np.broadcast_to(self._colors(), n_samples)[order]}
        self.points_ = ax.scatter(
            *np.asarray(self.embedding)[order].T,
            s=np.clip(15000 / n_samples, 1.5, 30) if size is None else size,
            alpha=np.clip(25 / n_samples**0.4, 0.45, 0.8) if alpha is None else alpha,
            lw=0,
            rasterized=n_samples > 5000,  # a vector file of so many points opens slowly
            **colors,
        )
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if legend and self.y is not None:
            self._draw_legend()
        if annotate and self.classes_ is not None:
            self._annotate()
        if n_images:
            self._draw_images(n_images)
        return self

    def to_html(self, path, *, images=None, image_shape=None, title="Embedding"):
        """Write one file with a map to pan, to zoom and to filter, for any browser.

        Nothing is loaded from elsewhere. With images, the one under the pointer is shown.

        Parameters
        ----------
        path : str or path-like
            Where to write, such as ``"map.html"``.

        images : array-like of shape (n_samples, height, width) or (n_samples, n_pixels), \
                default=None
            The images behind the points; None takes those that the display was made with.

        image_shape : (int, int), default=None
            Height and width, for images that come as rows; None is a square.

        title : str, default="Embedding"
            Heading of the page.

        Returns
        -------
        path : pathlib.Path
            Where the page is.

        Raises
        ------
        ImportError
            If plotly is not installed.
        ValueError
            If there are not as many images as points.

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
        names, colors, values = [], [], None
        if self.classes_ is not None:
            names, colors = self.classes_, _class_colors(len(self.classes_))
            values = np.searchsorted(self.classes_, self.y)
        elif self.y is not None:
            values = np.asarray(self.y)
        return write_page(
            path,
            points=np.asarray(self.embedding),
            values=values,
            names=[str(name) for name in names],
            colors=colors,
            images=None if images is None else np.asarray(images),
            title=title,
        )

    def _colors(self):
        """Return the colour of each point, or one for all where there are no classes."""
        if self.classes_ is None:
            return PALETTE[0]
        colors = np.array(_class_colors(len(self.classes_)))
        return colors[np.searchsorted(self.classes_, self.y)]

    def _draw_legend(self):
        if self.classes_ is None:
            bar = self.figure_.colorbar(self.points_, ax=self.ax_, shrink=0.8, pad=0.02)
            bar.solids.set_alpha(1)
            bar.outline.set_visible(False)
            return
        from matplotlib.lines import Line2D

        colors = _class_colors(len(self.classes_))
        self.ax_.legend(
            [Line2D([], [], ls="", marker="o", color=color) for color in colors],
            map(str, self.classes_),
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            handletextpad=0.2,
            ncols=_n_columns(len(colors)),
        )

    def _legend_width(self):
        """Return about how many inches the legend takes beside the map."""
        if self.y is None:
            return 0
        if self.classes_ is None:
            return 1.2
        longest = max(len(str(name)) for name in self.classes_)
        return _n_columns(len(self.classes_)) * (0.5 + 0.085 * longest)

    def _annotate(self):
        embedding, y = np.asarray(self.embedding), np.asarray(self.y)
        for name, color in zip(self.classes_, _class_colors(len(self.classes_)), strict=True):
            self.ax_.annotate(
                str(name),
                np.median(embedding[y == name], axis=0),
                ha="center",
                va="center",
                weight="bold",
                color="black",
                bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": color, "lw": 2},
            )

    def _draw_images(self, n_images):
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        images, embedding = np.asarray(self.images), np.asarray(self.embedding)
        rows = _spread(embedding, n_images)
        edges = np.broadcast_to(self._colors(), len(images))
        # a bit less than a cell of the grid over which they are spread
        width = self.figure_.get_figwidth() * self.ax_.get_position().width * 72
        zoom = 0.6 * width / np.sqrt(n_images) / max(images.shape[1:])
        for row in rows:
            picture = OffsetImage(images[row], zoom=zoom, cmap="gray_r", interpolation="nearest")
            frame = {"edgecolor": edges[row], "linewidth": 1.5}
            box = AnnotationBbox(picture, embedding[row], pad=0.05, bboxprops=frame)
            self.ax_.add_artist(box)


def _is_scale(y):
    """Tell numbers, for a scale of colours, from names of classes."""
    y = np.asarray(y)
    if type_of_target(y) == "continuous":
        return True
    return y.dtype.kind in "iuf" and len(np.unique(y)) > _MAX_CLASSES


def _class_colors(n_classes):
    """Return one colour for each class: those of the palette, or from a scale for many."""
    if n_classes <= len(PALETTE):
        return list(PALETTE[:n_classes])
    import matplotlib as mpl

    scale = mpl.colormaps["viridis"]
    return [mpl.colors.to_hex(scale(0.1 + 0.85 * i / (n_classes - 1))) for i in range(n_classes)]


def _n_columns(n_classes):
    """Return in how many columns a legend has at most 20 rows."""
    return -(-n_classes // 20)


def _spread(points, n_points):
    """Return the rows of up to n_points points, each near the middle of a cell of a grid."""
    n_cells = max(isqrt(n_points), 1)
    low, high = points.min(axis=0), points.max(axis=0)
    position = (points - low) / np.where(high > low, high - low, 1) * n_cells
    cells = np.minimum(position.astype(int), n_cells - 1)
    distance = np.abs(position - cells - 0.5).max(axis=1)
    nearest_first = np.argsort(distance, kind="stable")
    _, first = np.unique(cells[nearest_first], axis=0, return_index=True)
    return nearest_first[first]
