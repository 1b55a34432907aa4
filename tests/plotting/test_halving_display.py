"""The course of a halving search: a line for each candidate."""

import re

import numpy as np
import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sknn_deep._wording import counted
from sknn_deep.plotting import HalvingDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
GRID = {"decisiontreeclassifier__max_depth": [1, 2, 4, 8]}


def _search(cancer, **options):
    trees = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0))
    search = HalvingGridSearchCV(trees, GRID, factor=2, cv=2, random_state=0, **options)
    return search.fit(cancer.X, cancer.y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "resource": "decisiontreeclassifier__max_leaf_nodes",
            "min_resources": 4,
            "max_resources": 16,
        },
    ],
    ids=["rows", "a parameter"],
)
def test_each_candidate_is_a_line_over_its_rungs(options, cancer):
    search = _search(cancer, **options)
    display = HalvingDisplay.from_estimator(search)
    assert len(display.lines_) == 4
    assert sum(len(line.get_xdata()) for line in display.lines_) == sum(search.n_candidates_)
    best = display.lines_[-1]
    assert len(best.get_xdata()) == len(search.n_candidates_)
    assert best.get_ydata()[-1] == search.best_score_
    ticks = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert ticks == [
        f"{n_resources}\n{counted(n_candidates, 'candidate')}"
        for n_resources, n_candidates in zip(search.n_resources_, search.n_candidates_, strict=True)
    ]
    expected = options.get("resource", "n_samples").removeprefix("decisiontreeclassifier__")
    assert display.resource_name == expected


def test_candidates_that_differ_in_the_middle_of_a_long_value_are_several(cancer):
    search = _search(cancer)
    masks = {depth: np.arange(1200) == 600 + depth for depth in (1, 2, 4, 8)}
    search.cv_results_["params"] = [
        {"mask": masks[depth]}
        for params in search.cv_results_["params"]
        for depth in params.values()
    ]
    assert len(HalvingDisplay.from_estimator(search).lines_) == 4


def test_a_search_that_does_not_halve_is_refused(cancer):
    search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}, cv=2)
    with pytest.raises(ValueError, match=re.escape("GridSearchCV gives all candidates the same")):
        HalvingDisplay.from_estimator(search.fit(cancer.X, cancer.y))


def test_scores_that_all_failed_are_refused():
    display = HalvingDisplay(candidates=[0], resources=[1], scores=[np.nan], best=0)
    with pytest.raises(ValueError, match="is NaN or infinite in 1 row; "):
        display.plot()
