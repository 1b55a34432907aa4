"""Reconstructions and weights as images."""

from math import isqrt

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sknn_deep.plotting._style import resolve_axes

_GAP = 0.08  # between images in a row, in widths of an image


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
        originals = as_images(X[:n_images], image_shape)
        images = {}
        for name, rows in reconstructions.items():
            images[name] = as_images(rows[:n_images], originals.shape[1:])
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
        ax = resolve_axes(self, ax, (0.85 * size[0] + 1.3, 0.85 * size[1] + 0.3))
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
        return cls(weights=as_images(weights[strongest], image_shape)).plot(ax, **options)

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
        ax = resolve_axes(self, ax, (0.75 * size[0] + 1, 0.75 * size[1] + 0.2))
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


def as_images(X, image_shape):
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
