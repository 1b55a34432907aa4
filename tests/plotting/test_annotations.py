"""Names on a map do not cover each other, and stay at their points where they can."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sknn_deep.plotting._annotations import spread_boxes, write_names

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen

LOW, HIGH = np.zeros(2), np.full(2, 100.0)


def _overlaps(centers, sizes):
    """Return how many pairs of boxes cover each other."""
    apart = np.abs(centers[:, None] - centers)
    is_hit = (apart < (sizes[:, None] + sizes) / 2 - 1e-6).all(axis=2)
    return (is_hit.sum() - len(centers)) // 2


def test_boxes_with_room_stay_where_they_are():
    centers = np.array([[20.0, 20], [80, 20], [50, 80]])
    moved = spread_boxes(centers, np.full((3, 2), 10.0), LOW, HIGH)
    np.testing.assert_allclose(moved, centers, atol=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_boxes_that_overlap_move_apart_and_stay_inside(seed):
    rng = np.random.default_rng(seed)
    centers = rng.normal(50, 10, size=(20, 2))
    sizes = rng.uniform(5, 15, size=(20, 2))
    assert _overlaps(centers, sizes) > 10
    moved = spread_boxes(centers, sizes, LOW, HIGH)
    assert _overlaps(moved, sizes) == 0
    assert (moved - sizes / 2 >= -1e-6).all()
    assert (moved + sizes / 2 <= 100 + 1e-6).all()


def test_boxes_with_one_centre_move_apart():
    sizes = np.full((5, 2), 10.0)
    assert _overlaps(spread_boxes(np.full((5, 2), 50.0), sizes, LOW, HIGH), sizes) == 0


def test_boxes_without_room_stay_inside():
    sizes = np.full((20, 2), 60.0)
    moved = spread_boxes(np.full((20, 2), 10.0), sizes, LOW, HIGH)
    assert (np.abs(moved - 50) <= 20 + 1e-6).all()


def _names(ax):
    """Return the texts with a name; the others are lines to points."""
    return [text for text in ax.texts if text.get_text()]


def _frames(ax):
    """Return the frames of all names in pixels, as centres and sizes."""
    ax.figure.canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent() for text in _names(ax)]
    sizes = np.array([(box.width, box.height) for box in boxes])
    return np.array([(box.x0, box.y0) for box in boxes]) + sizes / 2, sizes


@pytest.mark.parametrize("dpi", [72, 200])
def test_names_of_near_points_do_not_cover_each_other(dpi):
    figure, ax = plt.subplots(dpi=dpi, layout="constrained")
    points = np.random.default_rng(0).uniform(0.3, 0.7, size=(15, 2))
    write_names(ax, [f"name {i}" for i in range(15)], points, ["red"] * 15)
    assert _overlaps(*_frames(ax)) == 0
    assert [list(text.xy) for text in _names(ax)] == points.tolist()


def test_a_line_leads_from_a_name_to_its_point_where_another_stands_on_it():
    _, ax = plt.subplots(layout="constrained")
    points = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.1, 0.1]])
    write_names(ax, ["one", "two", "three", "apart"], points, ["red", "green", "blue", "gray"])
    names = _names(ax)
    lines = [text for text in ax.texts if not text.get_text()]
    assert lines
    beside = [name for name in names if np.hypot(*name.get_position()) > 10]
    assert [line.get_position() for line in lines] == [name.get_position() for name in beside]
    assert {tuple(line.xy) for line in lines} == {(0.5, 0.5)}
    assert max(line.get_zorder() for line in lines) < min(name.get_zorder() for name in names)


def test_a_name_alone_is_written_on_its_point_as_it_is():
    _, ax = plt.subplots()
    write_names(ax, ["$1 to $2"], np.array([[0.25, 0.5]]), ["red"])
    assert ax.texts[0].get_text() == "$1 to $2"
    assert not ax.texts[0].get_parse_math()
    ((x, y),), _ = _frames(ax)
    np.testing.assert_allclose([x, y], ax.transData.transform((0.25, 0.5)), atol=1)
