"""NumPy's output of a network: its own, or None where its modules have to be called."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep._hardware.threads import fixed_threads
from sknn_deep._networks import numpy_pass
from sknn_deep._networks.models import MLP
from sknn_deep._networks.numpy_pass import ON_ONE_THREAD, output_by_numpy

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
MANY = ON_ONE_THREAD // 24 + 1


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
    output = output_by_numpy(network, rows)
    assert output.dtype == rows.dtype
    assert_allclose(output, _expected(network, rows), rtol=20 * torch.finfo(dtype).eps, atol=1e-7)


def test_the_output_of_the_layers_alone_is_that_of_the_network():
    network = _network()
    assert_array_equal(output_by_numpy(network.layers, X), output_by_numpy(network, X))
    assert output_by_numpy(_network(input={"numbers": range(4)}), X) is None
    assert output_by_numpy(torch.nn.Sequential(*network.layers), X) is None


def test_weights_that_change_or_move_are_followed():
    network = _network()
    output_by_numpy(network, X)
    network.flat.mul_(2)
    assert_allclose(output_by_numpy(network, X), _expected(network, X), rtol=1e-5)
    network.layers[0].weight.data = torch.ones(6, 4)
    assert_allclose(output_by_numpy(network, X), _expected(network, X), rtol=1e-5)
    network.layers[1] = torch.nn.Tanh().eval()
    assert_allclose(output_by_numpy(network, X), _expected(network, X), rtol=1e-5)
    network.double()
    rows = X.astype(float)
    assert_allclose(output_by_numpy(network, rows), _expected(network, rows), rtol=1e-12)
    doubled = {name: 2 * tensor for name, tensor in network.state_dict().items()}
    network.load_state_dict(doubled, assign=True)
    assert_allclose(output_by_numpy(network, rows), _expected(network, rows), rtol=1e-12)


def _changed(network, bias=0, first=None):
    if bias is None:
        network.layers[3].bias = None
    if first is not None:
        network.layers[0] = first.eval()
    return network


def _watched(network, module):
    module.register_forward_hook(lambda *args: None)
    return network


@pytest.mark.parametrize(
    "network",
    [
        _network("gelu"),
        _network(normalization="batch"),
        _network().train(),
        _changed(five := _network(), bias=None),
        _changed(six := _network(), first=torch.nn.ReLU()),
        _watched(one := _network(), one),
        _watched(two := _network(), two.layers),
        _watched(three := _network(), three.layers[1]),
    ],
    ids=[
        "gelu",
        "normalization",
        "training",
        "no bias",
        "activation",
        "hook",
        "hook of the stack",
        "hook of a layer",
    ],
)
def test_modules_that_are_not_plain_have_to_be_called(network):
    assert output_by_numpy(network, X) is None


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part_bytes", [1, 1000, numpy_pass.PART_BYTES])
def test_many_rows_are_computed_in_parts_and_what_torch_does_on_one_thread(
    activation, dtype, part_bytes, monkeypatch
):
    torch.set_num_threads(2)
    network = _network(activation, dtype)
    rows = np.resize(X, (MANY, 4)).astype(str(dtype).removeprefix("torch."))
    rows.flags.writeable = False
    sizes, part = [], numpy_pass._output_of_part

    def noted(plan, rows):
        sizes.append((len(rows), torch.get_num_threads()))
        return part(plan, rows)

    monkeypatch.setattr(numpy_pass, "PART_BYTES", part_bytes)
    monkeypatch.setattr(numpy_pass, "_output_of_part", noted)
    output, expected = output_by_numpy(network, rows), _expected(network, rows.copy())
    assert_allclose(output, expected, rtol=50 * torch.finfo(dtype).eps, atol=1e-6)
    assert sum(size for size, _ in sizes) == MANY
    n_threads = 1 if activation in ("tanh", "logistic") else 2
    assert max(sizes) == (min(MANY, max(1, part_bytes // (6 * rows.itemsize))), n_threads)
    assert torch.get_num_threads() == 2


def test_products_on_several_threads_are_left_to_torch_where_bits_or_types_decide():
    network, rows = _network(), np.resize(X, (MANY, 4))
    with fixed_threads(1):
        assert output_by_numpy(network, rows) is None
        assert output_by_numpy(network, X) is not None
    assert output_by_numpy(network, rows, rounds=True) is not None
    assert output_by_numpy(network, np.resize(X, (2**21 // 24, 4)), rounds=True) is not None
    assert output_by_numpy(network, np.resize(X, (2**21 // 24 + 1, 4)), rounds=True) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("n_rows", [5, MANY])
def test_rows_that_may_not_be_finite_are_left_to_be_looked_at(value, n_rows):
    network, rows = _network(), np.resize(X, (n_rows, 4))
    rows[3, 1] = value
    network.flat.abs_()  # whose sums overflow
    network.flat.mul_(10)
    assert output_by_numpy(network, rows) is None
