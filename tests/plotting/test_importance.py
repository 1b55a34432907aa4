"""Importance: bars of the means, points of the repetitions, the most important feature first."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge

from sknn_deep.plotting import ImportanceDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["no", "$much", "_some"])
Y = X["_some"] + 3 * X["$much"]


def _names(display):
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def test_bars_are_those_of_permutation_importance():
    model = Ridge().fit(X, Y)
    result = permutation_importance(model, X, Y, random_state=0)
    display = ImportanceDisplay.from_estimator(model, X, Y, random_state=0)
    widths = [bar.get_width() for bar in display.bars_]
    np.testing.assert_array_equal(widths, np.sort(result.importances_mean)[::-1])
    assert _names(display) == ["$much", "_some", "no"]
    assert len(display.ax_.collections[0].get_offsets()) == 15


def test_the_score_is_named_and_features_may_be_numbers():
    model = Ridge().fit(X.to_numpy(), Y)
    display = ImportanceDisplay.from_estimator(
        model, X.to_numpy(), Y, scoring="neg_mean_absolute_error", random_state=0
    )
    assert _names(display)[0] == "feature 1"
    assert display.ax_.get_xlabel() == "drop in neg mean absolute error when shuffled"


def test_the_most_important_of_many_are_drawn():
    importances = np.arange(100.0)[:, np.newaxis]
    display = ImportanceDisplay.from_importances(importances).plot(n_features=3)
    assert _names(display) == ["feature 99", "feature 98", "feature 97"]


@pytest.mark.parametrize(
    ("importances", "names", "message"),
    [
        (np.zeros(3), None, "importances have shape (3,)"),
        (np.zeros((3, 2)), ["a"], "feature_names has 1 entry for 3 features; pass one for each"),
    ],
)
def test_importances_that_do_not_fit_are_refused(importances, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImportanceDisplay.from_importances(importances, feature_names=names)
