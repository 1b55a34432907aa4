"""How much the device is asked for: transfers, waits and kernels of an epoch.

The figures are those of a longer training less those of a shorter one, so that what comes before
and after the epochs is not among them. They are upper bounds: lower one that can be lowered.
"""

import numpy as np
import pytest

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.engine import reported_losses
from sknn_deep._engine.order import Lookahead
from sknn_deep.model_selection import FusedGridSearchCV
from tests.simulated_cuda.device import Tally, counted

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
N_STEPS, N_EPOCHS = 10, 4
RNG = np.random.RandomState(0)
X, ROWS = RNG.uniform(size=(100, 20)), np.arange(100)
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


SHALLOW = {"hidden_layer_sizes": (8,)}
SIXTEEN = {"n_networks": 16}
RECORDED = {
    "classifier": (DeepMLPClassifier, {}, 26),
    "regressor": (DeepMLPRegressor, {}, 26),
    "autoencoder": (AutoencoderTransformer, {"hidden_layer_sizes": (8,), "n_components": 3}, 34),
    "sgd": (DeepMLPClassifier, {"solver": "sgd"}, 31),
    "double": (DeepMLPClassifier, {"dtype": "float64"}, 33),
    "schedule": (DeepMLPClassifier, {"learning_rate": "one_cycle"}, 26),
    "clipped": (DeepMLPClassifier, {"max_grad_norm": 1.0, "weight_decay": 0.1}, 32),
    "dropout": (DeepMLPClassifier, {"dropout": 0.1}, 31),
    "batch": (DeepMLPClassifier, {"normalization": "batch"}, 40),
    "layer": (DeepMLPClassifier, {"normalization": "layer"}, 40),
    "bfloat16": (DeepMLPClassifier, {"dtype": "bfloat16"}, 43),
    "adamw": (DeepMLPClassifier, {"solver": "adamw"}, 27),
    "nadam": (DeepMLPClassifier, {"solver": "nadam"}, 35),
    "radam": (DeepMLPClassifier, {"solver": "radam"}, 35),
    "rmsprop": (DeepMLPClassifier, {"solver": "rmsprop"}, 32),
    "adagrad": (DeepMLPClassifier, {"solver": "adagrad"}, 31),
    "16 networks": (DeepMLPClassifier, SIXTEEN, 26),
    "16 regressors": (DeepMLPRegressor, SIXTEEN, 26),
    "16 with sgd": (DeepMLPClassifier, {**SIXTEEN, "solver": "sgd"}, 31),
    "16 clipped": (DeepMLPClassifier, {**SIXTEEN, "max_grad_norm": 1.0, "weight_decay": 0.1}, 34),
    "16 with muon": (DeepMLPClassifier, {**SIXTEEN, "solver": "muon", "ema_decay": 0.9}, 110),
    "16 with batch and dropout": (
        DeepMLPClassifier,
        {**SIXTEEN, **SHALLOW, "normalization": "batch", "dropout": 0.1},
        30,
    ),
    "16 deeper with batch and dropout": (
        DeepMLPClassifier,
        {**SIXTEEN, "normalization": "batch", "dropout": 0.1},
        46,
    ),
    "16 with layer": (DeepMLPClassifier, {**SIXTEEN, **SHALLOW, "normalization": "layer"}, 28),
}


@pytest.mark.parametrize("name", RECORDED)
def test_an_epoch_is_one_graph_and_one_transfer_to_the_host(name):
    kind, params, most_kernels = RECORDED[name]
    tally = of_an_epoch(kind, **params)
    assert tally.to_host == tally.replays == tally.waits == 1
    assert tally.recorded == 0
    # the permutation and the table of factors
    assert tally.to_device <= 2
    assert calls(tally) <= 20
    assert tally.kernels <= most_kernels * N_STEPS


