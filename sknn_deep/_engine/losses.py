r"""Losses by name: the loss of each sample as a function of the raw output.

A loss takes the network's raw output :math:`z` (the last layer before its output
activation) because the canonical pairs simplify there: for softmax with cross entropy,
the sigmoid with binary cross entropy, the exponential with Poisson deviance and the
identity with squared error, :math:`\partial \ell / \partial z = a(z) - y` [1]_.

References
----------
.. [1] C. M. Bishop (2006). Pattern Recognition and Machine Learning, section 5.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sknn_deep._engine.distributions import Quantiles, normal_gradient, normal_loss
from sknn_deep._networks.category_inputs import indicator_slices

SampleLoss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], object]
RECONSTRUCTION_LOSSES = ("squared_error", "absolute_error", "huber", "log_loss", "cosine")
REGRESSION_LOSSES = ("squared_error", "poisson", "absolute_error", "huber", "quantile", "normal")
# For fewer classes one-hot indicators are faster than indices: scattered writes cost more than
# comparing with every class.
MANY_CLASSES = 64
# From this many numbers on, computing the loss of a wide output along with its gradient is faster
# than computing it afterwards.
_MANY_NUMBERS = 2**15


@dataclass(frozen=True)
class Loss:
    """A training loss.

    Tensors may have a leading dimension for the networks of a stack.

    Attributes
    ----------
    per_sample : callable
        ``per_sample(raw, target)`` maps the raw output and the target, both of shape
        (batch, n_outputs) except in :mod:`~sknn_deep._engine.distributions`, to losses of shape
        (batch,), summed over the outputs.
    gradient : callable
        ``gradient(raw, target, scale, out)`` writes the gradient of the losses with respect to
        the raw output, times a factor of shape () or, one per sample, (batch, 1).
    encode : callable or None
        ``encode(labels, out)`` writes the target that these two take: for the softmax, from
        class indices of shape (batch,). If there are many classes, both take the indices.
    with_gradient : callable or None
        ``with_gradient(raw, target, scale, out, losses)`` writes both results at once, in less
        time for wide outputs; ``out`` may be ``raw``.
    reported_scale : float
        Factor from that sum to the value in ``loss_curve_``: for squared error, scikit-learn
        reports the mean over the outputs but follows the gradient of the sum.
    is_merged : bool
        Whether ``raw`` has already passed the output activation while the gradient is with
        respect to the pre-activation, because the pair simplifies.
    penalty : CodePenalty or None
        Penalty on an autoencoder's code, added to the loss of a batch.
    is_alike_on_any_threads : bool
        Whether gradients, and losses of contiguous rows, have the same bits on any number of
        threads, because each number is computed from one row by one thread.
    """

    per_sample: SampleLoss
    gradient: Gradient
    encode: Callable[[Tensor, Tensor], object] | None = None
    with_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], object] | None = None
    reported_scale: float = 1.0
    is_merged: bool = False
    penalty: "CodePenalty | None" = None
    is_alike_on_any_threads: bool = False

    def is_encoded(self, labels: Tensor, raw: Tensor) -> bool:
        """Return whether targets need encoding for an output; indices of many classes do not."""
        are_indices = labels.ndim < raw.ndim
        return self.encode is not None and not (are_indices and raw.shape[-1] >= MANY_CLASSES)

    def is_read_on_the_way(self, raw: Tensor) -> bool:
        """Return whether ``with_gradient`` is faster than computing the loss afterwards."""
        is_wide = raw.shape[-1] >= MANY_CLASSES and raw.numel() >= _MANY_NUMBERS
        return is_wide and raw.device.type == "cpu" and self.with_gradient is not None

    def write(
        self, raw: Tensor, target: Tensor, scale: Tensor, out: Tensor, losses: Tensor | None
    ) -> None:
        """Write the gradient and, unless ``losses`` is None, the losses."""
        if losses is None or self.with_gradient is None:
            self.gradient(raw, target, scale, out)
        else:
            self.with_gradient(raw, target, scale, out, losses)

    def encoded(self, labels: Tensor, raw: Tensor) -> Tensor:
        """Return the encoded targets for a raw output of shape (batch, n_outputs)."""
        if self.encode is None or not self.is_encoded(labels, raw):
            return labels
        target = torch.empty_like(raw)
        self.encode(labels, target)
        return target


@dataclass(frozen=True)
class CodePenalty:
    r"""The penalty on an autoencoder's code :math:`h(x)` of :math:`k` units, per row.

    .. math::
        \frac{s}{k} \sum_j |h_j(x)|
        + \frac{c}{k} \left\lVert \frac{\partial h(x)}{\partial x} \right\rVert_F^2
        + \frac{\beta}{d} D_{KL}\left(q(h|x) \,\Vert\, N(0, I)\right)

    with weights for sparsity [1]_, for the contraction of the encoder [2]_ and, if the code is a
    distribution, for its divergence from the prior [3]_, which is divided by the number :math:`d`
    of features like the reconstruction loss.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville (2016). Deep Learning, section 14.2.1.
    .. [2] S. Rifai, P. Vincent, X. Muller, X. Glorot, Y. Bengio (2011). Contractive
       auto-encoders: explicit invariance during feature extraction. ICML.
    .. [3] I. Higgins et al. (2017). beta-VAE: learning basic visual concepts with a
       constrained variational framework. ICLR.
    """

    sparsity: float = 0.0
    contractive: float = 0.0
    beta: float = 0.0


def classification_loss(out_activation: str, label_smoothing: float = 0.0) -> Loss:
    """Return the cross entropy that belongs to an output activation.

    Parameters
    ----------
    out_activation : {"softmax", "logistic"}
        "softmax": one class per row, targets are class indices of shape (batch,).
        "logistic": independent labels, targets of shape (batch, n_outputs) in {0, 1}.
    label_smoothing : float in [0, 1)
        Fraction of each target that is spread evenly over the classes.
    """
    smooth = partial(_smooth, share=label_smoothing)
    if out_activation == "softmax":
        return Loss(
            partial(_cross_entropy, share=label_smoothing),
            partial(_cross_entropy_gradient, share=label_smoothing),
            partial(_one_hot, share=label_smoothing),
            partial(_cross_entropy_with_gradient, share=label_smoothing),
        )
    return Loss(
        _binary_cross_entropy, _binary_cross_entropy_gradient, smooth if label_smoothing else None
    )


def regression_loss(
    name: str,
    n_outputs: int,
    *,
    quantile: float = 0.5,
    huber_delta: float = 1.0,
    quantiles: Sequence[float] | None = None,
) -> Loss:
    """Return a regression loss by name.

    Parameters
    ----------
    name : {"squared_error", "poisson", "absolute_error", "huber", "quantile", "normal"}
        Squared error and Poisson deviance are halved, as in scikit-learn.
    n_outputs : int
        Number of columns of the target; "normal" and several quantiles use more outputs for each.
    quantile : float in (0, 1)
        Level of the pinball loss of "quantile".
    huber_delta : float
        Residual, in units of the target, at which "huber" turns from quadratic to linear.
    quantiles : sequence of float, default=None
        Levels of "quantile" if one network predicts several.
    """
    if name == "quantile" and quantiles is not None:
        several = Quantiles(quantiles)
        return Loss(several.loss, several.gradient, reported_scale=1.0 / n_outputs)
    functions: dict[str, tuple[Callable[..., Tensor], Callable[..., object]]] = {
        "squared_error": (_half_squared_error, _half_squared_error_gradient),
        "poisson": (_half_poisson_deviance, _half_poisson_deviance_gradient),
        "absolute_error": (_absolute_error, _absolute_error_gradient),
        "huber": (
            partial(_huber, threshold=huber_delta),
            partial(_huber_gradient, threshold=huber_delta),
        ),
        "quantile": (
            partial(_pinball, quantile=quantile),
            partial(_pinball_gradient, quantile=quantile),
        ),
        "normal": (normal_loss, normal_gradient),
    }
    per_sample, gradient = functions[name]
    scale = 1.0 if name == "poisson" else 1.0 / n_outputs
    if name != "squared_error":
        return Loss(per_sample, gradient, reported_scale=scale)
    return Loss(
        per_sample,
        gradient,
        with_gradient=_half_squared_error_with_gradient,
        reported_scale=scale,
        is_alike_on_any_threads=True,
    )


def reconstruction_loss(
    name: str,
    *,
    huber_delta: float = 1.0,
    weights: Tensor | None = None,
    allow_nan: bool = False,
    penalty: CodePenalty | None = None,
    categories: Sequence[int] = (),
) -> Loss:
    r"""Return an autoencoder's loss: the mean over the features of each sample.

    A categorical column counts as one feature, whatever its number of categories: with indicators
    :math:`t` and probabilities :math:`p`, the softmax of the raw outputs, its loss is the cross
    entropy :math:`-\sum_k t_k \log p_k`. A category not seen in training has no loss.

    Parameters
    ----------
    name : {"squared_error", "absolute_error", "huber", "log_loss", "cosine"}
        The squared error is neither halved nor summed, so that ``loss_curve_`` reads as the
        mean squared error per feature, whatever the number of features. "cosine" is one minus
        the cosine of the angle between a row and its reconstruction.
    huber_delta : float
        See :func:`regression_loss`.
    weights : Tensor of shape (n_features,), default=None
        Weights of the features in the mean; only their ratios matter.
    allow_nan : bool, default=False
        Whether features that are NaN in the target are left out of the mean.
    penalty : CodePenalty, default=None
    categories : sequence of int, default=()
        Number of indicators of each categorical column; they follow the numbers. Not supported
        with "log_loss" and "cosine".
    """
    if name == "squared_error" and weights is None and not allow_nan and not categories:
        return Loss(
            _mean_squared_error,
            _mean_squared_error_gradient,
            with_gradient=_mean_squared_error_with_gradient,
            penalty=penalty,
            is_alike_on_any_threads=True,
        )
    shares = partial(_shares, weights=weights, allow_nan=allow_nan)
    if name == "cosine":
        return Loss(
            partial(_cosine, shares=shares),
            partial(_cosine_gradient, shares=shares),
            penalty=penalty,
        )
    functions: dict[str, tuple[Callable[..., Tensor], Callable[..., object]]] = {
        "squared_error": (_square, _square_derivative),
        "absolute_error": (_absolute, _absolute_derivative),
        "huber": (
            partial(F.huber_loss, reduction="none", delta=huber_delta),
            partial(_huber_derivative, threshold=huber_delta),
        ),
        "log_loss": (_log_loss, _log_loss_derivative),
    }
    of_each, derivative = functions[name]
    if categories:
        of_columns = partial(_shares_of_columns, weights=weights, allow_nan=allow_nan)
        options: dict[str, Any] = {"shares": of_columns, "categories": tuple(categories)}
        return Loss(
            partial(_mean_of_columns, of_each=of_each, **options),
            partial(_mean_of_columns_gradient, derivative=derivative, **options),
            penalty=penalty,
        )
    return Loss(
        partial(_mean_of_each, of_each=of_each, shares=shares),
        partial(_mean_of_each_gradient, derivative=derivative, shares=shares),
        is_merged=name == "log_loss",
        penalty=penalty,
    )


def _one_hot(labels: Tensor, out: Tensor, share: float) -> None:
    classes = torch.arange(out.shape[-1], dtype=out.dtype, device=out.device)
    # comparing floating-point numbers is faster than scattering ones
    torch.eq(labels.unsqueeze(-1).to(out.dtype), classes, out=out)
    if share:
        out.mul_(1 - share).add_(share / len(classes))


def _cross_entropy(raw: Tensor, target: Tensor, share: float = 0.0) -> Tensor:
    if target.ndim < raw.ndim:  # class indices
        losses = F.cross_entropy(
            raw.flatten(0, -2), target.flatten(), reduction="none", label_smoothing=share
        )
        return losses.view(target.shape)
    return -(target.mT * torch.log_softmax(raw.mT, dim=-2)).sum(dim=-2)


def _cross_entropy_gradient(
    raw: Tensor, target: Tensor, scale: Tensor, out: Tensor, share: float
) -> None:
    if target.ndim < raw.ndim:
        torch.softmax(raw, dim=-1, out=out)
        _subtract_indicators(out, target, share)
    else:
        torch.softmax(raw.mT, dim=-2, out=out.mT)
        out.sub_(target)
    out.mul_(scale)


def _subtract_indicators(out: Tensor, labels: Tensor, share: float) -> None:
    if share:
        out.sub_(share / out.shape[-1])
    out.scatter_(-1, labels.unsqueeze(-1), share - 1, reduce="add")


def _cross_entropy_with_gradient(
    raw: Tensor, labels: Tensor, scale: Tensor, out: Tensor, losses: Tensor, share: float
) -> None:
    largest, of_label = raw.amax(dim=-1), raw.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    torch.sub(largest, of_label, out=losses)
    smoothed = of_label.sub_(raw.mean(dim=-1)) if share else None
    torch.softmax(raw, dim=-1, out=out)
    # for the likeliest class, log p = z - log(sum(exp(z))) and p is at least 1 / n_classes
    losses.sub_(out.amax(dim=-1).log_())
    if smoothed is not None:
        losses.add_(smoothed, alpha=share)
    _subtract_indicators(out, labels, share)
    out.mul_(scale)


def _smooth(labels: Tensor, out: Tensor, share: float) -> None:
    torch.mul(labels, 1 - share, out=out).add_(share / 2)


def _binary_cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(raw, target, reduction="none").sum(dim=-1)


def _binary_cross_entropy_gradient(raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.sigmoid(raw, out=out).sub_(target).mul_(scale)


def _half_squared_error(raw: Tensor, target: Tensor) -> Tensor:
    return (raw - target).square().sum(dim=-1).mul_(0.5)


def _half_squared_error_gradient(raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.sub(raw, target, out=out).mul_(scale)


def _half_squared_error_with_gradient(
    raw: Tensor, target: Tensor, scale: Tensor, out: Tensor, losses: Tensor
) -> None:
    torch.sub(raw, target, out=out)
    torch.linalg.vector_norm(out, dim=-1, out=losses).square_().mul_(0.5)
    out.mul_(scale)


def _half_poisson_deviance(raw: Tensor, target: Tensor) -> Tensor:
    # y log(y / mu) - y + mu with mu = exp(raw)
    constant = torch.special.xlogy(target, target) - target
    return (constant - target * raw + raw.exp()).sum(dim=-1)


def _half_poisson_deviance_gradient(
    raw: Tensor, target: Tensor, scale: Tensor, out: Tensor
) -> None:
    torch.exp(raw, out=out).sub_(target).mul_(scale)


def _absolute_error(raw: Tensor, target: Tensor) -> Tensor:
    return (raw - target).abs().sum(dim=-1)


def _absolute_error_gradient(raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.sub(raw, target, out=out).sign_().mul_(scale)


def _huber(raw: Tensor, target: Tensor, threshold: float) -> Tensor:
    return F.huber_loss(raw, target, reduction="none", delta=threshold).sum(dim=-1)


def _huber_gradient(
    raw: Tensor, target: Tensor, scale: Tensor, out: Tensor, threshold: float
) -> None:
    torch.sub(raw, target, out=out).clamp_(-threshold, threshold).mul_(scale)


def _pinball(raw: Tensor, target: Tensor, quantile: float) -> Tensor:
    residual = target - raw
    return torch.maximum(quantile * residual, (quantile - 1) * residual).sum(dim=-1)


def _pinball_gradient(
    raw: Tensor, target: Tensor, scale: Tensor, out: Tensor, quantile: float
) -> None:
    torch.sub(raw, target, out=out)
    # -q below the target, 1 - q above it, and the midpoint of the two at the target
    out.sign_().mul_(0.5).add_(0.5 - quantile).mul_(scale)


def _mean_squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(reconstruction - target, dim=-1)
    return norms.square() / target.shape[-1]


def _mean_squared_error_gradient(
    reconstruction: Tensor, target: Tensor, scale: Tensor, out: Tensor
) -> None:
    torch.sub(reconstruction, target, out=out).mul_(scale * (2.0 / out.shape[-1]))


def _mean_squared_error_with_gradient(
    reconstruction: Tensor, target: Tensor, scale: Tensor, out: Tensor, losses: Tensor
) -> None:
    torch.sub(reconstruction, target, out=out)
    torch.linalg.vector_norm(out, dim=-1, out=losses).square_().div_(out.shape[-1])
    out.mul_(scale * (2.0 / out.shape[-1]))


def _mean_of_each(output: Tensor, target: Tensor, of_each: Callable, shares: Callable) -> Tensor:
    share = shares(target)
    return (of_each(output, _known(target, output, share)) * share).sum(dim=-1)


def _mean_of_each_gradient(
    output: Tensor,
    target: Tensor,
    scale: Tensor,
    out: Tensor,
    derivative: Callable,
    shares: Callable,
) -> None:
    share = shares(target)
    derivative(output, _known(target, output, share), out)
    out.mul_(share * scale)


def _shares(target: Tensor, weights: Tensor | None, allow_nan: bool) -> Tensor | float:
    """Return the share of each feature in a row's mean, zero where it is missing."""
    if not allow_nan:
        return 1 / target.shape[-1] if weights is None else weights / weights.sum()
    shares = target.isnan().logical_not().to(target.dtype)
    if weights is not None:
        shares.mul_(weights)
    # a row without known values has no loss
    return shares.div_(shares.sum(dim=-1, keepdim=True).clamp_(torch.finfo(shares.dtype).tiny))


