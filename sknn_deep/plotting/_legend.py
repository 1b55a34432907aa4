"""The legend of a map: the colours of classes, a bar for numbers, grey for unlabelled points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sknn_deep.plotting._labels import GREY, UNLABELLED, Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

_ROWS = 21  # in a column
_MOST_CLASSES = 60  # the legend states how many more there are


def draw_legend(ax: Axes, points: PathCollection, labels: Labels) -> None:
    """Draw the legend on the right of a map."""
    from matplotlib.lines import Line2D

    anchor: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    if labels.classes is None:
        bar = ax.figure.colorbar(points, ax=ax, shrink=0.8, pad=0.02)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
        bar.outline.set_visible(False)
        # below the bar, so that the bar stays next to the map
        ax, anchor = bar.ax, {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 1}
    entries = _entries(labels)
    if not entries:
        return
    legend = ax.legend(
        [Line2D([], [], ls="", marker="o", color=color) for _, color in entries],
        [" "] * len(entries),
        frameon=False,
        handletextpad=0.2,
        borderpad=0,
        ncols=_n_columns(entries),
        **anchor,
    )
    # Set afterwards: matplotlib leaves out labels that start with an underscore.
    for text, (name, _) in zip(legend.get_texts(), entries, strict=True):
        text.set(text=name, parse_math=False)


def legend_width(labels: Labels) -> float:
    """Return the approximate width of the legend in inches."""
    entries = _entries(labels)
    longest = max((len(name) for name, _ in entries), default=0)
    bar = 1.2 if labels.classes is None else 0
    return max(_n_columns(entries) * (0.5 + 0.085 * longest), bar)


def _entries(labels: Labels) -> list[tuple[str, str]]:
    """Return name and colour of the entries; for numbers, only that of unlabelled points."""
    entries = list(zip(labels.names, labels.colors, strict=True))
    if len(entries) > _MOST_CLASSES:
        entries[_MOST_CLASSES:] = [(f"and {len(entries) - _MOST_CLASSES} more", "none")]
    if labels.is_missing.any():
        entries.append((UNLABELLED, GREY))
    return entries


def _n_columns(entries: list[tuple[str, str]]) -> int:
    return -(-len(entries) // _ROWS)
