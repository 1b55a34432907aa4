"""Side by side with the installed scikit-learn: same draws, same steps, same words.

Everything is in double precision on the CPU, where "the same" means to rounding.
"""

import inspect
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_linnerud,
    make_multilabel_classification,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import scale
from sklearn.utils._param_validation import StrOptions, make_constraint

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor

PAIRS = {
    "classifier": (DeepMLPClassifier, MLPClassifier),
    "regressor": (DeepMLPRegressor, MLPRegressor),
}
TASKS = ("binary", "multiclass", "multilabel", "regression", "multioutput", "poisson")
EPOCHS = 20

converging_or_not = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _data(task):
    """Return 150 scaled rows (20 for the three outputs, of a set no larger) and their targets."""
    if task == "binary":
        X, y = load_breast_cancer(return_X_y=True)
        return scale(X)[:150], np.array(["malignant", "benign"])[y[:150]]
    if task == "multiclass":
        X, y = load_digits(return_X_y=True)
        return X[:150] / 16, y[:150]
    if task == "multilabel":
        X, y = make_multilabel_classification(150, 8, n_classes=4, random_state=0)
        return scale(X), y
    if task == "multioutput":
        X, y = load_linnerud(return_X_y=True)
        return scale(X), scale(y)
    X, y = load_diabetes(return_X_y=True)
    y = y[:150] / 100 if task == "poisson" else scale(y[:150])
    return scale(X)[:150], y


def _pair(task, **params):
    """Return our estimator and scikit-learn's for a task, alike but for the device."""
    ours, theirs = PAIRS["classifier" if task in TASKS[:3] else "regressor"]
    if task == "poisson":
        params["loss"] = "poisson"
    params = {
        "solver": "sgd",
        "hidden_layer_sizes": (12, 6),
        "learning_rate_init": 0.05,
        "max_iter": EPOCHS,
        "batch_size": 8 if task == "multioutput" else 64,
        "random_state": 3,
        **params,
    }
    return ours(**params, device="cpu"), theirs(**params)


def _weights(n_samples):
    """Return weights of which some are zero."""
    return np.random.RandomState(7).randint(0, 5, n_samples) / 2


def _assert_near(actual, expected, rtol, what):
    """Compare two arrays relative to the largest entry: single entries come close to zero."""
    assert actual.shape == expected.shape, what
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=rtol * np.abs(expected).max(), err_msg=what
    )


