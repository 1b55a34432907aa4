"""The closed-form gradient is autograd's, for every activation, loss, depth and stack."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sknn_deep._engine import activations
from sknn_deep._engine.activations import ACTIVATION_KERNELS
from sknn_deep._engine.backprop import Backprop
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.losses import classification_loss, regression_loss
from sknn_deep._engine.reconstruction_losses import reconstruction_loss
from sknn_deep._hardware import bfloat16
from sknn_deep._networks.layers import ACTIVATIONS
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.stacked import rows_of_networks, share_buffer

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
    "normal": regression_loss("normal", N_OUTPUTS // 2),
    "quantiles": regression_loss("quantile", 1, quantiles=[0.1, 0.3, 0.9]),
}
# Where the network has several outputs for each column of the target.
N_COLUMNS = {"normal": N_OUTPUTS // 2, "quantiles": 1}


def _network(activation, hidden, dropout=0.0, normalization=None, seed=0, dtype=torch.float64):
    network = MLP(
        (N_FEATURES, *hidden, N_OUTPUTS),
        activations=[activation] * len(hidden),
        dropout=[dropout] * len(hidden),
        normalization=normalization,
        dtype=dtype,
    )
    network.initialize(np.random.RandomState(seed), [activation] * (len(hidden) + 1))
    return network.train()


def _chunk(loss_name, lengths=(N_ROWS,), weighted=False, n_networks=None, dtype=torch.float64):
    """Return batches of given lengths; for a stack, each network has rows of its own."""
    generator = torch.Generator().manual_seed(0)
    n_rows = sum(lengths)
    leading = () if n_networks is None else (n_networks,)
    X = torch.randn((*leading, n_rows, N_FEATURES), dtype=dtype, generator=generator)
    n_columns = N_COLUMNS.get(loss_name, N_OUTPUTS)
    target = torch.rand((*leading, n_rows, n_columns), dtype=dtype, generator=generator)
    if loss_name.startswith("softmax"):
        target = target.argmax(dim=-1)
    elif loss_name.startswith("logistic"):
        target = target.round()
    stops = np.cumsum(lengths)
    parts = [slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    if not weighted:
        return Chunk(X, target, None, parts, [float(length) for length in lengths])
    weight = torch.rand(n_rows, dtype=dtype, generator=generator)
    sums = [weight[part].sum() for part in parts]
    scale = torch.cat([weight[part] / total for part, total in zip(parts, sums, strict=True)])
    return Chunk(X, target, scale.unsqueeze(1), parts, [total.item() for total in sums])


def _closed_form(networks, loss, chunk, buffers=None, **options):
    """Return loss, output and gradient of every batch."""
    work = Backprop(networks, loss, buffers=buffers, **options).workspace(chunk)
    work.load()
    gradient = networks[0].flat.grad.unsqueeze(0) if buffers is None else buffers[1]
    gradients = []
    for program in work.programs:
        gradient.fill_(np.nan)  # every entry must be written
        for kernel in program:
            kernel()
        in_order = gradient.clone()
        if buffers is not None:
            numbers = list(range(len(networks)))
            in_order = rows_of_networks(gradient, numbers, networks[0].first_shape)
        gradients.append(list(in_order))
    return SimpleNamespace(losses=work.losses(), raws=work.raws, gradients=gradients, work=work)


def _autograd(network, loss, chunk, number=0, member=None):
    """Return loss and gradient of one batch, through the modules."""
    part = chunk.parts[number]
    X, target = (
        (tensor if member is None else tensor[member])[part] for tensor in (chunk.X, chunk.target)
    )
    network.zero_grad()
    raw = network(X)
    losses = loss.per_sample(raw, loss.encoded(target, raw.detach()))
    if chunk.scale is None:
        value = losses.mean()
    else:
        value = (losses * chunk.scale[part, 0]).sum()
    value.backward()
    return value.item(), network.flat.grad.clone()


def _assert_equals_autograd(network, loss, chunk):
    expected = [_autograd(network, loss, chunk, i) for i in range(len(chunk.parts))]
    ours = _closed_form([network], loss, chunk)
    for i, (value, gradient) in enumerate(expected):
        assert ours.losses[i].item() == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(ours.gradients[i][0], gradient, rtol=1e-10, atol=1e-13)


def test_every_activation_of_the_modules_has_a_closed_form():
    assert set(ACTIVATION_KERNELS) == set(ACTIVATIONS)


def test_the_largest_kernels_are_told_for_all_networks_together():
    loss = LOSSES[next(iter(LOSSES))]
    networks = [MLP((50, 20, 4), activations=["relu"], dropout=[0.0]) for _ in range(3)]
    one = Backprop(networks[:1], loss).largest_kernels(32)
    assert one == {"multiply_adds": 32 * 50 * 20, "n_elements": 4 * (50 * 20 + 20 * 4)}
    three = Backprop(networks, loss, buffers=share_buffer(networks)).largest_kernels(32)
    assert three == {name: 3 * work for name, work in one.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("loss_name", LOSSES)
def test_losses_are_the_same_together_and_batch_by_batch(loss_name, weighted, monkeypatch):
    """The latter where outputs are wide."""
    found = []
    for size in (activations.SMALL_TENSOR, 0):
        monkeypatch.setattr(activations, "SMALL_TENSOR", size)
        chunk = _chunk(loss_name, lengths=(6, 6, 6, 4), weighted=weighted)
        found.append(_closed_form([_network("tanh", (7,))], LOSSES[loss_name], chunk).losses)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


# each with one of the others: neither knows of the other
every_activation_and_loss = pytest.mark.parametrize(
    ("activation", "loss_name"),
    [*((name, "softmax") for name in ACTIVATIONS), *(("tanh", name) for name in LOSSES)],
)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)], ids=str)
@every_activation_and_loss
def test_gradient_equals_autograd(activation, loss_name, hidden, weighted):
    chunk = _chunk(loss_name, weighted=weighted)
    _assert_equals_autograd(_network(activation, hidden), LOSSES[loss_name], chunk)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("loss_name", ["softmax", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_gradient_with_normalization_equals_autograd(
    normalization, activation, loss_name, weighted
):
    network = _network(activation, (7, 5), normalization=normalization)
    with torch.no_grad():  # scales and shifts that are not those of the start
        network.flat.add_(0.1 * torch.arange(network.flat.numel()) % 0.7)
    _assert_equals_autograd(network, LOSSES[loss_name], _chunk(loss_name, weighted=weighted))


def test_batch_normalization_learns_the_same_statistics_as_the_modules():
    networks = [_network("relu", (7, 5), normalization="batch") for _ in range(2)]
    loss, chunk = LOSSES["softmax"], _chunk("softmax", lengths=(9, 9, 4))
    for i in range(3):
        _autograd(networks[0], loss, chunk, i)
    _closed_form([networks[1]], loss, chunk)
    for expected, buffer in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("normalization", [None, "batch", "layer"], ids=str)
@every_activation_and_loss
def test_a_stack_of_networks_has_the_gradients_of_its_members(activation, loss_name, normalization):
    networks = [
        _network(activation, (7, 5), normalization=normalization, seed=seed) for seed in range(3)
    ]
    loss = LOSSES[loss_name]
    chunk = _chunk(loss_name, lengths=(9, 4), weighted=True, n_networks=3)
    expected = [
        [_autograd(network, loss, chunk, number, k) for k, network in enumerate(networks)]
        for number in range(2)
    ]
    ours = _closed_form(networks, loss, chunk, share_buffer(networks))
    assert ours.losses.shape == (3, 2)
    for number in range(2):
        for k in range(3):
            value, wanted = expected[number][k]
            assert ours.losses[k, number].item() == pytest.approx(value, rel=1e-12)
            torch.testing.assert_close(ours.gradients[number][k], wanted, rtol=1e-9, atol=1e-13)


def test_a_shared_buffer_gives_networks_back_in_their_own_order():
    networks = [_network("relu", (7, 40), normalization="batch", seed=seed) for seed in range(3)]
    before = [network.flat.clone() for network in networks]
    flat, gradient = share_buffer(networks)
    assert flat.shape == gradient.shape == (3, len(before[0]))
    assert not gradient.any()
    assert not torch.equal(flat[0], before[0]), "the first matrix lies by column"
    rows = rows_of_networks(flat, [2, 0], networks[0].first_shape)
    torch.testing.assert_close(rows, torch.stack([before[2], before[0]]), rtol=0, atol=0)
    flat.zero_()
    torch.testing.assert_close(rows[1], before[0], rtol=0, atol=0)
    for network, own in zip(networks, before, strict=True):
        torch.testing.assert_close(network.flat, own, rtol=0, atol=0)


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "selu"])
def test_gradient_equals_finite_differences(activation, loss_name):
    network, loss = _network(activation, (5,)), LOSSES[loss_name]
    chunk = _chunk(loss_name, weighted=True)
    ours = _closed_form([network], loss, chunk)
    gradient, work = ours.gradients[0][0], ours.work
    step = 1e-6
    for i in range(0, network.flat.numel(), 7):
        values = []
        for sign in (1, -1):
            network.flat[i] += sign * step
            for kernel in work.programs[0]:
                kernel()
            values.append(work.loss(0).item())
            network.flat[i] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert gradient[i].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_dropout_draws_the_same_masks_as_the_modules():
    network, loss, chunk = _network("relu", (50, 40), 0.4), LOSSES["softmax"], _chunk("softmax")
    generator = torch.Generator().manual_seed(3)
    network.set_generator(generator)
    _, expected = _autograd(network, loss, chunk)
    generator.manual_seed(3)
    (gradient,) = _closed_form([network], loss, chunk).gradients
    torch.testing.assert_close(gradient[0], expected, rtol=1e-10, atol=1e-13)


def test_members_of_a_stack_draw_their_masks_from_their_own_generators():
    networks = [_network("relu", (50, 40), 0.4, seed=seed) for seed in range(2)]
    loss, chunk = LOSSES["softmax"], _chunk("softmax", n_networks=2)
    expected = []
    for k, network in enumerate(networks):
        network.set_generator(torch.Generator().manual_seed(k))
        expected.append(_autograd(network, loss, chunk, member=k)[1])
        network.set_generator(torch.Generator().manual_seed(k))
    (gradients,) = _closed_form(networks, loss, chunk, share_buffer(networks)).gradients
    for k in range(2):
        torch.testing.assert_close(gradients[k], expected[k], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("code_activation", ["identity", "tanh", "gelu"])
@pytest.mark.parametrize("out_activation", ["identity", "logistic", "softplus"])
def test_gradient_of_an_autoencoder_equals_autograd(code_activation, out_activation):
    shared = {"activations": ["relu"], "dropout": [0.0], "dtype": torch.float64}
    network = Autoencoder(
        {"layer_units": (6, 5, 2), "out_activation": code_activation, **shared},
        {"layer_units": (2, 5, 6), "out_activation": out_activation, **shared},
    ).train()
    network.initialize(np.random.RandomState(0), ["relu"] * 4)
    X = _chunk("squared_error", lengths=(9, 5)).X
    chunk = Chunk(X, X, None, [slice(0, 9), slice(9, 14)], [9.0, 5.0])
    _assert_equals_autograd(network, reconstruction_loss("squared_error"), chunk)


def test_the_same_rows_divided_otherwise_have_kernels_of_their_own():
    network, loss = _network("relu", (7, 5)), LOSSES["softmax"]
    halves, whole = _chunk("softmax", lengths=(6, 6)), _chunk("softmax", lengths=(12,))
    whole = whole._replace(X=halves.X, target=halves.target)
    backprop = Backprop([network], loss)
    for chunk in (halves, whole):
        work = backprop.workspace(chunk)
        work.load()
        for program in work.programs:
            for kernel in program:
                kernel()
        expected = [_autograd(network, loss, chunk, i)[0] for i in range(len(chunk.parts))]
        np.testing.assert_allclose(work.losses(), expected, rtol=1e-12)


@pytest.mark.parametrize("lengths", [(9, 1), (4, 4, 9), (1,)], ids=str)
def test_batches_may_differ_in_length(lengths):
    chunk = _chunk("softmax", lengths=lengths)
    _assert_equals_autograd(_network("relu", (7, 5)), LOSSES["softmax"], chunk)


def test_narrow_outputs_are_stored_by_column_and_wide_ones_by_row():
    X, target = torch.rand(60, N_FEATURES), torch.rand(60, N_OUTPUTS)
    rows = Chunk(X, target, None, [slice(0, 60)], [60.0])
    narrow = _network("relu", (50,), dtype=torch.float32)
    loss = LOSSES["squared_error"]
    assert Backprop([narrow], loss).workspace(rows).raws[0].stride() == (1, 60)
    wide = MLP((N_FEATURES, 40), activations=[], dropout=[])
    rows = rows._replace(target=torch.rand(60, 40))
    assert Backprop([wide], loss).workspace(rows).raws[0].stride() == (40, 1)


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_products_in_bfloat16_are_near_those_in_single_precision():
    loss, chunk = LOSSES["softmax"], _chunk("softmax", dtype=torch.float32)
    network = _network("relu", (40, 30), dtype=torch.float32)
    exact = _closed_form([network], loss, chunk)
    rounded = _closed_form([network], loss, chunk, product_dtype=torch.bfloat16)
    assert rounded.raws[0].dtype == rounded.gradients[0][0].dtype == torch.float32
    assert not torch.equal(rounded.raws[0], exact.raws[0])
    torch.testing.assert_close(rounded.raws[0], exact.raws[0], rtol=0.02, atol=0.02)
    cosine = torch.cosine_similarity(rounded.gradients[0][0], exact.gradients[0][0], dim=0)
    assert cosine > 0.999


def _rounded(tensor):
    return tensor.bfloat16().double()


def _step_by_hand(X, weights, biases):
    """Return output and gradient of half the squared output of a row, rounded where ours are."""
    (W1, W2), (b1, b2) = weights, biases
    hidden = _rounded(_rounded(X) @ _rounded(W1).T + _rounded(b1)).relu()
    raw = _rounded(hidden @ _rounded(W2).T) + b2
    delta = raw / len(raw)
    of_W2 = _rounded(_rounded(delta).T @ hidden)
    of_hidden = _rounded(_rounded(delta) @ _rounded(W2)) * (hidden > 0)
    of_W1 = _rounded(of_hidden.T @ _rounded(X))
    of_b1 = of_hidden.sum(dim=0)
    return raw, (of_W1, of_W2, of_b1, delta.sum(dim=0))


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize("n_networks", [1, 3], ids=["alone", "stack"])
def test_a_step_in_bfloat16_rounds_factors_and_products_only(n_networks):
    """Numbers of so few digits that every sum is exact, whatever the order of its terms."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):  # more digits than bfloat16 has
        return 1 + torch.randint(0, 2**12, shape, generator=generator).double() / 2**12

    X, target = draw(8, N_FEATURES), torch.zeros(8, N_OUTPUTS)
    networks, expected = [], []
    for _ in range(n_networks):
        weights = draw(5, N_FEATURES), draw(N_OUTPUTS, 5)
        # of the hidden units one is off for all rows and one for some
        biases = torch.tensor([-20, -13, 1, 2, 3], dtype=torch.float64), torch.ones(N_OUTPUTS)
        network = _network("relu", (5,), dtype=torch.float32)
        network.flat.copy_(torch.cat([part.flatten() for part in (*weights, *biases)]))
        networks.append(network)
        expected.append(_step_by_hand(X, weights, biases))
    shared = X.float() if n_networks == 1 else X.float().expand(n_networks, *X.shape)
    target = target if n_networks == 1 else target.expand(n_networks, *target.shape)
    ours = _closed_form(
        networks,
        LOSSES["squared_error"],
        Chunk(shared, target, None, [slice(0, 8)], [8.0]),
        None if n_networks == 1 else share_buffer(networks),
        product_dtype=torch.bfloat16,
    )
    raws = [ours.raws[0]] if n_networks == 1 else ours.raws[0]
    for k, (raw, gradients) in enumerate(expected):
        assert torch.equal(raws[k].double(), raw)
        by_hand = torch.cat([gradient.flatten() for gradient in gradients])
        assert torch.equal(ours.gradients[0][k].double(), by_hand)


