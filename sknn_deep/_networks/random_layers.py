"""Layers that draw random numbers in training: dropout, noise, and what autoencoders draw."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sknn_deep._hardware.ranks import RowShare
from sknn_deep._networks.linear import Linear


class RandomModule(nn.Module):
    """A module that draws from the network's generator in training.

    If several processes share the rows of a batch, each draws for all rows and uses the numbers of
    its own rows, so that every row gets the same numbers as in a single process.
    """

    generator: torch.Generator | None = None
    share: RowShare | None = None

    def of_own_rows(self, draw: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
        """Fill a tensor of this process's rows of a batch with random numbers."""
        share = self.share
        if share is None and out.is_contiguous():
            return draw(out)
        # numbers are drawn in memory order, and must not depend on the layout of a batch
        n_rows = out.shape[0] if share is None else share.n_rows
        drawn = draw(out.new_empty((n_rows, *out.shape[1:])))
        return out.copy_(drawn if share is None else drawn[share.rows])

    def draw_bits(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return random 16-bit integers; the first dimension is this process's rows."""
        if self.share is None:
            return _draw_bits(shape, self.generator, device)
        drawn = _draw_bits((self.share.n_rows, *shape[1:]), self.generator, device)
        return drawn[self.share.rows]


class Dropout(RandomModule):
    """Inverted dropout with its own generator [1]_.

    ``nn.Dropout`` draws from torch's global generator. Input and output (batch, units).

    References
    ----------
    .. [1] N. Srivastava et al. (2014). Dropout: a simple way to prevent neural networks
       from overfitting. JMLR 15.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = self._full = p

    def scale(self, share: float) -> None:
        """Set the rate to a fraction of the configured one."""
        self.p = self._full * share

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw_(torch.empty_like(x)) if self.training else x

    def draw_(self, mask: Tensor) -> Tensor:
        """Fill a mask: 0 with probability p, else 1 / (1 - p); on a CPU p is rounded to 16 bits."""
        if mask.device.type != "cpu":
            return self.of_own_rows(self._draw_bernoulli_, mask).div_(1 - self.p)
        n_dropped = min(round(self.p * 2**16), 2**16 - 1)
        torch.ge(self.draw_bits(mask.shape, mask.device), n_dropped - 2**15, out=mask)
        return mask.mul_(1 / (1 - n_dropped / 2**16))

    def _draw_bernoulli_(self, mask: Tensor) -> Tensor:
        return mask.bernoulli_(1 - self.p, generator=self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Noise(RandomModule):
    """Corruption of the input of a denoising autoencoder [1]_ in training.

    Input and output (batch, n_features).

    Parameters
    ----------
    kind : {"gaussian", "masking", "salt_pepper"}
        Add normal noise; set features to zero; or set them to their lowest or highest value,
        each with the same probability.
    amount : float
        Standard deviation of the normal noise, or fraction of the features that are replaced.
    n_features : int
    dtype, device
        Type and device of the buffers.

    References
    ----------
    .. [1] P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol (2010). Stacked
       denoising autoencoders. JMLR 11.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        kind: str,
        amount: float,
        n_features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.kind, self.amount = kind, amount
        if kind == "salt_pepper":
            self.register_buffer("low", torch.zeros(n_features, dtype=dtype, device=device))
            self.register_buffer("high", torch.ones(n_features, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.corrupt(x, torch.empty_like(x)) if self.training else x

    def corrupt(self, x: Tensor, out: Tensor) -> Tensor:
        """Write a corrupted copy of a batch."""
        if self.kind == "gaussian":
            return self.of_own_rows(self._draw_normal_, out).add_(x)
        n_replaced = min(round(self.amount * 2**16), 2**16 - 1)
        bits = self.draw_bits(x.shape, x.device)
        torch.mul(x, torch.ge(bits, n_replaced - 2**15), out=out)
        if self.kind == "salt_pepper":
            # the lower half of the replaced features is pepper, the upper half salt
            is_low = bits < n_replaced // 2 - 2**15
            out.add_(torch.where(is_low, self.low, self.high) * (bits < n_replaced - 2**15))
        return out

    def _draw_normal_(self, out: Tensor) -> Tensor:
        return out.normal_(0.0, self.amount, generator=self.generator)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, amount={self.amount}"


class Code(RandomModule):
    """The code of a variational autoencoder: a normal distribution for each row [1]_.

    Its mean is the output of the encoder's last layer. Input (batch, units) of the hidden layer
    before, output (batch, n_components): the logarithm of the variance.

    References
    ----------
    .. [1] D. Kingma, M. Welling (2014). Auto-encoding variational Bayes. ICLR.
    """

    def __init__(
        self,
        n_units: int,
        n_components: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.log_variance = Linear(n_units, n_components, dtype=dtype, device=device)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.log_variance(hidden)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return a sample, differentiable with respect to mean and variance."""
        normal = self.of_own_rows(self._draw_normal_, torch.empty_like(mean, requires_grad=False))
        return mean + normal * (0.5 * log_variance).exp()

    def _draw_normal_(self, out: Tensor) -> Tensor:
        return out.normal_(generator=self.generator)


class Contraction(RandomModule):
    r"""An estimate of the squared Frobenius norm of an encoder's Jacobian, per unit of code [1]_.

    With a vector :math:`v` of random signs, the expectation of :math:`\lVert J^\top v \rVert^2` is
    the squared norm [2]_: one backward pass instead of one per unit. All rows of a batch have the
    same signs.

    References
    ----------
    .. [1] S. Rifai, P. Vincent, X. Muller, X. Glorot, Y. Bengio (2011). Contractive
       auto-encoders: explicit invariance during feature extraction. ICML.
    .. [2] M. Hutchinson (1990). A stochastic estimator of the trace of the influence matrix
       for Laplacian smoothing splines. Communications in Statistics 19(2).
    """

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return the estimate for each row of x, shape (batch,), differentiable by autograd."""
        signs = code.new_empty(code.shape[1])
        signs = signs.random_(0, 2, generator=self.generator).mul_(2).sub_(1)
        (gradient,) = torch.autograd.grad((code @ signs).sum(), x, create_graph=True)
        return gradient.square().sum(dim=1) / code.shape[1]


def _draw_bits(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Return uniform random 16-bit integers, -2**15 to 2**15 - 1.

    Comparing them with a threshold is several times as fast as torch's ``bernoulli_`` on a CPU;
    probabilities are then multiples of 2**-16.
    """
    numel = math.prod(shape)
    words = torch.empty(-(-numel // 4), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    return words.view(torch.int16)[:numel].view(shape)
