"""Training that diverges says when and why, and leaves what was fitted before."""

import re

import numpy as np
import pytest
import torch
from conftest import Explode
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._estimators.fused import Job, fit_jobs

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed")
NON_FINITE = r"Solver produced non-finite (parameter weights|loss)\. The input data may contain "
NON_FINITE += r"large values and need to be preprocessed\."
X, Y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
PARAMS = {"hidden_layer_sizes": (6,), "batch_size": 20, "max_iter": 4, "random_state": 0}
SOLVERS = [
    "sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "muon", torch.optim.SGD, "lbfgs"
]  # fmt: skip


def predict(estimator):
    names = ("predict_proba", "transform", "predict")
    return next(getattr(estimator, name) for name in names if hasattr(estimator, name))(X)


def learn(estimator, method, X, y):
    classes = {}
    if method == "partial_fit" and isinstance(estimator, DeepMLPClassifier):
        classes = {"classes": np.arange(3)}
    return getattr(estimator, method)(X, y, **classes)


# 1e38 has no square in single precision, 1e300 none in double.
HUGE = {
    "float32": (1e38 * np.tanh(1 + np.abs(X))).astype(np.float32),
    "float64": 1e300 * np.tanh(1 + np.abs(X)),
}


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", [DeepMLPRegressor, AutoencoderTransformer])
def test_exploding_inputs_are_told(kind, solver, dtype):
    with pytest.raises(ValueError, match=NON_FINITE):
        kind(**PARAMS, solver=solver).fit(HUGE[dtype], Y)


# These have a square in the network's type, but no variance.
LARGE = {
    "float32": (1e25 * (1 + np.abs(X))).astype(np.float32),
    "float64": 1e160 * (1 + np.abs(X)),
}


@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("solver", ["lbfgs", "sgd", "adam"])
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_what_normalisation_hides_is_told_or_harmless(normalization, solver, dtype):
    regressor = DeepMLPRegressor(**PARAMS, solver=solver, normalization=normalization)
    try:
        regressor.fit(LARGE[dtype], X[:, 0])
    except ValueError as error:
        assert re.match(NON_FINITE, str(error))  # noqa: PT017
    else:
        assert np.isfinite(regressor.predict(LARGE[dtype])).all()


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_running_statistics_that_are_no_numbers_are_told(solver):
    regressor = DeepMLPRegressor(**PARAMS, solver=solver, normalization="batch")
    with pytest.raises(ValueError, match=NON_FINITE):
        regressor.fit(LARGE["float64"], X[:, 0])
    assert not hasattr(regressor, "module_")


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_classifier_of_exploding_inputs_is_told_or_finite(solver, dtype):
    classifier = DeepMLPClassifier(**PARAMS, solver=solver)
    try:
        classifier.fit(HUGE[dtype], Y)
    except ValueError as error:
        assert re.match(NON_FINITE, str(error))  # noqa: PT017
        assert not hasattr(classifier, "module_")
    else:  # its loss is as large as its logits, which overflow later
        assert np.isfinite(classifier.loss_)
        assert all(np.isfinite(coef).all() for coef in classifier.coefs_)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_huge_targets_are_told(solver):
    with pytest.raises(ValueError, match=NON_FINITE):
        DeepMLPRegressor(**PARAMS, solver=solver).fit(X, 1e300 * (1 + Y))


def test_message_says_when_how_fast_and_what_to_do():
    regressor = DeepMLPRegressor(
        **{**PARAMS, "max_iter": 200, "batch_size": 60}, solver="sgd", learning_rate_init=2.0
    )
    with pytest.raises(ValueError, match=NON_FINITE) as raised:
        regressor.fit(X, 100.0 * Y)
    epoch = int(re.search(r"The loss was (?:inf|nan) in epoch (\d+)", str(raised.value))[1])
    assert "at a learning rate of 2: scale the input (StandardScaler)" in str(raised.value)
    assert "lower learning_rate_init=2.0, or set max_grad_norm" in str(raised.value)
    # in the epoch in which it happened: the one before was finite
    assert epoch > 1
    regressor.set_params(max_iter=epoch - 1).fit(X, 100.0 * Y)
    assert np.isfinite(regressor.loss_curve_).all()


