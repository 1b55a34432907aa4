"""Tensors on the device: they are read there, and what comes of them stays there."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_array_api_input
from torch.utils._python_dispatch import TorchDispatchMode

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor, HiddenActivations

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
PARAMS = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "batch_size": 20}
RNG = np.random.RandomState(0)
N_ROWS = 100
X = RNG.uniform(size=(N_ROWS, 5)).astype(np.float32)
y = (X[:, 0] > 0.5).astype(int)


ESTIMATORS = [
    DeepMLPClassifier(**PARAMS),
    DeepMLPClassifier(**PARAMS, n_networks=2, early_stopping=True, calibration="temperature"),
    DeepMLPRegressor(**PARAMS, target_scaling="standard"),
    DeepMLPRegressor(**PARAMS, loss="normal", n_networks=2),
    AutoencoderTransformer(**PARAMS, n_components=2),
    AutoencoderTransformer(**PARAMS, n_components=2, scaling="standard"),
    HiddenActivations(DeepMLPClassifier(**PARAMS)),
]


@pytest.fixture(autouse=True)
def _dispatch():
    with config_context(array_api_dispatch=True):
        yield


class LargestCopies(TorchDispatchMode):
    """Notes how many numbers came from a device to the host, or went there, at most at a time."""

    to_host = to_device = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [value.device.type for value in args if isinstance(value, torch.Tensor)]
        if isinstance(result, torch.Tensor):
            if result.device.type == "cpu" and "cuda" in given:
                self.to_host = max(self.to_host, result.numel())
            if result.device.type == "cuda" and "cpu" in given:
                self.to_device = max(self.to_device, result.numel())
        return result


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_scikit_learns_check(estimator, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    check_array_api_input(
        type(estimator).__name__,
        estimator,
        "torch",
        device_name="cuda",
        dtype_name="float32",
        check_values=True,
    )


def test_a_copy_of_the_data_would_be_noticed():
    with LargestCopies() as largest:
        torch.from_numpy(X).cuda().cpu()
    assert (largest.to_device, largest.to_host) == (X.size, X.size)


@pytest.mark.parametrize(
    "network",
    [
        AutoencoderTransformer(**PARAMS, n_components=2),
        HiddenActivations(DeepMLPClassifier(**PARAMS)),
    ],
    ids=repr,
)
def test_the_rows_of_a_pipeline_never_pass_through_the_host(network):
    steps = PCA(5, svd_solver="full"), network, PCA(2, svd_solver="full")
    pipeline = make_pipeline(*steps)
    rows, labels = torch.from_numpy(X).cuda(), torch.from_numpy(y).cuda()
    with LargestCopies() as largest:
        code = pipeline.fit_transform(rows, labels)
        if hasattr(network, "inverse_transform"):
            pipeline.inverse_transform(code)
    assert str(code.device) == "cuda:0"
    # a label, an error, or a place in the order for each row
    assert max(largest.to_host, largest.to_device) <= N_ROWS


@pytest.mark.parametrize(
    ("network", "methods"),
    [
        (
            DeepMLPClassifier(**PARAMS),
            ("predict", "predict_proba", "predict_log_proba", "decision_function"),
        ),
        (DeepMLPRegressor(**PARAMS, n_networks=2), ("predict",)),
        (
            AutoencoderTransformer(**PARAMS, n_components=2),
            ("transform", "inverse_transform", "reconstruction_error", "predict"),
        ),
    ],
    ids=str,
)
def test_predictions_stay_on_the_device(network, methods):
    network.fit(X, y)
    rows = torch.from_numpy(X).cuda()
    for name in methods:
        given = rows[:, :2].contiguous() if name == "inverse_transform" else rows
        with LargestCopies() as largest:
            found = getattr(network, name)(given)
        assert str(found.device) == "cuda:0"
        assert (largest.to_host, largest.to_device) <= (1, 2)
        assert_allclose(found.cpu(), getattr(network, name)(given.cpu().numpy()), rtol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds one CUDA device at most")
def test_rows_of_another_device_and_of_none_are_read():
    elsewhere = torch.from_numpy(X).cuda(1)
    classifier = DeepMLPClassifier(**PARAMS).fit(elsewhere, y)
    assert classifier.device_ == "cuda:1"
    known = DeepMLPClassifier(**PARAMS, device="cpu").fit(elsewhere, y)
    assert known.device_ == "cpu"
    assert str(known.predict_proba(elsewhere).device) == "cuda:1"
    assert_allclose(known.predict_proba(elsewhere).cpu(), known.predict_proba(X), rtol=1e-4)


def test_what_is_not_a_number_is_refused_in_the_usual_words():
    rows = torch.from_numpy(X).cuda()
    classifier = DeepMLPClassifier(**PARAMS).fit(rows, y)
    rows = rows.clone()
    rows[3, 1] = torch.nan
    for refused in (
        lambda: DeepMLPClassifier(**PARAMS).fit(rows, y),
        lambda: classifier.predict(rows),
    ):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            refused()
    with_gaps = DeepMLPClassifier(**PARAMS, allow_nan=True).fit(rows, y)
    assert_allclose(with_gaps.predict_proba(rows).cpu(), with_gaps.predict_proba(rows.cpu()))


def test_columns_of_categories_are_encoded_on_the_host():
    rows = torch.from_numpy(np.column_stack([X, y]).astype(np.float32))
    params = {**PARAMS, "categorical_features": [5]}
    for kind in (DeepMLPClassifier, AutoencoderTransformer):
        there, here = (kind(**params).fit(given, y) for given in (rows.cuda(), rows.numpy()))
        name = "transform" if hasattr(here, "transform") else "predict_proba"
        found = getattr(there, name)(rows.cuda())
        assert str(found.device) == "cuda:0"
        assert_allclose(found.cpu(), getattr(here, name)(rows.numpy()), rtol=1e-4)


def test_without_dispatch_the_remedy_is_named():
    with (
        config_context(array_api_dispatch=False),
        pytest.raises(TypeError, match="array_api_dispatch=True"),
    ):
        DeepMLPClassifier(**PARAMS).fit(torch.from_numpy(X).cuda(), y)
