"""An estimator for each fit is what clone makes."""

import re

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import Ridge
from skorch.callbacks import EpochScoring

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection._trials import own_estimator


def _fitted():
    network = DeepMLPRegressor(hidden_layer_sizes=(2,), max_iter=1, solver="lbfgs", max_fun=1)
    return network.fit(np.eye(3), np.arange(3.0))


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize(
    "make",
    [
        lambda: DeepMLPClassifier((4, 3), alpha=0.5),
        lambda: DeepMLPClassifier([4, 3], random_state=np.random.RandomState(0)),
        lambda: DeepMLPRegressor(callbacks=[EpochScoring("r2")]),
        _fitted,
        lambda: Ridge(3.0),
    ],
)
def test_each_fit_has_what_clone_makes(make):
    estimator = make()
    own, expected = own_estimator(estimator), clone(estimator)
    assert own is not estimator
    assert type(own) is type(expected)
    assert vars(own).keys() == vars(expected).keys()
    addresses = re.compile("0x[0-9a-fA-F]+")
    assert addresses.sub("", str(own)) == addresses.sub("", str(expected))
    for name, value in estimator.get_params(deep=False).items():
        is_plain = value is None or isinstance(value, bool | int | float | str | tuple)
        assert is_plain or getattr(own, name) is not value


def test_metadata_requests_come_along():
    with config_context(enable_metadata_routing=True):
        network = DeepMLPClassifier().set_fit_request(sample_weight=True)
        own = own_estimator(network)
        assert own.get_metadata_routing().fit.requests["sample_weight"] is True
        own.set_fit_request(sample_weight=False)
        assert network.get_metadata_routing().fit.requests["sample_weight"] is True
