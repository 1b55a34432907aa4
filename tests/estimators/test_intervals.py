"""Intervals hold as many targets as they say; distributions of one network and of several."""

import pickle
import re
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.preprocessing import scale

import sknn_deep
from sknn_deep import DeepMLPRegressor, TabularMLPRegressor
from sknn_deep._engine.losses import REGRESSION_LOSSES
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.intervals import at_level, conformal_quantile, widened
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations"),
    pytest.mark.filterwarnings("ignore:The network predicts hardly better"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
]
RECIPE = {
    "hidden_layer_sizes": (16,),
    "learning_rate": "one_cycle",
    "learning_rate_init": 0.02,
    "max_iter": 8,
    "batch_size": 32,
    "target_scaling": "standard",
    "random_state": 0,
    "dtype": "float32",
}
HELD_OUT = {"early_stopping": True, "validation_fraction": 0.3}
LEVELS = [0.05, 0.5, 0.95]
KINDS = {
    "point": {},
    "normal": {"loss": "normal"},
    "quantiles": {"loss": "quantile", "quantiles": LEVELS},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def _wave(n_samples, random_state):
    """Return rows whose noise grows from left to right."""
    rng = np.random.RandomState(random_state)
    X = rng.uniform(-1, 1, (n_samples, 2))
    return X, np.sin(3 * X[:, 0]) + rng.normal(size=n_samples) * (0.05 + 0.3 * (X[:, 1] + 1))


def _skewed(n_samples, random_state):
    """Return waiting times, whose distribution is far from normal."""
    rng = np.random.RandomState(random_state)
    X = rng.uniform(0, 1, (n_samples, 3))
    return X, rng.exponential(1 + 4 * X[:, 0] * X[:, 1])


DATA_SETS = {
    "friedman1": partial(make_friedman1, noise=2.0),
    "friedman2": partial(make_friedman2, noise=100.0),
    "friedman3": partial(make_friedman3, noise=0.2),
    "wave": _wave,
    "skewed": _skewed,
}


def covered(intervals, y):
    return np.mean((intervals[..., 0] <= y) & (y <= intervals[..., 1]), axis=0)


@pytest.mark.parametrize("data_set", DATA_SETS)
@every_kind
def test_coverage_is_within_one_percent(data_set, kind):
    X, y = DATA_SETS[data_set](40_600, random_state=0)
    train, held_out, test = slice(600), slice(600, 20_600), slice(20_600, None)
    network = DeepMLPRegressor(**RECIPE | kind, scaling="standard")
    network.fit(X[train], y[train], X_val=X[held_out], y_val=y[held_out])
    intervals = network.predict_interval(X[test])
    assert covered(intervals, y[test]) == pytest.approx(0.9, abs=0.01)
    assert intervals.shape == (20_000, 2)
    assert intervals.dtype == np.float32


@every_kind
def test_coverage_of_real_data_is_within_one_percent_over_many_splits(kind):
    X, y = load_diabetes(return_X_y=True)
    network = DeepMLPRegressor(**RECIPE | HELD_OUT | kind).fit(scale(X)[:142], y[:142])
    X, y, shares = scale(X)[142:], y[142:], []
    rng = np.random.RandomState(0)
    for _ in range(100):
        rows = rng.permutation(len(X))
        held_out, test = rows[:99], rows[99:]
        features = network._validate_input(X[held_out])
        network._learn_from_held_out(features, y[held_out], None)
        shares.append(covered(network.predict_interval(X[test]), y[test]))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_every_loss_has_intervals_of_every_output(loss):
    X, y = _wave(3000, 2)
    Y = np.stack([y + 3, 5 * y + 20], axis=1)
    recipe = RECIPE | HELD_OUT | {"target_scaling": None, "validation_fraction": 0.5}
    network = DeepMLPRegressor(loss, **recipe).fit(X[:2000], Y[:2000])
    intervals = network.predict_interval(X[2000:], coverage=0.8)
    assert intervals.shape == (1000, 2, 2)
    assert_allclose(covered(intervals, Y[2000:]), 0.8, atol=0.05)
    if loss == "poisson":
        assert intervals.min() >= 0


def test_margin_is_the_smallest_that_holds_for_a_finite_number_of_rows():
    rng = np.random.RandomState(0)
    for n_rows, coverage in ((19, 0.9), (30, 0.5)):
        scores = rng.uniform(size=(20_000, n_rows, 1))
        shares = [conformal_quantile(one, coverage)[0] for one in scores]  # of uniform numbers
        expected = np.ceil((n_rows + 1) * coverage) / (n_rows + 1)
        assert np.mean(shares) == pytest.approx(expected, abs=0.003)


def test_a_coverage_that_takes_more_rows_is_refused():
    scores = np.arange(9.0)[:, np.newaxis]
    assert conformal_quantile(scores, 0.9) == 8
    message = "coverage=0.95 needs at least 19 held-out rows, but 9 were held out; hold out more"
    with pytest.raises(ValueError, match=message):
        conformal_quantile(scores, 0.95)
    with pytest.raises(ValueError, match="at least 3 held-out rows, but 1 was held out; hold out"):
        conformal_quantile(scores[:1], 0.75)


@pytest.mark.parametrize("coverage", [0.1, 1e-3, 1e-12, 5e-324])
def test_a_small_coverage_has_the_smallest_margin(coverage):
    assert conformal_quantile(np.arange(9.0)[:, np.newaxis], coverage) == 0


def test_a_level_beyond_those_that_were_learned_is_the_outermost():
    quantiles, levels = np.array([[1.0, 2.0, 4.0]]), np.array([0.1, 0.5, 0.9])
    assert [at_level(quantiles, levels, level)[0] for level in (0.01, 0.1, 0.7, 0.9, 0.99)] == [
        1, 1, 3, 4, 4,
    ]  # fmt: skip


def test_intervals_that_are_narrowed_by_more_than_their_width_stand_at_their_middle():
    narrow = widened(np.array([[1.0]]), np.array([[2.0]]), np.array([-3.0]))
    assert_array_equal(narrow, [[[1.5, 1.5]]])


@every_kind
def test_intervals_are_as_wide_as_the_noise_where_the_loss_knows_it(kind):
    X, y = _wave(4000, 0)
    network = DeepMLPRegressor(**RECIPE | HELD_OUT | kind | {"max_iter": 15}).fit(X, y)
    left, right = (np.array([[0.3, place]]) for place in (-0.9, 0.9))
    widths = [np.diff(network.predict_interval(rows)).item() for rows in (left, right)]
    assert (widths[1] > 2 * widths[0]) == (kind != {})


def test_without_held_out_rows_there_is_no_interval():
    X, y = _wave(100, 0)
    network = DeepMLPRegressor(**RECIPE).fit(X, y)
    message = "needs rows that were held out from training, and the last call held out none: set e"
    with pytest.raises(ValueError, match=message):
        network.predict_interval(X)
    network.set_params(early_stopping=True).fit(X, y).predict_interval(X)
    network.set_params(early_stopping=False).partial_fit(X, y)  # of another network than before
    with pytest.raises(ValueError, match=message):
        network.predict_interval(X)
    network.partial_fit(X, y, X_val=X, y_val=y).predict_interval(X)
    for coverage in (90, 0, 1, -0.5, np.nan, True, "0.9", None, [0.9]):
        message = f"coverage must be a number between 0 and 1, got {coverage!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            network.predict_interval(X, coverage=coverage)


def test_rows_of_weight_zero_count_in_no_interval():
    X, y = _wave(300, 0)
    weight = np.repeat([1.0, 0.0], [100, 50])
    wrong = np.where(weight > 0, y[150:], 1e3)
    network = DeepMLPRegressor(**RECIPE)
    network.fit(X[:150], y[:150], X_val=X[150:], y_val=wrong, sample_weight_val=weight)
    assert np.ptp(network.predict_interval(X[:1])) < 10


# Distributions


def test_normal_ensemble_is_the_mixture_of_its_networks():
    X, y = _wave(60, 0)
    for cls, params in (
        (DeepMLPRegressor, {"n_networks": 3}),
        (TabularMLPRegressor, {"n_candidates": 3, "max_iter": 1}),
    ):
        ensemble = cls(**RECIPE | HELD_OUT | params, loss="normal").fit(X, y)
        shares = getattr(ensemble, "ensemble_weights_", np.full(3, 1 / 3))
        means, stds = np.swapaxes(
            [network.predict(X, return_std=True) for network in ensemble.estimators_], 0, 1
        ).astype(float)
        mean, std = ensemble.predict(X, return_std=True)
        assert_allclose(mean, shares @ means, rtol=1e-5, atol=1e-6)
        variance = shares @ np.square(stds) + shares @ np.square(means - mean)
        assert_allclose(std, np.sqrt(variance), rtol=1e-5)
        ensemble.predict_interval(X)


def test_normal_loss_learns_the_noise():
    X, y = _wave(4000, 0)
    network = DeepMLPRegressor(**RECIPE | {"max_iter": 20}, loss="normal").fit(X, y)
    _, std = network.predict(X, return_std=True)
    assert_allclose(std, 0.05 + 0.3 * (X[:, 1] + 1), atol=0.12)
    assert DeepMLPRegressor(**RECIPE).fit(X[:50], y[:50]).n_outputs_ == network.n_outputs_ == 1
    with pytest.raises(ValueError, match="fit with loss='normal'"):
        DeepMLPRegressor(**RECIPE).fit(X[:50], y[:50]).predict(X, return_std=True)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_quantiles_are_ascending_and_as_many_as_asked_for(n_outputs, n_networks):
    X, y = _wave(1000, 0)
    y = y if n_outputs == 1 else np.stack([y, 100 * y + 7], axis=1)
    network = DeepMLPRegressor(
        "quantile", quantiles=[0.1, 0.3, 0.9], n_networks=n_networks, **RECIPE
    ).fit(X, y)
    quantiles = network.predict_quantiles(X)
    assert quantiles.shape == (1000, *y.shape[1:], 3)
    assert (np.diff(quantiles) >= 0).all()
    shares = (y[..., np.newaxis] < quantiles).mean(axis=0)
    assert_allclose(shares, np.broadcast_to([0.1, 0.3, 0.9], shares.shape), atol=0.06)
    median = network.predict(X)
    assert ((quantiles[..., 1] <= median) & (median <= quantiles[..., 2])).all()


def test_the_median_is_a_quantile_that_is_asked_for():
    X, y = _wave(100, 0)
    network = DeepMLPRegressor("quantile", quantiles=LEVELS, **RECIPE).fit(X, y)
    assert_array_equal(network.predict(X), network.predict_quantiles(X)[:, 1])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"quantiles": [0.1]}, r"quantiles=\[0.1\] are levels of loss='quantile', got loss='squ"),
        ({"loss": "quantile", "quantiles": [0.9, 0.1]}, "quantiles must be ascending levels"),
        ({"loss": "quantile", "quantiles": []}, "quantiles must be ascending levels between 0"),
        ({"loss": "quantile", "quantiles": [0.5, 1.0]}, "quantiles must be ascending levels"),
    ],
)
def test_levels_that_are_none_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        DeepMLPRegressor(**params).fit([[0.0], [1.0]], [0.0, 1.0])


