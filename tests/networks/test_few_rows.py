"""The output for a few rows: the network's own, or None where its modules have to be called."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep._networks import few_rows
from sknn_deep._networks.few_rows import MOST_BYTES, MOST_WORK, output_of_few_rows
from sknn_deep._networks.models import MLP

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    """Give torch the one thread that these rows are worth."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_the_output_of_the_layers_alone_is_that_of_the_network():
    network = _network()
    assert_array_equal(output_of_few_rows(network.layers, X), output_of_few_rows(network, X))
    assert output_of_few_rows(_network(input={"numbers": range(4)}), X) is None
    assert output_of_few_rows(torch.nn.Sequential(*network.layers), X) is None


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
def test_modules_that_are_not_plain_have_to_be_called(network):
    assert output_of_few_rows(network, X) is None


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_multiplies_more_rows_to_the_bits_of_the_network(activation, dtype):
    network = _network(activation, dtype)
    rows = np.resize(X, (MOST_WORK // 24 + 1, 4)).astype(str(dtype).removeprefix("torch."))
    assert_array_equal(output_of_few_rows(network, rows), _expected(network, rows))
    assert output_of_few_rows(network, rows, rounds=True) is None
    rows.flags.writeable = False  # of which torch makes no tensor
    assert output_of_few_rows(network, rows) is None


def test_rows_whose_activations_leave_the_cache_are_left_to_others():
    n_rows = MOST_BYTES // 24
    network, rows = _network(), np.ones((n_rows + 1, 4), np.float32)
    assert output_of_few_rows(network, rows) is None
    assert len(output_of_few_rows(network, rows[:-1])) == n_rows


def test_rows_that_are_worth_one_of_several_threads_take_one(monkeypatch):
    network, rows, seen = _network(), np.resize(X, (MOST_WORK // 24 + 1, 4)), []
    expected, linear = _expected(network, rows), few_rows.linear

    def watched(*args):
        seen.append(torch.get_num_threads())
        return linear(*args)

    monkeypatch.setattr(few_rows, "linear", watched)
    torch.set_num_threads(2)
    assert_array_equal(output_of_few_rows(network, rows), expected)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_rows_that_are_worth_several_threads_are_left_to_others(monkeypatch):
    monkeypatch.setattr(few_rows, "threads_of_outputs", lambda work: 2)
    assert output_of_few_rows(_network(), np.resize(X, (MOST_WORK // 24 + 1, 4))) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("n_rows", [5, MOST_WORK // 24 + 1])
def test_rows_that_may_not_be_finite_are_left_to_be_looked_at(value, n_rows):
    network, rows = _network(), np.resize(X, (n_rows, 4))
    rows[3, 1] = value
    network.flat.abs_()  # whose sums overflow
    network.flat.mul_(10)
    assert output_of_few_rows(network, rows) is None
