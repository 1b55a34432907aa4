"""The variants of an autoencoder have one gradient: in closed form, by the tape, by differences."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sknn_deep._engine.backprop import Backprop
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.losses import CodePenalty
from sknn_deep._engine.reconstruction_losses import RECONSTRUCTION_LOSSES, reconstruction_loss
from sknn_deep._engine.tape import AutogradBackprop, backprop_for
from sknn_deep._networks.models import Autoencoder
from sknn_deep._networks.stacked import rows_of_networks, share_buffer

N_FEATURES, N_ROWS, N_COMPONENTS = 6, 9, 3
NOISE = [("gaussian", 0.3), ("masking", 0.4), ("salt_pepper", 0.4)]


def _network(activation="tanh", out_activation="logistic", seed=0, **options):
    shared = {"activations": [activation], "dropout": [0.0], "dtype": torch.float64}
    network = Autoencoder(
        {"layer_units": (N_FEATURES, 5, N_COMPONENTS), **shared},
        {"layer_units": (N_COMPONENTS, 5, N_FEATURES), "out_activation": out_activation, **shared},
        **options,
    )
    names = [activation] * len(network.linear_layers())
    network.initialize(np.random.RandomState(seed), names)
    network.set_generator(torch.Generator())
    if network.config["allow_nan"]:
        network.input.fill.fill_(0.3)
    return network.train()


def _chunk(weighted=False, missing=False, lengths=(N_ROWS,), n_networks=None):
    generator = torch.Generator().manual_seed(0)
    n_rows, leading = sum(lengths), () if n_networks is None else (n_networks,)
    X = torch.rand((*leading, n_rows, N_FEATURES), dtype=torch.float64, generator=generator)
    if missing:
        X[torch.rand(X.shape, generator=generator) < 0.3] = torch.nan
        X[..., 0, :] = torch.nan  # a row of which nothing is known
    stops = np.cumsum(lengths)
    parts = [slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    if not weighted:
        return Chunk(X, X, None, parts, list(map(float, lengths)))
    weight = torch.rand(n_rows, dtype=torch.float64, generator=generator)
    scale = torch.cat([weight[part] / weight[part].sum() for part in parts])
    return Chunk(X, X, scale.unsqueeze(1), parts, [weight[part].sum().item() for part in parts])


def _evaluate(backprop, networks, chunk, seed=3, gradient=None):
    """Return losses and gradients of the batches, with the same random numbers each time."""
    for k, network in enumerate(networks):
        network.generator.manual_seed(seed + k)
    work, gradients = backprop.workspace(chunk), []
    work.load()
    gradient = networks[0].flat.grad.unsqueeze(0) if gradient is None else gradient
    for program in work.programs:
        gradient.fill_(np.nan)  # every entry must be written
        for kernel in program:
            kernel()
        in_order = gradient.clone()
        if len(networks) > 1:
            numbers = list(range(len(networks)))
            in_order = rows_of_networks(gradient, numbers, networks[0].first_shape)
        gradients.append(list(in_order))
    return SimpleNamespace(losses=work.losses(), gradients=gradients, work=work)


def _assert_same(network, loss, chunk):
    closed = _evaluate(Backprop([network], loss), [network], chunk)
    tape = _evaluate(AutogradBackprop(network, loss), [network], chunk)
    torch.testing.assert_close(tape.losses, closed.losses, rtol=1e-12, atol=0)
    for ours, theirs in zip(closed.gradients, tape.gradients, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-13)


def _assert_is_derivative(network, loss, chunk):
    """Compare the gradient with differences of the loss that is reported."""
    backprop = backprop_for([network], loss)
    gradient = _evaluate(backprop, [network], chunk).gradients[0][0]
    step = 1e-6
    for i in range(0, network.flat.numel(), 5):
        values = []
        for sign in (1, -1):
            network.flat[i] += sign * step
            values.append(_evaluate(backprop, [network], chunk).losses[0].item())
            network.flat[i] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert gradient[i].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("missing", [False, True], ids=["all known", "some missing"])
@pytest.mark.parametrize("even", [True, False], ids=["even", "features weighted"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "rows weighted"])
@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_every_loss_has_the_gradient_that_differences_have(name, weighted, even, missing):
    weights = None if even else torch.arange(N_FEATURES, dtype=torch.float64)
    loss = reconstruction_loss(name, huber_delta=0.1, weights=weights, allow_nan=missing)
    network, chunk = _network(allow_nan=missing), _chunk(weighted, missing)
    _assert_is_derivative(network, loss, chunk)
    _assert_same(network, loss, chunk)


@pytest.mark.parametrize("noise", [None, *NOISE], ids=str)
@pytest.mark.parametrize("tied_weights", [False, True], ids=["free", "tied"])
@pytest.mark.parametrize("missing", [False, True], ids=["all known", "some missing"])
def test_closed_form_and_tape_agree_on_what_both_can(noise, tied_weights, missing):
    options = {"noise": noise, "tied_weights": tied_weights, "allow_nan": missing}
    loss = reconstruction_loss(
        "squared_error", allow_nan=missing, penalty=CodePenalty(sparsity=0.3)
    )
    network, chunk = _network(**options), _chunk(True, missing, lengths=(9, 9, 4))
    assert isinstance(backprop_for([network], loss), Backprop)
    _assert_same(network, loss, chunk)


@pytest.mark.parametrize(
    "options",
    [
        {"noise": NOISE[0]},
        {"tied_weights": True},
        {"variational": True},
        {"contractive": True},
        {"variational": True, "contractive": True, "noise": NOISE[1], "tied_weights": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["squared_error", "log_loss"])
def test_every_variant_has_the_gradient_that_differences_have(options, name):
    loss = reconstruction_loss(name, penalty=CodePenalty(0.2, 0.5, 0.7))
    _assert_is_derivative(_network(**options), loss, _chunk(weighted=True))


@pytest.mark.parametrize("options", [{"variational": True}, {"contractive": True}], ids=str)
def test_the_tape_takes_what_has_no_closed_form(options):
    loss = reconstruction_loss("squared_error", penalty=CodePenalty())
    assert isinstance(backprop_for([_network(**options)], loss), AutogradBackprop)


def test_the_tape_works_where_the_engine_has_switched_it_off():
    network, chunk = _network(contractive=True), _chunk()
    loss = reconstruction_loss("squared_error", penalty=CodePenalty(contractive=1.0))
    expected = _evaluate(backprop_for([network], loss), [network], chunk)
    backprop = backprop_for([network], loss)
    backprop.workspace(chunk)
    with torch.inference_mode():
        ours = _evaluate(backprop, [network], chunk)
    torch.testing.assert_close(ours.gradients[0][0], expected.gradients[0][0])


def _penalty(network, chunk, **strengths):
    """Return what the penalties add to the loss."""
    without, with_ = (
        _evaluate(
            backprop_for([network], reconstruction_loss("squared_error", penalty=penalty)),
            [network],
            chunk,
        ).losses[0]
        for penalty in (CodePenalty(), CodePenalty(**strengths))
    )
    return (with_ - without).item()


def test_sparsity_costs_the_mean_absolute_value_of_the_code():
    network, chunk = _network(), _chunk()
    expected = network.encode(chunk.X).abs().mean().item()
    assert _penalty(network, chunk, sparsity=0.5) == pytest.approx(0.5 * expected)


def test_beta_weighs_the_divergence_from_the_standard_normal_distribution():
    network, chunk = _network(variational=True), _chunk()
    mean, log_variance = network.distribution(chunk.X)
    code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = torch.distributions.kl_divergence(code, prior).sum(dim=1).mean().item()
    assert _penalty(network, chunk, beta=2.0) == pytest.approx(2 * divergence / N_FEATURES)


def test_contraction_costs_the_norm_of_the_jacobian_on_average():
    network, chunk = _network(contractive=True), _chunk()
    jacobians = torch.func.vmap(torch.func.jacrev(network.encoder))(chunk.X)
    expected = jacobians.square().sum(dim=(1, 2)) / N_COMPONENTS
    # the mean over all vectors of signs, of which there are 2 ** 3, is exact
    x = chunk.X.clone().requires_grad_()
    estimates = []
    for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * N_COMPONENTS):
        (gradient,) = torch.autograd.grad((network.encoder(x) @ signs).sum(), x)
        estimates.append(gradient.square().sum(dim=1) / N_COMPONENTS)
    torch.testing.assert_close(torch.stack(estimates).mean(dim=0), expected.detach())
    # and those that are drawn are among them
    drawn = network.contraction(x, network.encoder(x)).detach()
    assert any(torch.allclose(drawn, estimate) for estimate in estimates)


@pytest.mark.parametrize("noise", [None, *NOISE], ids=str)
@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_a_stack_has_the_gradients_of_its_members(name, noise):
    loss = reconstruction_loss(name, penalty=CodePenalty(sparsity=0.3))
    networks = [_network(noise=noise, seed=seed) for seed in range(3)]
    chunk = _chunk(weighted=True, lengths=(9, 9), n_networks=3)
    expected = []
    for k, network in enumerate(networks):
        own = chunk._replace(X=chunk.X[k], target=chunk.X[k])
        expected.append(_evaluate(Backprop([network], loss), [network], own, seed=3 + k))
    flat, gradient = share_buffer(networks)
    backprop = Backprop(networks, loss, buffers=(flat, gradient))
    ours = _evaluate(backprop, networks, chunk, gradient=gradient)
    for k in range(3):
        torch.testing.assert_close(ours.losses[k], expected[k].losses, rtol=1e-12, atol=0)
        for number in range(2):
            wanted = expected[k].gradients[number][0]
            torch.testing.assert_close(ours.gradients[number][k], wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", ["masking", "salt_pepper"])
def test_noise_replaces_the_share_that_is_asked_for(kind):
    network = _network(noise=(kind, 0.3))
    X = 0.2 + 0.5 * torch.rand((5000, N_FEATURES), dtype=torch.float64)
    noisy = network.corrupted(X)
    replaced = noisy != X
    assert replaced.double().mean().item() == pytest.approx(0.3, abs=0.02)
    values = {"masking": [0.0], "salt_pepper": [0.0, 1.0]}[kind]
    assert noisy[replaced].unique().tolist() == values
    if kind == "salt_pepper":
        assert noisy[replaced].mean().item() == pytest.approx(0.5, abs=0.03)


def test_gaussian_noise_has_the_standard_deviation_that_is_asked_for():
    network = _network(noise=("gaussian", 0.3))
    X = torch.rand((5000, N_FEATURES), dtype=torch.float64)
    difference = network.corrupted(X) - X
    assert difference.std().item() == pytest.approx(0.3, rel=0.03)
    assert difference.mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("noise", NOISE, ids=str)
def test_a_network_that_is_not_training_adds_no_noise(noise):
    network, X = _network(noise=noise), _chunk().X
    torch.testing.assert_close(network.eval()(X), network.decoder(network.encoder(X)))


def test_salt_and_pepper_are_the_limits_of_each_feature():
    network = _network(noise=("salt_pepper", 0.5))
    network.input.noise.low.copy_(torch.arange(6) - 10)
    network.input.noise.high.copy_(torch.arange(6) + 10)
    X = torch.zeros((2000, N_FEATURES), dtype=torch.float64)
    noisy = network.corrupted(X)
    for feature in range(N_FEATURES):
        assert noisy[:, feature].unique().tolist() == [feature - 10, 0, feature + 10]


def test_tied_matrices_are_one_and_are_counted_once():
    network, free = _network(tied_weights=True), _network()
    for encoder, decoder in network.tied_layers():
        assert encoder.weight.data_ptr() == decoder.weight.data_ptr()
        torch.testing.assert_close(encoder.weight, decoder.weight.mT)
    assert len(network.tied_layers()) == 2
    n_tied = N_FEATURES * 5 + 5 * N_COMPONENTS
    assert free.flat.numel() - network.flat.numel() == n_tied
    assert sum(p.numel() for p in network.parameters()) == network.flat.numel()
