"""Arrays of other libraries, with scikit-learn's ``array_api_dispatch``, on the host.

``tests/simulated_cuda/test_array_api.py`` has those that are on an accelerator.
"""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    NamespaceAndDevice,
    check_array_api_input,
    check_array_api_mixed_inputs,
)

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor, HiddenActivations

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
PARAMS = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}
ESTIMATORS = [
    DeepMLPClassifier(**PARAMS),
    DeepMLPClassifier(**PARAMS, n_networks=2, early_stopping=True, calibration="temperature"),
    DeepMLPRegressor(**PARAMS, target_scaling="standard"),
    DeepMLPRegressor(**PARAMS, loss="normal", n_networks=2),
    AutoencoderTransformer(**PARAMS, n_components=2),
    AutoencoderTransformer(**PARAMS, n_components=2, scaling="standard"),
    HiddenActivations(DeepMLPClassifier(**PARAMS)),
]
NAMESPACES = ["torch", "array_api_strict"]
RNG = np.random.RandomState(0)
X = RNG.uniform(size=(40, 3))
y = (X[:, 0] > 0.5).astype(int)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_scikit_learns_check_of_array_api_input(estimator, namespace):
    pytest.importorskip(namespace)
    check_array_api_input(
        type(estimator).__name__,
        estimator,
        namespace,
        device_name="cpu" if namespace == "torch" else None,
        dtype_name="float64",
        check_values=True,
        check_sample_weight=not isinstance(estimator, HiddenActivations),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_arrays_of_several_libraries_go_together(estimator):
    pytest.importorskip("array_api_strict")
    with_weights = not isinstance(estimator, HiddenActivations)
    for own, others in (("torch", "numpy"), ("numpy", "torch"), ("array_api_strict", "torch")):
        check_array_api_mixed_inputs(
            type(estimator).__name__,
            estimator,
            NamespaceAndDevice(own, None),
            NamespaceAndDevice(others, None),
            check_values=True,
            check_sample_weight=with_weights,
        )


def test_everything_that_returns_arrays_returns_those_of_x():
    tensor = torch.from_numpy(X)
    classifier = DeepMLPClassifier(**PARAMS).fit(X, y)
    regressor = DeepMLPRegressor(
        **PARAMS, loss="quantile", quantiles=[0.1, 0.9], early_stopping=True,
        validation_fraction=0.4,
    ).fit(X, y)  # fmt: skip
    normal = DeepMLPRegressor(**PARAMS, loss="normal").fit(X, y)
    autoencoder = AutoencoderTransformer(**PARAMS, n_components=2).fit(X)
    for method, options in (
        (classifier.hidden_activations, {"layer": 0}),
        (regressor.predict_quantiles, {}),
        (regressor.predict_interval, {"coverage": 0.5}),
        (autoencoder.reconstruction_error, {"per_feature": True}),
        (autoencoder.predict, {}),
        (normal.predict, {"return_std": True}),
    ):
        expected = method(X, **options)
        with config_context(array_api_dispatch=True):
            found = method(tensor, **options)
        pairs = zip(found, expected, strict=True) if type(found) is tuple else [(found, expected)]
        for own, known in pairs:
            assert type(own) is torch.Tensor
            assert_allclose(own.numpy(), known)


def test_labels_that_are_texts_stay_texts():
    with config_context(array_api_dispatch=True):
        classifier = DeepMLPClassifier(**PARAMS).fit(torch.from_numpy(X), np.array(["a", "b"])[y])
        assert set(classifier.predict(torch.from_numpy(X))) <= {"a", "b"}
        assert type(classifier.predict_proba(torch.from_numpy(X))) is torch.Tensor


def test_without_dispatch_a_tensor_is_read_as_an_array():
    autoencoder = AutoencoderTransformer(**PARAMS, n_components=2).fit(torch.from_numpy(X))
    assert type(autoencoder.mean_) is type(autoencoder.transform(torch.from_numpy(X))) is np.ndarray


def test_what_is_learned_is_seen_where_the_last_x_was():
    scaler = DeepMLPRegressor(**PARAMS, target_scaling="standard")
    with config_context(array_api_dispatch=True):
        scaler.fit(torch.from_numpy(X), y)
        assert type(scaler.target_scale_) is torch.Tensor
        assert type(pickle.loads(pickle.dumps(scaler)).target_scale_) is np.ndarray
        assert_allclose(scaler.predict(X), scaler.predict(torch.from_numpy(X)).numpy())
    assert type(clone(scaler).fit(X, y).target_scale_) is np.ndarray
    assert type(scaler.fit(X, y).target_scale_) is np.ndarray


def test_rounded_tensors_and_those_with_a_gradient_are_read():
    tensor = torch.from_numpy(X).bfloat16().requires_grad_()
    with config_context(array_api_dispatch=True):
        classifier = DeepMLPClassifier(**PARAMS).fit(tensor, y)
        assert not classifier.predict_proba(tensor).requires_grad
    assert np.isfinite(classifier.loss_)


@pytest.mark.parametrize("namespace", ["jax.numpy", "cupy"])
def test_other_libraries_where_they_are_installed(namespace):
    xp = pytest.importorskip(namespace)
    with config_context(array_api_dispatch=True):
        classifier = DeepMLPClassifier(**PARAMS).fit(xp.asarray(X, dtype="float32"), y)
        probabilities = classifier.predict_proba(xp.asarray(X, dtype="float32"))
    assert isinstance(probabilities, type(xp.asarray(X)))
