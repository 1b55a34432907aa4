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

import torch
from torch import Tensor
from torch.nn import functional as F

from sknn_deep._engine.distributions import Quantiles, normal_gradient, normal_loss

SampleLoss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], object]
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
            partial(cross_entropy, share=label_smoothing),
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


def _one_hot(labels: Tensor, out: Tensor, share: float) -> None:
    classes = torch.arange(out.shape[-1], dtype=out.dtype, device=out.device)
    # comparing floating-point numbers is faster than scattering ones
    torch.eq(labels.unsqueeze(-1).to(out.dtype), classes, out=out)
    if share:
        out.mul_(1 - share).add_(share / len(classes))


def cross_entropy(raw: Tensor, target: Tensor, share: float = 0.0) -> Tensor:
    """Return the cross entropy of the softmax of each row; the classes share ``share`` evenly."""
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