def test_quantiles_that_were_not_asked_for_are_no_method():
    assert not hasattr(DeepMLPRegressor("quantile"), "predict_quantiles")
    with pytest.raises(AttributeError) as raised:
        _ = DeepMLPRegressor("quantile").predict_quantiles
    assert str(raised.value.__cause__).startswith("predict_quantiles needs a fit with levels")


@pytest.mark.parametrize("n_networks", [1, 2])
def test_what_was_fitted_decides_whether_there_are_quantiles(n_networks):
    X, y = _wave(50, 0)
    of_levels, plain = {"loss": "quantile", "quantiles": [0.1, 0.9]}, {"quantiles": None}
    recipe = RECIPE | {"max_iter": 1, "n_networks": n_networks}
    network = DeepMLPRegressor(**recipe | of_levels).fit(X, y)
    assert network.set_params(**plain).predict_quantiles(X).shape == (50, 2)
    assert not hasattr(network.fit(X, y).set_params(**of_levels), "predict_quantiles")


@every_kind
def test_early_stopping_goes_by_the_loss_of_a_distribution(kind):
    X, y = _wave(200, 0)
    network = DeepMLPRegressor(**RECIPE | HELD_OUT | kind).fit(X, y)
    by_loss = np.negative(network.validation_loss_curve_).tolist()
    assert (network.validation_scores_ == by_loss) == (kind != {})
    table = TabularMLPRegressor(max_iter=2, n_networks=1, random_state=0).set_params(**kind)
    by_loss = np.negative(table.fit(X, y).validation_loss_curve_).tolist()
    assert (table.validation_scores_ == by_loss) == (kind != {})


