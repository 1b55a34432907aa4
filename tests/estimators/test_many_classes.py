"""Many classes and outputs: less memory and time, the results of the usual way."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.losses import MANY_CLASSES
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
N_CLASSES = MANY_CLASSES + 6
OPTIONS = {"hidden_layer_sizes": (6,), "max_iter": 4, "batch_size": 500, "random_state": 0}
RNG = np.random.default_rng(0)
Y = np.r_[np.tile(np.arange(N_CLASSES), 3), RNG.integers(0, N_CLASSES, 800)]
X = RNG.normal(size=(len(Y), 5))


def assert_same_weights(one, other):
    for own, theirs in zip(
        one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True
    ):
        assert_allclose(own, theirs, rtol=1e-10, atol=1e-12)
    assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-10)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("weighted", [False, True])
def test_training_follows_scikit_learn(solver, weighted):
    weight = RNG.uniform(0.5, 2, len(Y)) if weighted else None
    ours, theirs = (
        cls(**OPTIONS | {"solver": solver}).fit(X, Y, sample_weight=weight)
        for cls in (DeepMLPClassifier, MLPClassifier)
    )
    if solver != "lbfgs":
        assert_same_weights(ours, theirs)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
    assert_array_equal(ours.predict(X), ours.classes_[ours.predict_proba(X).argmax(axis=1)])


def test_wide_targets_follow_scikit_learn():
    targets = RNG.normal(size=(600, 70))
    ours, theirs = (
        cls(**OPTIONS).fit(X[:600], targets) for cls in (DeepMLPRegressor, MLPRegressor)
    )
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.2, "class_weight": "balanced"},
        {"early_stopping": True, "dropout": 0.1, "n_networks": 2},
    ],
)
def test_indices_train_as_indicators_do(options, monkeypatch):
    ours = DeepMLPClassifier(**OPTIONS | options).fit(X, Y)
    monkeypatch.setattr("sknn_deep._engine.losses.MANY_CLASSES", N_CLASSES + 1)
    usual = DeepMLPClassifier(**OPTIONS | options).fit(X, Y)
    pairs = zip(*(getattr(m, "estimators_", [m]) for m in (ours, usual)), strict=True)
    for own, theirs in pairs:
        assert_same_weights(own, theirs)


def test_stacks_train_on_indices_as_on_indicators(monkeypatch):
    def scores():
        grid = {"alpha": [1e-4, 1e-3, 1e-2, 1e-1]}
        search = FusedGridSearchCV(DeepMLPClassifier(**OPTIONS), grid, cv=2, refit=False)
        assert (search.set_params(scoring="neg_log_loss").fit(X, Y).not_fused_reasons_ == "").all()
        return search.cv_results_["mean_test_score"]

    ours = scores()
    monkeypatch.setattr("sknn_deep._engine.losses.MANY_CLASSES", N_CLASSES + 1)
    assert_allclose(ours, scores(), rtol=1e-10)


def test_an_optimiser_that_asks_twice_reports_the_loss_before_its_step():
    class Twice(torch.optim.SGD):
        def step(self, closure):
            loss = closure()
            super().step(lambda: loss)
            closure()
            return loss

    once, twice = (
        DeepMLPClassifier(**OPTIONS | {"solver": solver}).fit(X, Y)
        for solver in (torch.optim.SGD, Twice)
    )
    assert_allclose(once.loss_curve_, twice.loss_curve_)
