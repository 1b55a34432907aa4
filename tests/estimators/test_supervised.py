"""Several networks in one estimator: each as it would be alone, their mean, their spread."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import skorch.callbacks
from conftest import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor, summary
from sknn_deep._estimators import ensemble
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {
    "n_networks": 3,
    "hidden_layer_sizes": (8,),
    "batch_size": 32,
    "learning_rate_init": 0.01,
    "max_iter": 4,
    "random_state": 0,
}
# what belongs to one network
OWN = [
    "best_iter_", "best_loss_", "best_validation_score_", "coefs_", "device_", "history_",
    "intercepts_", "loss_", "loss_curve_", "module_", "n_layers_", "t_",
    "validation_loss_curve_", "validation_scores_",
]  # fmt: skip


def classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


def regressor(**params):
    return DeepMLPRegressor(**{**QUICK, **params})


def fitted(estimator):
    """Return the names of the fitted attributes."""
    return {name for name in vars(estimator) if re.fullmatch(r"[a-z]\w*_", name)}


@pytest.fixture
def labels(digits):
    """Return three labels for each image, which a network can learn."""
    return np.stack([digits.y % 2, digits.y > 4, digits.y == 0], axis=1).astype(int)


@pytest.fixture
def jobs(monkeypatch):
    """Offer the list of the jobs that ensembles train."""
    seen, fit_jobs = [], ensemble.fit_jobs

    def spy(jobs, **options):
        seen.extend(jobs)
        fit_jobs(jobs, **options)

    monkeypatch.setattr(ensemble, "fit_jobs", spy)
    return seen


# --------------------------------------------------------------------------------------
# each network as it would be alone


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive"},
        {"early_stopping": True},
        {"class_weight": "balanced", "dropout": 0.2},
        {"normalization": "batch"},
        {"solver": "adamw"},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_each_network_is_that_of_a_separate_fit_with_its_seed(params, digits):
    ensemble = classifier(**params).fit(digits.X, digits.y)
    assert len(ensemble.estimators_) == 3
    for network in ensemble.estimators_:
        alone = classifier(**params, n_networks=1, random_state=network.random_state)
        alone.fit(digits.X, digits.y)
        assert_allclose(network.module_.flat, alone.module_.flat, rtol=1e-8, atol=1e-10)
        assert network.get_params() == alone.get_params()
        assert fitted(network) == fitted(alone)


@pytest.mark.parametrize(
    "fit_params",
    [
        lambda digits: {"sample_weight": np.linspace(0.1, 1, len(digits.X))},
        lambda digits: {
            "X_val": digits.X_test,
            "y_val": digits.y_test,
            "sample_weight_val": np.linspace(0, 1, len(digits.X_test)),
        },
    ],
    ids=["weights", "validation set"],
)
def test_what_fit_is_given_reaches_each_network(fit_params, digits, jobs):
    ensemble = classifier().fit(digits.X, digits.y, **fit_params(digits))
    assert all(job.fused for job in jobs)
    for network in ensemble.estimators_:
        alone = classifier(n_networks=1, random_state=network.random_state)
        alone.fit(digits.X, digits.y, **fit_params(digits))
        assert_allclose(network.loss_curve_, alone.loss_curve_, rtol=1e-10)
        assert network.validation_scores_ == alone.validation_scores_


def test_small_networks_are_trained_as_one_stack(digits, jobs):
    classifier().fit(digits.X, digits.y)
    assert [job.fused for job in jobs] == [True] * 3


def test_seeds_are_drawn_from_the_random_state(digits):
    seeds = [
        [network.random_state for network in classifier(random_state=state).fit(
            digits.X, digits.y
        ).estimators_]
        for state in (0, 0, 1, np.random.RandomState(0))
    ]  # fmt: skip
    assert seeds[0] == seeds[1] == seeds[3] != seeds[2]
    assert len(set(seeds[0])) == 3


def test_data_are_validated_once_for_all_networks(digits, jobs):
    X = pd.DataFrame((digits.X * 16).astype(np.uint8))
    with pytest.warns(DataConversionWarning) as record:
        classifier().fit(X, digits.y[:, np.newaxis])
    assert len([w for w in record if w.category is DataConversionWarning]) == 1
    assert len({id(job.X) for job in jobs}) == 1
    assert jobs[0].X.dtype == np.float64


def test_data_come_in_the_type_of_the_networks_that_go_on(digits, jobs):
    ensemble = classifier(warm_start=True).fit(digits.X.astype(np.float32), digits.y)
    ensemble.fit(digits.X, digits.y)
    assert {job.X.dtype for job in jobs} == {np.dtype(np.float32)}
    assert ensemble.predict_proba(digits.X_test).dtype == np.float32


def test_one_network_is_no_ensemble(digits):
    one = classifier(n_networks=1).fit(digits.X, digits.y)
    params = {name: value for name, value in QUICK.items() if name != "n_networks"}
    plain = DeepMLPClassifier(**params).fit(digits.X, digits.y)
    assert fitted(one) == fitted(plain)
    assert not hasattr(one, "estimators_")
    assert_array_equal(one.predict_proba(digits.X_test), plain.predict_proba(digits.X_test))


# --------------------------------------------------------------------------------------
# predictions


@pytest.mark.parametrize("target", ["several classes", "two classes", "labels"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_probabilities_are_the_mean_of_those_of_the_networks(target, dtype, digits, labels):
    y = {"several classes": digits.y, "two classes": digits.y > 4, "labels": labels}[target]
    X, X_test = digits.X.astype(dtype), digits.X_test.astype(dtype)
    ensemble = classifier(max_iter=2).fit(X, y)
    probabilities = ensemble.predict_proba(X_test)
    expected = np.mean([net.predict_proba(X_test) for net in ensemble.estimators_], axis=0)
    assert probabilities.dtype == dtype
    assert_allclose(probabilities, expected, rtol=1e-6)
    assert_allclose(ensemble.predict_log_proba(X_test), np.log(expected), rtol=1e-4)
    assert ensemble.predict_log_proba(X_test).dtype == dtype
    if target == "labels":
        assert_array_equal(ensemble.predict(X_test), probabilities > 0.5)
    else:
        assert_array_equal(
            ensemble.predict(X_test), ensemble.classes_[probabilities.argmax(axis=1)]
        )


def test_an_ensemble_does_not_go_by_the_majority(digits):
    # where votes and the mean probability differ, the probability decides
    ensemble = classifier(max_iter=1).fit(digits.X, digits.y > 4)
    votes = np.mean([net.predict(digits.X_test) for net in ensemble.estimators_], axis=0) > 0.5
    predicted = ensemble.predict(digits.X_test)
    assert (predicted != votes).any()
    assert_array_equal(predicted, ensemble.predict_proba(digits.X_test)[:, 1] > 0.5)


def test_logarithms_are_finite_where_every_probability_rounds_to_zero(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    far = 1e4 * digits.X_test
    assert ensemble.predict_proba(far).min() == np.finfo(np.float64).tiny
    assert np.isfinite(ensemble.predict_log_proba(far)).all()


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_regressor_predicts_mean_and_standard_deviation(n_outputs, loss, diabetes):
    y = np.exp(diabetes.y) if n_outputs == 1 else np.exp(np.stack([diabetes.y, -diabetes.y], 1))
    ensemble = regressor(loss=loss).fit(diabetes.X, y)
    predictions = [network.predict(diabetes.X_test) for network in ensemble.estimators_]
    mean, std = ensemble.predict(diabetes.X_test, return_std=True)
    assert mean.shape == std.shape == (len(diabetes.X_test), 2)[: y.ndim]
    assert_allclose(mean, np.mean(predictions, axis=0), rtol=1e-12)
    assert_allclose(std, np.std(predictions, axis=0), rtol=1e-9)
    assert_array_equal(ensemble.predict(diabetes.X_test), mean)


def test_standard_deviation_grows_away_from_the_data():
    X = np.linspace(-1, 1, 200)[:, np.newaxis]
    ensemble = regressor(n_networks=5, hidden_layer_sizes=(32,), max_iter=100)
    ensemble.fit(X, np.sin(3 * X[:, 0]))
    _, near = ensemble.predict(X, return_std=True)
    _, far = ensemble.predict(X + 3, return_std=True)
    assert far.min() > near.max()


def test_one_network_has_no_standard_deviation(diabetes):
    network = regressor(n_networks=1).fit(diabetes.X, diabetes.y)
    message = "return_std=True needs several networks to compare, but one was fitted; fit an"
    with pytest.raises(ValueError, match=message):
        network.set_params(n_networks=4).predict(diabetes.X_test, return_std=True)


def test_ensemble_is_better_than_one_network_on_average(digits):
    params = {"hidden_layer_sizes": (64, 64), "learning_rate": "one_cycle", "max_iter": 40}
    ensemble = classifier(n_networks=8, **params).fit(digits.X, digits.y)

    def scores(network):
        loss = log_loss(digits.y_test, network.predict_proba(digits.X_test))
        return loss, network.score(digits.X_test, digits.y_test)

    loss, accuracy = scores(ensemble)
    mean_loss, mean_accuracy = np.mean([scores(net) for net in ensemble.estimators_], axis=0)
    assert loss < 0.85 * mean_loss  # any mean is below it: Jensen's inequality
    assert accuracy > mean_accuracy


# --------------------------------------------------------------------------------------
# attributes


@pytest.mark.parametrize("make", [classifier, regressor])
def test_an_ensemble_has_what_its_networks_share(make, digits):
    ensemble = make().fit(pd.DataFrame(digits.X).add_prefix("pixel "), digits.y)
    shared = {"estimators_", "n_iter_", "n_outputs_", "out_activation_"}
    shared |= {"n_features_in_", "feature_names_in_", "interrupted_"}
    assert fitted(ensemble) == shared | ({"classes_"} if make is classifier else set())
    assert ensemble.n_iter_ == 4
    for network in ensemble.estimators_:
        for name in fitted(ensemble) - {"estimators_"}:
            assert_array_equal(getattr(network, name), getattr(ensemble, name))


def test_what_belongs_to_one_network_is_found_there(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    for name in OWN:
        message = f"no {name}, each of its networks has one: see estimators_[0].{name} to "
        with pytest.raises(AttributeError, match=re.escape(message)):
            getattr(ensemble, name)
        assert hasattr(ensemble.estimators_[0], name)


def test_what_no_network_has_is_missing_as_anywhere(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    with pytest.raises(AttributeError, match="'DeepMLPClassifier' object has no attribute 'nope'"):
        _ = ensemble.nope
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        _ = ensemble.set_params(solver="lbfgs").partial_fit
    with pytest.raises(NotFittedError):
        _ = classifier().coefs_


def test_names_of_features_are_known_to_each_network(digits):
    X = pd.DataFrame(digits.X).add_prefix("pixel ")
    X_test = pd.DataFrame(digits.X_test).add_prefix("pixel ")
    ensemble = classifier(early_stopping=True).fit(X, digits.y, X_val=X_test, y_val=digits.y_test)
    ensemble.set_params(warm_start=True).fit(X, digits.y)  # a warning would be an error
    ensemble.predict(X_test)
    ensemble.estimators_[0].predict(X_test)
    with pytest.raises(ValueError, match="feature names should match"):
        ensemble.predict(X_test.add_prefix("other "))


def test_iterations_are_the_most_of_any_network(digits):
    ensemble = classifier(max_iter=100, early_stopping=True, n_iter_no_change=2, n_networks=5)
    ensemble.fit(digits.X, digits.y)
    counts = [network.n_iter_ for network in ensemble.estimators_]
    assert len(set(counts)) > 1
    assert ensemble.n_iter_ == max(counts)


def test_summary_counts_all_networks():
    ensemble = DeepMLPClassifier((128, 64), n_networks=8)
    description = summary(ensemble, n_features=784, n_classes=10)
    assert description.n_parameters == 8 * 109_386
    assert str(description).splitlines()[-1].split() == ["total", "8", "×", "109,386", "875,088"]


def test_summary_of_a_fitted_ensemble(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    n_parameters = sum(net.module_.flat.numel() for net in ensemble.estimators_)
    assert summary(ensemble).n_parameters == n_parameters
    assert summary(ensemble) == summary(classifier(), 64, n_classes=10)
    assert f"3 × {n_parameters // 3}" in ensemble._repr_html_()


# --------------------------------------------------------------------------------------
# containers and copies


def test_sparse_and_dense_features_give_the_same(digits):
    dense = classifier().fit(digits.X, digits.y)
    sparse = classifier().fit(sp.csr_array(digits.X), digits.y)
    assert_allclose(
        sparse.predict_proba(sp.csr_array(digits.X_test)),
        dense.predict_proba(digits.X_test),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    "twin_of", [lambda ensemble: pickle.loads(pickle.dumps(ensemble)), copy.deepcopy, copy.copy]
)
def test_copies_predict_the_same(twin_of, digits):
    ensemble = classifier().fit(digits.X, digits.y)
    twin = twin_of(ensemble)
    assert_array_equal(twin.predict_proba(digits.X_test), ensemble.predict_proba(digits.X_test))
    assert not hasattr(clone(ensemble), "estimators_")


# --------------------------------------------------------------------------------------
# one fit after another


def test_ensemble_and_network_take_each_others_place(digits):
    estimator = classifier(n_networks=1).fit(digits.X, digits.y)
    estimator.set_params(n_networks=3).fit(digits.X, digits.y)
    assert vars(estimator).keys() == vars(classifier().fit(digits.X, digits.y)).keys()
    estimator.set_params(n_networks=1).fit(digits.X, digits.y)
    alone = classifier(n_networks=1).fit(digits.X, digits.y)
    assert vars(estimator).keys() == vars(alone).keys()
    assert_array_equal(estimator.predict_proba(digits.X), alone.predict_proba(digits.X))


def test_what_was_fitted_counts_and_not_what_was_set_since(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    expected = ensemble.predict_proba(digits.X_test)
    ensemble.set_params(n_networks=1)
    assert_array_equal(ensemble.predict_proba(digits.X_test), expected)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_partial_fit_trains_each_network_an_epoch(make, digits):
    ensemble = make()
    classes = {"classes": range(10)} if make is classifier else {}
    for rows in (slice(0, 400), slice(400, None)):
        ensemble.partial_fit(digits.X[rows], digits.y[rows], **classes)
    for network in ensemble.estimators_:
        alone = make(n_networks=1, random_state=network.random_state)
        for rows in (slice(0, 400), slice(400, None)):
            alone.partial_fit(digits.X[rows], digits.y[rows], **classes)
        assert network.t_ == len(digits.X)
        assert_array_equal(network.module_.flat, alone.module_.flat)


def test_partial_fit_of_several_labels(digits, labels):
    ensemble = classifier().partial_fit(digits.X, labels, classes=[0, 1, 2])
    ensemble.partial_fit(digits.X, labels)
    assert ensemble.predict(digits.X_test).shape == (len(digits.X_test), 3)


def test_partial_fit_goes_on_after_a_fit_in_a_stack(digits):
    ensemble = classifier().fit(digits.X, digits.y)
    ensemble.partial_fit(digits.X, digits.y)
    for network in ensemble.estimators_:
        alone = classifier(n_networks=1, random_state=network.random_state)
        alone.fit(digits.X, digits.y).partial_fit(digits.X, digits.y)
        assert_allclose(network.module_.flat, alone.module_.flat, rtol=1e-8, atol=1e-10)


def test_warm_start_goes_on_with_the_same_networks(digits):
    ensemble = classifier(warm_start=True).fit(digits.X, digits.y)
    ensemble.set_params(max_iter=2, learning_rate_init=0.001).fit(digits.X, digits.y)
    for network in ensemble.estimators_:
        assert len(network.loss_curve_) == 6
        assert network.learning_rate_init == 0.001
        alone = classifier(n_networks=1, random_state=network.random_state, warm_start=True)
        alone.fit(digits.X, digits.y)
        alone.set_params(max_iter=2, learning_rate_init=0.001).fit(digits.X, digits.y)
        assert_allclose(network.module_.flat, alone.module_.flat, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("before", "after"), [(3, 4), (3, 1), (1, 3)])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_with_another_number_is_refused(method, before, after, digits):
    ensemble = classifier(n_networks=before).fit(digits.X, digits.y)
    expected = ensemble.predict_proba(digits.X_test)
    ensemble.set_params(n_networks=after, warm_start=method == "fit")
    message = f"got n_networks={after} after n_networks={before}. Set warm_start=False, or"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(ensemble, method)(digits.X, digits.y)
    assert_array_equal(ensemble.predict_proba(digits.X_test), expected)


# --------------------------------------------------------------------------------------
# errors


class FailsOnce:
    """A scorer that fails in one of its calls."""

    def __init__(self, number):
        self.calls_left = number

    def __call__(self, estimator, X, y):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise ValueError("no score today")
        return 0.5


@pytest.mark.parametrize("solver", ["adam", "adamw"])
def test_what_was_fitted_survives_an_error(solver, digits):
    ensemble = classifier(solver=solver).fit(digits.X, digits.y)
    expected, before = ensemble.predict_proba(digits.X_test), dict(vars(ensemble))
    ensemble.set_params(early_stopping=True, scoring=FailsOnce(2))
    with pytest.raises(ValueError, match="no score today"):
        ensemble.fit(digits.X, digits.y % 5)
    assert fitted(ensemble) == {name for name in before if name in fitted(ensemble)}
    assert_array_equal(ensemble.predict_proba(digits.X_test), expected)
    assert_array_equal(ensemble.classes_, np.arange(10))


@pytest.mark.parametrize("n_before", [1, 3])
def test_invalid_data_leave_what_was_fitted(n_before, digits):
    estimator = classifier(n_networks=n_before).fit(digits.X, digits.y)
    expected = estimator.predict_proba(digits.X_test)
    with pytest.raises(ValueError, match="contains NaN"):
        estimator.set_params(n_networks=3).fit(np.full((5, 2), np.nan), np.arange(5))
    assert estimator.n_features_in_ == 64
    assert_array_equal(estimator.predict_proba(digits.X_test), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_that_are_not_finite_in_one_network_are_an_error(diabetes):
    ensemble = regressor(solver="sgd", learning_rate_init=1e200, activation="identity")
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ensemble.fit(diabetes.X, diabetes.y)
    assert not hasattr(ensemble, "estimators_")


@pytest.mark.parametrize("n_networks", [0, 1.5, "3"])
def test_the_number_of_networks_is_positive(n_networks, digits):
    with pytest.raises(ValueError, match="The 'n_networks' parameter of DeepMLPClassifier must be"):
        classifier(n_networks=n_networks).fit(digits.X, digits.y)


def test_callbacks_of_skorch_are_refused(digits):
    ensemble = classifier(callbacks=[skorch.callbacks.EpochTimer()])
    with pytest.raises(ValueError, match=r"n_networks=3 does not support callbacks=.*EpochTimer"):
        ensemble.fit(digits.X, digits.y)


# --------------------------------------------------------------------------------------
# beside other parts


def test_monitor_of_scikit_learn_scores_the_whole_ensemble(digits):
    monitor = ScoringMonitor(scoring="accuracy")
    ensemble = classifier().set_callbacks(monitor).fit(digits.X, digits.y)
    rows = monitor.get_logs().data_as_pandas
    score = rows.loc[rows["task_name"] == "fit", "accuracy"].item()
    assert score == ensemble.score(digits.X, digits.y)


def test_callbacks_of_scikit_learn_are_taken_down_after_an_error(digits):
    recorder = Recorder()
    ensemble = classifier(early_stopping=True, scoring=FailsOnce(2)).set_callbacks(recorder)
    with pytest.raises(ValueError, match="no score today"):
        ensemble.fit(digits.X, digits.y)
    assert recorder.events[:2] == ["setup", "begin fit 0"]
    assert recorder.events[-1] == "teardown"
    assert "end fit 0" not in recorder.events


@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV])
def test_search_compares_ensembles(search, digits):
    grid = {"n_networks": [1, 3]}
    found = search(classifier(max_iter=2), grid, cv=2, refit=False).fit(digits.X, digits.y)
    scores = GridSearchCV(classifier(max_iter=2), grid, cv=2, refit=False).fit(digits.X, digits.y)
    assert_array_equal(found.cv_results_["mean_test_score"], scores.cv_results_["mean_test_score"])


def test_ensemble_trains_alone_in_a_fused_search(digits):
    search = FusedGridSearchCV(classifier(max_iter=2), {"n_networks": [1, 3]}, cv=2, refit=False)
    search.fit(digits.X, digits.y)
    assert set(search.not_fused_reasons_[0]) == {""}
    assert set(search.not_fused_reasons_[1]) == {"n_networks=3 is an ensemble, trained by itself"}


@pytest.mark.parametrize("transformer", [StandardScaler(), FunctionTransformer(np.log, np.exp)])
def test_spread_of_an_ensemble_within_a_transformed_target_is_that_of_its_networks(
    transformer, diabetes
):
    y = np.exp(diabetes.y)
    several = TransformedTargetRegressor(
        regressor(n_networks=3), transformer=transformer, check_inverse=False
    )
    several.fit(diabetes.X, y)
    predictions = [
        several.transformer_.inverse_transform(network.predict(diabetes.X_test)[:, np.newaxis])
        for network in several.regressor_.estimators_
    ]
    expected = [
        clone(several)
        .set_params(regressor__n_networks=1, regressor__random_state=network.random_state)
        .fit(diabetes.X, y)
        .predict(diabetes.X_test)
        for network in several.regressor_.estimators_
    ]
    assert_allclose(np.hstack(predictions).T, expected, rtol=1e-6)
    assert np.std(predictions, axis=0).min() > 0


# --------------------------------------------------------------------------------------
# logits


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("kind", ["two classes", "ten classes", "labels"])
def test_probabilities_are_those_of_the_logits(kind, n_networks, digits, labels):
    y = {"two classes": digits.y > 4, "ten classes": digits.y, "labels": labels}[kind]
    network = classifier(n_networks=n_networks).fit(digits.X, y)
    logits, probabilities = network.decision_function(digits.X), network.predict_proba(digits.X)
    if kind == "ten classes":
        assert_allclose(softmax(logits, axis=1), probabilities, rtol=1e-10)
    else:
        assert logits.shape == y.shape
        expected = probabilities[:, 1] if kind == "two classes" else probabilities
        assert_allclose(expit(logits), expected, rtol=1e-10)


def test_logits_order_rows_of_which_the_network_is_certain(cancer):
    network = classifier(n_networks=1).fit(cancer.X, cancer.y)
    X = cancer.X_test * 1e4
    assert len(np.unique(network.predict_proba(X)[:, 1])) < len(X) / 2
    assert len(np.unique(network.decision_function(X))) == len(X)
