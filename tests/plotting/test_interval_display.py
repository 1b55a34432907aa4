"""Intervals beside the targets: what lies inside, what outside."""

import re

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sknn_deep.plotting import IntervalDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen


class _Wide:
    """A regressor whose intervals are as wide as the coverage that is asked for."""

    def predict_interval(self, X, coverage):
        return np.column_stack([X[:, 0] - coverage, X[:, 0] + coverage])


def test_targets_are_told_apart_by_the_interval_of_their_own_row():
    y = np.array([0.0, 5.0, 2.0, 9.0])
    display = IntervalDisplay.from_predictions(y, [-1, 0, 3, 8], [1, 5, 4, 10])
    inside, outside = display.points_
    np.testing.assert_array_equal(inside.get_offsets()[:, 1], [0, 5, 9])
    np.testing.assert_array_equal(outside.get_offsets()[:, 1], [2])
    assert display.coverage_ == 0.75
    assert display.ax_.get_title(loc="left") == "75.0% of the targets lie inside"


def test_an_estimator_is_asked_for_the_coverage():
    X = np.zeros((4, 1))
    y = [0.0, 0.3, 0.6, 2.0]
    display = IntervalDisplay.from_estimator(_Wide(), X, y, coverage=0.5)
    assert display.coverage_ == 0.5
    assert IntervalDisplay.from_estimator(_Wide(), X, y).coverage_ == 0.75


def test_of_many_rows_some_are_drawn_and_all_are_counted():
    y = np.arange(1000.0)
    display = IntervalDisplay.from_predictions(y, y - 1, np.where(y < 500, y - 0.5, y))
    assert len(display.intervals_.get_segments()) == 150
    assert display.coverage_ == 0.5
    middles = [segment[:, 1].mean() for segment in display.intervals_.get_segments()]
    assert (np.diff(middles) > 0).all()


def test_an_estimator_without_intervals_is_told_what_to_do():
    with pytest.raises(TypeError, match=re.escape("Ridge has no predict_interval")):
        IntervalDisplay.from_estimator(Ridge(), [[0.0]], [0.0])


def test_intervals_of_several_outputs_are_refused():
    class Several:
        def predict_interval(self, X, coverage):
            return np.zeros((len(X), 2, 3))

    with pytest.raises(ValueError, match=re.escape("returned shape (1, 2, 3)")):
        IntervalDisplay.from_estimator(Several(), [[0.0]], [0.0])
