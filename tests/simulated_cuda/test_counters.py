"""How much the device is asked for: transfers, waits and kernels of an epoch.

The figures are those of a longer training less those of a shorter one, so that what comes before
and after the epochs is not among them. They are upper bounds: lower one that can be lowered.
"""

import numpy as np
import pytest

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from tests.simulated_cuda.device import Tally, counted

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
N_STEPS, N_EPOCHS = 10, 4
RNG = np.random.RandomState(0)
X = RNG.uniform(size=(100, 20))
TARGETS = {
    DeepMLPClassifier: (X[:, 0] > 0.5).astype(int),
    DeepMLPRegressor: X[:, 0],
    AutoencoderTransformer: None,
}
PARAMS = {
    "hidden_layer_sizes": (8, 6),
    "batch_size": 10,
    "n_iter_no_change": np.inf,
    "random_state": 0,
    "device": "cuda",
}


def of_an_epoch(kind, **params):
    """Return a tally of one epoch in the middle of a training."""
    tallies = []
    for max_iter in (4, 4 + N_EPOCHS):
        with counted() as tally:
            kind(**{**PARAMS, **params}, max_iter=max_iter).fit(X, TARGETS[kind])
        tallies.append(tally)
    shorter, longer = tallies
    return Tally({name: (n - shorter.get(name, 0)) / N_EPOCHS for name, n in longer.items()})


def calls(tally):
    """Return how many kernels and graphs the host has launched."""
    return sum(n for name, n in tally.items() if name.startswith("aten::")) + tally.replays


RECORDED = {
    "classifier": (DeepMLPClassifier, {}, 35),
    "regressor": (DeepMLPRegressor, {}, 34),
    "autoencoder": (AutoencoderTransformer, {"hidden_layer_sizes": (8,), "n_components": 3}, 44),
    "sgd": (DeepMLPClassifier, {"solver": "sgd"}, 32),
    "schedule": (DeepMLPClassifier, {"learning_rate": "one_cycle"}, 35),
    "clipped": (DeepMLPClassifier, {"max_grad_norm": 1.0, "weight_decay": 0.1}, 41),
    "dropout": (DeepMLPClassifier, {"dropout": 0.1}, 44),
    "batch": (DeepMLPClassifier, {"normalization": "batch"}, 48),
    "layer": (DeepMLPClassifier, {"normalization": "layer"}, 50),
    "bfloat16": (DeepMLPClassifier, {"dtype": "bfloat16"}, 58),
}


@pytest.mark.parametrize("name", RECORDED)
def test_an_epoch_is_one_graph_and_one_transfer_to_the_host(name):
    kind, params, most_kernels = RECORDED[name]
    tally = of_an_epoch(kind, **params)
    assert tally.to_host == tally.replays == 1
    assert tally.recorded == 0
    # the permutation and the table of factors
    assert tally.to_device <= 2
    assert tally.waits <= 2
    assert calls(tally) <= 20
    assert tally.kernels <= most_kernels * N_STEPS


EAGER = {
    "adamw": (DeepMLPClassifier, {"solver": "adamw"}, 35),
    "muon": (DeepMLPClassifier, {"solver": "muon"}, 160),
    "variational": (AutoencoderTransformer, {"variational": True, "n_components": 3}, 100),
    "stack": (DeepMLPClassifier, {"n_networks": 8}, 39),
    "stack with dropout": (DeepMLPClassifier, {"n_networks": 8, "dropout": 0.1}, 90),
    "stack with normalization": (
        DeepMLPClassifier,
        {"n_networks": 8, "normalization": "batch"},
        160,
    ),
}


@pytest.mark.parametrize("name", EAGER)
def test_an_epoch_without_a_graph_is_one_transfer_to_the_host(name):
    kind, params, most_kernels = EAGER[name]
    tally = of_an_epoch(kind, **params)
    assert tally.to_host == 1
    assert tally.to_device <= 2
    assert tally.waits <= 3
    assert tally.kernels <= most_kernels * N_STEPS


def test_a_validation_set_takes_few_transfers():
    tally = of_an_epoch(DeepMLPClassifier, early_stopping=True)
    assert tally.to_host <= 3
    assert tally.to_device <= 4
    assert tally.kernels <= 35 * N_STEPS


def test_streamed_features_are_copied_once_an_epoch(monkeypatch):
    monkeypatch.setattr("sknn_deep._engine.batches._RESIDENT_SHARE", 0.0)
    tally = of_an_epoch(DeepMLPClassifier)
    assert tally.to_host == 1
    assert tally.to_device <= 3
    assert tally.replays == 1


def test_predictions_take_one_transfer_each_way():
    network = DeepMLPClassifier(**PARAMS, max_iter=2).fit(X, TARGETS[DeepMLPClassifier])
    with counted() as tally:
        network.predict_proba(X)
    assert tally.to_host == tally.to_device == 1
    assert tally.kernels <= 12
