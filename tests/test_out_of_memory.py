"""Too little memory: predictions take smaller chunks, training says what would help."""

import pickle
import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.engine import Engine
from sknn_deep._hardware.device import OutOfMemoryError, is_out_of_memory
from sknn_deep._networks.flat import Network
from sknn_deep._training.stack import Stack

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "device": "cpu"}
METHODS = {
    DeepMLPClassifier: ("predict", "predict_proba", "predict_log_proba"),
    DeepMLPRegressor: ("predict",),
    AutoencoderTransformer: ("transform", "reconstruction_error", "score_samples"),
}


def outputs(network, X):
    return [getattr(network, method)(X) for method in METHODS[type(network)]]


# --------------------------------------------------------------------------------------
# prediction


@pytest.fixture
def room_for(monkeypatch):
    """Offer what leaves room for so many rows in a pass; it returns the sizes that were tried."""

    def leave(n_rows):
        tried = []
        for name in ("__call__", "encode", "outputs"):
            for cls in Network.__subclasses__():
                original = getattr(cls, name, None)
                if original is not None:
                    monkeypatch.setattr(cls, name, _short_of(original, n_rows, tried))
        return tried

    return leave


def _short_of(original, n_rows, tried):
    def passes(self, x, *others):
        if not self.training:
            tried.append(len(x))
            if len(x) > n_rows:
                raise torch.OutOfMemoryError("no room\nfor the rows")
        return original(self, x, *others)

    return passes


def test_prediction_halves_its_chunks_until_they_fit(
    kind, digits, room_for, torch_threads, torch_predicts
):
    torch_threads(1)
    network = kind(**QUICK).fit(digits.X, digits.y)
    expected = outputs(network, digits.X_test)
    tried = room_for(100)
    for output, in_one_piece in zip(outputs(network, digits.X_test), expected, strict=True):
        assert_allclose(output, in_one_piece, rtol=1e-9, atol=1e-12)
    # so few rows are first tried at once; then parts are halved, and stay as small as the first fit
    at_once, in_parts = [450], [450, 225, 112, *[56] * 8, 2]
    assert tried == len(expected) * (at_once + in_parts)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_validation_scores_are_found_in_smaller_chunks_too(
    n_networks, digits, room_for, torch_predicts
):
    options = {**QUICK, "early_stopping": True, "n_networks": n_networks}
    expected = DeepMLPClassifier(**options).fit(digits.X, digits.y)
    tried = room_for(50)
    classifier = DeepMLPClassifier(**options).fit(digits.X, digits.y)
    assert min(tried) < 50 < max(tried)
    pairs = [
        (network.best_validation_score_, network.loss_curve_)
        for ensemble in (classifier, expected)
        for network in getattr(ensemble, "estimators_", [ensemble])
    ]
    assert pairs[:n_networks] == pairs[n_networks:]


def test_no_room_for_a_single_row_is_an_error_that_says_so(kind, digits, room_for, torch_predicts):
    network = kind(**QUICK).fit(digits.X, digits.y)
    room_for(0)
    message = (
        "The memory of device='cpu' is too small to predict a single row (no room). Free memory "
        "there, or pickle the estimator and load it where there is more."
    )
    with pytest.raises(OutOfMemoryError, match=f"^{re.escape(message)}$"):
        outputs(network, digits.X_test)


# --------------------------------------------------------------------------------------
# training


def _no_room(*args, **kwargs):
    raise torch.OutOfMemoryError("no room\nand more lines")


def _break_down(monkeypatch, step):
    """Let training run out of memory in a step, counted from 0."""
    original, steps = Engine._write_gradient, []

    def write_gradient(self, *args):
        steps.append(self)
        return _no_room() if len(steps) > step else original(self, *args)

    monkeypatch.setattr(Engine, "_write_gradient", write_gradient)
    monkeypatch.setattr(Stack, "train_epoch", _no_room)
    monkeypatch.setattr("sknn_deep._training.whole_set.fit_lbfgs", _no_room)


@pytest.mark.parametrize("caught", [MemoryError, torch.OutOfMemoryError])
def test_training_says_what_it_needs_and_what_to_change(caught, digits, monkeypatch):
    _break_down(monkeypatch, step=2)
    classifier = DeepMLPClassifier(**QUICK)
    # 64-8-10: 610 parameters, 5 numbers of each in 8 bytes; 64 + 2 * 8 + 5 * 10 numbers of each of
    # the 347 rows in the first and in the last batch, which has buffers of its own
    message = (
        "Training on device='cpu' ran out of memory. It takes about 0.000385 GB: 2.44e-05 GB for "
        "a network of 610 parameters with gradients and the optimiser's state, and 0.000361 GB "
        "for 200 rows at once. To take less, choose a batch_size below 200, or lower "
        "hidden_layer_sizes=(8,), or choose dtype='float32'. The first that did not fit: no room"
    )
    with pytest.raises(caught, match=f"^{re.escape(message)}$"):
        classifier.fit(digits.X, digits.y)
    assert not hasattr(classifier, "module_")


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.filterwarnings("ignore:A stack of . networks does not fit")
def test_an_ensemble_tells_what_all_its_networks_take(method, digits, monkeypatch):
    ensemble = DeepMLPClassifier(**QUICK, n_networks=5).fit(digits.X, digits.y)
    _break_down(monkeypatch, step=0)
    # 610 parameters, 4 numbers of each in 8 bytes, 5 networks
    message = (
        "This is one of n_networks=5, which take about 9.76e-05 GB together when they are trained; "
        "fewer take less."
    )
    with pytest.raises(OutOfMemoryError, match=re.escape(message)):
        getattr(ensemble, method)(digits.X, digits.y)


