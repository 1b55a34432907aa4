"""Fused halving searches give what scikit-learn's give, and go on where that gives the same."""

import itertools
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import DeepMLPClassifier
from sknn_deep._sklearn import HalvingGridSearchCV, HalvingRandomSearchCV
from sknn_deep._training.training import Training
from sknn_deep.model_selection import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
    _evaluation,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations",
    "ignore:lbfgs failed to converge",
    "ignore:No fits could be trained together",
)

SMALL = {"hidden_layer_sizes": (6,), "batch_size": 16, "random_state": 0, "device": "cpu"}
GRID = {"learning_rate_init": [0.001, 0.01, 0.03], "alpha": [0.0, 0.1]}
# 6 candidates with 2 epochs, 2 with 6
EPOCHS = {"resource": "max_iter", "max_resources": 6, "cv": 2, "scoring": "neg_log_loss"}
X, y = make_classification(60, 6, n_informative=4, n_redundant=0, n_classes=3, random_state=0)


def classifier(**params):
    return DeepMLPClassifier(**SMALL | params)


@pytest.fixture
def epochs(monkeypatch):
    """Offer how many epochs all networks have been trained."""
    epochs, begin_epoch = [], Training.begin_epoch

    def spy(self):
        epochs.append(self)
        return begin_epoch(self)

    monkeypatch.setattr(Training, "begin_epoch", spy)
    return epochs


def assert_same(estimator, candidates=GRID, ours=FusedHalvingGridSearchCV, **params):
    """Search as scikit-learn does and with ours; compare all but the times; return ours."""
    theirs = {
        FusedHalvingGridSearchCV: HalvingGridSearchCV,
        FusedHalvingRandomSearchCV: HalvingRandomSearchCV,
    }[ours]
    params = {**EPOCHS, "refit": False, **params}
    expected = theirs(clone(estimator), candidates, **params).fit(X, y)
    actual = ours(estimator, candidates, **params).fit(X, y)
    assert list(actual.cv_results_) == list(expected.cv_results_)
    for key, values in expected.cv_results_.items():
        if key == "params":
            assert list(map(str, actual.cv_results_[key])) == list(map(str, values))
        elif values.dtype == object:
            assert_array_equal(actual.cv_results_[key].astype(str), values.astype(str))
        elif not key.endswith("_time"):
            assert_allclose(actual.cv_results_[key], values, rtol=1e-6, atol=1e-9, err_msg=key)
    names = {name for name in vars(expected) if name.endswith("_") and name[0] != "_"}
    assert {name for name in vars(actual) if name.endswith("_")} - names == {
        "fused_", "not_fused_reasons_",
    }  # fmt: skip
    given_above = {"cv_results_", "scorer_", "best_estimator_", "best_score_", "refit_time_"}
    for name in names - given_above:
        assert str(getattr(actual, name)) == str(getattr(expected, name))
    return actual


FROM_THE_START, GOING_ON = 2 * (6 * 2 + 2 * 6), 2 * (6 * 2 + 2 * 4)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"dropout": 0.2, "normalization": "batch"},
        {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0.5, "shuffle": False},
        {"early_stopping": True, "class_weight": "balanced"},
        {"solver": "adamw"},
        {"ema_decay": 0.9, "early_stopping": True},
    ],
    ids=str,
)
def test_survivors_go_on_and_come_to_what_fits_from_the_start_come_to(params, epochs):
    search = assert_same(classifier(**params))
    assert search.n_candidates_ == [6, 2]
    assert search.n_resources_ == [2, 6]
    assert len(epochs) == FROM_THE_START + GOING_ON


@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate": "one_cycle"},
        {"dropout": 0.2, "dropout_schedule": "flat_cosine"},
        {"n_networks": 2},
        {"random_state": np.random.RandomState(0)},
    ],
    ids=["one_cycle", "dropout_schedule", "n_networks", "RandomState"],
)
def test_networks_start_anew_where_to_go_on_gives_something_else(params, epochs):
    assert_same(classifier(**params))
    assert len(epochs) == 2 * FROM_THE_START * params.get("n_networks", 1)


def test_networks_that_have_stopped_are_trained_no_more(epochs):
    grid = {"learning_rate_init": [1e-9, 1e-8, 1e-7], "alpha": [0.0, 0.1]}
    assert_same(classifier(n_iter_no_change=1, tol=1.0), grid, max_resources=18)
    # as many as in scikit-learn's first rung, and none later
    assert len(epochs) == 2 * 6 * 3 + 2 * 2 * 3 + 2 * 6 * 3


def test_networks_go_on_with_as_many_epochs_where_candidates_are_only_thrown_out(epochs):
    search = assert_same(
        classifier(), min_resources=4, max_resources=4, factor=2, aggressive_elimination=True
    )
    assert search.n_resources_ == [4, 4, 4]
    assert len(epochs) == 2 * 4 * (6 + 3 + 2) + 2 * 4 * 6


def test_networks_of_a_pipeline_go_on(epochs):
    pipeline = make_pipeline(StandardScaler(), classifier())
    grid = {f"deepmlpclassifier__{name}": values for name, values in GRID.items()}
    grid["standardscaler__with_std"] = [True]
    assert_same(pipeline, grid, resource="deepmlpclassifier__max_iter")
    assert len(epochs) == FROM_THE_START + GOING_ON


class OtherEachTime(TransformerMixin, BaseEstimator):
    """Multiplies by another number in each fit."""

    factors = itertools.count(1)

    def fit(self, X, y=None):
        self.factor_ = next(self.factors)
        return self

    def transform(self, X):
        return X * self.factor_


def test_a_network_whose_data_are_others_now_starts_anew(epochs):
    search = FusedHalvingGridSearchCV(
        make_pipeline(OtherEachTime(), classifier()),
        {f"deepmlpclassifier__{name}": values for name, values in GRID.items()},
        **EPOCHS | {"resource": "deepmlpclassifier__max_iter", "refit": False},
    ).fit(X, y)
    assert search.n_candidates_ == [6, 2]
    assert len(epochs) == FROM_THE_START


def test_what_would_take_too_much_memory_starts_anew(epochs, monkeypatch):
    monkeypatch.setattr(_evaluation, "MAX_STANDING_BYTES", 1000)
    assert_same(classifier())
    assert len(epochs) == 2 * FROM_THE_START


def test_rows_may_be_the_resource():
    search = assert_same(
        classifier(max_iter=2, batch_size=8), resource="n_samples", random_state=0,
        max_resources=60, min_resources=30, factor=2, scoring="accuracy",
    )  # fmt: skip
    assert search.n_resources_ == [30, 60]
    assert search.fused_.all()


def test_random_candidates_halve_as_scikit_learn_s(epochs):
    distributions = {"learning_rate_init": loguniform(1e-3, 1e-1), "alpha": [0.0, 0.1]}
    search = assert_same(
        classifier(), distributions, FusedHalvingRandomSearchCV, min_resources=2, random_state=0,
        n_candidates=6, refit=True,
    )  # fmt: skip
    assert search.best_estimator_.max_iter == 6
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    again = pickle.loads(pickle.dumps(search))
    assert_array_equal(again.predict(X), search.predict(X))


@pytest.mark.parametrize("factor", [1, 0.5])
def test_a_factor_that_eliminates_nobody_is_refused(factor):
    search = FusedHalvingGridSearchCV(classifier(), GRID, **EPOCHS, factor=factor)
    with pytest.raises(ValueError, match=rf"factor={factor} .*above 1"):
        search.fit(X, y)
