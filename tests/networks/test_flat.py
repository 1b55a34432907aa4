"""The modules: their shapes, their draws, and the flat buffer that all parameters are views of."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch

from sknn_deep._hardware.products import empty_matrix, is_narrow
from sknn_deep._networks.flat import Dropout
from sknn_deep._networks.layers import ACTIVATIONS, NORMALIZATIONS, DenseStack
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.stacked import dense_layers, share_buffer


def _mlp(units=(6, 5, 4, 3), *, dtype=torch.float64, **options):
    n_hidden = len(units) - 2
    options = {"activations": ["tanh"] * n_hidden, "dropout": [0.0] * n_hidden, **options}
    network = MLP(units, dtype=dtype, **options)
    network.initialize(np.random.RandomState(0), ["tanh"] * (n_hidden + 1))
    return network


def _autoencoder():
    options = {"activations": ["relu"], "dropout": [0.0], "dtype": torch.float64}
    network = Autoencoder(
        encoder={"layer_units": (6, 4, 2), **options},
        decoder={"layer_units": (2, 4, 6), **options, "out_activation": "logistic"},
    )
    network.initialize(np.random.RandomState(0), ["relu", "relu", "relu", "logistic"])
    return network


NETWORKS = {
    "MLP": _mlp,
    "autoencoder": _autoencoder,
    "no hidden layer": lambda: _mlp((6, 3)),
    "batch normalisation": lambda: _mlp(normalization="batch"),
    "layer normalisation": lambda: _mlp(normalization="layer"),
    "dropout": lambda: _mlp(dropout=[0.5, 0.25]),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def _rows(n=7, dtype=torch.float64):
    return torch.from_numpy(np.random.RandomState(1).normal(size=(n, 6))).to(dtype)


def _assert_flat(network):
    """Check that writing to the flat buffers is writing to every parameter and gradient."""
    params = list(network.parameters())
    assert network.flat.numel() == sum(param.numel() for param in params)
    assert network.flat.grad.shape == network.flat.shape
    weights = [layer.weight for layer in network.linear_layers()]
    assert network.weights.numel() == sum(weight.numel() for weight in weights)
    with torch.no_grad():
        network.flat.copy_(torch.arange(len(network.flat)))
        network.flat.grad.copy_(-torch.arange(len(network.flat)))
    seen = torch.cat([param.detach().reshape(-1) for param in params]).sort().values
    np.testing.assert_array_equal(seen, np.arange(len(network.flat)))
    for param in params:
        np.testing.assert_array_equal(param.grad, -param.detach())
    in_matrices = torch.cat([weight.detach().reshape(-1) for weight in weights]).sort().values
    np.testing.assert_array_equal(network.weights, in_matrices)
    np.testing.assert_array_equal(network.weights.grad, -in_matrices)


def _train_one_step(network, rows):
    network.train()
    network.zero_grad()
    network(rows).square().mean().backward()
    with torch.no_grad():
        network.flat.sub_(network.flat.grad, alpha=0.1)
    return network.eval()


# --------------------------------------------------------------------------------------
# the flat buffer


@every_network
def test_parameters_are_views_of_the_flat_buffer(make):
    _assert_flat(make())


MOVES = {
    ".to(float32)": lambda network: network.to(torch.float32),
    ".float()": lambda network: network.float(),
    ".double()": lambda network: network.double(),
    ".cpu()": lambda network: network.cpu(),
    ".to(device)": lambda network: network.to("cpu"),
    ".apply()": lambda network: network.apply(lambda module: None),
    ".requires_grad_()": lambda network: network.requires_grad_(),
    "zero_grad()": lambda network: network.zero_grad() or network,
    "zero_grad(True)": lambda network: network.zero_grad(set_to_none=True) or network,
    "load_state_dict": lambda network: (
        network.load_state_dict(copy.deepcopy(network.state_dict())) and network
    ),
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "a step": lambda network: _train_one_step(network, _rows()),
    "restore": lambda network: network.restore(network.snapshot()) or network,
    "cycling dtypes": lambda network: network.float().double().to("cpu").float(),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@every_network
def test_the_views_survive(make, move):
    _assert_flat(move(make()))


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_training_goes_on_after(move):
    network = move(_mlp())
    before = network(_rows(dtype=network.flat.dtype)).detach()
    _train_one_step(network, _rows(dtype=network.flat.dtype))
    after = network(_rows(dtype=network.flat.dtype)).detach()
    assert after.square().mean() < before.square().mean()


@every_network
def test_parameters_are_stored_by_row(make):
    network = pickle.loads(pickle.dumps(copy.deepcopy(make().float().double())))
    for param in network.parameters():
        assert param.is_contiguous()
        assert param.grad.is_contiguous()


@pytest.mark.parametrize(
    ("shape", "by_column"),
    [
        ((40, 31), True), ((40, 32), False), ((31, 31), False), ((32, 31), True), ((5, 6), False),
        ((6, 5), True), ((2, 1), True), ((1, 1), False), ((1, 9), False), ((0, 0), False),
    ],
)  # fmt: skip
def test_a_matrix_with_short_rows_is_narrow(shape, by_column):
    assert is_narrow(*shape) is by_column
    for leading in ((), (3,)):
        matrix = empty_matrix((*leading, *shape), like=torch.empty(0, dtype=torch.float32))
        assert (matrix.shape, matrix.dtype) == ((*leading, *shape), torch.float32)
        assert (matrix.mT if by_column else matrix).is_contiguous()


def test_a_deep_copy_shares_nothing():
    network = _mlp()
    twin = copy.deepcopy(network)
    before = network(_rows()).detach()
    with torch.no_grad():
        twin.flat.zero_()
        twin.flat.grad.fill_(1.0)
    np.testing.assert_array_equal(network(_rows()).detach(), before)
    assert not network.flat.grad.any()


def test_loading_weights_changes_the_output_in_place():
    network, other = _mlp(), _mlp()
    _train_one_step(other, _rows())
    flat = network.flat
    network.load_state_dict(other.state_dict())
    assert network.flat is flat
    np.testing.assert_array_equal(network(_rows()).detach(), other(_rows()).detach())


@every_network
def test_layers_of_a_stack_are_views_of_its_rows(make):
    networks = [make() for _ in range(3)]
    for k, network in enumerate(networks):
        network.flat.copy_(torch.arange(len(network.flat)) + 1000 * k)
    flat, gradient = share_buffer(networks)
    gradient.copy_(-flat)
    layers = dense_layers(networks, (flat, gradient))
    for i, layer in enumerate(layers):
        for k, network in enumerate(networks):
            linear = network.linear_layers()[i]
            parts = [(layer.weight, layer.weight_grad, linear.weight)]
            parts += [(layer.bias, layer.bias_grad, linear.bias)]
            if layer.norm is not None:
                norm, module = layer.norm, layer.norm.modules[k]
                assert module in list(network.modules())
                parts += [(norm.weight, norm.weight_grad, module.weight)]
                parts += [(norm.bias, norm.bias_grad, module.bias)]
                (one,) = norm.of_each()[k].modules
                assert one is module
            for rows, gradients, param in parts:
                np.testing.assert_array_equal(rows[k], param.detach())
                np.testing.assert_array_equal(gradients[k], -param.detach())
        assert len(layer.dropout) in (0, 3)
    flat.zero_()
    gradient.zero_()
    assert not any(layer.weight.any() or layer.bias_grad.any() for layer in layers)


def test_layers_of_several_networks_are_those_of_a_shared_buffer():
    with pytest.raises(ValueError, match="2 networks"):
        dense_layers([_mlp(), _mlp()])


def test_gradients_accumulate_in_the_flat_gradient():
    network = _mlp()
    network(_rows()).sum().backward()
    once = network.flat.grad.clone()
    network(_rows()).sum().backward()
    np.testing.assert_allclose(network.flat.grad, 2 * once)


@every_network
def test_the_flat_gradient_agrees_with_finite_differences(make):
    network, rows = make().eval(), _rows()
    network.zero_grad()
    network(rows).sin().sum().backward()
    rng = np.random.RandomState(2)
    with torch.no_grad():
        for _ in range(5):
            direction = torch.from_numpy(rng.normal(size=len(network.flat)))
            values = []
            for sign in (1, -2, 1):  # forth, back beyond the start, and to the start
                network.flat.add_(direction, alpha=sign * 1e-6)
                values.append(network(rows).sin().sum().item())
            slope = (values[0] - values[1]) / 2e-6
            assert torch.dot(network.flat.grad, direction).item() == pytest.approx(slope, rel=1e-5)


@every_network
def test_a_snapshot_brings_back_all_that_was_learned(make):
    network = _train_one_step(make(), _rows())
    before = network(_rows()).detach()
    snapshot = network.snapshot()
    for _ in range(3):
        _train_one_step(network, _rows())
    assert not torch.equal(network(_rows()).detach(), before)
    network.restore(snapshot)
    np.testing.assert_array_equal(network(_rows()).detach(), before)


def test_hidden_matrices_and_others_are_all_parameters_once():
    network = _mlp(normalization="layer")
    matrices, others = network.hidden_matrices_and_others()
    assert [tuple(matrix.shape) for matrix in matrices] == [(5, 6), (4, 5)]
    together = {id(param) for param in [*matrices, *others]}
    assert together == {id(param) for param in network.parameters()}
    assert len(matrices) + len(others) == len(together)


# --------------------------------------------------------------------------------------
# pickles


@every_network
def test_a_pickled_network_computes_the_same(make):
    network = _train_one_step(make(), _rows())
    twin = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(twin(_rows()).detach(), network(_rows()).detach())
    assert not twin.training


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_halves_of_an_autoencoder_pickle_by_themselves(half):
    stack = getattr(_autoencoder(), half)
    rows = _rows()[:, : stack.config["layer_units"][0]]
    twin = pickle.loads(pickle.dumps(stack))
    np.testing.assert_array_equal(twin(rows).detach(), stack(rows).detach())


@every_network
def test_a_pickle_holds_arrays_and_no_storage_of_torch(make):
    globals_ = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            globals_.add(f"{module}.{name}")
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickle.dumps(make()))).load()
    assert any(name.startswith("numpy") for name in globals_)
    from_torch = {name for name in globals_ if name.startswith("torch")}
    assert from_torch <= {"torch.float64", "torch.serialization._get_layout"}


def test_a_pickle_is_little_larger_than_the_weights():
    network = _mlp((100, 80, 60, 40))
    n_bytes = network.flat.numel() * network.flat.element_size()
    assert len(pickle.dumps(network)) < n_bytes + 3000


def test_an_unpickled_network_is_writable_and_alone():
    network = _mlp()
    pickled = pickle.dumps(network)
    first, second = pickle.loads(pickled), pickle.loads(pickled)
    with torch.no_grad():
        first.flat.zero_()
    np.testing.assert_array_equal(second.flat, network.flat)


# --------------------------------------------------------------------------------------
# draws


def test_weights_are_drawn_layer_by_layer_matrix_before_bias():
    network, rng = _mlp((6, 5, 3)), np.random.RandomState(0)
    for layer in network.linear_layers():
        shape = (layer.in_features, layer.out_features)
        bound = np.sqrt(6 / sum(shape))
        np.testing.assert_array_equal(layer.weight.detach().T, rng.uniform(-bound, bound, shape))
        np.testing.assert_array_equal(layer.bias.detach(), rng.uniform(-bound, bound, shape[1]))


@pytest.mark.parametrize(("activation", "gain"), [("logistic", 2), ("relu", 6), ("gelu", 6)])
def test_weights_fill_the_range_of_their_activation(activation, gain):
    network = MLP((200, 300), activations=[], dropout=[], dtype=torch.float64)
    network.initialize(np.random.RandomState(0), [activation])
    bound = np.sqrt(gain / 500)
    assert 0.999 * bound < network.flat.abs().max() <= bound
    assert network.flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_initialisation_needs_an_activation_for_every_layer():
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        _mlp((6, 5, 3)).initialize(np.random.RandomState(0), ["relu"])


def test_single_precision_weights_are_the_rounded_doubles():
    single, double = _mlp(dtype=torch.float32), _mlp()
    np.testing.assert_array_equal(single.flat, double.flat.float())


@every_network
def test_construction_draws_nothing_from_torch(make):
    before = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------------------
# dropout


def test_weights_are_finite_one_by_one_and_not_in_sum():
    network = MLP((2, 1), activations=[], dropout=[])
    network.flat.fill_(3e38)
    assert network.is_finite()
    network.flat[1] = torch.inf
    assert not network.is_finite()
    network.flat.copy_(torch.tensor([torch.inf, -torch.inf, 0.0]))
    assert not network.is_finite()


def _dropout(p, seed=0):
    dropout = Dropout(p)
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_scales_what_is_kept(p):
    kept = _dropout(p)(torch.ones(1000, 100, dtype=torch.float64))
    np.testing.assert_allclose(kept.unique(), [0, 1 / (1 - p)], rtol=2**-16 / (1 - p))
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert (kept == 0).double().mean().item() == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize("p", [0.999995, 1 - 1e-9])
def test_dropout_next_to_one_is_finite(p):
    assert _dropout(p)(torch.ones(100, 100)).isfinite().all()


@pytest.mark.parametrize("p", [1e-9, 2**-18, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_dropouts_expectation_is_exact_for_the_probability_that_is_drawn(p):
    drawn = round(p * 2**16) / 2**16
    mask = _dropout(p).draw_(torch.empty(400, 1000, dtype=torch.float64))
    share = (mask == 0).double().mean().item()
    assert share == pytest.approx(drawn, abs=5 * math.sqrt(drawn * (1 - drawn) / 400_000) + 1e-12)
    assert mask.max().item() in (0, 1 / (1 - drawn))


def test_each_unit_is_dropped_by_itself():
    dropped = _dropout(0.5).draw_(torch.empty(200, 200, dtype=torch.float64)) == 0
    bits = dropped.double() - 0.5
    for shift in (1, 2, 3, 4, 8, 200, 201):
        correlation = 4 * (bits.reshape(-1)[shift:] * bits.reshape(-1)[:-shift]).mean()
        assert abs(correlation.item()) < 0.025


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 1), (7, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_of_any_shape_is_filled(shape, dtype):
    masks = [
        _dropout(0.5, seed).draw_(torch.full(shape, torch.nan, dtype=dtype)) for seed in range(50)
    ]
    assert {float(value) for mask in masks for value in mask.unique()} == {0.0, 2.0}


def test_a_mask_stored_by_column_is_filled():
    by_column = _dropout(0.3).draw_(torch.full((30, 70), torch.nan).mT)
    assert torch.equal(by_column, _dropout(0.3).draw_(torch.empty(70, 30)))


def test_dropout_does_nothing_in_evaluation():
    rows = _rows()
    assert _dropout(0.9).eval()(rows) is rows


def test_dropout_draws_from_its_own_generator():
    before = torch.get_rng_state()
    first, same, other = (_dropout(0.5, seed)(torch.ones(50, 50)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_dropout_draws_a_mask_anew_for_each_batch():
    dropout = _dropout(0.5)
    assert not torch.equal(dropout(torch.ones(50, 50)), dropout(torch.ones(50, 50)))


def test_dropped_units_get_no_gradient():
    rows = torch.ones(20, 20, requires_grad=True)
    kept = _dropout(0.5)(rows)
    kept.sum().backward()
    assert torch.equal(rows.grad, kept.detach())


def test_one_generator_serves_all_layers_and_can_be_taken_away():
    network, generator = _mlp(dropout=[0.5, 0.25]), torch.Generator()
    network.set_generator(generator)
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    assert [layer.p for layer in layers] == [0.5, 0.25]
    assert all(layer.generator is generator for layer in layers)
    network.set_generator(None)
    assert all(layer.generator is None for layer in layers)


@pytest.mark.parametrize(
    ("rates", "expected"), [([0.0, 0.0], False), ([0.0, 0.1], True), ([0.5, 0.5], True)]
)
def test_a_network_knows_whether_it_drops_units(rates, expected):
    assert _mlp(dropout=rates).is_random is expected


# --------------------------------------------------------------------------------------
# layers

CLOSED_FORMS = {
    "identity": lambda z: z,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(z)),
    "gelu": lambda z: z * np.vectorize(_normal_cdf)(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "mish": lambda z: z * np.tanh(np.log1p(np.exp(z))),
    "softplus": lambda z: np.log1p(np.exp(z)),
}


def _normal_cdf(z):
    return (1 + math.erf(z / math.sqrt(2))) / 2


def test_every_activation_has_a_formula_here():
    assert set(CLOSED_FORMS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    z = np.linspace(-4, 4, 41)
    actual = ACTIVATIONS[name]()(torch.from_numpy(z.copy()))
    np.testing.assert_allclose(actual, CLOSED_FORMS[name](z), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_layer_has_its_own_activation(name):
    network = _mlp((6, 5, 4, 3), activations=["tanh", name])
    h = _rows().numpy()
    for layer, function in zip(
        network.linear_layers(), [np.tanh, CLOSED_FORMS[name], CLOSED_FORMS["identity"]],
        strict=True,
    ):  # fmt: skip
        h = function(h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    np.testing.assert_allclose(network(_rows()).detach(), h, rtol=1e-10)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalisation_stands_between_the_matrix_and_the_activation(normalization):
    stack = DenseStack((6, 5, 3), activations=["relu"], dropout=[0.5], normalization=normalization)
    kinds = [type(module).__name__ for module in stack]
    expected = {"batch": "BatchNorm1d", "layer": "LayerNorm"}[normalization]
    assert kinds == ["Linear", expected, "ReLU", "Dropout", "Linear"]


def test_no_normalisation_dropout_or_activation_follows_the_last_layer():
    stack = DenseStack((6, 3), activations=[], dropout=[], normalization="batch")
    assert [type(module).__name__ for module in stack] == ["Linear"]


def test_stages_name_the_activation_of_each_matrix():
    network = Autoencoder(
        encoder={"layer_units": (6, 4, 2), "activations": ["gelu"], "dropout": [0.1]},
        decoder={
            "layer_units": (2, 4, 6), "activations": ["relu"], "dropout": [0.0],
            "out_activation": "logistic",
        },
    )  # fmt: skip
    linears, norms, names, dropouts = zip(*network.stages(), strict=True)
    assert list(linears) == network.linear_layers()
    assert names == ("gelu", "identity", "relu", "logistic")
    assert [dropout and dropout.p for dropout in dropouts] == [0.1, None, None, None]
    assert norms == (None,) * 4


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_stages_have_their_normalisation_but_for_the_last(normalization):
    *hidden, (_, last, _, _) = _mlp(normalization=normalization).stages()
    assert [type(norm) for _, norm, _, _ in hidden] == [NORMALIZATIONS[normalization]] * 2
    assert [norm.weight.numel() for _, norm, _, _ in hidden] == [5, 4]
    assert last is None


@pytest.mark.parametrize(
    ("normalization", "expected"), [(None, False), ("batch", True), ("layer", True)]
)
def test_a_network_knows_whether_it_normalises(normalization, expected):
    assert _mlp(normalization=normalization).has_normalization is expected


def test_an_autoencoder_is_its_decoder_after_its_encoder():
    network, rows = _autoencoder(), _rows()
    code = network.encoder(rows)
    assert code.shape == (7, 2)
    np.testing.assert_array_equal(network(rows).detach(), network.decoder(code).detach())


@pytest.mark.parametrize(
    ("units", "n_parameters"), [((784, 128, 64, 10), 109_386), ((6, 3), 21), ((1, 1), 2)]
)
def test_the_flat_buffer_counts_every_parameter(units, n_parameters):
    assert _mlp(units).flat.numel() == n_parameters


@every_network
def test_a_twin_is_like_its_model_and_has_memory_of_its_own(make):
    network = make()
    network.eval()
    twin = network.twin()
    assert str(twin) == str(network)
    assert twin.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(twin(_rows()), network(_rows()), rtol=0, atol=0)
    before = network.snapshot()
    _assert_flat(twin)  # which writes to it
    for tensor in twin._state():
        tensor.zero_()
    for tensor, expected in zip(network.snapshot(), before, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    theirs = {id(module) for module in network.modules()}
    assert not any(id(module) in theirs for module in twin.modules())


def test_a_twin_of_tied_weights_ties_its_own():
    options = {"activations": ["relu"], "dropout": [0.0], "dtype": torch.float64}
    network = Autoencoder(
        encoder={"layer_units": (6, 4, 2), **options},
        decoder={"layer_units": (2, 4, 6), **options},
        tied_weights=True,
    )
    network.initialize(np.random.RandomState(0), ["relu"] * 4)
    twin = network.twin()
    torch.testing.assert_close(twin(_rows()), network(_rows()), rtol=0, atol=0)
    with torch.no_grad():
        twin.flat.zero_()
    assert all(not decoder.weight.any() for _, decoder in twin.tied_layers())
    assert all(decoder.weight.any() for _, decoder in network.tied_layers())