def test_a_copy_of_the_features_is_told(digits, monkeypatch):
    _break_down(monkeypatch, step=0)
    words = f"and {4 * digits.X.size / 1e9:.3g} GB for a copy of the features."
    remedy = "or pass X as a C-ordered array of float32"
    classifier = DeepMLPClassifier(**QUICK, dtype="float32")
    with pytest.raises(OutOfMemoryError, match=f"{re.escape(words)}.*{remedy}"):
        classifier.fit(digits.X.astype(np.float64), digits.y)
    with pytest.raises(OutOfMemoryError, match="It takes about") as error:
        classifier.fit(digits.X.astype(np.float32), digits.y)
    assert "copy of the features" not in str(error.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "choose a batch_size below 200, or lower hidden_layer_sizes=(8,), or choose dtype"),
        ({"batch_size": 3}, "lower hidden_layer_sizes=(8,), or choose a batch_size below 3"),
        ({"dtype": "float32"}, "200, or lower hidden_layer_sizes=(8,), or pass X as a C-ordered"),
        ({"solver": "lbfgs"}, "choose solver='adam', which takes the rows in batches, or lower"),
        ({"solver": "lbfgs"}, "for 1,347 rows at once"),
    ],
    ids=str,
)
def test_advice_suits_what_takes_the_memory(params, words, digits, monkeypatch):
    _break_down(monkeypatch, step=0)
    with pytest.raises(OutOfMemoryError, match=re.escape(words)):
        DeepMLPClassifier(**{**QUICK, **params}).fit(digits.X, digits.y)


CALLS = {
    "fit": {},
    "warm start": {"warm_start": True},
    "partial_fit": {},
    "other data": {},
    "larger network": {"hidden_layer_sizes": (16, 4)},
    "early stopping": {"early_stopping": True},
    "callbacks": {"solver": "adamw", "normalization": "batch", "dropout": 0.1},
    "lbfgs": {"solver": "lbfgs"},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("step", [0, 5], ids=["first step", "later"])
def test_what_was_fitted_before_is_fitted_still(step, call, kind, digits, monkeypatch):
    network = kind(**QUICK).fit(digits.X, digits.y)
    if call == "partial_fit":
        network.partial_fit(digits.X, digits.y)
    _assert_kept(network.set_params(**CALLS[call]), call, step, digits, monkeypatch)


@pytest.mark.parametrize("call", ["fit", "warm start", "partial_fit"])
@pytest.mark.filterwarnings("ignore:A stack of 3 networks does not fit")
@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor])
def test_what_an_ensemble_has_learned_is_kept(cls, call, digits, monkeypatch):
    ensemble = cls(**QUICK, n_networks=3).fit(digits.X, digits.y)
    # the second network fails in partial_fit and in a warm start, after the first has learned
    step = {"partial_fit": 10, "warm start": 30, "fit": 0}[call]
    _assert_kept(ensemble.set_params(**CALLS[call]), call, step, digits, monkeypatch)


def _assert_kept(network, call, step, digits, monkeypatch):
    expected, state = outputs(network, digits.X_test), pickle.dumps(network)
    with monkeypatch.context() as patched:
        _break_down(patched, step)
        X, y = (digits.X[:, :10], digits.y % 3) if call == "other data" else (digits.X, digits.y)
        with pytest.raises(OutOfMemoryError, match="ran out of memory"):
            getattr(network, "partial_fit" if call == "partial_fit" else "fit")(X, y)
    for output, before in zip(outputs(network, digits.X_test), expected, strict=True):
        assert_array_equal(output, before)
    # and it goes on as it would have
    twin = pickle.loads(state)
    for each in (network, twin):
        each.set_params(warm_start=False).fit(digits.X[:300], digits.y[:300])
    assert_array_equal(outputs(network, digits.X_test)[0], outputs(twin, digits.X_test)[0])


def test_a_network_that_no_address_space_holds(kind, digits):
    network = kind(**QUICK).fit(digits.X, digits.y)
    expected = outputs(network, digits.X_test)
    network.set_params(hidden_layer_sizes=(10**7, 10**7))
    with pytest.raises(
        MemoryError, match=r"takes about \d.* GB: .*lower hidden_layer_sizes=\(1000"
    ):
        network.fit(digits.X, digits.y)
    for output, before in zip(outputs(network, digits.X_test), expected, strict=True):
        assert_array_equal(output, before)


def test_the_error_can_be_pickled_by_workers():
    error = pickle.loads(pickle.dumps(OutOfMemoryError("no room")))
    assert isinstance(error, MemoryError)
    assert str(error) == "no room"


def test_want_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as host:
        torch.empty(2**60)
    assert is_out_of_memory(host.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@needs_cuda
def test_a_real_device_runs_out_and_goes_on():
    X = np.random.RandomState(0).normal(size=(20_000, 64)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    options = {"hidden_layer_sizes": (4096,), "max_iter": 1, "device": "cuda", "random_state": 0}
    classifier = DeepMLPClassifier(**options).fit(X, y)
    expected = classifier.predict_proba(X)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 40 * 2**20) / total  # one chunk alone takes 32 MiB a layer
    )
    try:
        assert_allclose(classifier.predict_proba(X), expected, atol=1e-5)
        with pytest.raises(OutOfMemoryError, match="ran out of memory"):
            classifier.set_params(hidden_layer_sizes=(20_000, 20_000)).fit(X, y)
        assert_allclose(classifier.predict_proba(X), expected, atol=1e-5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