def _assert_same_state(ours, theirs, rtol=1e-8):
    """Compare what two fits have learned and recorded."""
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    for name in ("loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        actual, expected = getattr(ours, name), getattr(theirs, name)
        assert (actual is None) == (expected is None), name
        if expected is not None:
            np.testing.assert_allclose(actual, expected, rtol=rtol, err_msg=name)
    for name in ("coefs_", "intercepts_"):
        for layer, (actual, expected) in enumerate(
            zip(getattr(ours, name), getattr(theirs, name), strict=True)
        ):
            _assert_near(actual, expected, rtol, f"{name}[{layer}]")


def _caught(action):
    """Return the category and the text of every warning that an action gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [(warning.category, str(warning.message)) for warning in caught]


# --------------------------------------------------------------------------------------
# the trajectory


@converging_or_not
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", ["multiclass", "multioutput"])
def test_initial_weights_are_those_of_scikit_learn(task, activation):
    # one epoch at a rate below the spacing of doubles leaves the weights as they were drawn
    ours, theirs = _pair(task, activation=activation, max_iter=1, learning_rate_init=1e-300)
    X, y = _data(task)
    ours.fit(X, y)
    theirs.fit(X, y)
    for name in ("coefs_", "intercepts_"):
        for actual, expected in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_initial_weights_differ_from_trained_ones():
    """The rate that vanishes above is what keeps the weights in place."""
    still, _ = _pair("multiclass", max_iter=1, learning_rate_init=1e-300)
    moved, _ = _pair("multiclass", max_iter=1)
    X, y = _data("multiclass")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        still.fit(X, y)
        moved.fit(X, y)
    assert np.abs(still.coefs_[0] - moved.coefs_[0]).max() > 1e-4


TRAJECTORIES = {
    "defaults of sgd": {},
    "no momentum": {"momentum": 0.0},
    "plain momentum": {"momentum": 0.7, "nesterovs_momentum": False},
    "Nesterov": {"momentum": 0.7, "nesterovs_momentum": True},
    "identity": {"activation": "identity", "learning_rate_init": 0.01},
    "logistic": {"activation": "logistic"},
    "tanh": {"activation": "tanh"},
    "invscaling": {"learning_rate": "invscaling"},
    "slow invscaling": {"learning_rate": "invscaling", "power_t": 0.1},
    "adaptive": {"learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2},
    "adaptive to its end": {
        "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 40,
    },
    "strong L2": {"alpha": 3.0},
    "no L2": {"alpha": 0.0},
    "fixed order": {"shuffle": False},
    "ragged last batch": {"batch_size": 11},
    "one batch": {"batch_size": "auto"},
    "stopped by the loss": {"tol": 0.05, "n_iter_no_change": 2},
    "never stopped": {"tol": 10.0, "n_iter_no_change": np.inf},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "early stopping strikes": {
        "early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 2, "tol": 0.02,
    },
    "early stopping in a fixed order": {
        "early_stopping": True, "validation_fraction": 0.3, "shuffle": False,
    },
    "adaptive early stopping": {
        "early_stopping": True, "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.5,
    },
    "no hidden layer": {"hidden_layer_sizes": ()},
    "one hidden layer, as a number": {"hidden_layer_sizes": 9},
    "four hidden layers, as an array": {"hidden_layer_sizes": np.array([9, 8, 7, 6])},
}  # fmt: skip


@converging_or_not
@pytest.mark.parametrize(
    ("task", "name"),
    [
        *((task, name) for task in ("multiclass", "regression") for name in TRAJECTORIES),
        *((task, name) for task in TASKS for name in ("one batch", "early stopping strikes")),
    ],
)
def test_sgd_follows_the_same_trajectory(task, name):
    params = TRAJECTORIES[name]
    if task == "multioutput" and params.get("early_stopping"):
        params = {**params, "validation_fraction": 0.3}  # of 20 rows
    ours, theirs = _pair(task, **params)
    X, y = _data(task)
    _assert_same_state(ours.fit(X, y), theirs.fit(X, y))


@converging_or_not
@pytest.mark.parametrize(
    "params",
    [{}, {"early_stopping": True, "validation_fraction": 0.3}, {"shuffle": False, "alpha": 1.0}],
    ids=["plain", "early stopping", "L2 in a fixed order"],
)
@pytest.mark.parametrize("task", TASKS)
def test_sample_weights_follow_the_same_trajectory(task, params):
    ours, theirs = _pair(task, **params)
    X, y = _data(task)
    weights = _weights(len(X))
    _assert_same_state(ours.fit(X, y, weights), theirs.fit(X, y, weights))


@converging_or_not
@pytest.mark.parametrize(
    ("task", "activation"),
    [
        *((task, "relu") for task in TASKS),
        *(("multiclass", activation) for activation in ("identity", "logistic", "tanh")),
    ],
)
def test_adam_follows_closely(task, activation):
    ours, theirs = _pair(task, solver="adam", activation=activation, learning_rate_init=0.01)
    X, y = _data(task)
    _assert_same_state(ours.fit(X, y), theirs.fit(X, y), rtol=1e-3)


@converging_or_not
@pytest.mark.parametrize(
    "params",
    [
        {"beta_1": 0.5, "beta_2": 0.9},
        {"beta_1": 0.0},
        {"beta_2": 0.5},
        {"epsilon": 0.1},
        {"early_stopping": True},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
        {"learning_rate": "invscaling"},
    ],
    ids=str,
)
def test_adam_means_its_parameters_alike(params):
    ours, theirs = _pair("multiclass", solver="adam", **{"learning_rate_init": 0.01, **params})
    X, y = _data("multiclass")
    _assert_same_state(ours.fit(X, y), theirs.fit(X, y), rtol=1e-3)


@converging_or_not
def test_adam_with_weights_follows_closely():
    ours, theirs = _pair("multiclass", solver="adam", learning_rate_init=0.01)
    X, y = _data("multiclass")
    weights = _weights(len(X))
    _assert_same_state(ours.fit(X, y, weights), theirs.fit(X, y, weights), rtol=1e-3)


@converging_or_not
@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_array, sp.coo_matrix])
def test_sparse_rows_follow_the_same_trajectory(container):
    ours, theirs = _pair("multiclass")
    X, y = _data("multiclass")
    X = container(X)
    _assert_same_state(ours.fit(X, y), theirs.fit(X, y))


@converging_or_not
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_single_precision_stays_single_and_near(task):
    ours, theirs = _pair(task)
    X, y = _data(task)
    X = X.astype(np.float32)
    ours.fit(X, y)
    theirs.fit(X, y)
    assert {coef.dtype for coef in ours.coefs_} == {coef.dtype for coef in theirs.coefs_}
    _assert_same_state(ours, theirs, rtol=1e-3)


@converging_or_not
@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_the_same(task):
    ours, theirs = _pair(task)
    X, y = _data(task)
    ours.fit(X, y)
    theirs.fit(X, y)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if not hasattr(theirs, method):
            continue
        actual, expected = getattr(ours, method)(X), getattr(theirs, method)(X)
        assert actual.dtype == expected.dtype
        if np.issubdtype(expected.dtype, np.floating):
            if method == "predict_log_proba":  # scikit-learn's are exact to the spacing at 1
                actual, expected = np.exp(actual), np.exp(expected)
            np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-12)
        else:
            np.testing.assert_array_equal(actual, expected)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-8)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_partial_fits_follow_the_same_trajectory(task, solver):
    ours, theirs = _pair(task, solver=solver, learning_rate_init=0.01)
    X, y = _data(task)
    half = len(X) // 2
    more = {}
    if hasattr(ours, "predict_proba"):
        more["classes"] = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
    for call in range(5):
        rows = slice(None, half) if call % 2 else slice(half, None)
        for estimator in (ours, theirs):
            estimator.partial_fit(X[rows], y[rows], **more)
    _assert_same_state(ours, theirs, rtol=1e-8 if solver == "sgd" else 1e-3)


@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate": "invscaling"},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
        {"nesterovs_momentum": False},
    ],
    ids=str,
)
def test_partial_fits_keep_rate_and_velocity(params):
    ours, theirs = _pair("multiclass", **params)
    X, y = _data("multiclass")
    weights = _weights(len(X))
    for _ in range(8):
        for estimator in (ours, theirs):
            estimator.partial_fit(X, y, weights, classes=np.arange(10))
    _assert_same_state(ours, theirs)


@pytest.mark.parametrize("labels_at_first", [range(10), range(3)])
def test_partial_fits_of_some_classes_agree(labels_at_first):
    ours, theirs = _pair("multiclass", batch_size=20)
    X, y = _data("multiclass")
    some = np.isin(y, labels_at_first)
    for estimator in (ours, theirs):
        estimator.partial_fit(X[some], y[some], classes=np.arange(10))
        estimator.partial_fit(X, y)
    _assert_same_state(ours, theirs)


@converging_or_not
def test_fit_starts_afresh_after_partial_fit():
    ours, theirs = _pair("multiclass", max_iter=5)
    X, y = _data("multiclass")
    for estimator in (ours, theirs):
        estimator.partial_fit(X, y, classes=np.arange(10)).fit(X, y)
    _assert_same_state(ours, theirs)


@converging_or_not
def test_partial_fit_goes_on_after_fit():
    ours, theirs = _pair("multiclass", max_iter=5)
    X, y = _data("multiclass")
    for estimator in (ours, theirs):
        estimator.fit(X, y).partial_fit(X, y).partial_fit(X, y)
    _assert_same_state(ours, theirs)


@converging_or_not
@pytest.mark.parametrize("task", TASKS)
def test_warm_starts_follow_the_same_trajectory(task):
    ours, theirs = _pair(task, warm_start=True, max_iter=5)
    X, y = _data(task)
    for estimator in (ours, theirs):
        for _ in range(3):
            estimator.fit(X, y)
    _assert_same_state(ours, theirs)


@converging_or_not
@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate": "invscaling"},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
        {"tol": 0.05, "n_iter_no_change": 3, "max_iter": 10},
        {"solver": "adam", "learning_rate_init": 0.01},
    ],
    ids=str,
)
def test_warm_starts_keep_what_scikit_learn_keeps(params):
    ours, theirs = _pair("multiclass", **{"warm_start": True, "max_iter": 6, **params})
    X, y = _data("multiclass")
    for estimator in (ours, theirs):
        for _ in range(3):
            estimator.fit(X, y)
    _assert_same_state(ours, theirs, rtol=1e-3 if params.get("solver") else 1e-8)


@converging_or_not
@pytest.mark.parametrize("task", TASKS)
def test_warm_starts_with_early_stopping_keep_their_records(task):
    """Of the records only: scikit-learn loses the best weights where a refit does not improve.

    Its weights and its copy of the best ones are the same arrays after the first fit.
    """
    ours, theirs = _pair(
        task, warm_start=True, early_stopping=True, validation_fraction=0.3, max_iter=5
    )
    X, y = _data(task)
    for estimator in (ours, theirs):
        estimator.fit(X, y).fit(X, y)
    for name in ("loss_curve_", "validation_scores_", "best_validation_score_", "t_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8)


@converging_or_not
def test_a_random_state_object_gives_the_same_sequence_of_fits():
    ours, theirs = _pair("multiclass", max_iter=3)
    X, y = _data("multiclass")
    ours.set_params(random_state=np.random.RandomState(5))
    theirs.set_params(random_state=np.random.RandomState(5))
    for estimator in (ours, theirs):
        estimator.fit(X, y).fit(X, y)
    _assert_same_state(ours, theirs)


# --------------------------------------------------------------------------------------
# L-BFGS


LBFGS = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 1.0, "tol": 1e-7, "max_iter": 5000}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "poisson"])
def test_lbfgs_reaches_the_optimum_of_a_convex_problem(task, weighted):
    ours, theirs = _pair(task, **LBFGS)
    X, y = _data(task)
    weights = _weights(len(X)) if weighted else None
    ours.fit(X, y, weights)
    theirs.fit(X, y, weights)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-8)
    for name in ("coefs_", "intercepts_"):
        _assert_near(getattr(ours, name)[0], getattr(theirs, name)[0], 1e-4, name)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("task", ["regression", "multioutput"])
def test_lbfgs_without_hidden_layer_is_ridge_regression(task, weighted):
    """scikit-learn's own L-BFGS misses this optimum for several outputs.

    It hands SciPy the mean of the squared errors over the outputs with the gradient of their sum.
    """
    ours, _ = _pair(task, **LBFGS)
    X, y = _data(task)
    weights = _weights(len(X)) if weighted else None
    ridge = Ridge(alpha=1.0).fit(X, y, weights)
    ours.fit(X, y, weights)
    np.testing.assert_allclose(ours.coefs_[0].T, np.atleast_2d(ridge.coef_), atol=1e-3)
    np.testing.assert_allclose(ours.predict(X), ridge.predict(X), atol=1e-4)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_the_reported_loss_is_the_mean_over_the_outputs(solver):
    ours, _ = _pair("multioutput", **{**LBFGS, "solver": solver}, batch_size="auto")
    if solver == "sgd":  # too small a step to tell the loss before it from that after it
        ours.set_params(learning_rate_init=1e-300, n_iter_no_change=1)
    X, y = _data("multioutput")
    ours.fit(X, y)
    penalty = 0.5 * np.sum(ours.coefs_[0] ** 2) / len(X)
    expected = 0.5 * np.mean((ours.predict(X) - y) ** 2) + penalty
    assert ours.loss_ == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "poisson"])
def test_lbfgs_takes_the_same_steps(task):
    ours, theirs = _pair(
        task, solver="lbfgs", activation="tanh", alpha=0.1, max_iter=15, hidden_layer_sizes=(8,)
    )
    X, y = _data(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours.fit(X, y)
        theirs.fit(X, y)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)


@pytest.mark.parametrize("limit", [{"max_iter": 4}, {"max_fun": 3}], ids=str)
def test_lbfgs_warns_of_its_limits_in_the_same_words(limit):
    ours, theirs = _pair("multiclass", solver="lbfgs", **{"max_iter": 500, **limit})
    X, y = _data("multiclass")
    (actual,), (expected,) = (_caught(lambda e=e: e.fit(X, y)) for e in (ours, theirs))
    assert expected[0] is ConvergenceWarning
    assert actual == expected


# --------------------------------------------------------------------------------------
# words


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_running_out_of_epochs_warns_in_the_same_words(solver):
    ours, theirs = _pair("multiclass", solver=solver, max_iter=2)
    X, y = _data("multiclass")
    (actual,), (expected,) = (_caught(lambda e=e: e.fit(X, y)) for e in (ours, theirs))
    assert expected[0] is ConvergenceWarning
    assert actual == expected


def test_stopping_in_the_last_epoch_warns_of_nothing():
    ours, theirs = _pair("multiclass", max_iter=3, tol=10.0, n_iter_no_change=1)
    X, y = _data("multiclass")
    assert _caught(lambda: ours.fit(X, y)) == _caught(lambda: theirs.fit(X, y)) == []
    assert ours.n_iter_ == theirs.n_iter_ == 3


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_column_vector_of_targets_warns_in_the_same_words(task):
    ours, theirs = _pair(task, max_iter=5, tol=10.0, n_iter_no_change=1)
    X, y = _data(task)
    (actual,), (expected,) = (_caught(lambda e=e: e.fit(X, y[:, None])) for e in (ours, theirs))
    assert actual == expected


@converging_or_not
@pytest.mark.parametrize("verbose", [True, 2], ids=repr)
@pytest.mark.parametrize(
    "params",
    [
        {"max_iter": 3},
        {"tol": 10.0, "n_iter_no_change": 2},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 40},
        {"early_stopping": True, "tol": 10.0, "n_iter_no_change": 2},
        {"early_stopping": True, "max_iter": 3},
        {"solver": "adam", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 2},
    ],
    ids=str,
)
def test_verbose_prints_what_theirs_prints_in_one_line_an_epoch(capsys, params, verbose):
    ours, theirs = _pair("multiclass", verbose=verbose, **params)
    X, y = _data("multiclass")
    theirs.fit(X, y)
    expected = capsys.readouterr().out
    ours.fit(X, y)
    assert "Iteration 3, loss = " in expected
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "Iteration" in line]
    assert len(lines) == ours.n_iter_
    without_time = re.sub(r", at most \d+:\d\d:\d\d left", "", printed)
    assert without_time.replace(", validation score = ", "\nValidation score: ") == expected
    to_come = [" left" in line for line in lines]
    assert to_come == [number < ours.max_iter for number in range(1, ours.n_iter_ + 1)]


def test_partial_fit_prints_the_same_lines(capsys):
    ours, theirs = _pair("multiclass", verbose=True)
    X, y = _data("multiclass")
    for _ in range(2):
        theirs.partial_fit(X, y, classes=np.arange(10))
    expected = capsys.readouterr().out
    for _ in range(2):
        ours.partial_fit(X, y, classes=np.arange(10))
    assert expected
    assert capsys.readouterr().out == expected


def test_every_iteration_of_lbfgs_is_printed(capsys):
    ours, _ = _pair("multiclass", solver="lbfgs", verbose=True, max_iter=3)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        ours.fit(*_data("multiclass"))
    lines = capsys.readouterr().out.splitlines()
    parts = [re.fullmatch(r"Iteration (\d), loss = (\d+\.\d{8})", line) for line in lines]
    assert [part[1] for part in parts] == ["1", "2", "3"]
    losses = [float(part[2]) for part in parts]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(ours.loss_, abs=1e-8)


# --------------------------------------------------------------------------------------
# errors


def _refusal(action):
    """Return the type and text of the exception, with our class names put to scikit-learn's.

    To what it says of missing values we add a line: what our own networks can do.
    """
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the text is compared by the caller
        action()
    text, *remedy = str(raised.value).split("\nOr let ")
    assert not remedy or remedy[0].endswith("by allow_nan=True.")
    return type(raised.value), text.replace("DeepMLP", "MLP")


def _assert_refused_alike(task, action, **params):
    ours, theirs = _pair(task, **params)
    expected = _refusal(lambda: action(theirs))
    assert _refusal(lambda: action(ours)) == expected


X_CLASSES, Y_CLASSES = _data("multiclass")
BAD_PARAMETERS = [
    {"hidden_layer_sizes": (5, 0)},
    {"hidden_layer_sizes": -1},
    {"hidden_layer_sizes": [-3]},
    {"alpha": -0.1},
    {"batch_size": 0},
    {"batch_size": 2.5},
    {"batch_size": "all"},
    {"learning_rate_init": 0},
    {"power_t": -1},
    {"max_iter": 0},
    {"max_iter": 2.5},
    {"shuffle": "yes"},
    {"random_state": "seed"},
    {"tol": -1},
    {"verbose": -1},
    {"warm_start": "no"},
    {"momentum": 1.1},
    {"nesterovs_momentum": "yes"},
    {"early_stopping": "maybe"},
    {"validation_fraction": 1.0},
    {"validation_fraction": -0.1},
    {"beta_1": 1.0},
    {"beta_2": -0.1},
    {"epsilon": 0.0},
    {"n_iter_no_change": 0},
    {"max_fun": 0},
]


@pytest.mark.parametrize("params", BAD_PARAMETERS, ids=str)
def test_bad_parameters_are_refused_in_the_same_words(params):
    _assert_refused_alike("multiclass", lambda est: est.fit(X_CLASSES, Y_CLASSES), **params)


BAD_DATA = {
    "not a number": (np.where(X_CLASSES > 0.9, np.nan, X_CLASSES), Y_CLASSES),
    "infinity": (np.where(X_CLASSES > 0.9, np.inf, X_CLASSES), Y_CLASSES),
    "infinity in sparse rows": (sp.csr_array([[0, np.inf], [1.0, 0]]), [0, 1]),
    "no rows": (X_CLASSES[:0], Y_CLASSES[:0]),
    "no columns": (X_CLASSES[:, :0], Y_CLASSES),
    "one dimension": (X_CLASSES[0], Y_CLASSES),
    "three dimensions": (X_CLASSES[:, :, None], Y_CLASSES),
    "complex": (X_CLASSES * 1j, Y_CLASSES),
    "strings": (X_CLASSES.astype(str)[:, :1] + "a", Y_CLASSES),
    "fewer targets": (X_CLASSES, Y_CLASSES[:-1]),
    "no targets": (X_CLASSES, None),
    "targets not a number": (X_CLASSES, np.where(Y_CLASSES == 3, np.nan, Y_CLASSES)),
}


@pytest.mark.parametrize(("X", "y"), BAD_DATA.values(), ids=BAD_DATA)
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_bad_data_are_refused_in_the_same_words(task, X, y):
    _assert_refused_alike(task, lambda est: est.fit(X, y))


@pytest.mark.parametrize(
    "weights",
    [np.ones(3), np.full(len(X_CLASSES), np.nan), np.ones((len(X_CLASSES), 2)),
     np.zeros(len(X_CLASSES))],
    ids=["too few", "not a number", "two columns", "all zero"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_bad_weights_are_refused_in_the_same_words(task, method, weights):
    X, y = _data(task)
    more = {"classes": np.unique(y)} if (method, task) == ("partial_fit", "multiclass") else {}
    _assert_refused_alike(
        task, lambda est: getattr(est, method)(X, y, sample_weight=weights, **more)
    )


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_prediction_before_fit_is_refused_in_the_same_words(method):
    _assert_refused_alike("multiclass", lambda est: getattr(est, method)(X_CLASSES))


@converging_or_not
@pytest.mark.parametrize(
    "X",
    [X_CLASSES[:, 1:], X_CLASSES * np.nan, X_CLASSES[0], X_CLASSES[:0], sp.csr_array((3, 2))],
    ids=["fewer columns", "not a number", "one dimension", "no rows", "fewer sparse columns"],
)
def test_bad_data_to_predict_are_refused_in_the_same_words(X):
    _assert_refused_alike(
        "multiclass", lambda est: est.fit(X_CLASSES, Y_CLASSES).predict(X), max_iter=1
    )


@converging_or_not
def test_other_classes_in_a_warm_start_are_refused_in_the_same_words():
    rows = Y_CLASSES < 5

    def start_warm(estimator):
        estimator.fit(X_CLASSES, Y_CLASSES).fit(X_CLASSES[rows], Y_CLASSES[rows])

    _assert_refused_alike("multiclass", start_warm, warm_start=True, max_iter=1)


@converging_or_not
@pytest.mark.parametrize("n_rows", [1, 3, 3000])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_value_that_is_no_number_is_found_in_any_row(task, n_rows):
    X, y = _data(task)
    ours, theirs = _pair(task, max_iter=1, hidden_layer_sizes=(30,))
    rows = np.repeat(X[:1], n_rows, axis=0)
    ours.fit(X, y)
    theirs.fit(X, y)
    for value in (np.nan, np.inf, -np.inf):
        rows[-1, 1] = value
        refusals = [_refusal(lambda e=e: e.predict(rows)) for e in (ours, theirs)]
        assert refusals[0] == refusals[1]


@converging_or_not
@pytest.mark.parametrize("n_rows", [1, 3000])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_rows_whose_sums_overflow_are_refused(method, n_rows):
    X = np.random.RandomState(0).normal(size=(50, 4)).astype(np.float32)
    network = DeepMLPClassifier((30,), max_iter=1, random_state=0).fit(X, Y_CLASSES[:50])
    rows = np.repeat(X[:1], n_rows, axis=0)
    rows[-1] = [3e38, -3e38, 3e38, 3e38]
    message = (
        f"The network's output for row {n_rows - 1} of X is not finite: the numbers of that row go "
        "up to 3e+38, and sums over them are too large for float32. Scale X, for example by S"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(network, method)(rows)
    with config_context(assume_finite=True):
        assert np.isfinite(getattr(network, method)(rows)[:-1]).all()
    with pytest.raises(
        ValueError, match=re.escape(message.replace("output", "vector of hidden activations"))
    ):
        network.hidden_activations(rows)


@pytest.mark.parametrize("n_samples", [2, 8])
def test_too_few_validation_rows_are_refused_in_the_same_words(n_samples):
    X, y = _data("regression")
    _assert_refused_alike(
        "regression", lambda est: est.fit(X[:n_samples], y[:n_samples]), early_stopping=True
    )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_partial_fit_with_lbfgs_is_refused_in_the_same_words(task):
    X, y = _data(task)
    ours, theirs = _pair(task, solver="lbfgs")
    refusals = []
    for estimator in (ours, theirs):
        kind, message = _refusal(lambda e=estimator: e.partial_fit(X, y, classes=np.unique(y)))
        refusals.append((kind, message))
        assert not hasattr(estimator, "partial_fit")
    assert refusals[0] == refusals[1]
    causes = []
    for estimator in (ours, theirs):
        try:
            estimator.partial_fit  # noqa: B018 - looking it up is what raises
        except AttributeError as error:
            causes.append(str(error.__cause__))
    assert causes[0] == causes[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_diverged_weights_are_refused_in_words_that_begin_the_same():
    ours, theirs = _pair("regression", learning_rate_init=1e200, activation="identity")
    X, y = _data("regression")
    expected = _refusal(lambda: theirs.fit(X, y))
    actual = _refusal(lambda: ours.fit(X, y))
    assert issubclass(actual[0], expected[0])
    assert actual[1].startswith(expected[1])


# --------------------------------------------------------------------------------------
# the interface

EXTENDED = {"activation", "solver", "learning_rate", "loss"}


def _init_parameters(cls):
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {parameter.name: parameter for parameter in parameters}


@pytest.mark.parametrize("kind", PAIRS)
def test_positional_parameters_are_those_of_scikit_learn(kind):
    ours, theirs = map(_init_parameters, PAIRS[kind])
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    expected = [name for name, parameter in theirs.items() if parameter.kind is positional]
    assert [name for name, parameter in ours.items() if parameter.kind is positional] == expected


@pytest.mark.parametrize("kind", PAIRS)
def test_shared_parameters_keep_their_order_and_defaults(kind):
    ours, theirs = map(_init_parameters, PAIRS[kind])
    shared = {name: parameter.default for name, parameter in ours.items() if name in theirs}
    assert list(shared.items()) == [(name, value.default) for name, value in theirs.items()]


@pytest.mark.parametrize("kind", PAIRS)
def test_new_parameters_are_keyword_only(kind):
    ours, theirs = map(_init_parameters, PAIRS[kind])
    new = {parameter.kind for name, parameter in ours.items() if name not in theirs}
    assert new == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, (_, theirs) in PAIRS.items() for name in theirs().get_params()],
)
def test_shared_parameters_keep_their_constraints(kind, name):
    ours, theirs = (cls._parameter_constraints[name] for cls in PAIRS[kind])
    if name not in EXTENDED:
        assert list(map(_written, ours)) == list(map(_written, theirs))
        return
    (options,) = (item.options for item in theirs if isinstance(item, StrOptions))
    (allowed,) = (item.options for item in ours if isinstance(item, StrOptions))
    assert options < allowed


def _written(constraint):
    return str(make_constraint(constraint))


@pytest.mark.parametrize("kind", PAIRS)
def test_every_parameter_has_a_constraint(kind):
    ours, _ = PAIRS[kind]
    assert set(ours._parameter_constraints) == set(_init_parameters(ours))


@converging_or_not
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_fitted_attributes_are_a_superset(task, early_stopping, solver):
    ours, theirs = _pair(task, max_iter=3, solver=solver, early_stopping=early_stopping)
    X, y = _data(task)
    ours.fit(X, y)
    theirs.fit(X, y)
    fitted = re.compile(r"[a-zA-Z]\w*_$")
    assert {name for name in dir(theirs) if fitted.match(name)} <= set(dir(ours))


@pytest.mark.parametrize("kind", PAIRS)
def test_public_methods_are_a_superset(kind):
    ours, theirs = PAIRS[kind]
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(dir(ours))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (kind, method)
        for kind, (_, theirs) in PAIRS.items()
        for method in ("fit", "partial_fit", "predict", "predict_proba", "score")
        if hasattr(theirs, method)
    ],
)
def test_methods_take_the_same_positional_arguments(kind, method):
    ours, theirs = PAIRS[kind]

    def positional(cls):
        parameters = inspect.signature(getattr(cls, method)).parameters.values()
        return [
            (parameter.name, parameter.default)
            for parameter in parameters
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]

    assert positional(ours) == positional(theirs)


@converging_or_not
@pytest.mark.parametrize("task", TASKS)
def test_fitted_classes_and_features_are_the_same(task):
    ours, theirs = _pair(task, max_iter=1)
    X, y = _data(task)
    ours.fit(X, y)
    theirs.fit(X, y)
    assert ours.n_features_in_ == theirs.n_features_in_
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert ours.classes_.dtype == theirs.classes_.dtype


LABELS = {
    "numbers": lambda y: y,
    "texts": lambda y: np.array(["zero", "one", "two", "three"])[y],
    "two texts": lambda y: np.array(["no", "yes"])[y % 2],
    "booleans": lambda y: y > 1,
    "objects": lambda y: np.array(["zero", "one", "two", "three"], dtype=object)[y],
    "unsigned": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(float),
    "a list": lambda y: y.tolist(),
    "a series": lambda y: pd.Series(y),
    "a column": lambda y: y[:, np.newaxis],
    "several labels": lambda y: np.column_stack([y == 0, y > 1]).astype(int),
}


@pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", LABELS)
@converging_or_not
def test_score_is_scikit_learns_accuracy(kind, is_weighted):
    X, y = load_digits(n_class=4, return_X_y=True)
    labels = LABELS[kind](y)
    train, test = slice(60), slice(60, 160)
    weight = np.linspace(0.5, 2, 100) if is_weighted else None
    flat = np.ravel(labels) if kind == "a column" else labels
    network = DeepMLPClassifier(max_iter=3, random_state=0).fit(X[train], flat[train])
    score = network.score(X[test], labels[test], sample_weight=weight)
    predicted = network.predict(X[test])
    assert score == accuracy_score(flat[test], predicted, sample_weight=weight)
    assert type(score) is float
    assert 0 < score < 1


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(9, dtype=int), "inconsistent numbers of samples"),
        (np.linspace(0, 1, 10), "a mix of continuous and binary"),
        (np.full(10, "yes"), "[Mm]ix"),
        (np.zeros((10, 2), dtype=int), "a mix of multilabel-indicator and binary"),
    ],
    ids=["too few", "continuous", "another kind", "columns"],
)
@converging_or_not
def test_score_refuses_what_scikit_learns_accuracy_refuses(y, message):
    X = np.random.RandomState(0).rand(10, 3)
    network = DeepMLPClassifier(max_iter=1).fit(X, [0, 1] * 5)
    with pytest.raises((TypeError, ValueError), match=message):
        accuracy_score(y, network.predict(X))
    with pytest.raises((TypeError, ValueError), match=message):
        network.score(X, y)
