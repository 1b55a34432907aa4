"""Loss curves show what a training has recorded."""

import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep import DeepMLPClassifier
from sknn_deep.plotting import PALETTE, LossCurveDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
QUICK = {"max_iter": 6, "learning_rate": "one_cycle", "random_state": 0}


@pytest.fixture(scope="module")
def classifier(digits):
    network = DeepMLPClassifier((12,), early_stopping=True, n_iter_no_change=6, **QUICK)
    return network.fit(digits.X, digits.y)


def _legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_loss_curves_show_the_losses_and_mark_the_best_epoch(classifier):
    display = LossCurveDisplay.from_estimator(classifier)
    training, validation, best = display.lines_
    np.testing.assert_array_equal(training.get_xdata(), range(1, 7))
    np.testing.assert_array_equal(training.get_ydata(), classifier.loss_curve_)
    np.testing.assert_array_equal(validation.get_ydata(), classifier.validation_loss_curve_)
    epoch = classifier.best_iter_
    assert best.get_xdata() == [epoch]
    assert best.get_ydata() == [classifier.validation_loss_curve_[epoch - 1]]
    assert _legend(display.ax_) == ["training", "validation", f"weights kept, epoch {epoch}"]


@pytest.mark.parametrize("network", [DeepMLPClassifier, MLPClassifier])
def test_without_a_validation_set_there_is_one_curve(network, digits):
    fitted = network(max_iter=3, tol=10, n_iter_no_change=1).fit(digits.X, digits.y)
    display = LossCurveDisplay.from_estimator(fitted)
    assert len(display.lines_) == len(display.ax_.lines) == 1


def test_several_trainings_share_axes_in_colours_of_their_own(classifier):
    first = LossCurveDisplay.from_estimator(classifier, name="first")
    second = LossCurveDisplay.from_estimator(classifier, name="second", ax=first.ax_)
    assert second.ax_ is first.ax_
    colors = [{line.get_color() for line in display.lines_} for display in (first, second)]
    assert colors == [{PALETTE[0]}, {PALETTE[1]}]
    assert _legend(first.ax_)[0] == "first: training"
    assert _legend(first.ax_)[3] == "second: training"


def test_the_legend_of_many_trainings_covers_no_curve(classifier):
    display = LossCurveDisplay.from_estimator(classifier, name="first")
    for name in ("second", "third"):
        LossCurveDisplay.from_estimator(classifier, name=name, ax=display.ax_)
    display.figure_.draw_without_rendering()
    legend = display.ax_.get_legend().get_window_extent()
    assert display.ax_.bbox.x1 <= legend.x0
    assert legend.x1 <= display.figure_.bbox.x1


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([10, 1, 0.1], "log"), ([1, 0.9, 0.8], "linear"), ([10, 1, -1], "linear"), ([], "linear")],
)
def test_losses_over_a_large_range_are_drawn_on_a_logarithmic_scale(losses, scale):
    assert LossCurveDisplay(training_loss=losses).plot().ax_.get_yscale() == scale


def test_curves_take_matplotlibs_options(classifier):
    display = LossCurveDisplay.from_estimator(classifier, line_kw={"color": "black", "lw": 5})
    assert {line.get_color() for line in display.lines_} == {"black"}
    assert display.lines_[1].get_linewidth() == 5


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (DeepMLPClassifier(solver="lbfgs", max_iter=500), "in epochs (solver='lbfgs' has none)"),
        (
            LogisticRegression(max_iter=1000),
            "LogisticRegression has no loss_curve_; pass a network",
        ),
        (make_pipeline(MinMaxScaler(), DeepMLPClassifier((5,), **QUICK)), "such as pipeline[-1]"),
    ],
)
def test_what_has_no_loss_curve_is_refused(estimator, message, digits):
    estimator.fit(digits.X, digits.y)
    with pytest.raises(ValueError, match=re.escape(message)):
        LossCurveDisplay.from_estimator(estimator)


def test_an_unfitted_network_is_refused():
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(DeepMLPClassifier())
