"""Losses against closed formulas, scikit-learn's metrics, and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from sknn_deep._engine.distributions import LEAST_VARIANCE, Quantiles
from sknn_deep._engine.losses import REGRESSION_LOSSES, classification_loss, regression_loss
from sknn_deep._engine.reconstruction_losses import reconstruction_loss

LEVELS = [0.6, 0.7, 0.8, 0.9, 0.95]


def _normal(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).normal(size=shape))


def _weights(n):
    return torch.from_numpy(np.random.RandomState(9).uniform(0.1, 2, n))


def _per_sample(loss, raw, target):
    return loss.per_sample(raw, loss.encoded(target, raw))


def _gradient(loss, raw, target, scale=1.0):
    out = torch.full_like(raw, torch.nan)
    scale = torch.as_tensor(scale, dtype=raw.dtype)
    loss.gradient(raw, loss.encoded(target, raw), scale, out)
    return out


def _mean(loss, raw, target, weight=None):
    weight = torch.ones(len(raw), dtype=raw.dtype) if weight is None else weight
    scale = weight / weight.sum()
    return (scale * _per_sample(loss, raw, target)).sum().item() * loss.reported_scale


RAW, LABELS = _normal(12, 6), torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
BITS = (_normal(12, 6, seed=1) > 0).double()
REAL = _normal(12, 6, seed=2)
COUNTS = torch.from_numpy(np.random.RandomState(3).poisson(1.0, (12, 6)).astype(float))
# Losses with several outputs for each column of the target.
SEVERAL = {
    "normal": (regression_loss("normal", 3), REAL[:, :3]),
    "quantiles": (regression_loss("quantile", 2, quantiles=[0.1, 0.8]), REAL[:, :2]),
    "quantiles on one side": (regression_loss("quantile", 1, quantiles=LEVELS), REAL[:, :1]),
}

# two numbers, or indicators of two categories, and those of three
TABLE = torch.cat([BITS[:, :2], torch.eye(4, dtype=torch.double)[LABELS % 4]], dim=1)
TABLE[3, 2:] = 0  # a category that training has not seen
GAPS = TABLE.clone()
GAPS[[0, 5], [0, 1]] = torch.nan

LOSSES = {
    "softmax": (classification_loss("softmax"), LABELS),
    "softmax, smoothed": (classification_loss("softmax", 0.3), LABELS),
    "logistic": (classification_loss("logistic"), BITS),
    "logistic, smoothed": (classification_loss("logistic", 0.3), BITS),
    **{
        name: (regression_loss(name, 6, quantile=0.8, huber_delta=0.5), REAL)
        for name in REGRESSION_LOSSES
        if name not in ("poisson", "normal")
    },
    **SEVERAL,
    "poisson": (regression_loss("poisson", 6), COUNTS),
    "reconstruction": (reconstruction_loss("squared_error"), REAL),
    "numbers": (reconstruction_loss("huber", huber_delta=0.5, categories=[4]), TABLE),
    "numbers, weighted": (
        reconstruction_loss("squared_error", categories=[4], weights=_weights(3)),
        TABLE,
    ),
    "categories": (reconstruction_loss("squared_error", categories=[2, 0, 4]), TABLE),
    "gaps": (reconstruction_loss("absolute_error", categories=[4], allow_nan=True), GAPS),
}
every_loss = pytest.mark.parametrize(("loss", "target"), LOSSES.values(), ids=LOSSES)
every_scale = pytest.mark.parametrize(
    "scale",
    [torch.tensor(1 / 7, dtype=torch.float64), _weights(12)[:, None] / 7],
    ids=["one for all", "one each"],
)


@pytest.mark.parametrize("weight", [None, _weights(12)], ids=["plain", "weighted"])
def test_softmax_loss_is_the_log_loss(weight):
    probabilities = torch.softmax(RAW, dim=1).numpy()
    expected = metrics.log_loss(LABELS.numpy(), probabilities, sample_weight=weight)
    assert _mean(classification_loss("softmax"), RAW, LABELS, weight) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, _weights(12)], ids=["plain", "weighted"])
def test_logistic_loss_is_the_log_loss_summed_over_the_labels(weight):
    probabilities = torch.sigmoid(RAW).numpy()
    expected = sum(
        metrics.log_loss(BITS[:, k].numpy(), probabilities[:, k], sample_weight=weight)
        for k in range(6)
    )
    assert _mean(classification_loss("logistic"), RAW, BITS, weight) == pytest.approx(expected)


def test_softmax_of_two_outputs_is_the_logistic_of_their_difference():
    difference = (RAW[:, 1] - RAW[:, 0])[:, None]
    labels = LABELS % 2
    two = _mean(classification_loss("softmax"), RAW[:, :2], labels)
    one = _mean(classification_loss("logistic"), difference, labels[:, None].double())
    assert two == pytest.approx(one)


@pytest.mark.parametrize(
    ("name", "metric", "factor"),
    [
        ("squared_error", metrics.mean_squared_error, 0.5),
        ("absolute_error", metrics.mean_absolute_error, 1.0),
        ("quantile", lambda *a, **k: metrics.mean_pinball_loss(*a, alpha=0.8, **k), 1.0),
    ],
)
@pytest.mark.parametrize("weight", [None, _weights(12)], ids=["plain", "weighted"])
def test_regression_losses_report_scikit_learns_metrics(name, metric, factor, weight):
    loss = regression_loss(name, 6, quantile=0.8)
    expected = factor * metric(REAL.numpy(), RAW.numpy(), sample_weight=weight)
    assert _mean(loss, RAW, REAL, weight) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, _weights(12)], ids=["plain", "weighted"])
def test_poisson_loss_is_half_the_deviance_of_the_exponential(weight):
    expected = sum(
        metrics.mean_poisson_deviance(
            COUNTS[:, k].numpy(), RAW[:, k].exp().numpy(), sample_weight=weight
        )
        for k in range(6)
    )
    actual = _mean(regression_loss("poisson", 6), RAW, COUNTS, weight)
    assert actual == pytest.approx(0.5 * expected)


def test_poisson_loss_vanishes_at_the_target():
    loss = regression_loss("poisson", 1)
    target = torch.tensor([[0.5], [1.0], [7.0]], dtype=torch.float64)
    np.testing.assert_allclose(loss.per_sample(target.log(), target), 0, atol=1e-15)


def test_poisson_loss_is_finite_for_a_count_of_zero():
    loss = regression_loss("poisson", 1)
    raw = torch.tensor([[-800.0], [0.0]])
    np.testing.assert_allclose(loss.per_sample(raw, torch.zeros(2, 1)), [0.0, 1.0])


@pytest.mark.parametrize("delta", [0.1, 1.0, 3.0])
def test_huber_loss_is_square_within_delta_and_linear_beyond(delta):
    residual = np.array([-5 * delta, -delta, -0.3 * delta, 0, 0.9 * delta, 2 * delta])
    expected = np.where(
        np.abs(residual) <= delta, residual**2 / 2, delta * (np.abs(residual) - delta / 2)
    )
    loss = regression_loss("huber", 1, huber_delta=delta)
    raw = torch.from_numpy(residual)[:, None]
    np.testing.assert_allclose(loss.per_sample(raw, torch.zeros_like(raw)), expected)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantile_loss_weighs_the_two_sides_by_its_level(level):
    loss = regression_loss("quantile", 1, quantile=level)
    raw = torch.tensor([[0.0], [0.0]], dtype=torch.float64)
    target = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)  # below, then above the target
    np.testing.assert_allclose(loss.per_sample(raw, target), [2 * level, 2 * (1 - level)])


def test_median_regression_is_half_the_absolute_error():
    quantile, absolute = (regression_loss(name, 6) for name in ("quantile", "absolute_error"))
    assert _mean(quantile, RAW, REAL) == pytest.approx(0.5 * _mean(absolute, RAW, REAL))


def test_reconstruction_loss_is_the_mean_squared_error():
    expected = metrics.mean_squared_error(REAL.numpy(), RAW.numpy())
    assert _mean(reconstruction_loss("squared_error"), RAW, REAL) == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_softmax_targets_share_among_the_classes(smoothing):
    soft = torch.full((12, 6), smoothing / 6, dtype=torch.float64)
    soft[torch.arange(12), LABELS] += 1 - smoothing
    expected = -(soft * torch.log_softmax(RAW, dim=1)).sum() / 12
    actual = _mean(classification_loss("softmax", smoothing), RAW, LABELS)
    assert actual == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_keep_half_of_the_share(smoothing):
    soft = BITS * (1 - smoothing) + smoothing / 2
    terms = soft * torch.sigmoid(RAW).log() + (1 - soft) * torch.sigmoid(-RAW).log()
    actual = _mean(classification_loss("logistic", smoothing), RAW, BITS)
    assert actual == pytest.approx(-terms.sum().item() / 12)


@every_loss
@every_scale
def test_gradients_agree_with_finite_differences(loss, target, scale):
    differences, step = torch.empty_like(RAW), 1e-6
    for j in range(RAW.shape[1]):
        moved = torch.zeros_like(RAW)
        moved[:, j] = step
        above, below = (_per_sample(loss, RAW + sign * moved, target) for sign in (1, -1))
        differences[:, j] = (above - below) / (2 * step)
    gradient = _gradient(loss, RAW, target, scale)
    np.testing.assert_allclose(gradient, scale * differences, rtol=1e-6, atol=1e-8)


@every_loss
@every_scale
def test_gradients_agree_with_autograd(loss, target, scale):
    raw = RAW.clone().requires_grad_()
    (scale * _per_sample(loss, raw, target)[:, None]).sum().backward()
    gradient = _gradient(loss, RAW, target, scale)
    np.testing.assert_allclose(gradient, raw.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["regression", "reconstruction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(256, 784), (3, 97, 333), (9001, 4), (40_001, 1), (2, 70_001)])
def test_threads_decide_on_no_bit_of_squared_errors(name, dtype, shape, torch_threads):
    loss = {
        "regression": regression_loss("squared_error", shape[-1]),
        "reconstruction": reconstruction_loss("squared_error"),
    }[name]
    assert loss.is_alike_on_any_threads
    raw, target = (_normal(*shape, seed=seed).to(dtype) for seed in (0, 1))
    scale = _normal(*shape[:-1], 1, seed=2).to(dtype)

    def written(n_threads, losses):
        torch_threads(n_threads)
        out = torch.full_like(raw, torch.nan)
        loss.write(raw, target, scale, out, losses)
        return [out] if losses is None else [out, losses]

    for losses in (None, raw.new_empty(shape[:-1])):
        expected = [result.clone() for result in written(1, losses)]
        for n_threads in (2, 3, 8):
            assert all(map(torch.equal, written(n_threads, losses), expected))


@every_loss
def test_order_in_memory_changes_no_gradient(loss, target):
    out = torch.full_like(RAW.mT, torch.nan).mT
    encoded = loss.encoded(target, RAW)
    loss.gradient(RAW.mT.contiguous().mT, encoded.mT.contiguous().mT, RAW.new_tensor(0.5), out)
    expected = _gradient(loss, RAW, target, 0.5)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-15)


@every_loss
def test_leading_dimensions_are_losses_of_their_own(loss, target):
    members = torch.stack([RAW, RAW.flip(0), 0.5 * RAW])
    targets = torch.stack([target, target.flip(0), target])
    scale = _weights(12)[:, None]
    together = _gradient(loss, members, targets, scale)
    losses = _per_sample(loss, members, targets)
    assert losses.shape == (3, 12)
    for k in range(3):
        alone = _gradient(loss, members[k], targets[k], scale)
        np.testing.assert_allclose(together[k], alone, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(losses[k], _per_sample(loss, members[k], targets[k]))


@pytest.mark.parametrize("name", ["absolute_error", "huber", "quantile", "squared_error"])
def test_the_gradient_at_a_perfect_prediction_is_a_subgradient(name):
    loss = regression_loss(name, 1, quantile=0.7)
    delta = _gradient(loss, torch.ones(1, 1), torch.ones(1, 1))
    lowest, highest = {"quantile": (-0.7, 0.3), "absolute_error": (-1, 1)}.get(name, (0, 0))
    assert lowest <= delta.item() <= highest


@pytest.mark.parametrize(
    ("name", "link", "target"),
    [
        ("softmax", lambda raw: torch.softmax(raw, dim=1), LABELS),
        ("logistic", torch.sigmoid, BITS),
        ("squared_error", lambda raw: raw, REAL),
        ("poisson", torch.exp, COUNTS),
    ],
)
def test_gradients_of_canonical_losses_are_prediction_minus_target(name, link, target):
    loss, _ = LOSSES[name]
    one_hot = torch.nn.functional.one_hot(target) if target.ndim == 1 else target
    gradient = _gradient(loss, RAW, target)
    np.testing.assert_allclose(gradient, link(RAW) - one_hot, rtol=1e-10, atol=1e-12)


@every_loss
def test_weights_of_one_change_nothing(loss, target):
    ones = torch.ones(12, dtype=torch.float64)
    weighted, plain = (
        _gradient(loss, RAW, target, scale) for scale in (ones[:, None] / 12, ones[0] / 12)
    )
    np.testing.assert_allclose(weighted, plain, rtol=1e-12)


@every_loss
def test_weights_are_repetitions(loss, target):
    times = torch.tensor([0, 1, 2, 3] * 3)
    repeated = torch.arange(12).repeat_interleave(times)
    weighted = _mean(loss, RAW, target, times.double())
    assert weighted == pytest.approx(_mean(loss, RAW[repeated], target[repeated]))
    scaled = _gradient(loss, RAW, target, times.double()[:, None])
    added = torch.zeros_like(RAW)
    added.index_add_(0, repeated, _gradient(loss, RAW[repeated], target[repeated]))
    np.testing.assert_allclose(scaled, added, rtol=1e-12, atol=1e-15)


@every_loss
def test_each_sample_has_a_loss_of_its_own(loss, target):
    together = _per_sample(loss, RAW, target)
    assert together.shape == (12,)
    alone = torch.cat([_per_sample(loss, RAW[[i]], target[[i]]) for i in range(12)])
    np.testing.assert_allclose(together, alone)


@every_loss
def test_single_precision_stays_single(loss, target):
    target = target if target.ndim == 1 else target.float()
    assert loss.encoded(target, RAW.float()).dtype is torch.float32
    assert _per_sample(loss, RAW.float(), target).dtype is torch.float32
    double = _gradient(loss, RAW, target.double() if target.ndim == 2 else target)
    single = _gradient(loss, RAW.float(), target)
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-6)


@every_loss
def test_losses_leave_output_and_target_as_they_are(loss, target):
    raw, encoded = RAW.clone(), loss.encoded(target, RAW).clone()
    loss.per_sample(raw, encoded)
    loss.gradient(raw, encoded, torch.tensor(1.0), torch.empty_like(raw))
    assert torch.equal(raw, RAW)
    torch.testing.assert_close(encoded, loss.encoded(target, RAW), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [*REGRESSION_LOSSES, *SEVERAL, "logistic", "reconstruction"])
def test_targets_that_need_no_encoding_are_taken_as_they_are(name):
    loss, target = LOSSES[name]
    assert loss.encode is None
    assert loss.encoded(target, RAW) is target


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_encoded_classes_are_one_hot_and_sum_to_one(smoothing):
    encoded = classification_loss("softmax", smoothing).encoded(LABELS, RAW)
    np.testing.assert_allclose(encoded.sum(dim=1), 1)
    np.testing.assert_array_equal(encoded.argmax(dim=1), LABELS)
    np.testing.assert_allclose(encoded.min(), smoothing / 6)


@pytest.mark.parametrize(
    ("out_activation", "target"),
    [("softmax", torch.tensor([1])), ("logistic", torch.tensor([[0.0, 1.0, 0.0]]))],
)
def test_cross_entropy_is_finite_for_hopeless_logits(out_activation, target):
    raw, loss = torch.tensor([[1e4, -1e4, 0.0]]), classification_loss(out_activation)
    value = _per_sample(loss, raw, target).item()
    assert value == pytest.approx(2e4 + (math.log(2) if out_activation == "logistic" else 0))
    gradient = _gradient(loss, raw, target)
    np.testing.assert_allclose(gradient[0, :2], [1, -1])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in REGRESSION_LOSSES if name != "normal"])
def test_every_regression_loss_is_smallest_at_the_target(name):
    loss = regression_loss(name, 1)
    target = torch.tensor([[2.0]], dtype=torch.float64)
    best = target.log() if name == "poisson" else target
    at_best = loss.per_sample(best, target)
    for shift in (-0.5, -0.01, 0.01, 0.5):
        assert loss.per_sample(best + shift, target) > at_best


def test_normal_loss_is_scipys_negative_log_likelihood():
    raw, target = RAW.numpy(), REAL[:, :3].numpy()
    std = np.sqrt(np.log1p(np.exp(raw[:, 3:])) + LEAST_VARIANCE)
    expected = -stats.norm.logpdf(target, raw[:, :3], std).sum(axis=1)
    actual = regression_loss("normal", 3).per_sample(RAW, REAL[:, :3])
    np.testing.assert_allclose(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_loss_is_finite_for_hopeless_outputs(dtype):
    raw = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, -1e4]], dtype=dtype)
    loss = regression_loss("normal", 1)
    target = torch.zeros(3, 1, dtype=dtype)
    assert loss.per_sample(raw, target).isfinite().all()
    gradient = _gradient(loss, raw, target)
    assert gradient.isfinite().all()
    assert gradient[0, 0] > 0 > gradient[1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_never_cross(dtype):
    raw = 1e3 * _normal(200, 7, seed=4).to(dtype)
    quantiles = Quantiles([0.01, 0.1, 0.3, 0.6, 0.9, 0.99]).of(raw)
    assert quantiles.shape == (200, 7, 1)
    assert (quantiles.diff(dim=-2) >= 0).all()


def test_the_loss_of_quantiles_is_the_mean_of_scikit_learns():
    loss, target = SEVERAL["quantiles"]
    quantiles = Quantiles([0.1, 0.8]).of(RAW)
    expected = np.mean(
        [
            metrics.mean_pinball_loss(target, quantiles[:, k], alpha=level)
            for k, level in enumerate((0.1, 0.5, 0.8))
        ]
    )
    assert _mean(loss, RAW, target) == pytest.approx(expected)


@pytest.mark.parametrize("n_levels", [3, 99])
def test_first_quantiles_are_those_of_one_normal_distribution_whatever_their_number(n_levels):
    levels = np.arange(1, n_levels + 1) / (n_levels + 1)
    quantiles = Quantiles(levels).of(torch.zeros(1, n_levels, dtype=torch.float64))
    expected = stats.norm.ppf(levels, scale=math.log(2))
    np.testing.assert_allclose(quantiles[0, :, 0], expected, atol=1e-12)


WIDE = {
    "softmax": (classification_loss("softmax"), LABELS),
    "softmax, smoothed": (classification_loss("softmax", 0.1), LABELS),
    "squared_error": (regression_loss("squared_error", 6), REAL),
    "reconstruction": (reconstruction_loss("squared_error"), REAL),
}


@pytest.mark.parametrize(("loss", "target"), WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("n_networks", [None, 3])
def test_loss_and_gradient_in_one_pass_are_those_of_two(loss, target, n_networks, monkeypatch):
    scale, raw = _weights(12).unsqueeze(-1), 30 * RAW  # some probabilities are almost 0
    if n_networks is not None:
        raw = torch.stack([raw, -raw, raw / 100])
        target = target.expand(n_networks, *target.shape)
        scale = scale.expand(n_networks, 12, 1)
    expected = _per_sample(loss, raw, target), _gradient(loss, raw, target, scale)
    monkeypatch.setattr("sknn_deep._engine.losses.MANY_CLASSES", 6)
    encoded = loss.encoded(target, raw)
    assert encoded is target  # indices stay indices
    out, losses = torch.full_like(raw, torch.nan), torch.full_like(raw[..., 0], torch.nan)
    loss.write(raw, encoded, scale, out, losses)
    found = _per_sample(loss, raw, target), _gradient(loss, raw, target, scale)
    for one in ((losses, out), found):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-14)


def test_only_wide_outputs_are_read_on_the_way():
    loss = classification_loss("softmax")
    assert loss.is_read_on_the_way(torch.empty(512, 64))
    assert not loss.is_read_on_the_way(torch.empty(512, 10))
    assert not loss.is_read_on_the_way(torch.empty(20, 64))
    assert not regression_loss("huber", 64).is_read_on_the_way(torch.empty(512, 64))
