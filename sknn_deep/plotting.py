"""Pictures of networks and of what they learn, by scikit-learn's conventions for displays.

A display stores what it shows. Its class methods, ``from_estimator`` above all, compute
that and draw it; ``plot`` draws it again, on other axes or with other options. matplotlib is
imported when something is drawn, plotly when an interactive page is written.
"""

from math import isqrt
from numbers import Real

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from sknn_deep._embedding_page import write_page
from sknn_deep._validation import check_matplotlib_support

__all__ = [
    "EmbeddingDisplay",
    "LossCurveDisplay",
    "ReconstructionDisplay",
    "SearchSurfaceDisplay",
    "WeightsDisplay",
]

# Ten colours that stay apart for colour-blind eyes, on white and on black: M. Petroff (2021),
# Accessible color sequences for data visualization, arXiv:2107.02270.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_MAX_CLASSES = 30  # integers of more values than this are a scale, not names
_GAP = 0.08  # between images in a row, in widths of an image


class LossCurveDisplay:
    """Loss over the epochs of a training.

    Made by :meth:`from_estimator`. Several trainings share one picture when the axes of the
    first are passed on: each has a colour, training is dashed, validation solid.

    Parameters
    ----------
    training_loss : array-like of shape (n_epochs,)
        Loss on the training data after each epoch.

    validation_loss : array-like of shape (n_epochs,), default=None
        Loss on the validation data after each epoch.

    best_iter : int, default=None
        Epoch, counted from 1, whose weights were kept. Marked on the validation loss.

    name : str, default=None
        What the legend calls the training.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

    lines_ : list of matplotlib Line2D
        Training loss, then validation loss and the mark of the best epoch, where there are.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import LossCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> display = None
    >>> for rate in (1e-3, 1e-2):
    ...     classifier = DeepMLPClassifier(
    ...         learning_rate="one_cycle", learning_rate_init=rate, max_iter=5,
    ...         early_stopping=True, random_state=0,
    ...     ).fit(X / 16, y)
    ...     display = LossCurveDisplay.from_estimator(
    ...         classifier, name=f"peak {rate}", ax=display and display.ax_
    ...     )
    >>> len(display.ax_.lines)
    6
    """

    def __init__(self, *, training_loss, validation_loss=None, best_iter=None, name=None):
        self.training_loss = training_loss
        self.validation_loss = validation_loss
        self.best_iter = best_iter
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, *, name=None, ax=None, **options):
        """Draw the loss curves of a fitted network.

        Parameters
        ----------
        estimator : estimator
            Fitted; of this package, or another with ``loss_curve_``.

        name : str, default=None
            What the legend calls the training.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. Pass ``display.ax_`` to compare trainings.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ValueError
            If the estimator has no loss curve.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise ValueError(
                f"{type(estimator).__name__} has no loss_curve_; pass a network that was trained "
                "in epochs (solver='lbfgs' has none), such as pipeline[-1] or "
                "ensemble.estimators_[0]."
            )
        validation_loss = getattr(estimator, "validation_loss_curve_", None)
        display = cls(
            training_loss=estimator.loss_curve_,
            validation_loss=validation_loss,
            best_iter=None if validation_loss is None else estimator.best_iter_,
            name=name,
        )
        return display.plot(ax, **options)

    def plot(self, ax=None, *, line_kw=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        line_kw : dict, default=None
            Further arguments of ``Axes.plot`` for the curves.

        Returns
        -------
        self : LossCurveDisplay
        """
        ax = _axes(self, ax, (6.4, 4))
        n_trainings = len({line.get_color() for line in ax.lines})
        style = {"color": PALETTE[n_trainings % len(PALETTE)], "lw": 2, **(line_kw or {})}
        prefix = "" if self.name is None else f"{self.name}: "
        epochs = np.arange(1, len(self.training_loss) + 1)
        has_validation = self.validation_loss is not None
        training_style = {"lw": 1.5, "ls": "--"} if has_validation else {}
        self.lines_ = ax.plot(
            epochs, self.training_loss, label=f"{prefix}training", **(style | training_style)
        )
        if has_validation:
            self.lines_ += ax.plot(
                epochs, self.validation_loss, label=f"{prefix}validation", **style
            )
        if has_validation and self.best_iter is not None:
            best = [self.best_iter], [self.validation_loss[self.best_iter - 1]]
            label = f"{prefix}weights kept, epoch {self.best_iter}"
            mark = {"ls": "", "marker": "o", "ms": 8, "mec": ax.get_facecolor(), "zorder": 3}
            self.lines_ += ax.plot(*best, color=style["color"], label=label, **mark)
        _scale_losses(ax)
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(axis="y", alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self


class ReconstructionDisplay:
    """Images above what a transformer makes of them, with the error below each.

    Made by :meth:`from_estimator`, or by :meth:`from_reconstructions` for several methods at
    once.

    Parameters
    ----------
    originals : array-like of shape (n_images, height, width)
        The images.

    reconstructions : dict of str to array-like of shape (n_images, height, width)
        For each method, by name, the images again.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

    images_ : list of matplotlib AxesImage
        Row by row, the originals first.

    errors_ : dict of str to ndarray of shape (n_images,)
        Mean squared error per pixel.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import AutoencoderTransformer
    >>> from sknn_deep.plotting import ReconstructionDisplay
    >>> X = load_digits().data / 16
    >>> autoencoder = AutoencoderTransformer(8, learning_rate="one_cycle", max_iter=5).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(autoencoder, X, image_shape=(8, 8))
    >>> len(display.images_)
    20
    """

    def __init__(self, *, originals, reconstructions):
        self.originals = originals
        self.reconstructions = reconstructions

    @classmethod
    def from_estimator(cls, estimator, X, *, image_shape=None, n_images=10, ax=None, **options):
        """Draw the first rows of X and their reconstructions.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``transform`` and ``inverse_transform``: an autoencoder, a PCA.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Images, one a row.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_images : int, default=10
            Number of images, from the first row on.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : ReconstructionDisplay

        Raises
        ------
        ValueError
            If the images do not have the shape.
        """
        X = X[:n_images]
        reconstruction = estimator.inverse_transform(estimator.transform(X))
        return cls.from_reconstructions(
            X,
            {"reconstruction": reconstruction},
            image_shape=image_shape,
            n_images=n_images,
            ax=ax,
            **options,
        )

    @classmethod
    def from_reconstructions(
        cls, X, reconstructions, *, image_shape=None, n_images=10, ax=None, **options
    ):
        """Draw the first rows of X above the same rows of each reconstruction.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Images, one a row.

        reconstructions : dict of str to array-like of shape (n_samples, n_features)
            For each method, by name, what it makes of X.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_images : int, default=10
            Number of images, from the first row on.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : ReconstructionDisplay

        Raises
        ------
        ValueError
            If the images do not have the shape, or a reconstruction has not that of X.
        """
        originals = _as_images(X[:n_images], image_shape)
        images = {}
        for name, rows in reconstructions.items():
            images[name] = _as_images(rows[:n_images], originals.shape[1:])
            if len(images[name]) != len(originals):
                raise ValueError(
                    f"the reconstruction {name!r} has {len(images[name])} images for "
                    f"{len(originals)} originals; pass one row for each row of X."
                )
        return cls(originals=originals, reconstructions=images).plot(ax, **options)

    def plot(self, ax=None, *, show_errors=True, cmap="gray_r"):
        """Draw the images.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        show_errors : bool, default=True
            Write the mean squared error per pixel below each reconstruction.

        cmap : str or matplotlib Colormap, default="gray_r"
            Colours, from the smallest to the largest pixel of the originals.

        Returns
        -------
        self : ReconstructionDisplay
        """
        originals = np.asarray(self.originals)
        rows = {"original": originals, **self.reconstructions}
        self.errors_ = {
            name: np.square(images - originals).mean(axis=(1, 2))
            for name, images in self.reconstructions.items()
        }
        height = originals.shape[1] / originals.shape[2]
        below = 0.36 if show_errors else _GAP
        tops = np.r_[0, height + _GAP + (height + below) * np.arange(len(rows) - 1)]
        size = len(originals) * (1 + _GAP), tops[-1] + height + below
        ax = _axes(self, ax, (0.85 * size[0] + 1.3, 0.85 * size[1] + 0.3))
        limits = {"vmin": originals.min(), "vmax": originals.max(), "cmap": cmap}
        self.images_ = [
            _draw_image(ax, image, i * (1 + _GAP), top, **limits)
            for top, images in zip(tops, rows.values(), strict=True)
            for i, image in enumerate(images)
        ]
        if show_errors:
            for top, errors in zip(tops[1:], self.errors_.values(), strict=True):
                for i, error in enumerate(errors):
                    x, y = i * (1 + _GAP) + 0.5, top + height + 0.06
                    ax.text(x, y, f"{error:.2g}", ha="center", va="top", size="small")
            ax.set_xlabel("numbers: mean squared error per pixel", size="small")
        _frame_images(ax, *size)
        ax.set_yticks(tops + height / 2, rows)
        return self


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
        images = None if image_shape is None else _as_images(X, image_shape)
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
            images = _as_images(images, image_shape)
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
        ax = _axes(self, ax, (6 + self._legend_width() * legend, 6))
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
        images = self.images if images is None else _as_images(images, image_shape)
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


class WeightsDisplay:
    """What each unit of the first layer looks for, as images.

    Made by :meth:`from_estimator`.

    Parameters
    ----------
    weights : array-like of shape (n_units, height, width)
        The weights of each unit.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

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

    def __init__(self, *, weights):
        self.weights = weights

    @classmethod
    def from_estimator(cls, estimator, *, image_shape=None, n_units=50, ax=None, **options):
        """Draw the weights of the units with the largest ones.

        Parameters
        ----------
        estimator : estimator
            A fitted network: of this package, or another with ``coefs_``.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_units : int, default=50
            Draw at most that many units, by falling norm of their weights.

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
            If the estimator is no network.
        ValueError
            If the features do not have the shape.
        """
        weights = _first_weights(estimator)
        strongest = np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")[:n_units]
        return cls(weights=_as_images(weights[strongest], image_shape)).plot(ax, **options)

    def plot(self, ax=None, *, n_columns=10, cmap="RdBu_r"):
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
        size = n_columns * (1 + _GAP), n_rows * (height + _GAP)
        ax = _axes(self, ax, (0.75 * size[0] + 1, 0.75 * size[1] + 0.2))
        limit = np.quantile(np.abs(weights), 0.995)  # a few large ones would make the rest pale
        self.images_ = []
        for i, image in enumerate(weights):
            row, column = divmod(i, n_columns)
            position = column * (1 + _GAP), row * (height + _GAP)
            limits = {"vmin": -limit, "vmax": limit, "cmap": cmap}
            self.images_.append(_draw_image(ax, image, *position, **limits))
        _frame_images(ax, *size)
        ax.set_yticks([])
        bar = self.figure_.colorbar(self.images_[0], ax=ax, shrink=0.8, pad=0.02, label="weight")
        bar.outline.set_visible(False)
        return self


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
            ax = _axes(self, ax, (1.1 * shape[1] + 2.4, 0.8 * shape[0] + 1.6))
            self._plot_grid(colors, shape, rows, columns, show_scores)
            ax.set_xticks(range(shape[1]), map(_label, x_values))
            ax.set_yticks(range(shape[0]), map(_label, y_values))
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        else:
            ax = _axes(self, ax, (6.8, 4.6))
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


def _axes(display, ax, size):
    """Set a display's axes and figure, new ones of the given size where there are none yet."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    display.ax_, display.figure_ = ax, ax.figure
    return ax


def _as_images(X, image_shape):
    """Return rows of pixels, or images, as an array of shape (n_images, height, width)."""
    if np.ndim(X) == 3:
        return np.asarray(X)
    X = X.toarray() if sp.issparse(X) else check_array(X, ensure_min_samples=1)
    n_pixels = X.shape[1]
    if image_shape is None:
        image_shape = (isqrt(n_pixels),) * 2
        if image_shape[0] ** 2 != n_pixels:
            raise ValueError(
                f"{n_pixels} features make no square image; pass image_shape=(height, width)."
            )
    if len(image_shape) != 2 or np.prod(image_shape) != n_pixels:
        raise ValueError(
            f"image_shape={tuple(image_shape)} does not match {n_pixels} features; pass a height "
            "and a width whose product they are."
        )
    return X.reshape(-1, *image_shape)


def _draw_image(ax, image, left, top, **options):
    """Draw an image, one unit wide, on axes that count downwards."""
    height = image.shape[0] / image.shape[1]
    extent = left, left + 1, top + height, top
    return ax.imshow(image, extent=extent, interpolation="nearest", **options)


def _frame_images(ax, width, height):
    ax.set(xlim=(0, width - _GAP), ylim=(height, 0), xticks=[], aspect="equal")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _scale_losses(ax):
    """Choose a logarithmic scale with readable ticks where the losses span a large range."""
    from matplotlib.ticker import LogLocator, NullLocator

    losses = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    losses = losses[np.isfinite(losses)]
    if losses.min(initial=np.inf) <= 0 or losses.max(initial=0) < 5 * losses.min(initial=np.inf):
        ax.set_yscale("linear")
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


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


def _first_weights(estimator):
    """Return the weights of the first layer, of shape (n_units, n_features)."""
    check_is_fitted(estimator)
    if hasattr(estimator, "coefs_"):
        return estimator.coefs_[0].T
    if hasattr(estimator, "module_"):
        return estimator.module_.linear_layers()[0].weight.detach().cpu().numpy()
    raise TypeError(
        f"{type(estimator).__name__} has no layers; pass a network, such as pipeline[-1], "
        "search.best_estimator_ or ensemble.estimators_[0]."
    )


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
