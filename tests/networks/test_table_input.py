"""The input layer of tables: its outputs, and its gradients against autograd's."""

from itertools import product

import numpy as np
import pytest
import torch

from sknn_deep._engine.backprop import Backprop
from sknn_deep._engine.losses import regression_loss
from sknn_deep._networks.category_inputs import CategoryVectors, Indicators
from sknn_deep._networks.models import MLP
from sknn_deep._networks.number_inputs import (
    BASES,
    SCALINGS,
    EmbeddedNumbers,
    ScaledNumbers,
    bin_edges,
    centers_and_scales,
)
from sknn_deep._networks.stacked import share_buffer
from sknn_deep._networks.table_input import TableInput

N_ROWS = 37
LOSS = regression_loss("squared_error", 1)
NAN = np.nan


def table(seed=0):
    """Return rows of three numbers, one with gaps, and three columns of codes, some unknown."""
    rng = np.random.RandomState(seed)
    X = np.column_stack(
        [
            rng.randn(N_ROWS, 3),
            rng.randint(-1, 5, N_ROWS),  # of 4 categories
            rng.randint(-1, 30, N_ROWS),
            rng.randint(0, 2, N_ROWS),
        ]
    )
    X[rng.rand(N_ROWS) < 0.3, 1] = NAN
    return X


def network(seed=0, **options):
    config = {
        "numbers": (0, 1, 2),
        "gaps": (1,),
        "categories": ((3, 4), (4, 30), (5, 2)),
        "n_functions": 5,
        "number_size": 3,
        **options,
    }
    n_inputs = TableInput(**config, device=torch.device("meta")).n_inputs
    made = MLP(
        (n_inputs, 7, 1), activations=["tanh"], dropout=[0.0], dtype=torch.float64, input=config
    )
    made.initialize(np.random.RandomState(seed), ["tanh", "tanh"])
    made.input.learn(table())
    with torch.no_grad():  # what starts at zero would hide an error
        noise = np.random.RandomState(seed + 1).normal(scale=0.1, size=len(made.flat))
        made.flat.add_(torch.from_numpy(noise))
    return made


def run(networks, X, target, buffers=None):
    """Write the gradients of the mean loss in closed form; return the raw output."""
    leading = () if buffers is None else (len(networks),)
    raw = torch.zeros(*leading, len(X), 1, dtype=torch.float64)
    penalty = torch.zeros(leading, dtype=torch.float64)
    scale = torch.full((), 1 / len(X), dtype=torch.float64)
    batches = (tensor.expand(*leading, *tensor.shape) for tensor in (X, target))
    with torch.inference_mode():
        for kernel in Backprop(networks, LOSS, buffers=buffers).program(
            *batches, scale, raw, penalty
        ):
            kernel()
    return raw


EVERY = list(product((None, *BASES), (None, *SCALINGS)))


@pytest.mark.parametrize(("embedding", "scaling"), EVERY)
def test_the_closed_form_is_what_autograd_finds(embedding, scaling):
    has_scales = scaling != "standard"
    made = network(embedding=embedding, scaling=scaling, learned_scales=has_scales)
    X, target = torch.from_numpy(table(1)), torch.randn(N_ROWS, 1, dtype=torch.float64)
    raw = run([made], X, target)
    output = made(X)
    torch.testing.assert_close(raw, output)
    loss = LOSS.per_sample(output, target).mean()
    expected = torch.autograd.grad(loss, list(made.parameters()))
    for (name, param), gradient in zip(made.named_parameters(), expected, strict=True):
        torch.testing.assert_close(param.grad, gradient, msg=name)
        assert gradient.any(), name


@pytest.mark.parametrize(("embedding", "scaling"), EVERY)
def test_a_stack_has_the_gradients_of_its_networks(embedding, scaling):
    options = {"embedding": embedding, "scaling": scaling, "learned_scales": scaling is None}
    networks = [network(seed, **options) for seed in (0, 5)]
    X, target = torch.from_numpy(table(1)), torch.randn(N_ROWS, 1, dtype=torch.float64)
    outputs = [run([made], X, target) for made in networks]
    buffers = share_buffer(networks)
    torch.testing.assert_close(run(networks, X, target, buffers), torch.stack(outputs))
    views = networks[0].views_in(buffers[1])
    for params in zip(*(made.parameters() for made in networks), strict=True):
        expected = torch.stack([param.grad for param in params])
        torch.testing.assert_close(views[id(params[0])], expected)


def test_each_number_stands_with_its_indicator():
    layer = ScaledNumbers([0, 1], gaps=[1])
    with torch.no_grad():
        layer.fill.fill_(7.0)
        X = torch.tensor([[1.0, 2.0], [3.0, NAN]])
        assert layer(X).tolist() == [[1.0, 2.0, 0.0], [3.0, 7.0, 1.0]]


def test_a_gap_that_training_did_not_have_is_the_centre():
    layer = ScaledNumbers([0], scaling="standard")
    layer.learn(np.array([[4.0], [6.0]]))
    assert layer(torch.tensor([[NAN], [5.0], [6.0]])).tolist() == [[0.0], [0.0], [1.0]]


def test_an_unscaled_gap_that_training_did_not_have_is_the_median():
    layer = ScaledNumbers([0])
    layer.learn(np.array([[100.0], [102.0], [190.0]]))
    assert layer(torch.tensor([[NAN], [5.0]])).tolist() == [[102.0], [5.0]]


