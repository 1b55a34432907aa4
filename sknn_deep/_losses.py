r"""Losses: from a name to the loss of each sample as a function of the raw output.

A loss takes the network's raw output :math:`z` (the last layer before its output
activation) because the canonical pairs simplify there: for softmax with cross entropy,
the sigmoid with binary cross entropy, the exponential with Poisson deviance and the
identity with squared error, :math:`\partial \ell / \partial z = a(z) - y` [1]_.

References
----------
.. [1] C. M. Bishop (2006). Pattern Recognition and Machine Learning, section 5.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

SampleLoss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], object]

REGRESSION_LOSSES = ("squared_error", "poisson", "absolute_error", "huber", "quantile")


@dataclass(frozen=True)
class Loss:
    """A training loss.

    Tensors may have leading dimensions, those of a stack of networks.

    Attributes
    ----------
    per_sample : callable
        ``per_sample(raw, target)`` maps the raw output and the target, both of shape
        (batch, n_outputs), to losses of shape (batch,), summed over the outputs.
    gradient : callable
        ``gradient(raw, target, scale, out)`` writes their gradient with respect to the raw
        output, times a factor of shape () or, one for each sample, (batch, 1).
    encode : callable or None
        ``encode(labels, out)`` writes what these two take as the target: for the softmax
        from class indices of shape (batch,).
    reported_scale : float
        Factor from that sum to the value in ``loss_curve_``: scikit-learn reports the
        mean over the outputs for squared error, and follows the gradient of the sum.
    """

    per_sample: SampleLoss
    gradient: Gradient
    encode: Callable[[Tensor, Tensor], object] | None = None
    reported_scale: float = 1.0

    def encoded(self, labels: Tensor, raw: Tensor) -> Tensor:
        """Return the targets that belong to a raw output of shape (batch, n_outputs)."""
        if self.encode is None:
            return labels
        target = torch.empty_like(raw)
        self.encode(labels, target)
        return target


def classification_loss(out_activation: str, label_smoothing: float = 0.0) -> Loss:
    """Return the cross entropy that belongs to an output activation.

    Parameters
    ----------
    out_activation : {"softmax", "logistic"}
        "softmax": one class per row, targets are class indices of shape (batch,).
        "logistic": independent labels, targets of shape (batch, n_outputs) in {0, 1}.
    label_smoothing : float in [0, 1)
        Share of each target that is spread evenly over the classes.
    """
    smooth = partial(_smooth, share=label_smoothing)
    if out_activation == "softmax":
        return Loss(
            _cross_entropy, _cross_entropy_gradient, partial(_one_hot, share=label_smoothing)
        )
    return Loss(
        _binary_cross_entropy, _binary_cross_entropy_gradient, smooth if label_smoothing else None
    )


def regression_loss(
    name: str, n_outputs: int, *, quantile: float = 0.5, huber_delta: float = 1.0
) -> Loss:
    """Return a regression loss by name.

    Parameters
    ----------
    name : {"squared_error", "poisson", "absolute_error", "huber", "quantile"}
        Squared error and Poisson deviance are halved, as in scikit-learn.
    n_outputs : int
    quantile : float in (0, 1)
        Level of the pinball loss of "quantile".
    huber_delta : float
        Residual, in units of the target, at which "huber" turns from square to linear.
    """
    per_sample, gradient = {
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
    }[name]
    scale = 1.0 if name == "poisson" else 1.0 / n_outputs
    return Loss(per_sample, gradient, reported_scale=scale)


def reconstruction_loss(name: str) -> Loss:
    """Return an autoencoder's loss: the mean over the features of each sample.

    Parameters
    ----------
    name : {"squared_error"}
        Neither halved nor summed, so that ``loss_curve_`` reads as the mean squared
        error per feature, whatever their number.
    """
    return Loss(*{"squared_error": (_mean_squared_error, _mean_squared_error_gradient)}[name])


# Each loss stands with its gradient. The softmax is taken of the transposed output: over a
# short last dimension it takes torch ten times as long.


def _one_hot(labels: Tensor, out: Tensor, share: float) -> None:
    n_classes = out.shape[-1]
    out.fill_(share / n_classes)
    out.scatter_(-1, labels.unsqueeze(-1), 1 - share + share / n_classes)


def _cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    return -(target.mT * torch.log_softmax(raw.mT, dim=-2)).sum(dim=-2)


def _cross_entropy_gradient(raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.softmax(raw.mT, dim=-2, out=out.mT)
    out.sub_(target).mul_(scale)


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
    # -q below the target, 1 - q above it, and between them midway where they meet
    out.sign_().mul_(0.5).add_(0.5 - quantile).mul_(scale)


def _mean_squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(reconstruction - target, dim=-1)
    return norms.square() / target.shape[-1]


def _mean_squared_error_gradient(
    reconstruction: Tensor, target: Tensor, scale: Tensor, out: Tensor
) -> None:
    torch.sub(reconstruction, target, out=out).mul_(scale * (2.0 / out.shape[-1]))