@pytest.mark.parametrize("changed", [{"loss": "squared_error"}, {"loss": "poisson"}])
def test_another_distribution_is_another_network(changed):
    X, y = _wave(50, 0)
    network = DeepMLPRegressor("normal", **RECIPE | {"target_scaling": None}).fit(X, y)
    network.set_params(**changed)
    with pytest.raises(ValueError, match="loss='normal' True -> False"):
        network.partial_fit(X, np.abs(y))


@every_kind
def test_lbfgs_warm_starts_and_partial_fit_learn_distributions(kind):
    X, y = _wave(300, 0)
    network = DeepMLPRegressor(**kind, hidden_layer_sizes=(8,), random_state=0)
    by_lbfgs = network.set_params(solver="lbfgs", max_iter=100, tol=1e-3).fit(X, y).loss_
    network.set_params(solver="adam", max_iter=200, learning_rate_init=0.02, warm_start=True)
    assert by_lbfgs < DeepMLPRegressor(**kind, **RECIPE).partial_fit(X, y).loss_
    assert network.fit(X, y).loss_ < by_lbfgs + 0.05


@every_kind
def test_distributions_survive_files_and_searches(kind, tmp_path):
    X, y = _wave(200, 0)
    network = DeepMLPRegressor(**RECIPE | HELD_OUT | kind)
    search = FusedGridSearchCV(network, {"alpha": [0.1, 1e-4], "learning_rate_init": [0.01, 0.02]})
    search.fit(X, y)
    assert search.fused_.all()
    alone = DeepMLPRegressor(**search.best_estimator_.get_params()).fit(X, y)
    expected = search.best_estimator_.predict_interval(X)
    assert_allclose(alone.predict_interval(X), expected, rtol=1e-5, atol=1e-5)
    sknn_deep.save(search, tmp_path / "search.skops")
    for read in (sknn_deep.load(tmp_path / "search.skops"), pickle.loads(pickle.dumps(search))):
        assert_array_equal(read.best_estimator_.predict_interval(X), expected)