def test_the_embedding_starts_linear_and_may_take_any_shape_between_its_edges():
    layer = EmbeddedNumbers([0], "piecewise_linear", n_functions=3, size=1, dtype=torch.float64)
    layer.learn(np.array([[0.0], [1.0], [3.0], [4.0]]))
    X = torch.tensor([[-9.0], [0.5], [1.0], [2.0], [3.5], [9.0]], dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0, :, 0] = torch.tensor([0.0, 0.0, 0.0, 2.0, 5.0])
        torch.testing.assert_close(layer(X), 2 * X.clamp(0, 4))  # beyond the edges nothing is known
        layer.weight[0, :, 0] = torch.tensor([10.0, -4.0, 1.0, 0.0, 5.0])
        expected = [[0.0], [5.0], [10.0], [8.0], [6.5], [7.0]]
        torch.testing.assert_close(layer(X), torch.tensor(expected, dtype=torch.float64))
        assert layer(torch.tensor([[NAN]], dtype=torch.float64)).item() == 5.0, "a gap's own"


def test_codes_that_nobody_has_seen_have_no_indicator_and_share_a_vector():
    with torch.no_grad():
        codes = torch.tensor([[0.0], [2.0], [-1.0], [3.0]])
        assert Indicators([(0, 3)])(codes).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
        layer = CategoryVectors([(0, 3)], size=2)
        layer.initialize(np.random.RandomState(0))
        vectors = layer(codes)
    assert vectors[:2].any(dim=1).all()
    assert not vectors[2:].any()


def test_columns_of_few_categories_have_indicators_and_others_vectors():
    layer = TableInput([], categories=[(0, 9), (1, 10), (2, 2)], max_one_hot=9, category_size=4)
    assert layer.n_inputs == 9 + 2 + 4
    kinds = [type(part) for part in layer.parts]
    assert kinds == [Indicators, CategoryVectors]


@pytest.mark.parametrize(
    ("values", "n_bins", "expected"),
    [
        ([1, 2, 2, 3, NAN], 5, [1, 2, 3]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 4, [0, 2, 4, 6, 8]),
        ([5, 5, 5], 4, [5]),
        ([NAN, NAN], 4, []),
        # nine of ten rows have one value: it is one edge, and the others are left
        ([0] * 90 + list(range(1, 11)), 3, [0, 1, 5, 10]),
    ],
)
def test_edges_of_bins(values, n_bins, expected):
    edges = bin_edges(np.array(values, dtype=float), n_bins)
    assert edges.tolist() == expected


def test_few_rows_make_few_bins():
    layer = EmbeddedNumbers([0], "piecewise_linear", n_functions=64, size=1)
    for n_rows, n_bins in ((50, 8), (2000, 20), (50_000, 64)):
        layer.learn(np.random.RandomState(0).randn(n_rows, 1))
        assert (layer.low < 1e6).sum() == n_bins


def test_there_are_never_more_edges_than_bins_allow():
    rng = np.random.RandomState(0)
    for n_bins in (1, 2, 3, 8, 48):
        for values in (rng.randint(0, 100, 500), rng.geometric(0.1, 500), rng.randn(500)):
            edges = bin_edges(values.astype(float), n_bins)
            assert 2 <= len(edges) <= n_bins + 1
            assert (np.diff(edges) > 0).all()


def test_scales_are_those_of_known_values():
    values = np.array([[1.0, NAN, 7.0, 0.0], [3.0, NAN, 7.0, 0.0], [NAN, NAN, 7.0, 5.0]])
    center, scale = centers_and_scales(values, "standard")
    assert center.tolist() == [2.0, 0.0, 7.0, pytest.approx(5 / 3)]
    assert scale.tolist() == [1.0, 1.0, 1.0, pytest.approx(np.std([0, 0, 5]))]
    center, scale = centers_and_scales(np.array([[0.0]] * 9 + [[5.0]]), "robust")
    assert (center.tolist(), scale.tolist()) == ([0.0], [2.5])


def test_robust_scaling_keeps_outliers_in_reach():
    layer = ScaledNumbers([0], scaling="robust", dtype=torch.float64)
    layer.learn(np.arange(101.0)[:, np.newaxis])
    scaled = layer(torch.tensor([[50.0], [51.0], [1e12], [-1e12]], dtype=torch.float64)).ravel()
    assert scaled.tolist() == pytest.approx([0, 1 / 50, 3, -3], abs=1e-4)


def test_a_file_has_what_is_learned_and_not_what_the_configuration_says():
    made = network(embedding="piecewise_linear", scaling="robust")
    arrays = made.__getstate__()["arrays"]
    names = {name.rpartition(".")[2] for name in arrays if name.startswith("input.")}
    assert names == {"center", "factor", "low", "rate", "ends", "weight", "vectors"}
    copy = MLP.__new__(MLP)
    copy.__setstate__(made.__getstate__())
    X = torch.from_numpy(table(2))
    assert torch.equal(copy(X), made(X))


def test_a_forged_configuration_takes_no_memory():
    state = network().__getstate__()
    state["config"]["input"] |= {"categories": ((3, 4), (4, 10**9), (5, 2))}
    with pytest.raises(ValueError, match="input"):
        MLP.__new__(MLP).__setstate__(state)
