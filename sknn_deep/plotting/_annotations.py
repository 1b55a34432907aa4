"""Labels on a map, placed so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 12  # with more names than this, the font is smaller
_GAP = 2  # between two names, in pixels
_MAX_STEPS = 500  # of moving names apart


def write_names(ax: Axes, names: Sequence[str], points: np.ndarray, colors: Sequence[str]) -> None:
    """Write each name at its point, or beside it with a line if another name is there.

    Parameters
    ----------
    ax : matplotlib Axes
    names, colors : sequence of str, length n_names
    points : ndarray of shape (n_names, 2)
    """
    at = points.tolist()
    texts = [
        ax.annotate(
            name,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            size="medium" if len(names) <= _MANY else "small",
            weight="bold",
            color="black",
            parse_math=False,  # a dollar sign in a class name is literal
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": color, "lw": 2},
        )
        for name, point, color in zip(names, at, colors, strict=True)
    ]
    figure = ax.figure.canvas.figure  # the top-level figure, if the axes belong to a subfigure
    figure.draw_without_rendering()  # lays out the figure, so that text extents are known
    boxes = [frame.get_window_extent() for text in texts if (frame := text.get_bbox_patch())]
    centers = ax.transData.transform(points)
    sizes = np.array([(box.width, box.height) for box in boxes]) + _GAP
    moved = spread_boxes(centers, sizes, np.array(ax.bbox.min), np.array(ax.bbox.max)) - centers
    offsets = (moved * 72 / figure.dpi).tolist()
    is_beside = (np.abs(moved) > sizes / 2).any(axis=1)
    for text, point, offset, color, needs_line in zip(
        texts, at, offsets, colors, is_beside, strict=True
    ):
        text.set_position(offset)
        if needs_line:
            ax.annotate(
                "",
                point,
                xytext=offset,
                textcoords="offset points",
                arrowprops={
                    "arrowstyle": "-",
                    "color": color,
                    "lw": 1.5,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
                zorder=2.9,  # below all names, whose zorder is 3
            )


def spread_boxes(
    centers: np.ndarray, sizes: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return centres near the given ones at which the boxes do not overlap.

    In each step, overlapping boxes move apart in the direction of the smaller overlap, and stay
    between ``low`` and ``high``. If there is no room for all, some still overlap.

    Parameters
    ----------
    centers, sizes : ndarray of shape (n_boxes, 2)
    low, high : ndarray of shape (2,)

    Returns
    -------
    centers : ndarray of shape (n_boxes, 2)
    """
    low = np.minimum(low + sizes / 2, (low + high) / 2)
    high = np.maximum(high - sizes / 2, (low + high) / 2)
    # boxes with the same centre need a direction in which to separate
    tie_break = np.random.RandomState(0).uniform(-1e-3, 1e-3, centers.shape)
    moved = np.clip(centers + tie_break, low, high)
    needed = (sizes[:, None] + sizes) / 2
    for _ in range(_MAX_STEPS):
        apart = moved[:, None] - moved
        overlap = needed - np.abs(apart)
        is_hit = (overlap > 0).all(axis=2)
        np.fill_diagonal(is_hit, False)
        if not is_hit.any():
            break
        smaller = overlap == overlap.min(axis=2, keepdims=True)
        push = np.where(is_hit[:, :, None] & smaller, np.sign(apart) * overlap / 2, 0)
        moved = np.clip(moved + 0.6 * push.sum(axis=1), low, high)
    return moved