@every_kind
def test_an_ensemble_covers_what_it_says_or_with_rows_of_its_own_some_more(kind):
    X, y = _wave(6000, 0)
    ensemble = DeepMLPRegressor(**RECIPE | HELD_OUT | kind, n_networks=4).fit(X[:1000], y[:1000])
    assert len(ensemble._held_out_errors) == (300 if kind else 4 * 300)
    assert 0.87 < covered(ensemble.predict_interval(X[1000:]), y[1000:]) < 0.94


def test_held_out_errors_are_those_of_the_whole_ensemble_where_its_networks_share_rows():
    X, y = _wave(300, 0)
    ensemble = DeepMLPRegressor(**RECIPE, n_networks=3)
    ensemble.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    expected = np.abs(ensemble.predict(X[200:]) - y[200:])
    assert_allclose(ensemble._held_out_errors[:, 0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "quantiles"])
def test_a_distribution_whose_target_is_too_large_says_so(kind):
    X, y = _wave(60, 0)
    network = DeepMLPRegressor(**KINDS[kind], max_iter=2)
    rows = Samples(None, None, 1e5 * y[:, np.newaxis], None)
    network.n_outputs_ = 1
    constant = {"normal": 0.5 * np.log(2 * np.pi * np.e * np.var(1e5 * y)), "quantiles": 1e5}[kind]
    assert "hardly better than a constant" in network._advice(rows.targets, None, constant)
    assert network._advice(rows.targets, None, constant - 9e4) == ""


def test_mapie_takes_a_fitted_regressor():
    X, y = _wave(3000, 0)
    network = DeepMLPRegressor(**RECIPE).fit(X[:500], y[:500])
    mapie = pytest.importorskip("mapie.regression")
    conformal = mapie.SplitConformalRegressor(network, confidence_level=0.9, prefit=True)
    conformal.conformalize(X[500:1500], y[500:1500])
    _, intervals = conformal.predict_interval(X[1500:])
    assert covered(intervals[:, :, 0], y[1500:]) == pytest.approx(0.9, abs=0.03)
    own = DeepMLPRegressor(**RECIPE).fit(X[:500], y[:500], X_val=X[500:1500], y_val=y[500:1500])
    width = np.diff(own.predict_interval(X[:1])).item()
    assert np.diff(intervals[0, :, 0]).item() == pytest.approx(width, rel=0.2)
