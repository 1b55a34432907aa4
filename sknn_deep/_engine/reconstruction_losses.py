"""Losses of an autoencoder, by name: means over the features of each sample.

A loss takes the reconstruction, but for the categories of a table their logits. The gradient of
"log_loss" is with respect to the logit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sknn_deep._engine.losses import CodePenalty, Loss, cross_entropy
from sknn_deep._networks.category_inputs import indicator_slices

RECONSTRUCTION_LOSSES = ("squared_error", "absolute_error", "huber", "log_loss", "cosine")


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
        losses = losses + share[..., j] * cross_entropy(raw[..., group], target[..., group])
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