def _known(target: Tensor, output: Tensor, share: Tensor | float) -> Tensor:
    """Return the target with missing values replaced by the reconstruction."""
    may_miss = isinstance(share, Tensor) and share.ndim == target.ndim
    return torch.where(target.isnan(), output, target) if may_miss else target


def _mean_of_columns(
    raw: Tensor, target: Tensor, of_each: Callable, shares: Callable, categories: tuple[int, ...]
) -> Tensor:
    groups = indicator_slices(target.shape[-1], categories)
    numbers = slice(0, target.shape[-1] - sum(categories))
    share = shares(target[..., numbers], len(groups))
    losses = _mean_of_each(
        raw[..., numbers], target[..., numbers], of_each, lambda _: share[..., : numbers.stop]
    )
    for j, group in enumerate(groups, start=numbers.stop):
        losses = losses + share[..., j] * _cross_entropy(raw[..., group], target[..., group])
    return losses


def _mean_of_columns_gradient(
    raw: Tensor,
    target: Tensor,
    scale: Tensor,
    out: Tensor,
    derivative: Callable,
    shares: Callable,
    categories: tuple[int, ...],
) -> None:
    groups = indicator_slices(target.shape[-1], categories)
    numbers = slice(0, target.shape[-1] - sum(categories))
    share = shares(target[..., numbers], len(groups))
    own, of_numbers = target[..., numbers], share[..., : numbers.stop]
    _mean_of_each_gradient(
        raw[..., numbers], own, scale, out[..., numbers], derivative, lambda _: of_numbers
    )
    for j, group in enumerate(groups, start=numbers.stop):
        indicators = target[..., group]
        # all of them are 0 if the category was not seen in training
        probabilities = torch.softmax(raw[..., group], dim=-1).mul_(
            indicators.sum(dim=-1, keepdim=True)
        )
        torch.sub(probabilities, indicators, out=out[..., group])
        out[..., group].mul_(share[..., j, None] * scale)