def _types_between(network, X):
    """Return the types of each layer's delta in a step on one batch."""
    target = torch.zeros(len(X), dtype=torch.int64)
    chunk = Chunk(X, target, None, [slice(0, len(X))], [float(len(X))])
    backprop = Backprop([network], LOSSES["softmax"], torch.bfloat16)
    backprop.workspace(chunk)
    (passes,) = backprop._passes.values()
    return [each.delta.dtype for each in passes]


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu", {}),
        ("leaky_relu", {}),
        ("tanh", {}),
        ("silu", {}),
        ("relu", {"dropout": [0.5, 0.5]}),
        ("relu", {"normalization": "batch"}),
    ],
    ids=str,
)
def test_deltas_stay_rounded_between_layers_that_round(activation, options):
    plain = not options
    options = {"activations": [activation] * 2, "dropout": [0, 0], **options}
    network = MLP((N_FEATURES, 40, 30, N_OUTPUTS), **options).train()
    stays = activation.endswith("relu") and plain
    between = torch.bfloat16 if stays else torch.float32
    assert _types_between(network, torch.rand(8, N_FEATURES)) == [between, between, torch.float32]


def test_deltas_are_not_rounded_beside_a_small_layer(monkeypatch):
    monkeypatch.setattr(bfloat16, "FEWEST_TO_ROUND", 8 * 40 * 30)
    network = MLP((N_FEATURES, 40, 30, 40, 2), activations=["relu"] * 3, dropout=[0, 0, 0])
    types = _types_between(network, torch.rand(8, N_FEATURES))
    assert types == [torch.float32, torch.bfloat16, torch.float32, torch.float32]


