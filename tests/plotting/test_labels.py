"""What y says of the points of a map: classes, numbers, or nothing; and their colours."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pytest

from sknn_deep.plotting import PALETTE
from sknn_deep.plotting._labels import GREY, class_colors, oklab, read_labels


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.arange(60) % 30, list(range(30))),
        (np.arange(60) % 3 * 1.0, [0, 1, 2]),
        (np.arange(60) % 2 == 0, [False, True]),
        (["b", "a", "b"], ["a", "b"]),
        (np.array([f"{i:02}" for i in range(60)]), [f"{i:02}" for i in range(60)]),
        (pd.Series(["low", "high"], dtype="category"), ["high", "low"]),
        (pd.Categorical(["low", "high"], categories=["low", "high"]), ["low", "high"]),
        ([1, "a"], ["1", "a"]),
    ],
)
def test_names_and_few_integers_are_classes(y, classes):
    assert read_labels(y).classes.tolist() == classes


@pytest.mark.parametrize("y", [np.arange(31), np.linspace(0, 1, 60), [0.5, 1], [1.5, None]])
def test_fractions_and_many_integers_are_numbers(y):
    labels = read_labels(y)
    assert labels.classes is None
    np.testing.assert_array_equal(labels.values, np.array(y, dtype=float))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("given", [[1, 2], ["a", "b"], [True, False]])
@pytest.mark.parametrize("container", [list, lambda y: np.array(y, dtype=object), pd.Series])
def test_what_is_missing_is_unlabelled(missing, given, container):
    labels = read_labels(container([given[1], missing, given[0]]))
    assert labels.is_missing.tolist() == [False, True, False]
    assert set(labels.classes.tolist()) == set(given)


@pytest.mark.parametrize(
    "y",
    [
        np.array([1, np.nan]),
        pd.Series([1, None], dtype="Int64"),
        pd.Series(["a", None], dtype="category"),
        pd.Series(["a", None], dtype="str"),
        pl.Series(["a", None]),
        pl.Series([1, None]),
        np.array(["2026-01-01", "NaT"], dtype="datetime64[D]"),
    ],
)
def test_every_container_can_miss_labels(y):
    labels = read_labels(y)
    assert labels.is_missing.tolist() == [False, True]
    assert len(labels.classes) == 1


def test_whole_numbers_keep_their_names_beside_missing_ones():
    assert read_labels([3, None, 7]).names == ["3", "7"]


@pytest.mark.parametrize("y", [[None, None], [np.nan, np.nan]])
def test_all_can_be_unlabelled(y):
    labels = read_labels(y)
    assert labels.is_missing.all()
    assert labels.names == []
    assert labels.point_colors().tolist() == [GREY, GREY]


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinite_numbers_are_refused(infinity):
    message = f"y[2] is {infinity}, which has no place on a scale of colours; replace"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_labels([0.5, 1, infinity])


def test_each_point_has_the_colour_of_its_class():
    labels = read_labels(["b", "a", None, "b"])
    a, b = labels.colors
    assert labels.point_colors().tolist() == [b, a, GREY, b]


@pytest.mark.parametrize("n_classes", [1, 2, 10])
def test_few_classes_have_the_colours_of_the_palette(n_classes):
    assert class_colors(n_classes) == list(PALETTE[:n_classes])


def _distances(colors):
    """Return the distance in OKLab of each two colours, of shape (n_colors, n_colors)."""
    lab = oklab(np.array([mpl.colors.to_rgb(color) for color in colors]))
    return np.linalg.norm(lab[:, None] - lab, axis=2) + np.eye(len(colors))


def test_many_classes_have_colours_that_differ():
    viridis = mpl.colormaps["viridis"](np.linspace(0, 1, 40))
    ours, scale = _distances(class_colors(40)).min(), _distances(viridis[:, :3].tolist()).min()
    assert ours > 0.07
    assert ours > 3 * scale


def test_hundreds_of_classes_have_a_colour_each():
    assert len(set(class_colors(200))) == 200


@pytest.mark.parametrize("n_classes", [5, 10, 40])
def test_beside_unlabelled_points_no_class_is_grey(n_classes):
    colors = class_colors(n_classes, beside_grey=True)
    assert _distances([GREY, *colors])[0, 1:].min() > 0.07


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (1, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (0.6280, 0.2249, 0.1258)),
        ((0, 0, 1), (0.4520, -0.0325, -0.3115)),
    ],
)
def test_oklab_is_the_published_one(rgb, lab):
    np.testing.assert_allclose(oklab(np.array([rgb]))[0], lab, atol=1e-4)
