"""The scores of a search over two parameters: a table for a grid, points for anything else."""

import re

import numpy as np
import pytest
from scipy.stats import loguniform
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep.plotting import SearchSurfaceDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
TWO = {"alpha": [0.1, 1, 10], "fit_intercept": [True, False]}
THREE = TWO | {"solver": ["svd", "cholesky"]}


def _grid_search(grid, **options):
    """Return a quick search over a ridge regression."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    return GridSearchCV(Ridge(), grid, cv=2, **options).fit(X, X @ [1, 2, 3] + rng.normal(size=40))


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_grid_is_drawn_as_a_table_of_scores():
    search = _grid_search(TWO)
    display = SearchSurfaceDisplay.from_estimator(search)
    scores = display.surface_.get_array()
    assert scores.shape == (3, 2)
    for candidate, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        row = TWO["alpha"].index(candidate["alpha"])
        column = sorted(TWO["fit_intercept"]).index(candidate["fit_intercept"])
        assert scores[row, column] == score
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("fit_intercept", "alpha")
    assert len(_texts(display.ax_)) == 6


def test_the_best_candidate_is_framed():
    search = _grid_search(TWO)
    display = SearchSurfaceDisplay.from_estimator(search)
    column, row = np.rint(display.best_.get_center()).astype(int)
    assert display.surface_.get_array()[row, column] == search.best_score_


def test_a_random_search_is_drawn_as_points_on_logarithmic_axes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    grid = {"alpha": loguniform(1e-4, 1e3), "max_iter": [10, 20, 30]}
    search = RandomizedSearchCV(Ridge(), grid, n_iter=12, cv=2, random_state=0)
    display = SearchSurfaceDisplay.from_estimator(search.fit(X, X.sum(axis=1)))
    offsets = display.surface_.get_offsets()
    assert sorted(offsets[:, 1]) == sorted(c["alpha"] for c in search.cv_results_["params"])
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("linear", "log")
    best = search.best_params_
    np.testing.assert_allclose(display.best_.get_offsets()[0], [best["max_iter"], best["alpha"]])


def test_names_are_shown_without_their_path_through_a_pipeline(digits):
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000, tol=0.1))
    grid = {"logisticregression__C": [0.1, 1], "minmaxscaler__feature_range": [(0, 1), (0, 2)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(digits.X[:200], digits.y[:200])
    display = SearchSurfaceDisplay.from_estimator(search)
    assert {display.x_name, display.y_name} == {"C", "feature_range"}
    labels = {label.get_text() for label in display.ax_.get_xticklabels()}
    assert labels == {"0-1", "0-2"}


def test_of_three_parameters_the_best_over_the_third_is_shown():
    search = _grid_search(THREE)
    display = SearchSurfaceDisplay.from_estimator(search, params=("solver", "alpha"))
    results = search.cv_results_
    for i, (solver, alpha) in enumerate(zip(display.x, display.y, strict=True)):
        of_pair = [c["solver"] == solver and c["alpha"] == alpha for c in results["params"]]
        assert display.scores[i] == results["mean_test_score"][of_pair].max()
    assert len(display.scores) == 6


def test_a_failed_candidate_is_marked():
    display = SearchSurfaceDisplay(
        x=[1, 2, 1, 2], y=["a", "a", "b", "b"], scores=[0.1, np.nan, 0.3, 0.2]
    ).plot()
    assert _texts(display.ax_) == ["0.100", "failed", "0.300", "0.200"]
    assert np.rint(display.best_.get_center()).tolist() == [0, 1]


def test_failed_candidates_of_a_random_search_are_crosses():
    display = SearchSurfaceDisplay(x=[1, 2, 4], y=[1, 3, 5], scores=[0.1, np.nan, 0.3]).plot()
    crosses = display.ax_.collections[0]
    assert crosses.get_offsets().tolist() == [[2, 3]]


def test_text_in_a_cell_without_a_colour_can_be_read():
    display = SearchSurfaceDisplay(
        x=[1, 2, 1, 2], y=["a", "a", "b", "b"], scores=[0.1, np.nan, -np.inf, 0.2]
    ).plot()
    assert _texts(display.ax_) == ["0.100", "failed", "-inf", "0.200"]
    assert [text.get_color() for text in display.ax_.texts[1:3]] == ["gray", "gray"]


@pytest.mark.parametrize("scores", [[np.nan] * 4, [np.nan, -np.inf, np.nan, -np.inf]])
def test_without_a_finite_score_there_is_nothing_to_draw(scores):
    display = SearchSurfaceDisplay(x=[1, 2, 1, 2], y=[1, 1, 2, 2], scores=scores, score_name="r2")
    message = "'r2' is NaN or infinite for 4 candidates; search again with error_score='raise'"
    with pytest.raises(ValueError, match=re.escape(message)):
        display.plot()


@pytest.mark.parametrize(
    ("params", "names"),
    [(None, "'solver' and 'alpha'"), (("alpha", "solver"), "'alpha' and 'solver'")],
)
def test_parameters_of_different_grids_span_no_surface(params, names):
    search = _grid_search([{"alpha": [1, 2]}, {"solver": ["svd", "cholesky"]}])
    message = (
        f"no candidate sets both {names}; the grids of this search set ['alpha'] or ['solver']. "
        "Put both into one grid, or name two that are set together with params=(x, y)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSurfaceDisplay.from_estimator(search, params=params)


def test_candidates_without_one_of_the_parameters_are_left_out():
    search = _grid_search([{"alpha": [1, 2], "solver": ["svd", "lsqr"]}, {"solver": ["cholesky"]}])
    display = SearchSurfaceDisplay.from_estimator(search)
    assert (display.x, display.y) == (["svd", "lsqr", "svd", "lsqr"], [1, 1, 2, 2])


def test_one_of_several_scores_can_be_chosen():
    scoring = ["r2", "neg_mean_absolute_error"]
    search = _grid_search(TWO, scoring=scoring, refit="r2")
    scores = {
        metric: SearchSurfaceDisplay.from_estimator(search, metric=metric).scores
        for metric in [None, *scoring]
    }
    np.testing.assert_array_equal(scores[None], scores["r2"])
    assert max(scores["neg_mean_absolute_error"]) < 0
    with pytest.raises(ValueError, match="metric='mae' is not among those of the search"):
        SearchSurfaceDisplay.from_estimator(search, metric="mae")


@pytest.mark.parametrize(
    ("grid", "params", "message"),
    [
        (THREE, None, "varies 3: ['alpha', 'fit_intercept', 'solver']. Name two of them"),
        ({"alpha": [1, 2]}, None, "varies 1: ['alpha']. Search over two"),
        ({"alpha": [1], "solver": ["svd"]}, None, "varies 0: []"),
        (TWO, ("alpha", "beta"), "must be two of the search's parameters: ['alpha', 'fit_inter"),
        (TWO, ("alpha",), "params=('alpha',) must be two of the search's parameters"),
    ],
)
def test_a_surface_needs_two_known_parameters(grid, params, message):
    search = _grid_search(grid)
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSurfaceDisplay.from_estimator(search, params=params)


def test_an_unfitted_search_is_refused():
    with pytest.raises(NotFittedError, match="has no cv_results_: pass a search, fitted"):
        SearchSurfaceDisplay.from_estimator(GridSearchCV(Ridge(), TWO))
