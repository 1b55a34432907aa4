"""Input layers: what a batch goes through before the first dense layer, and their parameters."""

import numpy as np
import pytest
import torch

from sknn_deep._networks.inputs import BoundInput, Corruption, InputLayer
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.stacked import bound_input, share_buffer

N_FEATURES = 4


class Scaled(InputLayer):
    """Multiply each feature by a weight, and append the products of neighbours' weights."""

    def __init__(self):
        super().__init__()
        weight = torch.arange(1.0, 2 * N_FEATURES + 1).reshape(2, N_FEATURES)
        self.weight = torch.nn.Parameter(weight)
        self.inner = Linear(2, 2)

    def forward(self, x):
        return torch.cat([x * row for row in self.weight], dim=1)


def _network(layer=None, seed=0):
    network = MLP((2 * N_FEATURES, 5, 2), activations=["relu"], dropout=[0.0])
    network.input = layer
    network.flatten()
    network.initialize(np.random.RandomState(seed), ["relu"] * 2)
    return network


def test_a_network_reads_its_input_through_the_layer():
    network, x = _network(Scaled()), torch.rand(3, N_FEATURES)
    expected = network.layers(torch.cat([x * row for row in network.input.weight], dim=1))
    torch.testing.assert_close(network(x), expected)


def test_parameters_of_the_layer_lie_in_the_flat_buffer_behind_the_matrices():
    network = _network(Scaled())
    weight = network.input.weight
    start = (weight.data_ptr() - network.flat.data_ptr()) // network.flat.element_size()
    assert len(network.weights) <= start < len(network.flat)
    assert len(network.weights) == 8 * 5 + 5 * 2, "they are in no L2 penalty"
    assert weight.grad is not None
    network.flat.grad.fill_(3.0)
    assert bool((weight.grad == 3).all())


def test_dense_layers_of_the_input_are_none_of_the_network():
    network = _network(Scaled())
    assert [layer.in_features for layer in network.linear_layers()] == [8, 5]
    assert [stage[0].in_features for stage in network.stages()] == [8, 5]
    assert network.width == 8


def test_copies_of_a_network_have_the_layer_and_its_state():
    network = _network(Scaled())
    with torch.no_grad():
        network.input.weight.mul_(2)
    snapshot = network.snapshot()
    other = _network(Scaled(), seed=1)
    other.restore(snapshot)
    x = torch.rand(3, N_FEATURES)
    torch.testing.assert_close(other(x), network(x))
    assert "input.weight" in dict(network.named_parameters())


def test_a_network_without_the_layer_is_bound_to_none():
    assert bound_input([_network()]) is None


def test_one_network_is_bound_to_its_own_parameters():
    network = _network(Scaled())
    own = bound_input([network])
    assert own.modules == [network.input]
    assert own.parameters["weight"].data_ptr() == network.input.weight.data_ptr()
    assert own.gradients["weight"].data_ptr() == network.input.weight.grad.data_ptr()


def test_a_stack_is_bound_to_the_shared_buffers():
    networks = [_network(Scaled(), seed) for seed in range(3)]
    with torch.no_grad():
        for k, network in enumerate(networks):
            network.input.weight.add_(k)
    flat, gradient = share_buffer(networks)
    own = bound_input(networks, (flat, gradient))
    expected = torch.stack([network.input.weight.detach() for network in networks])
    assert torch.equal(own.parameters["weight"], expected)
    own.parameters["weight"].zero_()
    own.gradients["weight"].fill_(1.0)
    assert int((flat == 0).sum()) >= expected.numel()
    assert gradient.sum() == expected.numel()
    assert len(own.modules) == 3


def test_parameters_without_gradients_are_told():
    own = bound_input([_network(Scaled())])
    with pytest.raises(NotImplementedError, match="Scaled has the parameters .*weight.* but no"):
        own.backward(torch.rand(3, N_FEATURES), torch.rand(3, 2 * N_FEATURES))


def test_layers_without_parameters_write_what_they_compute():
    class Doubled(InputLayer):
        def forward(self, x):
            return 2 * x

    x, out = torch.rand(2, 3, N_FEATURES), torch.empty(2, 3, N_FEATURES)
    for kernel in BoundInput([Doubled(), Doubled()], {}, {}).forward(x, out):
        kernel()
    assert torch.equal(out, 2 * x)


@pytest.mark.parametrize("noise", [None, ("gaussian", 0.5), ("masking", 0.5)], ids=str)
@pytest.mark.parametrize("allow_nan", [False, True])
def test_a_corruption_writes_what_it_computes(noise, allow_nan):
    corruption = Corruption(N_FEATURES, noise, allow_nan).train()
    x = torch.rand(5, N_FEATURES)
    if allow_nan:
        corruption.fill.copy_(torch.arange(4.0))
        x[1, 2] = torch.nan
    before, found = x.clone(), []
    for compute in (corruption, lambda x: corruption.write(x, out := torch.empty_like(x)) or out):
        if noise is not None:
            corruption.noise.generator = torch.Generator().manual_seed(0)
        found.append(compute(x))
    torch.testing.assert_close(*found)
    assert not found[0].isnan().any()
    assert torch.equal(x.nan_to_num(7), before.nan_to_num(7)), "the batch is as it was"


def test_a_corruption_is_noisy_only_while_training():
    corruption = Corruption(N_FEATURES, ("masking", 0.5), allow_nan=True).eval()
    x = torch.rand(5, N_FEATURES)
    assert torch.equal(corruption(x), x)


@pytest.mark.parametrize(
    ("options", "has_one"),
    [({}, False), ({"noise": ("masking", 0.5)}, True), ({"allow_nan": True}, True)],
    ids=str,
)
def test_an_autoencoder_has_one_where_it_has_something_to_do(options, has_one):
    stack = {"activations": [], "dropout": []}
    network = Autoencoder(
        {"layer_units": (4, 2), **stack}, {"layer_units": (2, 4), **stack}, **options
    )
    assert (network.input is not None) == has_one
