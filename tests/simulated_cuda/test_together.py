"""Networks that are trained together on the device: searches, cross-validation, ensembles."""

import pytest
from conftest import output
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection import (
    FusedGridSearchCV,
    FusedRandomizedSearchCV,
    cross_validate,
)
from tests.simulated_cuda.device import counted
from tests.simulated_cuda.pairs import X, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


GRIDS = {
    "numbers": {"alpha": [1e-4, 0.1], "learning_rate_init": [1e-3, 1e-2]},
    "rates": {"learning_rate": ["constant", "cosine", "one_cycle"], "weight_decay": [0.0, 0.1]},
    "shapes": {"activation": ["relu", "tanh"], "normalization": [None, "layer"]},
    "solvers": {"solver": ["sgd", "adam", "adamw"], "max_grad_norm": [None, 0.5]},
}


@pytest.mark.parametrize("name", GRIDS)
def test_searches_find_the_same(name, kind):
    searches = []
    for device in ("cpu", "cuda"):
        search = FusedGridSearchCV(
            new(kind, device, max_iter=3), GRIDS[name], cv=2, return_train_score=True
        )
        searches.append(search.fit(X, target_of(kind)))
    of_cpu, of_device = (search.cv_results_ for search in searches)
    for key in ("mean_test_score", "mean_train_score", "split1_test_score"):
        assert_allclose(of_device[key], of_cpu[key], rtol=1e-6)
    assert_allclose(output(searches[1], X), output(searches[0], X), rtol=1e-5, atol=1e-8)
    assert searches[1].best_estimator_.device_ == "cuda:0"


def test_networks_of_a_search_are_trained_at_once(kind):
    grid = {"alpha": [1e-4, 1e-3, 1e-2, 0.1]}
    tallies = []
    for values in (grid["alpha"][:1], grid["alpha"]):
        search = FusedGridSearchCV(new(kind), {"alpha": values}, cv=2, refit=False)
        with counted() as tally:
            search.fit(X, target_of(kind))
        tallies.append(tally)
    # a stack for each fold; four times as many networks are scored
    assert tallies[1].kernels < 2.5 * tallies[0].kernels


def test_searches_through_pipelines_find_the_same(kind):
    scores = []
    for device in ("cpu", "cuda"):
        pipeline = make_pipeline(StandardScaler(), new(kind, device))
        name = f"{kind.__name__.lower()}__alpha"
        search = FusedRandomizedSearchCV(
            pipeline, {name: [1e-4, 1e-2, 1.0]}, n_iter=3, cv=3, random_state=0
        )
        scores.append(search.fit(X, target_of(kind)).cv_results_["mean_test_score"])
    assert_allclose(scores[1], scores[0], rtol=1e-6)


@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"normalization": "batch"}], ids=str)
def test_cross_validation_is_that_of_single_fits(params, kind):
    network = new(kind, **params)
    y = target_of(kind)
    result = cross_validate(network, X, y, cv=3, return_estimator=True, return_indices=True)
    for fitted, rows in zip(result["estimator"], result["indices"]["train"], strict=True):
        alone = clone(network).fit(X[rows], None if y is None else y[rows])
        assert_allclose(fitted.loss_curve_, alone.loss_curve_, rtol=1e-6)
        assert_allclose(output(fitted, X), output(alone, X), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
@pytest.mark.parametrize(
    "params", [{}, {"normalization": "batch"}, {"early_stopping": True, "solver": "sgd"}], ids=str
)
def test_ensembles_are_the_same(kind, params):
    ensembles = [
        new(kind, device, n_networks=3, **params).fit(X, target_of(kind))
        for device in ("cpu", "cuda")
    ]
    for of_cpu, of_device in zip(*(e.estimators_ for e in ensembles), strict=True):
        assert of_device.device_ == "cuda:0"
        assert_allclose(of_device.loss_curve_, of_cpu.loss_curve_, rtol=1e-6)
    assert_allclose(output(ensembles[1], X), output(ensembles[0], X), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_ensembles_go_on(kind):
    first = {"classes": [0, 1, 2]} if kind is DeepMLPClassifier else {}
    ensembles = [new(kind, device, n_networks=2) for device in ("cpu", "cuda")]
    for ensemble in ensembles:
        for _ in range(3):
            ensemble.partial_fit(X, target_of(kind), **first)
    assert_allclose(output(ensembles[1], X), output(ensembles[0], X), rtol=1e-5, atol=1e-8)
