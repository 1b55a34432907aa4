"""Input layers of tables on the device: scales, embeddings and categories as on the CPU."""

import numpy as np
import pandas as pd
import pytest
from conftest import output
from numpy.testing import assert_allclose

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPRegressor,
)
from sknn_deep.model_selection import FusedGridSearchCV
from tests.simulated_cuda.pairs import TARGETS, X, new

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

FRAME = pd.DataFrame(X, columns=list("abcdef")).assign(
    b=lambda frame: frame["b"].where(frame["b"] > 0.2),
    c=lambda frame: np.where(frame["c"] > 0.5, "high", "low"),
    d=lambda frame: (10 * frame["d"]).astype(int).astype(str),
)
OPTIONS = {
    "plain": {"scaling": "standard"},
    "piecewise": {"numeric_embedding": "piecewise_linear", "scaling": "robust", "n_bins": 5},
    "periodic": {"numeric_embedding": "periodic", "n_frequencies": 3, "scaling": "standard"},
}
KINDS = {DeepMLPClassifier: "classes", DeepMLPRegressor: "one number"}
TABLE = {"allow_nan": True, "max_one_hot": 3}


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "muon"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_learned_as_on_the_cpu(kind, options, solver):
    y = TARGETS[KINDS[kind]]
    both = [new(kind, device, solver=solver, **TABLE, **options) for device in ("cpu", "cuda")]
    found = [output(network.fit(FRAME, y), FRAME) for network in both]
    # Muon iterates in bfloat16, which turns a last digit into a hundredth
    assert_allclose(found[1], found[0], rtol=0, atol=2e-2 if solver == "muon" else 1e-6)
    assert both[1].device_ == "cuda:0"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_fused_search_is_that_of_the_cpu(options):
    grid, y = {"alpha": [0.0, 0.1], "learning_rate_init": [0.001, 0.01]}, TARGETS["one number"]
    scores = []
    for device in ("cpu", "cuda"):
        network = new(DeepMLPRegressor, device, **TABLE, **options)
        search = FusedGridSearchCV(network, grid, cv=2).fit(FRAME, y)
        scores.append(search.cv_results_["mean_test_score"])
    assert_allclose(scores[1], scores[0], atol=1e-6)


def test_the_defaults_for_tables_train_and_predict_there():
    y = 1000 * TARGETS["one number"]
    params = {"n_networks": 1, "max_iter": 3, "random_state": 0}
    both = [
        TabularMLPRegressor(**params, device=device).fit(FRAME, y) for device in ("cpu", "cuda")
    ]
    # dropout draws other masks there
    assert both[1].device_ == "cuda:0"
    assert np.isfinite(both[1].predict(FRAME)).all()
    assert_allclose(both[1].target_scale_, both[0].target_scale_)


def test_an_ensemble_with_muon_is_that_of_the_cpu():
    y = TARGETS["one number"]
    params = {"solver": "muon", "n_networks": 3, "ema_decay": 0.9, "embedding_weight_decay": 0.1}
    found = []
    for device in ("cpu", "cuda"):
        network = new(DeepMLPRegressor, device, **TABLE, **OPTIONS["piecewise"], **params)
        found.append(output(network.fit(FRAME, y), FRAME))
    assert_allclose(found[1], found[0], atol=2e-2)


@pytest.mark.parametrize("params", [{}, {"variational": True}], ids=str)
def test_an_autoencoder_of_a_table_is_that_of_the_cpu(params):
    fitted = [
        new(AutoencoderTransformer, device, scaling="standard", allow_nan=True, **params).fit(FRAME)
        for device in ("cpu", "cuda")
    ]
    errors = [network.reconstruction_error(FRAME, per_feature=True) for network in fitted]
    assert errors[1].shape == FRAME.shape
    if not params:  # the device draws other numbers
        assert_allclose(errors[1], errors[0], atol=1e-6)
