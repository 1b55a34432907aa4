"""Calibration: confidence beside accuracy, in groups of rows."""

import re

import numpy as np
import pytest

from sknn_deep.plotting import CalibrationDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen


class _Says:
    """A classifier that is 0.9 sure of "b", and right in half of the rows."""

    classes_ = np.array(["a", "b"])

    def predict_proba(self, X):
        return np.tile([0.1, 0.9], (len(X), 1))


def test_points_are_mean_confidence_and_share_of_right_rows():
    y = np.array(["a", "b"] * 50)
    display = CalibrationDisplay.from_estimator(_Says(), np.zeros((100, 1)), y, n_bins=2)
    np.testing.assert_allclose(display.line_.get_xdata(), [0.9, 0.9])
    np.testing.assert_allclose(display.line_.get_ydata(), [0.5, 0.5])
    assert display.error_ == pytest.approx(0.4)
    assert display.ax_.get_legend().get_texts()[0].get_text() == "error 0.400"


def test_groups_are_of_like_confidence_and_like_size():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 1000)
    y = np.where(rng.random(1000) < confidence, 1, 0)  # as often right as said
    proba = np.column_stack([1 - confidence, confidence])
    display = CalibrationDisplay.from_predictions(y, proba, n_bins=8)
    assert display.counts == [125] * 8
    assert (np.diff(display.confidence) > 0).all()
    assert display.error_ < 0.05


def test_ranges_hold_the_accuracy_and_shrink_with_the_rows():
    def lengths(n_rows):
        display = CalibrationDisplay(confidence=[0.8], accuracy=[0.5], counts=[n_rows]).plot()
        (segment,) = display.ax_.collections[0].get_segments()
        assert segment[0, 1] < 0.5 < segment[1, 1]
        return segment[1, 1] - segment[0, 1]

    assert lengths(4000) == pytest.approx(2 * 1.645 * np.sqrt(0.25 / 4000), rel=1e-3)
    assert lengths(10) > lengths(100) > lengths(1000)


def test_classifiers_are_compared_on_one_diagonal():
    first = CalibrationDisplay(confidence=[0.8], accuracy=[0.5], counts=[9], name="one").plot()
    second = CalibrationDisplay(confidence=[0.8], accuracy=[0.7], counts=[9], name="two")
    second.plot(first.ax_)
    assert len(first.ax_.lines) == 3
    third = CalibrationDisplay(confidence=[0.3], accuracy=[0.1], counts=[900], name="three")
    assert third.plot(first.ax_).ax_.get_ylim()[0] < 0.1
    assert first.line_.get_color() != second.line_.get_color()


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([0, 1, 2], {}, "y_proba has 2 columns for 3 classes"),
        ([0, 1, 1], {"n_bins": 4}, "n_bins=4 does not suit 3 rows; pass 1 to 3"),
        ([0, 1], {}, "inconsistent numbers of samples"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(y, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CalibrationDisplay.from_predictions(y, np.full((3, 2), 0.5), **options)


def test_several_labels_of_a_row_are_refused():
    y = np.eye(3, dtype=int)[[0, 1, 2, 0]]
    message = r"y_true has shape (4, 3), but the display is of one class a row. Draw one of several"
    with pytest.raises(ValueError, match=re.escape(message)):
        CalibrationDisplay.from_predictions(y, np.full((4, 3), 0.5), n_bins=2)
