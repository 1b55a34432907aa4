r"""Batch and layer normalisation of a layer, forward and backward, with torch's own kernels.

On a CPU each network of a stack is normalised separately, while its rows are in the cache. On a
device, launching a kernel takes longer than its work, so one call serves all networks. For batch
normalisation, a stack of K networks is one batch with :math:`K \times` units channels. Layer
normalisation treats the rows of all networks alike except for their scales :math:`w` and shifts
:math:`b`, so these are applied separately:

.. math::
    y = w \odot \hat z + b, \qquad
    \frac{\partial L}{\partial w} = \sum_i \delta_i \odot \hat z_i, \qquad
    \frac{\partial L}{\partial b} = \sum_i \delta_i, \qquad
    \frac{\partial L}{\partial \hat z} = \delta \odot w
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sknn_deep._engine.activations import aten
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.inputs import matrices_of
from sknn_deep._networks.stacked import NormLayer

# Means, variances and counts of batches, as in ``shared_statistics``.
Statistics = tuple[Tensor, Tensor, Tensor]


class NormPass(Protocol):
    """Normalises ``z`` into ``y``, of shape (batch, units), or (K, batch, units) for a stack."""

    def forward(self) -> None: ...

    def backward(self, delta: Tensor) -> None:
        """Write the gradients; delta becomes the gradient with respect to ``z``."""


def norm_pass(
    norm: NormLayer,
    z: Tensor,
    y: Tensor,
    statistics: Statistics | None,
    ranks: Ranks | None = None,
) -> NormPass:
    """Return the normalisation pass of a layer.

    Parameters
    ----------
    norm : NormLayer
    z, y : Tensor of shape (batch, units) or (K, batch, units)
    statistics : Statistics or None
        Running statistics of a stack with batch normalisation on a device.
    ranks : Ranks, default=None
        The processes that share a batch; ``z`` has this process's rows.
    """
    if ranks is not None and isinstance(norm.modules[0], nn.BatchNorm1d):
        return _BatchNormOfRanks(norm, z, y, ranks)
    if z.ndim == 2:
        return _OfNetwork(norm, z, y)
    if z.device.type == "cpu":
        return _OfEach(norm, z, y)
    if statistics is not None:
        return _BatchNormOfStack(norm, z, y, statistics)
    return _LayerNormOfStack(norm, z, y)


def is_by_channel(norm: NormLayer, weight: Tensor) -> bool:
    """Return whether all units of all networks are normalised together as channels."""
    is_batch = isinstance(norm.modules[0], nn.BatchNorm1d)
    return is_batch and weight.ndim == 3 and weight.device.type != "cpu"


class _OfNetwork:
    """Batch or layer normalisation of one network."""

    def __init__(self, norm: NormLayer, z: Tensor, y: Tensor):
        self._module: Any  # which of the two is known by `_is_batch`
        (self._module,), self._weight, self._bias, self._weight_grad, self._bias_grad = norm
        self._z, self._y = z, y
        self._is_batch = isinstance(self._module, nn.BatchNorm1d)
        if self._is_batch:  # looking up a module's buffers is slow
            self._n_batches = self._module.num_batches_tracked
            self._statistics = (self._module.running_mean, self._module.running_var)

    def forward(self) -> None:
        module, affine = self._module, (self._weight, self._bias)
        if self._is_batch:
            self._n_batches.add_(1)
            normalized, *self._saved = torch.native_batch_norm(
                self._z, *affine, *self._statistics, True, module.momentum, module.eps
            )
        else:
            normalized, *self._saved = torch.native_layer_norm(
                self._z, module.normalized_shape, *affine, module.eps
            )
        self._y.copy_(normalized)

    def backward(self, delta: Tensor) -> None:
        module, wanted = self._module, [True, True, True]
        if self._is_batch:
            statistics = (*self._statistics, *self._saved)
            gradients = aten.native_batch_norm_backward(
                delta, self._z, self._weight, *statistics, True, module.eps, wanted
            )
        else:
            gradients = aten.native_layer_norm_backward(
                delta,
                self._z,
                module.normalized_shape,
                *self._saved,
                self._weight,
                self._bias,
                wanted,
            )
        for target, gradient in zip(
            (delta, self._weight_grad, self._bias_grad), gradients, strict=True
        ):
            target.copy_(gradient)


class _OfEach:
    """Batch or layer normalisation of K networks, one after the other."""

    def __init__(self, norm: NormLayer, z: Tensor, y: Tensor):
        parts = zip(norm.of_each(), matrices_of(z), matrices_of(y), strict=True)
        self._passes = [_OfNetwork(*part) for part in parts]

    def forward(self) -> None:
        for own in self._passes:
            own.forward()

    def backward(self, delta: Tensor) -> None:
        for own, delta_k in zip(self._passes, matrices_of(delta), strict=True):
            own.backward(delta_k)


class _BatchNormOfStack:
    """Batch normalisation of K networks at once."""

    def __init__(self, norm: NormLayer, z: Tensor, y: Tensor, statistics: Statistics):
        module: Any = norm.modules[0]
        self._momentum, self._eps = module.momentum, module.eps
        self._z, self._y = _by_channel(z), _by_channel(y)
        *self._statistics, self._n_batches = statistics
        # a network's scales and shifts are adjacent, but those of different networks are not
        self._affine = _as_pair(norm.weight, norm.bias)
        self._gradients = _as_pair(norm.weight_grad, norm.bias_grad)
        n_channels = self._z.shape[1]
        self._own = z.new_empty((2, *norm.weight.shape))
        self._weight, self._bias = self._own.view(2, n_channels)
        self._saved = z.new_empty(n_channels), z.new_empty(n_channels)

    def forward(self) -> None:
        self._n_batches.add_(1)
        self._own.copy_(self._affine)
        aten.native_batch_norm.out(
            self._z,
            self._weight,
            self._bias,
            *self._statistics,
            True,
            self._momentum,
            self._eps,
            out=self._y,
            save_mean=self._saved[0],
            save_invstd=self._saved[1],
        )

    def backward(self, delta: Tensor) -> None:
        of_z, of_weight, of_bias = aten.native_batch_norm_backward(
            _by_channel(delta),
            self._z,
            self._weight,
            *self._statistics,
            *self._saved,
            True,
            self._eps,
            [True, True, True],
        )
        _by_channel(delta).copy_(of_z)
        shape = self._gradients[0].shape
        torch.stack([of_weight.view(shape), of_bias.view(shape)], out=self._gradients)


class _BatchNormOfRanks:
    r"""Batch normalisation of rows that several processes share.

    Each process has the mean :math:`m_i` of its :math:`n_i` rows and the sum of squares :math:`q_i`
    about it. These are combined without cancellation, for :math:`n = \sum_i n_i` rows [1]_:

    .. math::
        m = \frac{1}{n} \sum_i n_i m_i, \qquad q = \sum_i \big(q_i + n_i (m_i - m)^2\big)

    The backward pass, :math:`\partial L / \partial z = \frac{w}{s} (\delta - \bar\delta - \hat z\,
    \overline{\delta \hat z})`, needs two means over all rows. Gradients of scale and shift are
    this process's part, as for all parameters.

    References
    ----------
    .. [1] T. Chan, G. Golub, R. LeVeque (1983). Algorithms for computing the sample variance:
       analysis and recommendations. The American Statistician 37(3).
    """

    def __init__(self, norm: NormLayer, z: Tensor, y: Tensor, ranks: Ranks):
        self._module: Any
        (self._module,), self._weight, self._bias, self._weight_grad, self._bias_grad = norm
        self._z, self._y, self._ranks = z, y, ranks

    def forward(self) -> None:
        module, ranks, z = self._module, self._ranks, self._z
        of_each = z.new_zeros((ranks.size, 2, z.shape[1]))
        if len(z):
            torch.mean(z, dim=0, out=of_each[ranks.rank, 0])
            torch.sum((z - of_each[ranks.rank, 0]).square_(), dim=0, out=of_each[ranks.rank, 1])
        ranks.add_(of_each)
        n_rows = ranks.share.n_rows
        counts = z.new_tensor(ranks.lengths()).unsqueeze(1)
        means, squares = of_each.unbind(dim=1)
        mean = (counts * means).sum(dim=0) / n_rows
        square = (squares + counts * (means - mean).square_()).sum(dim=0)
        with torch.no_grad():
            module.num_batches_tracked.add_(1)
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(square / max(1, n_rows - 1), module.momentum)
        self._inverse = (square / n_rows + module.eps).rsqrt_()
        self._normalized = (z - mean).mul_(self._inverse)
        torch.addcmul(self._bias, self._normalized, self._weight, out=self._y)

    def backward(self, delta: Tensor) -> None:
        sums = torch.stack([delta.sum(dim=0), (delta * self._normalized).sum(dim=0)])
        self._bias_grad.copy_(sums[0])
        self._weight_grad.copy_(sums[1])
        means = self._ranks.add_(sums).div_(self._ranks.share.n_rows)
        delta.sub_(means[0]).addcmul_(self._normalized, means[1], value=-1.0)
        delta.mul_(self._inverse * self._weight)


class _LayerNormOfStack:
    """Layer normalisation of K networks at once."""

    def __init__(self, norm: NormLayer, z: Tensor, y: Tensor):
        module: Any = norm.modules[0]
        self._shape, self._eps = module.normalized_shape, module.eps
        self._z, self._y, self._norm = z, y, norm
        self._weight, self._bias = norm.weight.unsqueeze(1), norm.bias.unsqueeze(1)

    def forward(self) -> None:
        self._normalized, *self._saved = torch.native_layer_norm(
            self._z, self._shape, None, None, self._eps
        )
        torch.addcmul(self._bias, self._normalized, self._weight, out=self._y)

    def backward(self, delta: Tensor) -> None:
        torch.sum(delta, dim=1, out=self._norm.bias_grad)
        torch.sum(self._normalized.mul_(delta), dim=1, out=self._norm.weight_grad)
        gradient, *_ = aten.native_layer_norm_backward(
            delta.mul_(self._weight),
            self._z,
            self._shape,
            *self._saved,
            None,
            None,
            [True, False, False],
        )
        delta.copy_(gradient)


def _by_channel(stack: Tensor) -> Tensor:
    """Return a stack (K, batch, units) from :func:`rows_side_by_side` as (batch, K * units)."""
    return stack.transpose(0, 1).flatten(1)


def _as_pair(first: Tensor, second: Tensor) -> Tensor:
    """Return two adjacent tensors of shape (K, units) as a view of shape (2, K, units)."""
    n_networks, n_units = first.shape
    if second.storage_offset() != first.storage_offset() + n_units:
        raise RuntimeError("The scales and shifts of a layer are not next to each other.")
    return first.as_strided((2, n_networks, n_units), (n_units, first.stride(0), 1))


def rows_side_by_side(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised stack (K, batch, units) for layers with :func:`is_by_channel`."""
    n_networks, n_rows, n_units = shape
    return like.new_empty((n_rows, n_networks, n_units)).transpose(0, 1)
