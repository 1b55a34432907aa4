"""The output for a few rows by NumPy: the network's own, or None where torch has to compute it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sknn_deep._networks.few_rows import MOST_WORK, output_of_few_rows
from sknn_deep._networks.models import MLP

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def _network(activation="relu", dtype=torch.float32, **options):
    network = MLP((4, 6, 3), activations=[activation], dropout=[0.5], dtype=dtype, **options).eval()
    network.initialize(np.random.RandomState(0), ["relu"] * 2)
    return network


def _expected(network, rows):
    with torch.inference_mode():
        return network(torch.from_numpy(rows)).numpy()


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_is_that_of_the_network(activation, dtype):
    network, rows = _network(activation, dtype), X.astype(str(dtype).removeprefix("torch."))
    output = output_of_few_rows(network, rows)
    assert output.dtype == rows.dtype
    assert_allclose(output, _expected(network, rows), rtol=20 * torch.finfo(dtype).eps, atol=1e-7)


def test_weights_that_change_or_move_are_followed():
    network = _network()
    output_of_few_rows(network, X)
    network.flat.mul_(2)
    assert_allclose(output_of_few_rows(network, X), _expected(network, X), rtol=1e-5)
    network.layers[0].weight.data = torch.ones(6, 4)
    assert_allclose(output_of_few_rows(network, X), _expected(network, X), rtol=1e-5)
    network.layers[1] = torch.nn.Tanh().eval()
    assert_allclose(output_of_few_rows(network, X), _expected(network, X), rtol=1e-5)
    network.double()
    rows = X.astype(float)
    assert_allclose(output_of_few_rows(network, rows), _expected(network, rows), rtol=1e-12)


def _watched(network, module):
    module.register_forward_hook(lambda *args: None)
    return network


@pytest.mark.parametrize(
    "network",
    [
        _network("gelu"),
        _network(normalization="batch"),
        _network().train(),
        _watched(one := _network(), one),
        _watched(two := _network(), two.layers),
        _watched(three := _network(), three.layers[1]),
    ],
    ids=["gelu", "normalization", "training", "hook", "hook of the stack", "hook of a layer"],
)
def test_torch_has_to_compute_what_is_not_plain(network):
    assert output_of_few_rows(network, X) is None


def test_torch_has_to_compute_many_rows():
    n_rows = MOST_WORK // 24 + 1
    network = _network()
    assert output_of_few_rows(network, np.ones((n_rows, 4), np.float32)) is None
    assert len(output_of_few_rows(network, np.ones((n_rows - 1, 4), np.float32))) == n_rows - 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_rows_that_may_not_be_finite_are_left_to_be_looked_at(value):
    network, rows = _network(), X.copy()
    rows[3, 1] = value
    network.flat.abs_()  # whose sums overflow
    network.flat.mul_(10)
    assert output_of_few_rows(network, rows) is None
