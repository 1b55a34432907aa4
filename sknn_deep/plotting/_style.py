"""Colours and axes shared by all displays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sknn_deep._sklearn import check_matplotlib_support

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten colours that colour-blind readers can tell apart, on white and on black: M. Petroff (2021),
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


def resolve_axes(display: Any, ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Set ``ax_`` and ``figure_`` of a display; without axes, make a figure of ``size`` inches."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    display.ax_, display.figure_ = ax, ax.figure
    return ax


def next_color(ax: Axes) -> str:
    """Return the palette's colour for the next curve on axes that already have some."""
    used = {line.get_color() for line in ax.lines if line.get_gid() != "diagonal"}
    return PALETTE[len(used) % len(PALETTE)]
