"""The legend of a map names what its colours mean."""

import matplotlib as mpl
import numpy as np
import pytest

from sknn_deep.plotting import PALETTE, EmbeddingDisplay
from sknn_deep.plotting._labels import GREY

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen


def _display(y):
    return EmbeddingDisplay.from_embedding(np.random.default_rng(0).normal(size=(len(y), 2)), y)


def _entries(legend):
    """Return the name and the colour of each entry."""
    names = [text.get_text() for text in legend.get_texts()]
    colors = [line.get_color() for line in legend.get_lines()]
    return list(zip(names, colors, strict=True))


def test_legend_names_the_classes_and_then_the_unlabelled():
    legend = _display(["b", None, "a"]).ax_.get_legend()
    assert _entries(legend) == [("a", PALETTE[0]), ("b", PALETTE[1]), ("unlabelled", GREY)]


def test_names_are_written_as_they_are():
    names = ["$1 to $2", "_none", "a & <b>"]
    legend = _display(names).ax_.get_legend()
    assert [name for name, _ in _entries(legend)] == names
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_forty_classes_are_all_named():
    legend = _display([f"class {i:02}" for i in range(40)]).ax_.get_legend()
    assert len({color for _, color in _entries(legend)}) == 40


def test_of_more_than_sixty_classes_the_rest_is_counted():
    display = _display([None, *[f"class {i:03}" for i in range(200)]])
    entries = _entries(display.ax_.get_legend())
    assert [name for name, _ in entries[59:]] == ["class 059", "and 140 more", "unlabelled"]
    assert display.figure_.get_figwidth() < 12


def test_numbers_have_a_bar_and_the_unlabelled_an_entry_below_it():
    display = _display([0.5, np.nan, 2.5])
    _, bar = display.figure_.axes
    assert _entries(bar.get_legend()) == [("unlabelled", GREY)]
    display.figure_.canvas.draw()
    low, high = bar.get_legend().get_window_extent().intervaly
    assert low < high < bar.bbox.y0
    np.testing.assert_allclose(display.points_.get_clim(), (0.5, 2.5))
    assert mpl.colors.to_hex(display.points_.cmap.get_bad()) == GREY


def test_numbers_without_missing_ones_have_a_bar_alone():
    display = _display([0.5, 1, 2.5])
    _, bar = display.figure_.axes
    assert display.ax_.get_legend() is bar.get_legend() is None
