"""Matrix products: the same numbers whichever library computes them, and the libraries' choice."""

import numpy as np
import pytest
import torch

from sknn_deep._hardware import products
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import LayerProducts, empty_matrix, is_narrow

# rows of a batch, units of the input, units of the output
SHAPES = [(7, 5, 3), (40, 6, 50), (200, 30, 10), (120, 64, 12), (300, 200, 40)]


@pytest.fixture(params=["NumPy", "torch", "as measured"])
def library(request, monkeypatch):
    """Let NumPy, torch and whichever is faster compute all products."""
    size = {"NumPy": 2**60, "torch": 0}.get(request.param)
    if size is not None:
        for name in ("_SMALL_PRODUCT", "_SMALL_FORWARD_PRODUCT", "_SMALL_SUM", "_MEDIUM_PRODUCT"):
            monkeypatch.setattr(products, name, size)
    return request.param


def _factors(shape, n_networks):
    """Return a batch, weights whose rows lie apart, and deltas."""
    n_rows, n_in, n_out = shape
    leading = () if n_networks is None else (n_networks,)
    generator = torch.Generator().manual_seed(0)

    def draw(*own):
        return torch.randn((*leading, *own), dtype=torch.float64, generator=generator)

    buffer = draw(2 * n_out * n_in)
    weight = buffer[..., : n_out * n_in].unflatten(-1, (n_out, n_in))
    return (
        draw(n_rows, n_in),
        weight,
        empty_matrix((*leading, n_rows, n_out), buffer).copy_(draw(n_rows, n_out)),
    )


def _run(program):
    for kernel in program:
        kernel()


@pytest.mark.parametrize("n_networks", [None, 1, 4], ids=["alone", "stack of one", "stack"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_a_layer(shape, n_networks, library):
    x, weight, delta = _factors(shape, n_networks)
    own = LayerProducts(weight, shape[0], None, Pace(1))
    for name, left, right in (
        ("forward", x, weight.mT),
        ("gradient", delta.mT, x),
        ("delta", delta, weight),
    ):
        expected = left @ right
        for out in (empty_matrix(expected.shape, x), torch.empty_like(expected)):
            out.fill_(np.nan)
            _run(own.product(name, left, right, out))
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    sums = torch.full_like(delta[..., 0, :], np.nan)
    _run(own.sum_of_rows(delta, sums))
    torch.testing.assert_close(sums, delta.sum(dim=-2), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize("n_networks", [None, 3], ids=["alone", "stack"])
def test_products_in_another_type_come_out_in_the_weights(n_networks):
    x, weight, _ = (tensor.float() for tensor in _factors((40, 30, 20), n_networks))
    own, out = LayerProducts(weight, 40, torch.bfloat16, Pace(1)), torch.empty_like(x[..., :20])
    _run(own.product("forward", x, weight.mT, out))
    assert out.dtype == torch.float32
    expected = (x.bfloat16() @ weight.mT.bfloat16()).float()
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.05)
    assert not torch.equal(out, x @ weight.mT)


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize("n_networks", [None, 3], ids=["alone", "stack"])
@pytest.mark.parametrize("n_units", [20, 60], ids=["by column", "by row"])
def test_a_bias_is_added_before_a_product_is_rounded(n_units, n_networks):
    x, weight, _ = (tensor.float() for tensor in _factors((40, 30, n_units), n_networks))
    own = LayerProducts(weight, 40, torch.bfloat16, Pace(1))
    bias = (100 * torch.rand_like(weight[..., 0])).bfloat16()
    out = empty_matrix((*weight.shape[:-2], 40, n_units), weight, torch.bfloat16)
    assert out.stride(-1) == (40 if n_units == 20 else 1)
    _run(own.product("forward", x, weight.mT, out, bias))
    exact = x.bfloat16().double() @ weight.mT.bfloat16().double() + bias.double().unsqueeze(-2)
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=0)
    sums = torch.full_like(weight[..., 0], np.nan)
    _run(own.sum_of_rows(out, sums))
    torch.testing.assert_close(sums, out.float().sum(dim=-2), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "n_rows", "by_numpy"),
    [("forward", 64, True), ("forward", 65, False), ("delta", 256, True), ("delta", 257, False)],
)
def test_small_products_are_numpys(name, n_rows, by_numpy, monkeypatch):
    """The limits are 2**16 multiply-adds in the forward pass, and 2**18 elsewhere."""
    called = []

    def noted(name, function):
        return lambda *args, **options: called.append(name) or function(*args, **options)

    monkeypatch.setattr(np, "dot", noted("dot", np.dot))
    monkeypatch.setattr(torch, "mm", noted("mm", torch.mm))
    weight = torch.rand(32, 32)
    own = LayerProducts(weight, n_rows, None, Pace(1))
    x, out = torch.rand(n_rows, 32), torch.empty(n_rows, 32)
    _run(own.product(name, x, weight.mT if name == "forward" else weight, out))
    assert called == (["dot"] if by_numpy else ["mm"])


def test_a_stack_that_is_worth_several_threads_is_torchs(monkeypatch):
    called, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args, out: called.append(1) or bmm(*args, out=out))
    monkeypatch.setattr(products, "numpy_takes_one_thread", lambda: True)
    weight = torch.rand(4, 64, 64)
    x, out = torch.rand(4, 100, 64), torch.empty(4, 100, 64)
    for n_threads in (1, 2):
        own = LayerProducts(weight, 100, None, Pace(n_threads))
        _run(own.product("delta", x, weight, out))
        assert bool(called) == (n_threads == 2)


@pytest.mark.parametrize(
    ("shape", "narrow"),
    [((60, 3), True), ((60, 31), True), ((60, 32), False), ((3, 3), False), ((20, 19), True)],
)
def test_narrow_matrices_are_stored_by_column(shape, narrow):
    assert is_narrow(*shape) == narrow
    matrix = empty_matrix((5, *shape), like=torch.empty(0, dtype=torch.float32))
    assert matrix.shape == (5, *shape)
    assert matrix.dtype == torch.float32
    assert (matrix.stride(-1) != 1) == narrow
