"""Every kind of training on the device comes to the numbers of the CPU."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import KINDS
from numpy.testing import assert_allclose

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import batches
from sknn_deep._engine.solvers import STOCHASTIC_SOLVERS
from sknn_deep._networks.random_layers import Dropout
from tests.simulated_cuda.covering import covering
from tests.simulated_cuda.pairs import (
    TARGETS,
    HearsBatches,
    X,
    assert_same,
    fit_both,
    new,
    target_of,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations",
    "ignore:lbfgs failed to converge",
    "ignore:Got `batch_size` less than 1",
)

# bfloat16, in which Muon iterates too, turns a last digit into a hundredth
TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "bfloat16": 2e-2}
# the gradient of a bias before batch normalisation is nothing but rounding, and Adam scales it up
_ROUGH = "float32", "batch"

FACTORS = {
    "solver": STOCHASTIC_SOLVERS,
    "learning_rate": ["constant", "invscaling", "adaptive", "cosine", "one_cycle"],
    "normalization": [None, "batch", "layer"],
    "dtype": list(TOLERANCES),
    "activation": ["relu", "tanh", ["gelu", "selu"], ["silu", "logistic"], ["mish", "elu"]],
    "more": [
        {},
        {"alpha": 0.0, "max_grad_norm": 0.1},
        {"early_stopping": True, "n_iter_no_change": 2},
        {"weight_decay": 0.1, "shuffle": False},
        {"callbacks": [HearsBatches()]},
    ],
    "batch_size": [20, 45, 90],
    "weighted": [False, True],
}
OWN_FACTORS = {
    DeepMLPClassifier: {
        "y": ["two classes", "classes", "labels"],
        "loss": [{}, {"label_smoothing": 0.1}],
    },
    DeepMLPRegressor: {
        "y": ["one number", "numbers"],
        "loss": [
            {"loss": "squared_error"},
            {"loss": "absolute_error"},
            {"loss": "huber", "huber_delta": 0.5},
            {"loss": "quantile", "quantile": 0.3},
            {"loss": "poisson"},
        ],
    },
    AutoencoderTransformer: {
        "y": ["rows"],
        "loss": [
            {"loss": "squared_error", "loss_weights": [1, 2, 0.5, 1, 1, 3]},
            {"loss": "absolute_error", "sparsity": 0.01},
            {"loss": "huber", "huber_delta": 0.1, "output_activation": "logistic"},
            {"loss": "log_loss", "tied_weights": True},
            {"loss": "cosine", "noise": 0.1},
            {"noise": 0.2, "noise_kind": "masking", "contractive": 0.1},
            {"noise": 0.2, "noise_kind": "salt_pepper"},
            {"variational": True},
            {"order_code": True},
        ],
    },
}
CASES = [(kind, row) for kind, own in OWN_FACTORS.items() for row in covering({**FACTORS, **own})]
CASES = [
    (kind, row)
    for kind, row in CASES
    if row["dtype"] != "bfloat16" or not row["loss"].keys() & {"variational", "contractive"}
]


def test_all_pairs_of_values_are_covered():
    factors = {"a": [0, 1, 2], "b": "xy", "c": [None, True], "d": range(5)}
    rows = covering(factors)
    for one, other in itertools.combinations(factors, 2):
        pairs = {(row[one], row[other]) for row in rows}
        assert pairs == set(itertools.product(factors[one], factors[other]))
    assert len(rows) < 30, "all would be 60"


@pytest.mark.parametrize(
    ("kind", "row"), CASES, ids=[f"{kind.__name__}-{i}" for i, (kind, _) in enumerate(CASES)]
)
def test_training_is_the_same(kind, row, small_layers_are_rounded):  # as on the device
    y, weight = TARGETS[row["y"]], None
    if row["loss"].get("loss") == "poisson":
        y = np.exp(y)
    if row["weighted"]:
        weight = np.random.RandomState(1).uniform(0.5, 2, len(X))
    names = ("solver", "learning_rate", "normalization", "dtype", "activation", "batch_size")
    params = {name: row[name] for name in names} | row["more"] | row["loss"]
    if row["dtype"] == "bfloat16":  # a last digit may decide whether a loss is an improvement
        params["n_iter_no_change"] = 100
    is_rough = row["solver"] == "muon" or (row["dtype"], row["normalization"]) == _ROUGH
    tolerance = TOLERANCES["bfloat16" if is_rough else row["dtype"]]
    networks = fit_both(kind, y=y, fit_params={"sample_weight": weight}, **params)
    assert_same(networks, rtol=tolerance)


LBFGS = [
    (kind, y, loss)
    for kind, own in OWN_FACTORS.items()
    for y in own["y"]
    for loss in own["loss"]
    if not loss.keys() & {"noise", "contractive", "variational"}
]


@pytest.mark.parametrize(("kind", "y", "loss"), LBFGS, ids=str)
def test_lbfgs_is_the_same(kind, y, loss):
    y = TARGETS[y] if loss.get("loss") != "poisson" else np.exp(TARGETS[y])
    params = {"solver": "lbfgs", "max_iter": 8, "activation": "tanh"}
    assert_same(fit_both(kind, y=y, **params, **loss), rtol=1e-5)


# --------------------------------------------------------------------------------------
# chance


def _losses_of_chance(kind, device, **params):
    """Return the losses of a network that stays as it is, which differ by chance alone."""
    options = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 60, "batch_size": 90}
    options |= {"shuffle": False, "n_iter_no_change": np.inf}
    network = new(kind, device, **{"hidden_layer_sizes": (40,), **options, **params})
    return np.array(network.fit(X, target_of(kind)).loss_curve_)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_drops_as_much(kind, dropout):
    of_cpu, of_device = (
        _losses_of_chance(kind, device, dropout=dropout) for device in ("cpu", "cuda")
    )
    assert len(set(of_device)) == len(of_device), "each epoch has masks of its own"
    error = np.sqrt((of_cpu.var() + of_device.var()) / len(of_cpu))
    assert abs(of_cpu.mean() - of_device.mean()) < 4 * error
    assert 0.5 < of_device.std() / of_cpu.std() < 2


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_dropout_that_falls_is_not_what_was_recorded(kind):
    losses = {
        rate: _losses_of_chance(kind, "cuda", dropout=rate, dropout_schedule="flat_cosine")
        for rate in (0.0, 0.5)
    }
    # the rate falls from the middle of the training to zero
    distances = np.abs(losses[0.5] - losses[0.0])
    assert distances[-2:].max() < 0.05 * distances[:30].max()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_of_dropout_keep_their_mean(p):
    dropout = Dropout(p)
    dropout.generator = torch.Generator("cuda").manual_seed(0)
    mask = dropout.draw_(torch.empty(300, 300, device="cuda")).cpu()
    assert_allclose(mask.unique(), [0, 1 / (1 - p)], rtol=1e-6)
    assert abs((mask == 0).float().mean() - p) < 4 * np.sqrt(p * (1 - p) / mask.numel())


# --------------------------------------------------------------------------------------
# data


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("form", [sp.csr_array, np.asfortranarray, lambda X: X.astype(np.float32)])
def test_data_of_every_form_are_the_same(kind, form):
    y = target_of(kind)
    assert_same(fit_both(kind, form(X), y), form(X))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_features_that_are_streamed_are_the_same(kind, weighted, monkeypatch):
    monkeypatch.setattr(batches, "_RESIDENT_SHARE", 0.0)
    # a batch at a time, so that both buffers are used again and again
    monkeypatch.setitem(batches._GATHER_BYTES, "cuda", 1)
    y = target_of(kind)
    weight = np.random.RandomState(1).uniform(0.5, 2, len(X)) if weighted else None
    fit_params = {"sample_weight": weight}
    assert_same(fit_both(kind, y=y, fit_params=fit_params))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_validation_sets_are_the_same(kind):
    y = target_of(kind)
    held_out = {"X_val": X[::3]} | ({} if y is None else {"y_val": y[::3]})
    networks = fit_both(kind, y=y, fit_params=held_out)
    assert_same(networks)
    scores = [network.validation_scores_ for network in networks]
    assert_allclose(scores[1], scores[0], rtol=1e-6)


def test_missing_values_are_the_same():
    gaps = np.where(np.random.RandomState(2).uniform(size=X.shape) < 0.1, np.nan, X)
    networks = fit_both(AutoencoderTransformer, gaps, allow_nan=True)
    assert_same(networks, gaps)


def test_first_layers_of_another_network_are_the_same():
    encoders = fit_both(AutoencoderTransformer)
    networks = [new(DeepMLPClassifier, encoder.device, init_from=encoder) for encoder in encoders]
    assert_same([network.fit(X, TARGETS["classes"]) for network in networks])


OUTPUTS = {
    DeepMLPClassifier: ["predict", "predict_proba", "predict_log_proba"],
    DeepMLPRegressor: ["predict"],
    AutoencoderTransformer: ["transform", "reconstruction_error", "score_samples"],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_outputs_are_the_same(kind):
    y = target_of(kind)
    of_cpu, of_device = fit_both(kind, y=y)
    for name in OUTPUTS[kind]:
        expected = getattr(of_cpu, name)(X)
        assert_allclose(getattr(of_device, name)(X), expected, rtol=1e-5, atol=1e-8)
    assert of_device.score(X, y) == pytest.approx(of_cpu.score(X, y), rel=1e-5)


def test_codes_are_decoded_and_sampled_the_same():
    networks = fit_both(AutoencoderTransformer, variational=True)
    codes = networks[0].transform(X)
    decoded = [network.inverse_transform(codes) for network in networks]
    assert_allclose(decoded[1], decoded[0], rtol=1e-5)
    drawn = [network.sample(5, random_state=0) for network in networks]
    assert_allclose(drawn[1], drawn[0], rtol=1e-5)
