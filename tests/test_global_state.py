"""The random numbers and settings of the whole process are neither read nor written."""

import pickle
import random

import numpy as np
import pytest
import torch

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._hardware import threads

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (8, 4), "max_iter": 3, "random_state": 0, "device": "cpu"}
RNG = np.random.RandomState(0)
X = RNG.normal(size=(60, 5))
TARGETS = {
    DeepMLPClassifier: RNG.randint(0, 3, 60),
    DeepMLPRegressor: RNG.normal(size=60),
    AutoencoderTransformer: None,
}
CONFIGURATIONS = {
    "plain": {},
    "sgd": {"solver": "sgd"},
    "muon": {"solver": "muon"},
    "class of torch": {"solver": torch.optim.RMSprop},
    "lbfgs": {"solver": "lbfgs"},
    "dropout": {"dropout": 0.5},
    "dropout and batch normalisation": {"dropout": 0.25, "normalization": "batch"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3, "dropout": 0.1},
}
every_estimator = pytest.mark.parametrize("cls", TARGETS)
every_configuration = pytest.mark.parametrize("params", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def _state():
    """Return everything of the process that a fit could touch."""
    kind, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (kind, keys.tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "threads": torch.get_num_threads(),
        "threads of NumPy": threads.numpy_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy errors": np.geterr(),
    }


def _fit(cls, **params):
    return cls(**{**SMALL, **params}).fit(X, TARGETS[cls])


def _learned(estimator):
    """Return all weights and running statistics as one array."""
    return np.concatenate(
        [value.numpy().ravel() for value in estimator.module_.state_dict().values()]
    )


def _partial_fit(cls, params):
    classes = {"classes": np.arange(3)} if cls is DeepMLPClassifier else {}
    return cls(**{**SMALL, **params}).partial_fit(X, TARGETS[cls], **classes)


@every_estimator
@every_configuration
def test_fit_leaves_the_process_as_it_was(cls, params, two_threads):
    before = _state()
    _fit(cls, **params)
    assert _state() == before


@every_estimator
@pytest.mark.parametrize("params", [{}, {"dropout": 0.5}], ids=["plain", "dropout"])
def test_partial_fit_leaves_the_process_as_it_was(cls, params, two_threads):
    before = _state()
    estimator = _partial_fit(cls, params)
    estimator.partial_fit(X, TARGETS[cls])
    assert _state() == before


CALLS = [
    (cls, method)
    for cls, methods in {
        DeepMLPClassifier: ("predict", "predict_proba", "predict_log_proba", "score"),
        DeepMLPRegressor: ("predict", "score"),
        AutoencoderTransformer: (
            "transform", "inverse_transform", "reconstruction_error", "score_samples", "score",
            "fit_transform", "get_feature_names_out",
        ),
    }.items()
    for method in methods
]  # fmt: skip


@pytest.mark.parametrize(("cls", "method"), CALLS)
@pytest.mark.parametrize("params", [{}, {"dropout": 0.5}], ids=["plain", "dropout"])
def test_methods_leave_the_process_as_it_was(cls, method, params, two_threads):
    estimator = _fit(cls, **params)
    arguments = {"get_feature_names_out": (), "inverse_transform": (X[:, :1].repeat(32, axis=1),)}
    arguments = arguments.get(method, (X,))
    if method == "score":
        arguments = (X, TARGETS[cls])
    before = _state()
    getattr(estimator, method)(*arguments)
    assert _state() == before


@every_estimator
def test_pickling_leaves_the_process_as_it_was(cls, two_threads):
    estimator = _partial_fit(cls, {"dropout": 0.5})
    before = _state()
    pickle.loads(pickle.dumps(estimator)).partial_fit(X, TARGETS[cls])
    assert _state() == before


def _break_in_training(net, **kwargs):
    raise RuntimeError("broken by a callback")


@every_estimator
def test_a_fit_that_breaks_leaves_the_process_as_it_was(cls, two_threads):
    from skorch.callbacks import Callback

    breaking = type("Breaking", (Callback,), {"on_epoch_end": staticmethod(_break_in_training)})
    before = _state()
    with pytest.raises(RuntimeError, match="broken by a callback"):
        _fit(cls, callbacks=[breaking()], dropout=0.5)
    assert _state() == before


@every_estimator
def test_a_fit_that_diverges_leaves_the_process_as_it_was(cls, two_threads):
    before = _state()
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        _fit(cls, solver="sgd", learning_rate_init=1e200, activation="identity", max_iter=20)
    assert _state() == before


@every_estimator
@every_configuration
def test_fits_do_not_depend_on_what_others_drew(cls, params):
    expected = _learned(_fit(cls, **params))
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        np.testing.assert_array_equal(_learned(_fit(cls, **params)), expected)
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


@every_estimator
@pytest.mark.parametrize(
    "params", [p for name, p in CONFIGURATIONS.items() if name != "lbfgs"], ids=str
)
def test_another_seed_gives_another_network(cls, params):
    first, second = (_fit(cls, **params, **{"random_state": seed}) for seed in (0, 1))
    assert not np.array_equal(_learned(first), _learned(second))


@every_estimator
def test_the_seed_reaches_the_dropout_masks(cls):
    """Fits that differ in the masks alone differ."""
    plain, dropped = (_fit(cls, dropout=rate, max_iter=1) for rate in (0.0, 0.5))
    assert not np.allclose(_learned(plain), _learned(dropped), rtol=0, atol=1e-6)


@every_estimator
def test_without_a_seed_numpys_global_generator_is_used(cls):
    saved = np.random.get_state()
    try:
        np.random.seed(5)
        first = _learned(_fit(cls, random_state=None, dropout=0.5))
        between = np.random.get_state()[1:3]
        np.random.seed(5)
        second = _learned(_fit(cls, random_state=None, dropout=0.5))
        after = np.random.get_state()[1:3]
    finally:
        np.random.set_state(saved)
    np.testing.assert_array_equal(first, second)
    assert (between[0].tobytes(), between[1]) == (after[0].tobytes(), after[1])


@every_estimator
def test_the_default_dtype_of_torch_is_not_asked(cls):
    expected = _learned(_fit(cls, dropout=0.5, normalization="batch"))
    torch.set_default_dtype(torch.float64)
    try:
        actual = _learned(_fit(cls, dropout=0.5, normalization="batch"))
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype


@every_estimator
@every_configuration
def test_a_fit_works_where_gradients_are_switched_off(cls, params):
    expected = _learned(_fit(cls, **params))
    with torch.no_grad():
        actual = _learned(_fit(cls, **params))
    np.testing.assert_array_equal(actual, expected)
