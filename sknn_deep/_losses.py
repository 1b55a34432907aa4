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
SampleDelta = Callable[[Tensor, Tensor, Tensor], Tensor]

REGRESSION_LOSSES = ("squared_error", "poisson", "absolute_error", "huber", "quantile")


@dataclass(frozen=True)
class Loss:
    """A training loss.

    Attributes
    ----------
    per_sample : callable
        ``per_sample(raw, target)`` maps the raw output of shape (batch, n_outputs) and
        the target to losses of shape (batch,), summed over the outputs. Its gradient is
        what training follows.
    delta : callable
        ``delta(raw, target, out)`` returns the same losses and writes their gradient with
        respect to the raw output into ``out``, in closed form.
    reported_scale : float
        Factor from that sum to the value in ``loss_curve_``: scikit-learn reports the
        mean over the outputs for squared error, and follows the gradient of the sum.
    """

    per_sample: SampleLoss
    delta: SampleDelta
    reported_scale: float = 1.0

    def mean(self, raw: Tensor, target: Tensor, weight: Tensor | None, weight_sum: float) -> Tensor:
        """Return the weighted mean over the batch, a scalar tensor.

        Parameters
        ----------
        raw : Tensor of shape (batch, n_outputs)
        target : Tensor of shape (batch, n_outputs), or (batch,) of class indices
        weight : Tensor of shape (batch,) or None
        weight_sum : float
            Sum of the weights, the number of rows without weights.
        """
        return _total(self.per_sample(raw, target), weight) / weight_sum

    def mean_and_delta(
        self, raw: Tensor, target: Tensor, weight: Tensor | None, weight_sum: float, out: Tensor
    ) -> Tensor:
        """Return :meth:`mean`, and write its gradient with respect to ``raw`` into ``out``."""
        losses = self.delta(raw, target, out)
        if weight is None:
            out.mul_(1.0 / weight_sum)
        else:
            out.mul_((weight / weight_sum).unsqueeze(1))
        return _total(losses, weight) / weight_sum


def _total(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses.sum() if weight is None else torch.dot(losses, weight)


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
    per_sample, delta = {
        "softmax": (_cross_entropy, _cross_entropy_delta),
        "logistic": (_binary_cross_entropy, _binary_cross_entropy_delta),
    }[out_activation]
    return Loss(
        partial(per_sample, label_smoothing=label_smoothing),
        partial(delta, label_smoothing=label_smoothing),
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
    per_sample, delta = {
        "squared_error": (_half_squared_error, _half_squared_error_delta),
        "poisson": (_half_poisson_deviance, _half_poisson_deviance_delta),
        "absolute_error": (_absolute_error, _absolute_error_delta),
        "huber": (
            partial(_huber, threshold=huber_delta),
            partial(_huber_delta, threshold=huber_delta),
        ),
        "quantile": (
            partial(_pinball, quantile=quantile),
            partial(_pinball_delta, quantile=quantile),
        ),
    }[name]
    return Loss(per_sample, delta, reported_scale=1.0 if name == "poisson" else 1.0 / n_outputs)


def reconstruction_loss(name: str) -> Loss:
    """Return an autoencoder's loss: the mean over the features of each sample.

    Parameters
    ----------
    name : {"squared_error"}
        Neither halved nor summed, so that ``loss_curve_`` reads as the mean squared
        error per feature, whatever their number.
    """
    return Loss(*{"squared_error": (_mean_squared_error, _mean_squared_error_delta)}[name])


# Each loss stands twice: as a differentiable expression, and with its gradient.


def _cross_entropy(raw: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(raw, target, reduction="none", label_smoothing=label_smoothing)


def _cross_entropy_delta(
    raw: Tensor, target: Tensor, out: Tensor, label_smoothing: float
) -> Tensor:
    # softmax(z) - q, where q has 1 - s at the class and s / K everywhere. Written out because
    # torch's softmax over a short last dimension takes up to four times as long.
    target = target.unsqueeze(1)
    torch.sub(raw, raw.amax(dim=1, keepdim=True), out=out)
    expected = out.gather(1, target).mul_(1 - label_smoothing)
    if label_smoothing:
        expected.add_(out.mean(dim=1, keepdim=True), alpha=label_smoothing)
    total = out.exp_().sum(dim=1, keepdim=True)
    losses = total.log().sub_(expected).squeeze(1)
    out.div_(total)
    out.scatter_add_(1, target, torch.full_like(expected, label_smoothing - 1))
    if label_smoothing:
        out.sub_(label_smoothing / raw.shape[1])
    return losses


def _smoothed(target: Tensor, label_smoothing: float) -> Tensor:
    return target * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else target


def _binary_cross_entropy(raw: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    target = _smoothed(target, label_smoothing)
    return F.binary_cross_entropy_with_logits(raw, target, reduction="none").sum(dim=1)


def _binary_cross_entropy_delta(
    raw: Tensor, target: Tensor, out: Tensor, label_smoothing: float
) -> Tensor:
    target = _smoothed(target, label_smoothing)
    torch.sigmoid(raw, out=out).sub_(target)
    return _binary_cross_entropy(raw, target, label_smoothing=0.0)


def _half_squared_error(raw: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (raw - target).square().sum(dim=1)


def _half_squared_error_delta(raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
    torch.sub(raw, target, out=out)
    return out.square().sum(dim=1).mul_(0.5)


def _half_poisson_deviance(raw: Tensor, target: Tensor) -> Tensor:
    # y log(y / mu) - y + mu with mu = exp(raw)
    constant = torch.special.xlogy(target, target) - target
    return (constant - target * raw + raw.exp()).sum(dim=1)


def _half_poisson_deviance_delta(raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
    torch.exp(raw, out=out).sub_(target)
    return _half_poisson_deviance(raw, target)


def _absolute_error(raw: Tensor, target: Tensor) -> Tensor:
    return (raw - target).abs().sum(dim=1)


def _absolute_error_delta(raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
    torch.sub(raw, target, out=out)
    losses = out.abs().sum(dim=1)
    out.sign_()
    return losses


def _huber(raw: Tensor, target: Tensor, threshold: float) -> Tensor:
    return F.huber_loss(raw, target, reduction="none", delta=threshold).sum(dim=1)


def _huber_delta(raw: Tensor, target: Tensor, out: Tensor, threshold: float) -> Tensor:
    torch.sub(raw, target, out=out).clamp_(-threshold, threshold)
    return _huber(raw, target, threshold)


def _pinball(raw: Tensor, target: Tensor, quantile: float) -> Tensor:
    residual = target - raw
    return torch.maximum(quantile * residual, (quantile - 1) * residual).sum(dim=1)


def _pinball_delta(raw: Tensor, target: Tensor, out: Tensor, quantile: float) -> Tensor:
    torch.sub(raw, target, out=out)
    # -q below the target, 1 - q above it, and between them midway where they meet
    out.sign_().mul_(0.5).add_(0.5 - quantile)
    return _pinball(raw, target, quantile)


def _mean_squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    return (reconstruction - target).square().mean(dim=1)


def _mean_squared_error_delta(reconstruction: Tensor, target: Tensor, out: Tensor) -> Tensor:
    torch.sub(reconstruction, target, out=out)
    losses = out.square().mean(dim=1)
    out.mul_(2.0 / out.shape[1])
    return losses
