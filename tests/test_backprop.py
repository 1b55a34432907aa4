"""The closed-form gradient is autograd's, for every activation, loss and depth."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sknn_deep import DeepMLPClassifier
from sknn_deep._backprop import ACTIVATIONS, Backprop
from sknn_deep._losses import classification_loss, reconstruction_loss, regression_loss
from sknn_deep._network import ACTIVATIONS as MODULES
from sknn_deep._network import MLP, Autoencoder

N_FEATURES, N_OUTPUTS, N_ROWS = 6, 4, 9
LOSSES = {
    "softmax": classification_loss("softmax"),
    "softmax, smoothed": classification_loss("softmax", 0.1),
    "logistic": classification_loss("logistic"),
    "logistic, smoothed": classification_loss("logistic", 0.1),
    "squared_error": regression_loss("squared_error", N_OUTPUTS),
    "poisson": regression_loss("poisson", N_OUTPUTS),
    "absolute_error": regression_loss("absolute_error", N_OUTPUTS),
    "huber": regression_loss("huber", N_OUTPUTS, huber_delta=0.4),
    "quantile": regression_loss("quantile", N_OUTPUTS, quantile=0.3),
}


def _network(activation, hidden, dropout=0.0):
    network = MLP(
        (N_FEATURES, *hidden, N_OUTPUTS),
        activations=[activation] * len(hidden),
        dropout=[dropout] * len(hidden),
        dtype=torch.float64,
    )
    network.initialize(np.random.RandomState(0), [activation] * (len(hidden) + 1))
    return network.train()


def _batch(loss_name, weighted=False):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N_ROWS, N_FEATURES, dtype=torch.float64, generator=generator)
    target = torch.rand(N_ROWS, N_OUTPUTS, dtype=torch.float64, generator=generator)
    if loss_name.startswith("softmax"):
        target = target.argmax(dim=1)
    elif loss_name.startswith("logistic"):
        target = target.round()
    if not weighted:
        return X, target, None, float(N_ROWS)
    weight = torch.rand(N_ROWS, dtype=torch.float64, generator=generator)
    return X, target, weight, weight.sum().item()


def _autograd(network, loss, batch):
    X, *rest = batch
    network.zero_grad()
    value = loss.mean(network(X), *rest)
    value.backward()
    return value.item(), network.flat.grad.clone()


def test_every_activation_of_the_modules_has_a_closed_form():
    assert set(ACTIVATIONS) == set(MODULES)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)], ids=str)
@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_equals_autograd(activation, loss_name, hidden, weighted):
    network, loss = _network(activation, hidden), LOSSES[loss_name]
    batch = _batch(loss_name, weighted)
    expected_value, expected_gradient = _autograd(network, loss, batch)
    network.flat.grad.fill_(np.nan)  # every entry must be written
    value, _ = Backprop(network, loss)(*batch)
    assert value.item() == pytest.approx(expected_value, rel=1e-12)
    torch.testing.assert_close(network.flat.grad, expected_gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "selu"])
def test_gradient_equals_finite_differences(activation, loss_name):
    network, loss = _network(activation, (5,)), LOSSES[loss_name]
    batch = _batch(loss_name, weighted=True)
    backprop = Backprop(network, loss)
    backprop(*batch)
    gradient = network.flat.grad.clone()
    step = 1e-6
    for i in range(0, network.flat.numel(), 7):
        values = []
        for sign in (1, -1):
            network.flat[i] += sign * step
            values.append(backprop(*batch)[0].item())
            network.flat[i] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert gradient[i].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_dropout_draws_the_same_masks_as_the_modules():
    network, loss, batch = _network("relu", (50, 40), 0.4), LOSSES["softmax"], _batch("softmax")
    generator = torch.Generator().manual_seed(3)
    network.set_generator(generator)
    _, expected = _autograd(network, loss, batch)
    generator.manual_seed(3)
    Backprop(network, loss)(*batch)
    torch.testing.assert_close(network.flat.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("code_activation", ["identity", "tanh"])
def test_gradient_of_an_autoencoder_equals_autograd(code_activation):
    shared = {"activations": ["relu"], "dropout": [0.0], "dtype": torch.float64}
    network = Autoencoder(
        {"layer_units": (6, 5, 2), "out_activation": code_activation, **shared},
        {"layer_units": (2, 5, 6), "out_activation": "logistic", **shared},
    ).train()
    network.initialize(np.random.RandomState(0), ["relu"] * 4)
    loss, X = reconstruction_loss("squared_error"), _batch("squared_error")[0]
    batch = (X, X, None, float(N_ROWS))
    value, expected = _autograd(network, loss, batch)
    assert Backprop(network, loss)(*batch)[0].item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(network.flat.grad, expected, rtol=1e-10, atol=1e-13)


def test_batches_may_differ_in_length():
    network, loss = _network("relu", (7, 5)), LOSSES["softmax"]
    backprop, (X, target, _, _) = Backprop(network, loss), _batch("softmax")
    for n in (N_ROWS, 1, 4, N_ROWS):
        batch = (X[:n], target[:n], None, float(n))
        _, expected = _autograd(network, loss, batch)
        backprop(*batch)
        torch.testing.assert_close(network.flat.grad, expected, rtol=1e-10, atol=1e-13)


def test_training_in_closed_form_equals_training_with_autograd(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(150, 8)), rng.integers(0, 3, 150)
    classifier = DeepMLPClassifier(
        (20, 10), batch_size=32, max_iter=5, dropout=0.2, learning_rate="cosine", random_state=0
    )
    closed = clone(classifier).fit(X, y)
    monkeypatch.setattr(MLP, "has_normalization", True)  # what sends a network to autograd
    taped = clone(classifier).fit(X, y)
    np.testing.assert_allclose(closed.loss_curve_, taped.loss_curve_, rtol=1e-10)
    np.testing.assert_allclose(closed.coefs_[0], taped.coefs_[0], rtol=1e-7, atol=1e-10)


def test_saturated_outputs_and_decayed_weights_leave_no_denormal_products():
    network = Autoencoder(
        {"layer_units": (6, 3), "activations": [], "dropout": []},
        {"layer_units": (3, 6), "activations": [], "dropout": [], "out_activation": "logistic"},
    ).train()
    network.initialize(np.random.RandomState(0), ["relu"] * 2)
    layers = network.linear_layers()
    with torch.no_grad():
        layers[1].bias[:3] = -80.0  # pixels that are black in every image
        layers[1].weight[3:] *= 1e-30  # what L2 makes of a unit that no gradient reaches
    network.zero_negligible()
    X = torch.rand(9, 6)
    X[:, :3] = 0.0
    Backprop(network, reconstruction_loss("squared_error"))(X, X, None, 9.0)
    smallest_normal = torch.finfo(torch.float32).tiny
    for values in (layers[1].weight, layers[1].weight.grad, layers[0].weight.grad):
        magnitudes = values.detach().abs()
        assert not ((magnitudes > 0) & (magnitudes < smallest_normal)).any()
    assert torch.all(layers[1].weight[3:] == 0)