def test_message_names_the_rate_that_a_schedule_had_come_to():
    regressor = DeepMLPRegressor(
        **PARAMS, solver="sgd", learning_rate="invscaling", learning_rate_init=1e9, power_t=0.1
    )
    with pytest.raises(ValueError, match=r"at a learning rate of 6\.\d+e\+08"):
        regressor.fit(X, Y)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_first_fit_that_diverges_leaves_nothing_fitted(kind, method):
    network = kind(**PARAMS, learning_rate_init=1e300)
    with pytest.raises(ValueError, match=NON_FINITE):
        learn(network, method, 1e9 * X, Y)
    assert not hasattr(network, "module_")
    assert not hasattr(network, "loss_curve_")


def test_fit_that_diverges_leaves_the_one_before(kind):
    network = kind(**PARAMS).fit(X, Y)
    before, losses, history = predict(network), list(network.loss_curve_), len(network.history_)
    with pytest.raises(ValueError, match=NON_FINITE):
        network.set_params(learning_rate_init=1e300).fit(1e9 * X, Y)
    assert_array_equal(predict(network), before)
    assert network.loss_curve_ == losses
    assert len(network.history_) == history


@pytest.mark.parametrize("solver", ["sgd", "adam", "nadam", "muon", torch.optim.Adam], ids=str)
def test_partial_fit_that_diverges_changes_nothing(kind, solver):
    calls = {}
    for disturbed in (False, True):
        network = kind(**PARAMS, solver=solver)
        for _ in range(2):
            learn(network, "partial_fit", X, Y)
        if disturbed:
            with pytest.raises(ValueError, match=NON_FINITE):
                learn(network, "partial_fit", np.full_like(X, 1e308), Y)
        for _ in range(2):
            learn(network, "partial_fit", X, Y)
        calls[disturbed] = network
    assert_array_equal(predict(calls[True]), predict(calls[False]))
    assert calls[True].loss_curve_ == calls[False].loss_curve_
    assert calls[True].t_ == calls[False].t_ == 240
    assert len(calls[True].history_) == 4


def test_warm_start_that_diverges_goes_back(kind):
    network = kind(**PARAMS, warm_start=True).fit(X, Y)
    before = predict(network)
    with pytest.raises(ValueError, match=NON_FINITE):
        network.set_params(learning_rate_init=1e300).fit(1e9 * X, Y)
    assert_array_equal(predict(network), before)
    network.set_params(learning_rate_init=0.001).fit(X, Y)
    assert len(network.loss_curve_) == len(network.history_) == 8


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_extreme_weights_are_told(kind, solver):
    network = kind(**PARAMS, warm_start=True, solver=solver).fit(X, Y)
    for coef in network.coefs_:
        coef[:] = 1e200
    with pytest.raises(ValueError, match=NON_FINITE):
        network.fit(X, Y)
    assert all((coef == 1e200).all() for coef in network.coefs_)


def test_early_stopping_keeps_the_best_weights_and_says_so(kind):
    network = kind(**{**PARAMS, "max_iter": 50, "batch_size": 54}, solver=Explode)
    message = r"Training diverged in iteration \d+; the weights of the best validation score "
    message += r"\(epoch \d+\) are kept\. The loss was (inf|nan) in epoch \d+, at a learning rate"
    with pytest.warns(ConvergenceWarning, match=message):
        network.set_params(early_stopping=True).fit(X, Y)
    assert network.n_iter_ < 50
    assert np.isfinite(predict(network)).all()
    assert network.best_validation_score_ == np.nanmax(network.validation_scores_)


def test_early_stopping_without_a_good_epoch_is_told(kind):
    network = kind(**PARAMS, early_stopping=True, learning_rate_init=1e300)
    with pytest.raises(ValueError, match=NON_FINITE):
        network.fit(1e9 * X, Y)


def test_network_of_a_stack_that_diverges_goes_back_and_leaves_the_others():
    networks = [DeepMLPRegressor(**PARAMS, solver="sgd", alpha=i) for i in range(5)]
    networks[2].fit(X, Y)
    before = predict(networks[2])
    networks[2].set_params(learning_rate_init=1e200)
    jobs = [Job(network, X, Y) for network in networks]
    fit_jobs(jobs)
    assert all(job.fused for job in jobs)
    assert re.match(NON_FINITE, str(jobs[2].error))
    assert_array_equal(predict(networks[2]), before)
    assert [job.error for job in jobs if job is not jobs[2]] == [None] * 4


def test_ensemble_that_diverges_is_what_it_was():
    ensemble = DeepMLPRegressor(**PARAMS, n_networks=3).fit(X, Y)
    before = ensemble.predict(X)
    with pytest.raises(ValueError, match=NON_FINITE):
        ensemble.set_params(learning_rate_init=1e300).fit(1e9 * X, Y)
    assert_array_equal(ensemble.predict(X), before)