def _shares_of_columns(
    numbers: Tensor, n_others: int, weights: Tensor | None, allow_nan: bool
) -> Tensor:
    """Return the shares of numbers and of categorical columns in a row's mean."""
    shape = (*(numbers.shape[:-1] if allow_nan else ()), numbers.shape[-1] + n_others)
    shares = numbers.new_ones(shape)
    if allow_nan:
        shares[..., : numbers.shape[-1]] = numbers.isnan().logical_not()
    if weights is not None:
        shares.mul_(weights)
    return shares.div_(shares.sum(dim=-1, keepdim=True).clamp_(torch.finfo(shares.dtype).tiny))


def _square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


def _square_derivative(output: Tensor, target: Tensor, out: Tensor) -> None:
    torch.sub(output, target, out=out).mul_(2)


def _absolute(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs()


def _absolute_derivative(output: Tensor, target: Tensor, out: Tensor) -> None:
    torch.sub(output, target, out=out).sign_()


def _huber_derivative(output: Tensor, target: Tensor, out: Tensor, threshold: float) -> None:
    torch.sub(output, target, out=out).clamp_(-threshold, threshold)


def _log_loss(probability: Tensor, target: Tensor) -> Tensor:
    limits = torch.finfo(probability.dtype)
    p = probability.clamp(limits.tiny, 1 - limits.eps / 2)
    return -(target * p.log() + (1 - target) * torch.log1p(-p))


def _log_loss_derivative(probability: Tensor, target: Tensor, out: Tensor) -> None:
    torch.sub(probability, target, out=out)  # with respect to the logit


def _cosine(output: Tensor, target: Tensor, shares: Callable) -> Tensor:
    return 1 - _cosine_parts(output, target, shares)[-1].squeeze(-1)


def _cosine_gradient(
    output: Tensor, target: Tensor, scale: Tensor, out: Tensor, shares: Callable
) -> None:
    # of r.t / (|r| |t|) with respect to r: t / (|r| |t|) - cos r / |r|^2
    share, target, squared_norm, product_of_norms, cosine = _cosine_parts(output, target, shares)
    torch.mul(output, cosine / squared_norm, out=out)
    out.sub_(target / product_of_norms).mul_(share * scale)


def _cosine_parts(output: Tensor, target: Tensor, shares: Callable) -> tuple:
    share = shares(target)
    target = _known(target, output, share)
    dot, squared_norm, of_target = (
        (share * left * right).sum(dim=-1, keepdim=True)
        for left, right in ((output, target), (output, output), (target, target))
    )
    # rows of zeros have no direction, and no gradient to give them one
    smallest = torch.finfo(output.dtype).tiny ** 0.5
    squared_norm = squared_norm.clamp(smallest)
    norms = (squared_norm * of_target.clamp(smallest)).sqrt()
    return share, target, squared_norm, norms, dot / norms
