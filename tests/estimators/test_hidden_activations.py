"""What hidden layers make of rows, by a method and as a step of a pipeline."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sknn_deep import (
    DeepMLPClassifier,
    DeepMLPRegressor,
    HiddenActivations,
    TabularMLPRegressor,
    load,
    save,
)

SMALL = {"max_iter": 3, "random_state": 0, "device": "cpu"}
CHECKED = {"hidden_layer_sizes": (8,), "max_iter": 20, "learning_rate_init": 0.05, **SMALL}
STEPS = [
    HiddenActivations(DeepMLPClassifier(**CHECKED)),
    HiddenActivations(DeepMLPRegressor(**CHECKED), layer=0),
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names"),
]


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_hidden_activations_are_those_of_the_layer(layer, iris):
    network = DeepMLPClassifier((7, 5), normalization="layer", dropout=0.2, **SMALL).fit(*iris)
    # after the linear layer, its normalisation and its activation
    n_modules = 3 if layer in (0, -2) else 7
    with torch.no_grad():
        expected = network.module_.layers[:n_modules](torch.from_numpy(iris[0])).numpy()
    actual = network.hidden_activations(iris[0], layer=layer)
    np.testing.assert_array_equal(actual, expected)


def test_those_of_an_ensemble_stand_side_by_side(iris):
    table = pd.DataFrame({"number": iris[0][:, 0], "text": np.resize(["a", "b", "c"], 150)})
    ensemble = TabularMLPRegressor(hidden_layer_sizes=(6,), n_networks=3, max_iter=2)
    ensemble.fit(table, iris[1])
    activations = ensemble.hidden_activations(table)
    assert activations.shape == (150, 18)
    for number, network in enumerate(ensemble.estimators_):
        own = activations[:, 6 * number : 6 * number + 6]
        np.testing.assert_array_equal(own, network.hidden_activations(table))


@pytest.mark.parametrize("layer", [2, -3, 0.5, True, None])
def test_other_layers_are_refused(layer, iris):
    network = DeepMLPClassifier((7, 5), **SMALL).fit(*iris)
    with pytest.raises(
        ValueError, match=rf"layer={layer} is not a hidden layer of a network that has 2"
    ):
        network.hidden_activations(iris[0], layer=layer)
    with pytest.raises(ValueError, match="the network has none"):
        DeepMLPClassifier((), **SMALL).fit(*iris).hidden_activations(iris[0])


@parametrize_with_checks(STEPS)
def test_the_step_complies(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_param_validation",
        "check_dataframe_column_names_consistency",
        "check_get_feature_names_out_error",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
    ],
)
def test_the_step_complies_where_it_is_not_asked(name):
    getattr(estimator_checks, name)("HiddenActivations", clone(STEPS[0]))


def test_a_step_fits_its_network_to_the_target(iris):
    X, y = iris
    network = DeepMLPClassifier((7, 5), **SMALL)
    step = HiddenActivations(network, layer=0).fit(X, y, sample_weight=np.ones(150))
    np.testing.assert_array_equal(step.transform(X), network.fit(X, y).hidden_activations(X, 0))
    frozen = HiddenActivations(FrozenEstimator(network)).fit(X, y)
    assert frozen.transform(X).shape == (150, 5)
    assert list(frozen.get_feature_names_out())[:2] == ["hiddenactivations0", "hiddenactivations1"]


def test_a_step_is_searched_and_saved(iris, tmp_path):
    pipeline = make_pipeline(
        HiddenActivations(DeepMLPClassifier((7, 5), **SMALL)), KNeighborsClassifier()
    )
    grid = {"hiddenactivations__layer": [0, 1], "hiddenactivations__estimator__alpha": [0.1]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(*iris)
    best = search.best_estimator_[0]
    save(best, tmp_path / "step.skops")
    loaded = load(tmp_path / "step.skops")
    np.testing.assert_array_equal(loaded.transform(iris[0]), best.transform(iris[0]))
