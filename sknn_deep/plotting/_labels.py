"""Interprets ``y`` as labels of the points of a map (classes, numbers or none), with colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sknn_deep.plotting._style import PALETTE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

UNLABELLED = "unlabelled"
GREY = "#b5b5b5"  # for unlabelled points: pale on white, dim on black

_MAX_CLASSES = 30  # integers with more distinct values than this are numbers, not classes
_GREYISH = {"#94a4a2", "#717581"}  # palette colours too similar to the grey of unlabelled points
# From linear RGB to cone responses, and from their cube roots to OKLab, in which equal distances
# are perceived as about equally different: B. Ottosson (2020), A perceptual color space for image
# processing.
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@dataclass(frozen=True)
class Labels:
    """The classes or the numbers of points.

    Parameters
    ----------
    values : ndarray of shape (n_samples,), float
        Index of each point's class, or its number if there are no classes; NaN if unlabelled.

    classes : ndarray of shape (n_classes,) or None
        The classes, sorted; None for numbers.
    """

    values: np.ndarray
    classes: np.ndarray | None

    @property
    def is_missing(self) -> np.ndarray:
        """Which points are unlabelled."""
        return np.asarray(np.isnan(self.values))

    @property
    def names(self) -> list[str]:
        """The classes as text."""
        return [] if self.classes is None else [str(name) for name in self.classes]

    @property
    def colors(self) -> list[str]:
        """One colour for each class."""
        if self.classes is None:
            return []
        return class_colors(len(self.classes), beside_grey=bool(self.is_missing.any()))

    def point_colors(self) -> np.ndarray:
        """Return the colour of each point, for classes."""
        codes = np.nan_to_num(self.values, nan=-1).astype(int)
        colors: np.ndarray = np.take([*self.colors, GREY], codes)
        return colors


def read_labels(y: ArrayLike) -> Labels:
    """Return the labels in ``y``; None, NaN, NaT and pandas.NA mean that a point is unlabelled.

    Numbers with fractions, and integers of more than 30 values, are read as numbers; anything else
    as classes.

    Raises
    ------
    ValueError
        If a number is infinite.
    """
    # NumPy would convert a NaN in a list of strings to the string "nan".
    given = y if isinstance(y, list | tuple | pd.Series | pd.Categorical) else np.asarray(y)
    column = pd.Series(given).convert_dtypes()
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = column.to_numpy(float, na_value=np.nan)
        if np.isinf(numbers).any():
            row = int(np.argmax(np.isinf(numbers)))
            raise ValueError(
                f"y[{row}] is {numbers[row]}, which has no place on a scale of colours; replace "
                "infinite numbers, or set them to NaN to draw the points as unlabelled."
            )
        if pd.api.types.is_float_dtype(column) or column.nunique() > _MAX_CLASSES:
            return Labels(numbers, None)
    codes, classes = pd.factorize(column, sort=True)
    return Labels(np.where(codes < 0, np.nan, codes), np.array(classes.tolist()))


def class_colors(n_classes: int, *, beside_grey: bool = False) -> list[str]:
    """Return one colour for each class: the palette first, then colours as different as possible.

    Each further colour is the one in an RGB grid that is farthest in OKLab from all previous ones.
    """
    colors = [color for color in PALETTE if not (beside_grey and color in _GREYISH)]
    if n_classes <= len(colors):
        return colors[:n_classes]
    steps = np.linspace(0, 1, 10)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    lab = oklab(grid)
    # visible on both white and black, and clearly not grey
    is_clear = (lab[:, 0] > 0.47) & (lab[:, 0] < 0.85) & (np.hypot(*lab[:, 1:].T) > 0.06)
    grid, lab = grid[is_clear], lab[is_clear]
    chosen = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors]) / 255
    nearest = np.linalg.norm(lab[:, None] - oklab(chosen), axis=2).min(axis=1)
    while len(colors) < n_classes:
        farthest = int(nearest.argmax())
        red, green, blue = np.rint(grid[farthest] * 255).astype(int)
        colors.append(f"#{red:02x}{green:02x}{blue:02x}")
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[farthest], axis=1))
    return colors


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1], shape (n_colors, 3), to OKLab: lightness and two colour axes."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab: np.ndarray = np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T
    return lab
