"""Converts rows of pixels to images, and draws images side by side."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array

from sknn_deep._wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

GAP = 0.08  # between images in a row, as a share of an image's width


def as_images(X: Any, image_shape: tuple[int, ...] | None) -> np.ndarray:
    """Return rows of pixels, or images, as an array of shape (n_images, height, width)."""
    if np.ndim(X) == 3:
        return np.asarray(X)
    rows: np.ndarray = X.toarray() if sp.issparse(X) else _numbers(X)
    n_pixels = rows.shape[1]
    if image_shape is None:
        image_shape = (isqrt(n_pixels),) * 2
        if image_shape[0] ** 2 != n_pixels:
            raise ValueError(
                f"{n_pixels} features make no square image; pass image_shape=(height, width)."
            )
    if len(image_shape) != 2 or np.prod(image_shape) != n_pixels:
        raise ValueError(
            f"image_shape={tuple(image_shape)} does not match {counted(n_pixels, 'feature')}; pass "
            f"a height and a width whose product is {n_pixels}."
        )
    return rows.reshape(-1, *image_shape)


def _numbers(X: Any) -> np.ndarray:
    """Return rows of numbers; refuse others, such as a table with categories."""
    array = np.asarray(X)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Rows of images are pixels, but X holds values that are no numbers: {error}. To "
                "see how well a table is reconstructed, call "
                "reconstruction_error(X, per_feature=True)."
            ) from error
    pixels: np.ndarray = check_array(array)
    return pixels


def draw_image(ax: Axes, image: np.ndarray, left: float, top: float, **options: Any) -> AxesImage:
    """Draw an image, one unit wide, on axes whose y axis points downwards."""
    height = image.shape[0] / image.shape[1]
    extent = left, left + 1, top + height, top
    return ax.imshow(image, extent=extent, interpolation="nearest", **options)


def frame_images(ax: Axes, width: float, height: float) -> None:
    ax.set(xlim=(0, width - GAP), ylim=(height, 0), xticks=[], aspect="equal")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
