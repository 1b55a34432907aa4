r"""Predicted distributions of a target: a normal distribution, or several quantiles.

The network has several outputs for each column :math:`y` of the target. With ``d`` columns, the
first ``d`` outputs are their means or medians, the next ``d`` the second number of each, and so on.

**Normal.** The outputs :math:`\mu, s` are a mean and a number whose softplus is the variance [1]_,

.. math:: \sigma^2 = \log(1 + e^s) + 10^{-6}, \qquad
    \ell = \tfrac{1}{2} \log 2 \pi \sigma^2 + \frac{r^2}{2 \sigma^2}, \quad r = \mu - y

    \frac{\partial \ell}{\partial \mu} = \frac{r}{\sigma^2}, \qquad
    \frac{\partial \ell}{\partial s} =
    \frac{1}{2 \sigma^2} \Big(1 - \frac{r^2}{\sigma^2}\Big) \frac{1}{1 + e^{-s}}

The softplus grows like :math:`s`, not :math:`e^s`, and the floor bounds the gradient if the
network fits some rows exactly.

**Quantiles.** Quantiles at levels :math:`\tau_k` on both sides of the median share a network and
cannot cross: the first output is the median, every other one a step away from its neighbour,

.. math:: q_{k} = q_{k \mp 1} \pm c_k \log(1 + e^{z_k})

with the mean of the pinball losses [2]_ over the levels. An output moves its own quantile and all
those farther out, so its gradient is a sum over them. The step is scaled by :math:`c_k`, the
distance between the two levels in the standard normal distribution, so that a network with any
number of levels starts from a distribution of about the same width.

References
----------
.. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
   uncertainty estimation using deep ensembles. NeurIPS.
.. [2] R. Koenker, G. Bassett (1978). Regression quantiles. Econometrica 46.
"""

import math
from collections.abc import Iterable
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional as F

# For targets scaled to a variance of about one.
LEAST_VARIANCE = 1e-6


def variance_of(raw: Tensor) -> Tensor:
    """Return the variance encoded by the second outputs of a normal distribution."""
    return F.softplus(raw).add_(LEAST_VARIANCE)


