"""Targets far from size 1: a training that comes to nothing says so, and what to do."""

import re
import warnings

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import MinMaxScaler, StandardScaler, scale

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.losses import regression_loss
from sknn_deep._estimators.target_scale import is_poor, odd_size
from sknn_deep.model_selection import FusedGridSearchCV, cross_validate

X, Y = make_regression(300, 5, noise=5, random_state=0)
Y = scale(Y)
POOR = "The network predicts hardly better than a constant. The target is of the order of "
QUICK = {"hidden_layer_sizes": (20,), "random_state": 0}


def warnings_of(fit):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit()
    return seen


UNSCALED = {
    "large, early stopping": ({"early_stopping": True}, 1e6 * Y, "1e+06"),
    "dollars": ({}, 250_000 + 90_000 * Y, "100000"),
    "small": ({}, 1e-3 * Y, "0.001"),
    "small, lbfgs": ({"solver": "lbfgs"}, 1e-4 * Y, "0.0001"),
    "small, sgd": ({"solver": "sgd"}, 0.01 * Y, "0.01"),
    "absolute error": ({"loss": "absolute_error"}, 1e6 * Y, "1e+06"),
    "huber": ({"loss": "huber"}, 1e6 * Y, "1e+06"),
    "quantile": ({"loss": "quantile", "quantile": 0.8}, 1e6 * Y, "1e+06"),
    "two outputs": ({}, 1e6 * np.column_stack([Y, -Y]), "1e+06"),
    "all epochs": ({"learning_rate": "cosine", "max_iter": 20}, 1e6 * Y, "1e+06"),
}


@pytest.mark.parametrize(("options", "y", "size"), UNSCALED.values(), ids=UNSCALED)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_training_that_an_unscaled_target_brings_to_nothing_warns_once(options, y, size, weighted):
    regressor = DeepMLPRegressor(**QUICK | options)
    weight = np.linspace(1, 2, len(X)) if weighted else None
    (warning,) = warnings_of(lambda: regressor.fit(X, y, sample_weight=weight))
    assert regressor.score(X, y) < 0.2
    assert warning.category is ConvergenceWarning
    assert warning.filename == __file__
    expected = f"{POOR}{size}, but initial outputs, learning_rate_init=0.001 and tol=0.0001 are for"
    assert expected in str(warning.message)
    assert str(warning.message).endswith("Scale it: pass target_scaling='standard'.")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_remedy_of_the_warning_works(is_wrapped):
    y = 250_000 + 90_000 * Y
    scaled = DeepMLPRegressor(**QUICK, max_iter=1000, target_scaling="standard")
    if is_wrapped:
        regressor = scaled.set_params(target_scaling=None)
        scaled = TransformedTargetRegressor(regressor, transformer=StandardScaler())
    assert warnings_of(lambda: scaled.fit(X, y)) == []
    assert scaled.score(X, y) > 0.9


def test_a_target_that_is_scaled_inside_is_not_to_be_scaled():
    regressor = DeepMLPRegressor(**QUICK, max_iter=1, tol=0, target_scaling="standard")
    messages = [str(warning.message) for warning in warnings_of(lambda: regressor.fit(X, 1e6 * Y))]
    assert not any("Scale it" in message for message in messages)


def test_it_is_one_warning_with_that_of_scikit_learn():
    y = 250_000 + 90_000 * Y
    (warning,) = warnings_of(lambda: DeepMLPRegressor(**QUICK, max_iter=3).fit(X, y))
    assert str(warning.message).startswith(
        "Stochastic Optimizer: Maximum iterations (3) reached and the optimization hasn't "
        f"converged yet. {POOR}100000"
    )


