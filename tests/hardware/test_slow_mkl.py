"""Products on processors where MKL is slow."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_digits

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep._hardware import slow_mkl
from sknn_deep._hardware.products import empty_matrix
from sknn_deep._hardware.slow_mkl import lies_by_column, linear, mkl_is_slow
from sknn_deep._networks.linear import Linear


@pytest.fixture(params=[False, True], ids=["another processor", "such a processor"])
def is_slow(request, monkeypatch):
    """Let the processor be one on which MKL is slow, or not."""
    _set(monkeypatch, request.param)
    return request.param


def _set(monkeypatch, is_slow):
    monkeypatch.setattr(slow_mkl, "mkl_is_slow", lambda: is_slow)


@pytest.mark.parametrize(
    ("vendor", "width", "has_mkl", "expected"),
    [
        ("AuthenticAMD", "AVX2", True, True),
        ("AuthenticAMD", "AVX512", True, False),
        ("GenuineIntel", "AVX2", True, False),
        ("", "AVX2", True, False),
        ("AuthenticAMD", "AVX2", False, False),
    ],
)
def test_processors_are_told_by_vendor_and_instructions(
    vendor, width, has_mkl, expected, monkeypatch
):
    monkeypatch.setattr(slow_mkl, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    assert mkl_is_slow.__wrapped__() == expected


def test_the_vendor_is_read_where_the_system_tells_it(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n")
    opened = open
    monkeypatch.setattr("builtins.open", lambda path: opened(cpuinfo))
    assert slow_mkl._vendor() == "AuthenticAMD"
    cpuinfo.write_text("processor\t: 0\n")  # as ARM's
    assert slow_mkl._vendor() == ""
    cpuinfo.unlink()
    model = "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD"
    monkeypatch.setattr("platform.processor", lambda: model)
    assert slow_mkl._vendor() == "AuthenticAMD"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n_rows", [1, 5, 40])
def test_outputs_are_those_of_a_dense_layer(n_rows, dtype, is_slow):
    x, weight, bias = (torch.rand(*shape, dtype=dtype) for shape in ((n_rows, 7), (5, 7), (5,)))
    out = linear(x, weight, bias)
    torch.testing.assert_close(out, F.linear(x, weight, bias))
    by_column = is_slow and dtype == torch.float64 and n_rows > 5
    assert lies_by_column(n_rows, 5, weight) == by_column
    assert out.is_contiguous() != by_column


def test_gradients_pass_through_outputs_by_column(monkeypatch):
    _set(monkeypatch, is_slow=True)
    factors = [torch.rand(*shape, dtype=torch.float64) for shape in ((9, 4), (3, 4), (3,))]
    assert torch.autograd.gradcheck(linear, [factor.requires_grad_() for factor in factors])


@pytest.mark.parametrize("n_networks", [None, 3], ids=["alone", "stack"])
def test_buffers_of_activations_lie_by_column(n_networks, is_slow):
    leading = () if n_networks is None else (n_networks,)
    like = torch.empty(0, dtype=torch.float64)
    assert empty_matrix((*leading, 200, 100), like).mT.is_contiguous() == is_slow
    assert empty_matrix((*leading, 100, 200), like).is_contiguous()
    assert empty_matrix((*leading, 200, 100), like.float()).is_contiguous()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.parametrize(
    "network",
    [
        DeepMLPClassifier((40, 30), activation="tanh"),
        DeepMLPClassifier((40, 30), dropout=0.2, normalization="batch"),
        DeepMLPClassifier((40, 30), solver="adamw", normalization="layer"),
        AutoencoderTransformer(4, (40,), noise=0.1),
        AutoencoderTransformer(4, (40,), variational=True),
        AutoencoderTransformer(4, (40,), contractive=0.1, activation="tanh"),
    ],
    ids=str,
)
def test_trainings_and_predictions_come_out_alike(network, monkeypatch):
    X, y = load_digits(return_X_y=True)
    outcomes = []
    for is_slow in (False, True):
        _set(monkeypatch, is_slow)
        network.set_params(max_iter=3, n_iter_no_change=3, random_state=0, device="cpu")
        fitted = clone(network).fit(X / 16, y)
        is_classifier = isinstance(fitted, DeepMLPClassifier)
        output = fitted.predict_proba if is_classifier else fitted.reconstruction_error
        outcomes.append([fitted.module_.flat.numpy(), fitted.loss_curve_, output(X / 16)])
    for by_row, by_column in zip(*outcomes, strict=True):
        assert_allclose(by_column, by_row, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("n_rows", [60, 1700], ids=["few", "many"])
def test_what_is_predicted_lies_by_row(n_rows, is_slow):
    X, y = np.resize(load_digits().data, (n_rows, 64)), np.arange(n_rows) % 3
    recipe = {"max_iter": 1, "n_iter_no_change": 1, "device": "cpu"}
    with warnings.catch_warnings(action="ignore"):
        classifier = DeepMLPClassifier((20,), **recipe).fit(X, y)
        autoencoder = AutoencoderTransformer(5, (20,), **recipe).fit(X)
    codes = autoencoder.transform(X)
    for output in (classifier.predict_proba(X), codes, autoencoder.inverse_transform(codes)):
        assert output.flags.c_contiguous


def test_an_exported_network_takes_any_number_of_rows(monkeypatch):
    _set(monkeypatch, is_slow=True)
    layer = Linear(4, 3, dtype=torch.float64).eval()
    rows = {"input": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(layer, (torch.rand(9, 4).double(),), dynamic_shapes=rows)
    for n_rows in (2, 50):
        x = torch.rand(n_rows, 4).double()
        torch.testing.assert_close(exported.module()(x), layer(x))
