"""Images and their reconstructions by a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sknn_deep._wording import counted
from sknn_deep.plotting._images import GAP, as_images, draw_image, frame_images
from sknn_deep.plotting._style import resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike


class ReconstructionDisplay:
    """Images above their reconstructions, with the error below each.

    Made by :meth:`from_estimator`, or by :meth:`from_reconstructions` to compare several
    methods.

    Parameters
    ----------
    originals : array-like of shape (n_images, height, width)
        The images.

    reconstructions : dict of str to array-like of shape (n_images, height, width)
        The reconstructed images of each method, by name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the images.

    figure_ : matplotlib Figure
        The figure that holds them.

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

    ax_: Axes
    figure_: Figure | SubFigure
    images_: list[AxesImage]
    errors_: dict[str, np.ndarray]

    def __init__(self, *, originals: ArrayLike, reconstructions: Mapping[str, ArrayLike]) -> None:
        self.originals = originals
        self.reconstructions = reconstructions

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        image_shape: tuple[int, int] | None = None,
        n_images: int = 10,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the first rows of X and their reconstructions.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``transform`` and ``inverse_transform``: an autoencoder, a PCA.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Images, one per row.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_images : int, default=10
            Number of images, starting with the first row.

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
            If the images do not have this shape.
        """
        first = _first_rows(X, n_images)
        reconstruction = estimator.inverse_transform(estimator.transform(first))
        return cls.from_reconstructions(
            first,
            {"reconstruction": reconstruction},
            image_shape=image_shape,
            n_images=n_images,
            ax=ax,
            **options,
        )

    @classmethod
    def from_reconstructions(
        cls,
        X: ArrayLike,
        reconstructions: Mapping[str, ArrayLike],
        *,
        image_shape: tuple[int, int] | None = None,
        n_images: int = 10,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the first rows of X above the same rows of each reconstruction.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Images, one per row.

        reconstructions : dict of str to array-like of shape (n_samples, n_features)
            The reconstructed rows of each method, by name.

        image_shape : (int, int), default=None
            Height and width of an image; None is a square.

        n_images : int, default=10
            Number of images, starting with the first row.

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
            If the images do not have this shape, or a reconstruction does not have the shape of X.
        """
        originals = as_images(_first_rows(X, n_images), image_shape)
        images = {}
        for name, rows in reconstructions.items():
            images[name] = as_images(_first_rows(rows, n_images), originals.shape[1:])
            if len(images[name]) != len(originals):
                raise ValueError(
                    f"the reconstruction {name!r} has {counted(len(images[name]), 'image')} for "
                    f"{counted(len(originals), 'original')}; pass one row for each row of X."
                )
        return cls(originals=originals, reconstructions=images).plot(ax, **options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        show_errors: bool = True,
        cmap: str | Colormap = "gray_r",
    ) -> Self:
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
        rows = {"original": originals}
        rows |= {name: np.asarray(images) for name, images in self.reconstructions.items()}
        self.errors_ = {
            name: np.square(rows[name] - originals).mean(axis=(1, 2))
            for name in self.reconstructions
        }
        height = originals.shape[1] / originals.shape[2]
        below = 0.36 if show_errors else GAP
        tops = np.r_[0, height + GAP + (height + below) * np.arange(len(rows) - 1)]
        size = len(originals) * (1 + GAP), tops[-1] + height + below
        ax = resolve_axes(self, ax, (0.85 * size[0] + 1.3, 0.85 * size[1] + 0.3))
        limits = {"vmin": originals.min(), "vmax": originals.max(), "cmap": cmap}
        self.images_ = [
            draw_image(ax, image, i * (1 + GAP), top, **limits)
            for top, images in zip(tops, rows.values(), strict=True)
            for i, image in enumerate(images)
        ]
        if show_errors:
            for top, errors in zip(tops[1:], self.errors_.values(), strict=True):
                for i, error in enumerate(errors):
                    x, y = i * (1 + GAP) + 0.5, top + height + 0.06
                    text = f"{error:#.2g}".rstrip(".")
                    ax.text(x, y, text, ha="center", va="top", size="small")
            ax.set_xlabel("numbers: mean squared error per pixel", size="small")
        frame_images(ax, *size)
        ax.set_yticks(tops + height / 2, rows)
        return self


def _first_rows(X: Any, n_rows: int) -> Any:
    """Return the first rows of an array, a sparse matrix, a frame or a list."""
    return X[:n_rows]
