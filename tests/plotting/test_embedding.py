"""A map shows each point in the colour of its class or number."""

import itertools
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from sknn_deep.plotting import PALETTE, EmbeddingDisplay
from sknn_deep.plotting._labels import GREY

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen


@pytest.fixture(scope="module")
def pca(digits):
    return PCA(2).fit(digits.X)


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def _legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def _points(n_samples, n_classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_samples, 2)), np.arange(n_samples) % n_classes


def test_each_point_has_the_colour_of_its_class(pca, digits):
    display = EmbeddingDisplay.from_estimator(pca, digits.X, digits.y)
    codes = pca.transform(digits.X)
    np.testing.assert_array_equal(display.embedding, codes)
    drawn = {
        tuple(point): mpl.colors.to_hex(color, keep_alpha=False)
        for point, color in zip(
            display.points_.get_offsets().tolist(), display.points_.get_facecolors(), strict=True
        )
    }
    for code, digit in zip(codes.tolist(), digits.y, strict=True):
        assert drawn[tuple(code)] == PALETTE[digit]
    assert _legend(display.ax_) == list("0123456789")


def test_no_class_lies_on_top_of_the_others():
    Z, _ = _points(3000)
    display = EmbeddingDisplay.from_embedding(Z, np.arange(3000) // 1000)
    colors = display.points_.get_facecolors()[-1000:]
    assert len(np.unique(colors, axis=0)) == 3


@pytest.mark.parametrize("n_classes", [2, 10, 11, 30])
def test_every_class_has_a_colour_of_its_own(n_classes):
    display = EmbeddingDisplay.from_embedding(*_points(90, n_classes))
    assert len(np.unique(display.points_.get_facecolors(), axis=0)) == n_classes


@pytest.mark.parametrize(("y", "is_scale"), [(np.arange(60) % 30, False), (np.arange(60), True)])
def test_numbers_have_a_colour_bar_and_names_a_legend(y, is_scale):
    display = EmbeddingDisplay.from_embedding(_points(60)[0], y)
    assert (display.classes_ is None) == is_scale
    assert (len(display.figure_.axes) == 2) == is_scale
    assert (display.ax_.get_legend() is None) == is_scale


def test_without_y_there_is_no_legend():
    display = EmbeddingDisplay.from_embedding(_points(60)[0])
    assert display.ax_.get_legend() is None
    assert len(display.figure_.axes) == 1


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("given", ["a", 7, 0.5])
def test_unlabelled_points_are_grey_and_lie_beneath(missing, given):
    Z, _ = _points(60)
    display = EmbeddingDisplay.from_embedding(Z, [missing, given, missing] * 20, alpha=1)
    display.figure_.canvas.draw()  # maps numbers to colours
    colors = [mpl.colors.to_hex(color) for color in display.points_.get_facecolors()]
    assert set(colors[:40]) == {GREY}
    assert GREY not in colors[40:]
    is_unlabelled = np.arange(60) % 3 != 1
    assert {*map(tuple, display.points_.get_offsets()[:40])} == {*map(tuple, Z[is_unlabelled])}


def test_many_points_are_small_transparent_and_rasterized():
    few, many = (EmbeddingDisplay.from_embedding(*_points(n)).points_ for n in (200, 70_000))
    assert few.get_sizes()[0] > 10 > 3 > many.get_sizes()[0] > 1
    assert few.get_alpha() > many.get_alpha() > 0.3
    assert many.get_rasterized()


def test_classes_are_written_on_their_medians():
    Z, y = _points(300)
    display = EmbeddingDisplay.from_embedding(Z, y, annotate=True, legend=False)
    assert _texts(display.ax_) == ["0", "1", "2"]
    np.testing.assert_allclose(display.ax_.texts[1].xy, np.median(Z[y == 1], axis=0))
    assert display.ax_.get_legend() is None


def test_forty_names_do_not_cover_each_other():
    Z = np.random.default_rng(0).normal(size=(400, 2))
    y = [f"name {i % 40}" for i in range(400)]
    display = EmbeddingDisplay.from_embedding(Z, y, annotate=True)
    display.figure_.canvas.draw()
    names = [text for text in display.ax_.texts if text.get_text()]  # the others are lines
    boxes = [text.get_bbox_patch().get_window_extent() for text in names]
    assert len(boxes) == 40
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_unlabelled_points_have_no_name_on_the_map():
    display = EmbeddingDisplay.from_embedding(_points(4)[0], ["a", None, None, "b"], annotate=True)
    assert _texts(display.ax_) == ["a", "b"]


def test_images_stand_at_their_points(pca, digits):
    display = EmbeddingDisplay.from_estimator(
        pca, digits.X, digits.y, image_shape=(8, 8), n_images=49
    )
    points = pca.transform(digits.X)
    boxes = display.ax_.artists
    assert 20 < len(boxes) <= 49
    for box in boxes:
        (row,) = np.flatnonzero((points == box.xy).all(axis=1))
        np.testing.assert_array_equal(box.offsetbox.get_data().ravel(), digits.X[row])


def test_images_cover_neither_names_nor_each_other(pca, digits):
    display = EmbeddingDisplay.from_estimator(
        pca, digits.X, digits.y, n_images=49, annotate=True, legend=False
    )
    display.figure_.draw_without_rendering()
    drawn = display.ax_.get_children()
    last_image = max(map(drawn.index, display.ax_.artists))
    assert all(drawn.index(text) > last_image for text in display.ax_.texts)
    boxes = [box.offsetbox.get_window_extent() for box in display.ax_.artists]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_images_are_square_unless_a_shape_is_given(pca, digits):
    display = EmbeddingDisplay.from_estimator(pca, digits.X, n_images=9)
    assert display.images.shape == (len(digits.X), 8, 8)
    with pytest.raises(ValueError, match="make no square image; pass image_shape"):
        EmbeddingDisplay.from_estimator(PCA(2).fit(digits.X[:, 1:]), digits.X[:, 1:], n_images=9)


@pytest.mark.parametrize(
    ("Z", "y", "options", "message"),
    [
        (np.zeros((5, 3)), None, {}, "two numbers for each sample, got 3; reduce them first"),
        (np.zeros((5, 2)), np.zeros(4), {}, "y has shape (4,) for 5 samples"),
        (np.zeros((5, 2)), None, {"n_images": 3}, "n_images=3 but there are no images"),
        (np.zeros((5, 2)), None, {"images": np.zeros((4, 9))}, "inconsistent numbers of samples"),
        (np.full((5, 2), np.nan), None, {}, "Input Z contains NaN"),
        (np.zeros((3, 2)), [1, 2, np.inf], {}, "y[2] is inf, which has no place on a scale"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(Z, y, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EmbeddingDisplay.from_embedding(Z, y, **options)