def negative_log_likelihood(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood under normal distributions, element-wise."""
    return 0.5 * (math.log(2 * math.pi) + variance.log() + (mean - target).square() / variance)


def normal_loss(raw: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood of each row, summed over the columns.

    Parameters
    ----------
    raw : Tensor of shape (..., batch, 2 * n_columns)
    target : Tensor of shape (..., batch, n_columns)
    """
    mean, spread = raw.chunk(2, dim=-1)
    return negative_log_likelihood(mean, variance_of(spread), target).sum(dim=-1)


def normal_gradient(raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write the gradient of :func:`normal_loss` with respect to the raw output, times a scale."""
    mean, spread = raw.chunk(2, dim=-1)
    of_mean, of_spread = out.chunk(2, dim=-1)
    precision = variance_of(spread).reciprocal_()
    torch.sub(mean, target, out=of_mean).mul_(precision)
    torch.sub(precision, of_mean.square(), out=of_spread).mul_(0.5)
    of_spread.mul_(torch.sigmoid(spread))
    out.mul_(scale)


class Quantiles:
    """Quantiles of each column of the target, in ascending order, from a network's raw output.

    Parameters
    ----------
    levels : iterable of float
        In (0, 1), ascending. The median is added if it is not among them.

    Attributes
    ----------
    levels : tuple of float
        Including the median.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._engine.distributions import Quantiles
    >>> quantiles = Quantiles([0.1, 0.9])
    >>> quantiles.levels
    (0.1, 0.5, 0.9)
    >>> quantiles.of(torch.tensor([[7.0, 0.0, 0.0]])).squeeze(-1)
    tensor([[6.1117, 7.0000, 7.8883]])
    """

    def __init__(self, levels: Iterable[float]):
        self.levels = tuple(sorted({*map(float, levels), 0.5}))
        self._median = self.levels.index(0.5)
        places = [NormalDist().inv_cdf(level) for level in self.levels]
        steps = [right - left for left, right in zip(places, places[1:], strict=False)]
        # for the levels above and those below, each from the median outwards
        self._steps = steps[self._median :], steps[: self._median][::-1]
        self._constants: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}

    def of(self, raw: Tensor) -> Tensor:
        """Return the quantiles.

        Parameters
        ----------
        raw : Tensor of shape (..., batch, n_levels * n_columns)

        Returns
        -------
        quantiles : Tensor of shape (..., batch, n_levels, n_columns)
            Ascending along the levels.
        """
        median, above, below = self._parts(raw)
        _, *steps = self._constants_like(raw)
        up, down = (
            (F.softplus(part) * step).cumsum(dim=-2)
            for part, step in zip((above, below), steps, strict=True)
        )
        return torch.cat([(median - down).flip(-2), median, median + up], dim=-2)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return each row's pinball loss, averaged over the levels and summed over the columns.

        Parameters
        ----------
        raw : Tensor of shape (..., batch, n_levels * n_columns)
        target : Tensor of shape (..., batch, n_columns)
        """
        return self.pinball(self.of(raw), target).sum(dim=-1)

    def pinball(self, quantiles: Tensor, target: Tensor) -> Tensor:
        """Return the pinball loss averaged over the levels, shape (..., batch, n_columns)."""
        levels, *_ = self._constants_like(quantiles)
        residual = target.unsqueeze(-2) - quantiles
        return torch.maximum(levels * residual, (levels - 1) * residual).mean(dim=-2)

    def gradient(self, raw: Tensor, target: Tensor, scale: Tensor, out: Tensor) -> None:
        """Write the gradient of :meth:`loss` with respect to the raw output, times a scale."""
        levels, *steps = self._constants_like(raw)
        own = torch.sign(self.of(raw) - target.unsqueeze(-2)).mul_(0.5)
        own.add_(0.5 - levels).div_(len(self.levels))
        of_median, of_above, of_below = self._parts(out)
        _, above, below = self._parts(raw)
        torch.sum(own, dim=-2, keepdim=True, out=of_median)
        outwards = own[..., self._median + 1 :, :], own[..., : self._median, :].flip(-2).neg()
        for part, own_part, step, gradient in zip(
            (above, below), outwards, steps, (of_above, of_below), strict=True
        ):
            farther = own_part.flip(-2).cumsum(dim=-2).flip(-2)
            torch.mul(farther.mul_(torch.sigmoid(part)), step, out=gradient)
        out.mul_(scale)

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the outputs for the median, the levels above and the levels below."""
        parts = raw.unflatten(-1, (len(self.levels), -1))
        n_above = len(self._steps[0])
        return parts[..., :1, :], parts[..., 1 : 1 + n_above, :], parts[..., 1 + n_above :, :]

    def _constants_like(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the levels and the steps above and below, each of shape (n, 1)."""
        key = numbers.device, numbers.dtype
        if key not in self._constants:  # a CUDA graph cannot record copies from the host
            with torch.inference_mode(False):
                self._constants[key] = tuple(  # type: ignore[assignment]  # of three
                    torch.tensor(part, dtype=numbers.dtype, device=numbers.device).unsqueeze(-1)
                    for part in (self.levels, *self._steps)
                )
        return self._constants[key]


def outputs_per_column(out_activation: str, quantiles: Iterable[float] | None) -> int:
    """Return how many outputs a network has for each column of the target.

    Parameters
    ----------
    out_activation : str
        "normal", "quantiles", or any activation that maps one output to one number.
    quantiles : iterable of float or None
        The levels of "quantiles".
    """
    if out_activation == "quantiles" and quantiles is not None:
        return len(Quantiles(quantiles).levels)
    return 2 if out_activation == "normal" else 1