def test_small_layers_are_not_rounded():
    chunk = _chunk("softmax", dtype=torch.float32)
    network = _network("relu", (40,), dtype=torch.float32)
    exact, same = (
        _closed_form([network], LOSSES["softmax"], chunk, product_dtype=product_dtype)
        for product_dtype in (None, torch.bfloat16)
    )
    assert torch.equal(same.gradients[0][0], exact.gradients[0][0])


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_casts_to_bfloat16_are_shared_by_all_batches_of_a_chunk():
    chunk = _chunk("softmax", lengths=(8,) * 20, dtype=torch.float32)
    network = _network("relu", (40,), dtype=torch.float32)
    (few, many) = (
        chunk._replace(parts=chunk.parts[:n], X=chunk.X[: 8 * n], target=chunk.target[: 8 * n])
        for n in (2, 20)
    )
    buffers = []
    for part in (few, many):
        backprop = Backprop([network], LOSSES["softmax"], torch.bfloat16)
        programs = backprop.workspace(part).programs
        kernels = [kernel for program in programs for kernel in program]
        tensors = [arg for k in kernels for arg in (*k.args, *k.keywords.values())]
        low = [t for t in tensors if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16]
        buffers.append({tensor.untyped_storage().data_ptr() for tensor in low})
    assert len(buffers[0]) == len(buffers[1])


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
    chunk = Chunk(X, X, None, [slice(0, 9)], [9.0])
    _closed_form([network], reconstruction_loss("squared_error"), chunk)
    smallest_normal = torch.finfo(torch.float32).tiny
    for values in (layers[1].weight, layers[1].weight.grad, layers[0].weight.grad):
        magnitudes = values.detach().abs()
        assert not ((magnitudes > 0) & (magnitudes < smallest_normal)).any()
    assert torch.all(layers[1].weight[3:] == 0)
