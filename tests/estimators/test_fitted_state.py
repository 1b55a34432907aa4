"""The one list of what a fit leaves behind names all of it, and nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sknn_deep._estimators.fitted_state import check_fitted_state, fitted_names

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
    pytest.mark.filterwarnings("ignore:.*units? of the code (is|are) the same"),
]

X = pd.DataFrame(np.random.RandomState(0).uniform(size=(30, 3)), columns=["a", "b", "c"])
Y = np.arange(30) % 2
QUICK = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
# L-BFGS takes no dropout; an ensemble has few attributes of its own
PLAIN = {"dropout": 0.0, "n_networks": 1}
FITS = [
    {},
    {"solver": "lbfgs"},
    {"early_stopping": True, "validation_fraction": 0.3},
    {"n_networks": 2},
    {"class_weight": "balanced"},
    {"order_code": True},
    {"scaling": "standard"},
    {"target_scaling": "standard"},
    {"loss": "quantile", "quantiles": [0.1, 0.9]},
    {"early_stopping": True, "validation_fraction": 0.3, "calibration": "temperature"},
    {"n_candidates": 2},
]


def attributes(cls):
    """Return what fits of a class leave behind, all kinds together."""
    left = set()
    plain = {name: value for name, value in PLAIN.items() if name in cls().get_params()}
    for params in FITS:
        if set(params) <= set(cls().get_params()):
            estimator = cls(**QUICK, **(plain | params)).fit(X, Y)
            check_fitted_state(estimator)
            left |= vars(estimator).keys() - estimator.get_params().keys()
    with config_context(array_api_dispatch=True):
        dispatched = cls(**QUICK, **plain).fit(torch.tensor(X.to_numpy()), Y)
    left |= vars(dispatched).keys() - dispatched.get_params().keys()
    loaded = cls(**QUICK, **plain)
    loaded.__setstate__(cls(**QUICK, **plain).fit(X, Y).__getstate__())  # has an optimiser's state
    return left | vars(loaded).keys() - loaded.get_params().keys()


@pytest.mark.parametrize(
    "cls",
    [
        *(DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer),
        *(TabularMLPClassifier, TabularMLPRegressor),
    ],
)
def test_the_list_has_all_that_a_fit_leaves_behind(cls):
    on_cuda_only = {"_kept_engine"}
    assert attributes(cls) == set(fitted_names(cls)) - on_cuda_only


def test_the_list_tells_what_sets_an_attribute():
    assert set(fitted_names(DeepMLPClassifier, "data")) == {
        "n_features_in_",
        "feature_names_in_",
        "n_outputs_",
        "out_activation_",
        "_columns",
        "classes_",
        "_label_binarizer",
    }
    assert fitted_names(AutoencoderTransformer, "progress") == [
        "loss_curve_",
        "best_loss_",
        "validation_scores_",
        "validation_loss_curve_",
        "best_validation_score_",
    ]


def test_an_estimator_that_contradicts_itself_is_told():
    estimator = DeepMLPRegressor(**QUICK).fit(X, Y)
    estimator.n_features_in_ = "3"
    with pytest.raises(ValueError, match="n_features_in_ should be a positive integer, got '3'"):
        check_fitted_state(estimator)
