"""Gradients of input layers with weights, by the closed form and as autograd has them."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sknn_deep._engine.backprop import Backprop
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.engine import Engine
from sknn_deep._engine.features import features_of
from sknn_deep._engine.losses import classification_loss, regression_loss
from sknn_deep._engine.samples import Samples
from sknn_deep._engine.solvers import make_optimizer
from sknn_deep._engine.tape import backprop_for
from sknn_deep._networks.inputs import InputLayer
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.stacked import rows_of_networks, share_buffer

N_FEATURES, N_CATEGORIES, WIDTH, N_INPUTS = 5, 4, 3, 12


class Embedding(InputLayer):
    """Embed numbers piecewise linearly, and a category, the last feature, by its row of a table.

    Input (batch, 5), output (batch, 12): of each of the numbers x a ReLU of ``x w + b`` for the
    first three of these, three units each, and the three numbers of the category's row.
    """

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, dtype=torch.float64, generator=generator)
        self.weight = torch.nn.Parameter(draw((3, WIDTH)))
        self.bias = torch.nn.Parameter(draw((3, WIDTH)))
        self.table = torch.nn.Parameter(draw((N_CATEGORIES, WIDTH)))

    def forward(self, x):
        numbers = torch.relu(x[:, :3, None] * self.weight + self.bias)
        return torch.cat([numbers.flatten(1), self.table[x[:, -1].long()]], dim=1)

    def forward_kernels(self, own, x, out):
        def kernel():
            weight, bias = (own.parameters[name].unsqueeze(-3) for name in ("weight", "bias"))
            numbers = torch.relu(x[..., :3, None] * weight + bias)
            out[..., : 3 * WIDTH] = numbers.flatten(-2)
            chosen = F.one_hot(x[..., -1].long(), N_CATEGORIES).to(x.dtype)
            out[..., 3 * WIDTH :] = chosen @ own.parameters["table"]

        return [kernel]

    def backward_kernels(self, own, x, delta):
        def kernel():
            weight, bias = (own.parameters[name].unsqueeze(-3) for name in ("weight", "bias"))
            of_numbers = delta[..., : 3 * WIDTH].unflatten(-1, (3, WIDTH))
            of_numbers = of_numbers * (x[..., :3, None] * weight + bias > 0)
            own.gradients["bias"].copy_(of_numbers.sum(dim=-3))
            own.gradients["weight"].copy_((of_numbers * x[..., :3, None]).sum(dim=-3))
            chosen = F.one_hot(x[..., -1].long(), N_CATEGORIES).to(x.dtype)
            own.gradients["table"].copy_(chosen.mT @ delta[..., 3 * WIDTH :])

        return [kernel]


class Centered(InputLayer):
    """Subtract a number that nothing has to learn, and fill up with zeros."""

    def forward(self, x):
        return F.pad(x - 0.5, (0, N_INPUTS - N_FEATURES))


def _network(layer, seed=0, **options):
    shape = (N_INPUTS, 7, 6, 2)
    stack = {"activations": ["tanh"] * 2, "dropout": [0.0] * 2, "dtype": torch.float64}
    network = MLP(shape, **{**stack, **options})
    network.input = layer
    network.flatten()
    network.initialize(np.random.RandomState(seed), ["tanh"] * 3)
    return network.train()


def _rows(n_rows, n_networks=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    leading = () if n_networks is None else (n_networks,)
    X = torch.randn((*leading, n_rows, N_FEATURES), dtype=torch.float64, generator=generator)
    X[..., -1] = torch.randint(0, N_CATEGORIES, X.shape[:-1], generator=generator)
    target = torch.randn((*leading, n_rows, 2), dtype=torch.float64, generator=generator)
    return X, target


def _chunk(lengths=(9, 9, 4), n_networks=None):
    X, target = _rows(sum(lengths), n_networks)
    stops = np.cumsum(lengths)
    parts = [slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    return Chunk(X, target, None, parts, list(map(float, lengths)))


LOSS = regression_loss("squared_error", 2)


def _autograd(network, X, target):
    network.zero_grad()
    LOSS.per_sample(network(X), target).mean().backward()
    return network.flat.grad.clone()


def _gradients(backprop, chunk, gradient):
    """Yield the gradient of each batch; every entry must be written."""
    work = backprop.workspace(chunk)
    work.load()
    for program in work.programs:
        gradient.fill_(np.nan)
        for kernel in program:
            kernel()
        yield gradient.clone()


@pytest.mark.parametrize("normalization", [None, "batch", "layer"], ids=str)
def test_gradient_equals_autograd(normalization):
    network, chunk = _network(Embedding(1), normalization=normalization), _chunk()
    expected = [_autograd(network, chunk.X[part], chunk.target[part]) for part in chunk.parts]
    found = list(_gradients(Backprop([network], LOSS), chunk, network.flat.grad))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("normalization", [None, "layer"], ids=str)
def test_gradients_of_a_stack_are_those_of_its_members(normalization):
    networks = [_network(Embedding(k), k, normalization=normalization) for k in range(3)]
    chunk = _chunk((9, 4), n_networks=3)
    expected = [
        [_autograd(net, chunk.X[k, part], chunk.target[k, part]) for k, net in enumerate(networks)]
        for part in chunk.parts
    ]
    buffers = share_buffer(networks)
    found = _gradients(Backprop(networks, LOSS, buffers=buffers), chunk, buffers[1])
    for ours, theirs in zip(found, expected, strict=True):
        rows = rows_of_networks(ours, [0, 1, 2], networks[0].first_shape)
        torch.testing.assert_close(rows, torch.stack(theirs), rtol=1e-10, atol=1e-13)


def test_gradient_equals_finite_differences():
    network, chunk = _network(Embedding(2)), _chunk((9,))
    backprop = Backprop([network], LOSS)
    (gradient,) = _gradients(backprop, chunk, network.flat.grad)
    work, step = backprop.workspace(chunk), 1e-6
    for name in ("weight", "bias", "table"):
        values = getattr(network.input, name).data
        of_values = gradient[_place(network, values)]
        for i in range(0, values.numel(), 2):
            losses = []
            for sign in (1, -1):
                values.view(-1)[i] += sign * step
                for kernel in work.programs[0]:
                    kernel()
                losses.append(work.loss(0).item())
                values.view(-1)[i] -= sign * step
            difference = (losses[0] - losses[1]) / (2 * step)
            assert of_values[i].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def _place(network, values):
    start = (values.data_ptr() - network.flat.data_ptr()) // values.element_size()
    return slice(start, start + values.numel())


def test_batches_of_one_length_share_the_layers_buffers():
    seen = []

    class Watching(Embedding):
        def forward_kernels(self, own, x, out):
            seen.append(out.data_ptr())
            return super().forward_kernels(own, x, out)

    network = _network(Watching(0))
    Backprop([network], LOSS).workspace(_chunk((6, 6, 6, 2)))
    assert len(seen) == 4
    assert len(set(seen)) == 2


def test_a_layer_without_weights_costs_no_product_for_its_gradient():
    n_kernels = []
    for layer in (Embedding(0), Centered(), None):
        network = _network(layer)
        X = torch.rand(9, N_INPUTS, dtype=torch.float64) if layer is None else _rows(9)[0]
        chunk = Chunk(X, _rows(9)[1], None, [slice(0, 9)], [9.0])
        n_kernels.append(len(Backprop([network], LOSS).workspace(chunk).programs[0]))
    with_weights, without, none = n_kernels
    assert without == none + 1, "what the layer itself does"
    assert with_weights == without + 2, "the product, and the layer's own gradients"


def test_a_layer_without_weights_is_trained_through():
    network, chunk = _network(Centered()), _chunk((9,))
    (found,) = _gradients(Backprop([network], LOSS), chunk, network.flat.grad)
    torch.testing.assert_close(found, _autograd(network, chunk.X, chunk.target))


def test_the_tape_gives_a_layer_its_gradients_too():
    stack = {"activations": [], "dropout": [], "dtype": torch.float64}
    network = Autoencoder(
        {"layer_units": (N_INPUTS, 3), **stack},
        {"layer_units": (3, N_FEATURES), **stack},
        contractive=True,
    )
    network.input = Embedding(0)
    network.flatten()
    network.initialize(np.random.RandomState(0), ["tanh"] * 2)
    network.set_generator(torch.Generator().manual_seed(0))
    X = _rows(9)[0]
    chunk = Chunk(X, X, None, [slice(0, 9)], [9.0])
    loss = regression_loss("squared_error", N_FEATURES)
    (found,) = _gradients(backprop_for([network.train()], loss), chunk, network.flat.grad)
    network.zero_grad()
    loss.per_sample(network(X), X).mean().backward()
    torch.testing.assert_close(found, network.flat.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "muon"])
def test_an_engine_trains_the_layer(solver):
    X, _ = _rows(200)
    labels = (X[:, -1] % 2).long().numpy()  # even categories from odd ones: no line divides them
    network = _network(Embedding(0))
    before = network.input.table.detach().clone()
    optimizer = make_optimizer(
        solver, network, lr=0.05, momentum=0.9, nesterov=True, betas=(0.9, 0.999), eps=1e-8,
        solver_params=None,
    )  # fmt: skip
    loss = classification_loss("softmax", 0.0)
    batches = Batches(
        Samples(features_of(X.numpy()), None, labels, None),
        batch_size=20,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    engine = Engine(network, loss, optimizer, alpha=1e-4)
    means = [engine.train_epoch(batches).mean for _ in range(30)]
    assert not torch.equal(network.input.table, before)
    assert means[-1] < 0.2 * means[0]
    with torch.no_grad():
        found = network.eval()(X).argmax(dim=1).numpy()
    assert np.mean(found == labels) > 0.97