def test_networks_with_many_rates_are_moved_by_as_many_kernels_as_with_one():
    tallies = []
    for rates in (np.full(12, 1e-3), np.geomspace(1e-4, 1e-2, 12)):
        grid = {"learning_rate_init": rates.tolist()}
        network = DeepMLPClassifier(**PARAMS, max_iter=6)
        search = FusedGridSearchCV(network, grid, cv=[(ROWS, ROWS)], refit=False)
        with counted() as tally:
            search.fit(X, TARGETS[DeepMLPClassifier])
        tallies.append(tally)
    # by public operations, eight in the place of one
    assert tallies[1].kernels <= tallies[0].kernels + 6 * 7 * N_STEPS + 10
    assert tallies[1].replays == tallies[0].replays == 5


EAGER = {
    "muon": (DeepMLPClassifier, {"solver": "muon"}, 160),
    "variational": (AutoencoderTransformer, {"variational": True, "n_components": 3}, 100),
}


@pytest.mark.parametrize("name", EAGER)
def test_an_epoch_without_a_graph_is_one_transfer_to_the_host(name):
    kind, params, most_kernels = EAGER[name]
    tally = of_an_epoch(kind, **params)
    assert tally.to_host == tally.waits == 1
    assert tally.to_device <= 2
    assert tally.kernels <= most_kernels * N_STEPS


GUARDS = ("hardshrink.out", "clamp_min.out", "clamp.out")


@pytest.mark.parametrize("params", [{}, SIXTEEN], ids=["alone", "stack"])
def test_no_guard_against_denormal_numbers_is_on_a_device(params):
    with counted() as tally:
        DeepMLPClassifier(**PARAMS, **params, activation="logistic", max_iter=1).fit(
            X, TARGETS[DeepMLPClassifier]
        )
    assert [tally.calls(name) for name in GUARDS] == [0, 0, 0]
    assert tally.calls("sigmoid.out") > 0


@pytest.mark.parametrize("params", [{}, {"n_networks": 3}], ids=["alone", "stack"])
def test_the_next_order_is_drawn_before_the_host_waits(params, monkeypatch):
    log = []

    def draw(self, order):
        log.append("order")

    def losses(results, *args):
        assert results.device.type == "cpu"
        log.append("losses")
        return reported_losses(results, *args)

    monkeypatch.setattr(Lookahead, "draw", draw)
    for module in ("_engine.engine", "_training.stack"):
        monkeypatch.setattr(f"sknn_deep.{module}.reported_losses", losses)
    DeepMLPClassifier(**PARAMS, **params, max_iter=3).fit(X, TARGETS[DeepMLPClassifier])
    n_orders = 3 if params else 1  # networks of an ensemble have seeds of their own
    assert log == [*["order"] * n_orders, "losses"] * 3


@pytest.mark.parametrize("n_networks", [1, 16])
def test_a_network_comes_to_the_device_by_one_copy_and_from_there_to_nowhere(n_networks):
    with counted() as tally:
        DeepMLPClassifier(**PARAMS, n_networks=n_networks, max_iter=1, dropout=0.1).fit(
            X, TARGETS[DeepMLPClassifier]
        )
    # the weights; for all features, targets, orders, factors, rates, and which to take back
    assert tally.to_device <= n_networks + 11
    # the losses, and whether the weights are finite
    assert tally.to_host <= 1 + n_networks


def test_a_validation_set_takes_few_transfers():
    tally = of_an_epoch(DeepMLPClassifier, early_stopping=True)
    assert tally.to_host <= 3
    assert tally.to_device <= 4
    assert tally.kernels <= 26 * N_STEPS


def test_streamed_features_are_copied_once_an_epoch(monkeypatch):
    monkeypatch.setattr("sknn_deep._engine.batches._RESIDENT_SHARE", 0.0)
    tally = of_an_epoch(DeepMLPClassifier)
    assert tally.to_host == 1
    assert tally.to_device <= 3
    assert tally.replays == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions_take_one_transfer_each_way(dtype):
    network = DeepMLPClassifier(**PARAMS, max_iter=2).fit(X, TARGETS[DeepMLPClassifier])
    rows = X.astype(dtype)
    with counted() as tally:
        network.predict_proba(rows)
    assert tally.to_host == tally.to_device == 1
    assert tally.kernels <= 12