CALLS = {
    "ensemble": lambda y: DeepMLPRegressor(**QUICK, early_stopping=True, n_networks=3).fit(X, y),
    "search": lambda y: FusedGridSearchCV(
        DeepMLPRegressor(**QUICK, early_stopping=True), {"alpha": [0.1, 1.0]}, cv=2, refit=False
    ).fit(X, y),
    "cross-validation": lambda y: cross_validate(
        DeepMLPRegressor(**QUICK, early_stopping=True), X, y, cv=3
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_many_fits_of_a_call_warn_once(call):
    (warning,) = warnings_of(lambda: CALLS[call](1e6 * Y))
    assert re.search(r"\(\d fits\)$", str(warning.message))
    assert warning.filename == __file__


def scale_to_one(y):
    return MinMaxScaler().fit_transform(y[:, np.newaxis]).ravel()


NOISE = np.random.RandomState(1).randn(300)
SCALED = {
    "standard": Y,
    "noise": NOISE,
    "noise between 0 and 1": scale_to_one(NOISE),
    "few ones": (NOISE > 1.5).astype(float),
    "small counts": np.random.RandomState(0).poisson(4.0, size=300).astype(float),
    "exponential between 0 and 1": scale_to_one(np.exp(2 * NOISE)),
    "a constant": np.full(300, 3.0),
}


@pytest.mark.parametrize("y", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "sgd"}], ids=str)
def test_scaled_targets_never_warn_of_their_scale(options, y):
    regressor = DeepMLPRegressor(**QUICK, max_iter=20, **options)
    seen = warnings_of(lambda: regressor.fit(X, y))
    assert not any(POOR in str(warning.message) for warning in seen)


def test_unscaled_target_that_is_learned_does_not_warn():
    X_diabetes, y = load_diabetes(return_X_y=True)
    regressor = DeepMLPRegressor(**QUICK, solver="sgd", n_iter_no_change=np.inf)
    assert warnings_of(lambda: regressor.fit(scale(X_diabetes), y)) == []
    assert regressor.score(scale(X_diabetes), y) > 0.4


def test_neither_partial_fit_nor_other_estimators_warn():
    regressor = DeepMLPRegressor(**QUICK)
    assert warnings_of(lambda: regressor.partial_fit(X, 1e6 * Y)) == []
    options = {**QUICK, "max_iter": 2, "n_iter_no_change": np.inf}
    assert warnings_of(lambda: DeepMLPClassifier(**options).fit(X, Y > 0)) == []
    assert warnings_of(lambda: AutoencoderTransformer(**options).fit(1e3 * X)) == []
    counts = np.random.RandomState(0).poisson(1e4, size=300)
    poisson = DeepMLPRegressor("poisson", **options)
    assert warnings_of(lambda: poisson.fit(X, counts)) == []


def test_size_goes_by_the_weights():
    y = np.array([[1.0], [-1.0], [1e6]])
    assert odd_size(y, None) == 1e6
    assert odd_size(y, np.array([1.0, 1.0, 0.0])) is None


@pytest.mark.parametrize("y", [np.full((5, 1), 1e300), np.full((5, 1), 0.0), np.full((5, 1), 0.1)])
def test_nothing_is_said_of_what_has_no_scale(y):
    assert odd_size(y, None) is None


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [("squared_error", None, 0.5 * 2.0), ("absolute_error", 0.5, 6 / 5), ("quantile", 0.5, 3 / 5)],
)
def test_loss_is_compared_with_that_of_the_best_constant(name, level, expected):
    y = np.arange(5.0)[:, np.newaxis]
    loss = regression_loss(name, 1)
    assert is_poor(0.91 * expected, loss, y, None, level)
    assert not is_poor(0.89 * expected, loss, y, None, level)


@pytest.mark.parametrize(("factor", "size"), [(1, None), (1e5, 1e5), (1e-3, 1e-3)])
def test_the_size_of_targets_is_the_same_in_single_precision(factor, size):
    targets = factor * np.column_stack([Y, -Y])
    assert odd_size(targets, None) == odd_size(targets.astype(np.float32), None) == size
