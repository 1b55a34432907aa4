r"""Closed-form forward and backward pass of dense networks, one or a stack of one shape.

Layer :math:`l` maps a batch :math:`a_{l-1}` (one sample a row) to

.. math:: z_l = a_{l-1} W_l^\top + b_l, \qquad a_l = m_l \odot \phi_l(\nu_l(z_l))

with a normalisation :math:`\nu_l` and dropout's mask :math:`m_l` where the network has
them. With :math:`\delta_l = \partial L / \partial z_l`, backpropagation is [1]_

.. math::
    \delta_{l-1} = \nu_{l-1}'\big((\delta_l W_l) \odot m_{l-1} \odot \phi_{l-1}'\big), \qquad
    \frac{\partial L}{\partial W_l} = \delta_l^\top a_{l-1}, \qquad
    \frac{\partial L}{\partial b_l} = \sum_i \delta_{l,i}

These equations need no tape. They are written once, as a list of kernels bound to buffers
that all batches share; a training step runs the list. In a stack of K networks every
tensor has a leading dimension of K, and each product is one batched product.

References
----------
.. [1] D. Rumelhart, G. Hinton, R. Williams (1986). Learning representations by
   back-propagating errors. Nature 323.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sknn_deep._batches import Chunk
from sknn_deep._device import empty_matrix, is_narrow
from sknn_deep._losses import Loss
from sknn_deep._network import DenseLayer, Network, dense_layers
from sknn_deep._threads import Pace

aten = torch.ops.aten
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as in torch.nn.SELU

# A saturated unit gives denormal numbers, on which a CPU is many times slower: black
# pixels of an autoencoder make it twenty times slower. Logits are cut where the sigmoid is
# 1e-13 in single precision (1e-107 in double), and gradients where they are negligible.
_LOWEST_LOGIT = {
    dtype: 0.35 * math.log(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)
}
_NEGLIGIBLE = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in _LOWEST_LOGIT}

Program = list[Callable[[], object]]


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative, both into a given buffer.

    Attributes
    ----------
    forward : callable
        ``forward(z, out)`` writes the activation.
    backward : callable
        ``backward(delta, saved, out)`` writes delta times the derivative; ``saved`` is the
        activation where ``in_place``, else the pre-activation.
    in_place : bool
        Whether the derivative is a function of the activation, so that ``z`` need not be kept.
    saturates : bool
        Whether the derivative can come arbitrarily close to zero without being zero.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    in_place: bool
    saturates: bool = True


ACTIVATIONS = {
    "identity": Activation(
        lambda z, out: out, lambda delta, a, out: out, in_place=True, saturates=False
    ),
    "logistic": Activation(
        lambda z, out: torch.sigmoid(z.clamp_min_(_LOWEST_LOGIT[z.dtype]), out=out),
        lambda delta, a, out: aten.sigmoid_backward.grad_input(delta, a, grad_input=out),
        in_place=True,
    ),
    "tanh": Activation(
        lambda z, out: torch.tanh(z, out=out),
        lambda delta, a, out: aten.tanh_backward.grad_input(delta, a, grad_input=out),
        in_place=True,
    ),
    "relu": Activation(
        lambda z, out: torch.relu_(out),
        lambda delta, a, out: aten.threshold_backward.grad_input(delta, a, 0, grad_input=out),
        in_place=True,
        saturates=False,
    ),
    "leaky_relu": Activation(
        lambda z, out: aten.leaky_relu.out(z, 0.01, out=out),
        lambda delta, a, out: aten.leaky_relu_backward.grad_input(
            delta, a, 0.01, True, grad_input=out
        ),
        in_place=True,
        saturates=False,
    ),
    "elu": Activation(
        lambda z, out: aten.elu.out(z, 1, 1, 1, out=out),
        lambda delta, a, out: aten.elu_backward.grad_input(delta, 1, 1, 1, True, a, grad_input=out),
        in_place=True,
    ),
    "selu": Activation(
        lambda z, out: aten.elu.out(z, *_SELU, 1, out=out),
        lambda delta, a, out: aten.elu_backward.grad_input(
            delta, *_SELU, 1, True, a, grad_input=out
        ),
        in_place=True,
    ),
    "gelu": Activation(
        lambda z, out: aten.gelu.out(z, out=out),
        lambda delta, z, out: aten.gelu_backward.grad_input(delta, z, grad_input=out),
        in_place=False,
    ),
    "silu": Activation(
        lambda z, out: aten.silu.out(z, out=out),
        lambda delta, z, out: aten.silu_backward.grad_input(delta, z, grad_input=out),
        in_place=False,
    ),
    "mish": Activation(
        lambda z, out: aten.mish.out(z, out=out),
        lambda delta, z, out: out.copy_(aten.mish_backward(delta, z)),
        in_place=False,
    ),
    "softplus": Activation(
        lambda z, out: aten.softplus.out(z, 1, 20, out=out),
        lambda delta, z, out: aten.softplus_backward.grad_input(delta, z, 1, 20, grad_input=out),
        in_place=False,
    ),
}


class Backprop:
    """The gradient of a loss for one network or a stack, in closed form.

    Parameters
    ----------
    networks : sequence of Network, length K
        Of one shape. Several must lie in the rows of one buffer (``share_buffer``); their
        tensors then have a leading dimension of K.
    loss : Loss
    product_dtype : torch.dtype, default=None
        In which matrix products are computed, where it is not the weights' own: with
        ``torch.bfloat16`` the weights, the sums and all else stay in single precision [1]_.
    pace : Pace, default=None
        What decides on the threads of large products; None for one thread.

    References
    ----------
    .. [1] D. Kalamkar et al. (2019). A study of bfloat16 for deep learning training.
       arXiv:1905.12322.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        loss: Loss,
        product_dtype: torch.dtype | None = None,
        pace: Pace | None = None,
    ):
        self._layers = dense_layers(networks)
        self.loss = loss
        self._product_dtype, self._pace = product_dtype, pace or Pace(1)
        # the last batch may be shorter than the others, or longer: each length has its buffers
        self._passes: dict[int, list[_Pass]] = {}
        self._workspaces: dict[tuple[int, int, int], Workspace] = {}

    def workspace(self, chunk: Chunk) -> "Workspace":
        """Return the programs of a chunk's batches, bound to its buffers."""
        # a workspace holds its chunk's tensors, so that no others can come to lie there
        key = (chunk.X.data_ptr(), chunk.X.shape[-2], len(chunk.parts))
        if key not in self._workspaces:
            self._workspaces[key] = Workspace(self, chunk)
        return self._workspaces[key]

    def empty_output(self, n_rows: int) -> Tensor:
        """Return a buffer for the output of so many rows."""
        weight = self._layers[-1].weight
        return empty_matrix((*weight.shape[:-2], n_rows, weight.shape[-2]), like=weight)

    def program(self, X: Tensor, target: Tensor, scale: Tensor, raw: Tensor) -> Program:
        """Return the kernels that write the output of a batch, and the gradient of its loss.

        Parameters
        ----------
        X : Tensor of shape (batch, n_features)
        target : Tensor of shape (batch, n_outputs)
            As the loss takes it.
        scale : Tensor of shape () or (batch, 1)
            Factor of each sample's loss: its weight over the sum of the weights.
        raw : Tensor of shape (batch, n_outputs)
            Where the output is written.
        """
        passes = self._passes_for(X.shape[-2])
        kernels: Program = []
        inputs, saved = [X], []
        for layer in passes:
            out = raw if layer is passes[-1] else None
            forward, output, for_backward = layer.forward(inputs[-1], out)
            kernels += forward
            inputs.append(output)
            saved.append(for_backward)
        delta = passes[-1].delta
        gradient = partial(self.loss.gradient, raw, target, scale, delta)
        kernels.append(self._pace.threaded(gradient, n_elements=delta.numel()))
        for i in range(len(passes) - 1, -1, -1):
            kernels += passes[i].backward(inputs[i], saved[i])
            if i > 0:
                kernels += passes[i].delta_of_input(passes[i - 1].delta)
        return kernels

    def _passes_for(self, n_rows: int) -> "list[_Pass]":
        if n_rows not in self._passes:
            self._passes[n_rows] = [
                _Pass(layer, n_rows, self._product_dtype, self._pace) for layer in self._layers
            ]
        return self._passes[n_rows]


class Workspace:
    """The programs of a chunk's batches, its encoded targets and its raw outputs.

    Attributes
    ----------
    programs : list of Program
        One for each batch of the chunk.
    raw : Tensor of shape (rows, n_outputs)
        The output of each batch before its step.
    """

    def __init__(self, backprop: Backprop, chunk: Chunk):
        self._loss, self._chunk, self._parts = backprop.loss, chunk, chunk.parts
        self.raw = backprop.empty_output(chunk.X.shape[-2])
        self._target = chunk.target
        if self._loss.encode is not None:
            self._target = backprop.empty_output(chunk.X.shape[-2])
        self._scale = chunk.scale
        if self._scale is None:
            lengths = np.array([part.stop - part.start for part in chunk.parts])
            self._scale = self.raw.new_tensor(np.repeat(1.0 / lengths, lengths)).unsqueeze(1)
        self.programs = []
        for part in chunk.parts:
            X, target = chunk.X[..., part, :], self._target[..., part, :]
            # a factor that all rows share costs less than one of each
            scale = self._scale[part.start, 0] if chunk.scale is None else self._scale[part]
            self.programs.append(backprop.program(X, target, scale, self.raw[..., part, :]))

    def load(self, chunk: Chunk) -> None:
        """Make the targets of a chunk, which has this one's buffers, what the loss takes."""
        if self._loss.encode is not None:
            self._loss.encode(chunk.target, self._target)

    def losses(self) -> Tensor:
        """Return the mean loss of every batch, each before its own step; shape (n_batches,)."""
        losses = self._loss.per_sample(self.raw, self._target) * self._scale.squeeze(1)
        # all batches but the last have one length
        *others, last = self._parts
        sums = [losses[..., last].sum(dim=-1, keepdim=True)]
        if others:
            shape = (len(others), others[0].stop)
            sums.insert(0, losses[..., : last.start].unflatten(-1, shape).sum(dim=-1))
        return torch.cat(sums, dim=-1)

    def loss(self, number: int) -> Tensor:
        """Return the mean loss of one batch."""
        rows = self._parts[number]
        losses = self._loss.per_sample(self.raw[..., rows, :], self._target[..., rows, :])
        return (losses * self._scale[rows].squeeze(1)).sum(dim=-1)


class _Pass:
    """One dense layer's kernels for batches of one length, and their buffers.

    Attributes
    ----------
    delta : Tensor of shape (batch, out_features)
        The gradient of the loss: with respect to the output, after :meth:`backward` with
        respect to the pre-activation.
    """

    def __init__(
        self,
        layer: DenseLayer,
        n_rows: int,
        product_dtype: torch.dtype | None,
        pace: Pace,
    ):
        self._layer = layer
        self._activation = ACTIVATIONS[layer.activation]
        self._is_stack = layer.weight.ndim == 3
        self._matmul = torch.bmm if self._is_stack else torch.mm
        self._product_dtype, self._pace = product_dtype, pace
        self._casts: dict[str, list[Tensor]] = {}
        self._narrow_gradient: Tensor | None = None
        self._work = n_rows * layer.weight.numel()
        shape = (*layer.weight.shape[:-2], n_rows, layer.weight.shape[-2])
        new = partial(empty_matrix, shape, like=layer.weight)
        self.delta, self._ones = new(), layer.weight.new_ones((*shape[:-2], 1, n_rows))
        self._z = new()
        self._y = new() if layer.norms else self._z
        self._a = self._y if self._activation.in_place else new()
        self._mask, self._kept = (new(), new()) if layer.dropout else (None, None)
        parts = zip(_rows(self._z), _rows(self._y), strict=True) if layer.norms else ()
        self._norms = [_Norm(norm, *part) for norm, part in zip(layer.norms, parts, strict=True)]

    def forward(self, x: Tensor, out: Tensor | None) -> tuple[Program, Tensor, Tensor]:
        """Return the kernels from an input of shape (batch, in_features), and two results.

        These are the output and what the activation's derivative is a function of. The
        output layer, which has neither normalisation nor dropout, writes it to ``out``.
        """
        layer, z, y, a = self._layer, self._z, self._y, self._a
        if out is not None:
            a = out
            z = y = out if self._activation.in_place else z
        saved = a if self._activation.in_place else y
        bias = layer.bias.unsqueeze(-2) if self._is_stack else layer.bias
        kernels = [
            *self._product("forward", x, layer.weight.mT, z),
            self._elementwise(z.add_, bias),
        ]
        kernels += [norm.forward for norm in self._norms]
        if layer.activation != "identity":
            kernels.append(self._elementwise(self._activation.forward, y, a))
        if self._mask is None:
            return kernels, a, saved
        masks = zip(layer.dropout, _rows(self._mask), strict=True)
        kernels += [partial(dropout.draw_, mask) for dropout, mask in masks]
        kernels.append(partial(torch.mul, a, self._mask, out=self._kept))
        return kernels, self._kept, saved

    def backward(self, x: Tensor, saved: Tensor) -> Program:
        """Return the kernels that take delta back to the pre-activation, and the gradients'."""
        layer, activation, delta = self._layer, self._activation, self.delta
        kernels: Program = []
        if self._mask is not None:
            kernels.append(partial(delta.mul_, self._mask))
        if layer.activation != "identity":
            kernels.append(self._elementwise(activation.backward, delta, saved, delta))
        if self._norms:
            norms = zip(self._norms, _rows(delta), strict=True)
            kernels += [partial(norm.backward, delta_k) for norm, delta_k in norms]
        if activation.saturates:
            negligible = _NEGLIGIBLE[delta.dtype]
            kernels.append(self._elementwise(_shrink, delta, negligible))
        kernels += self._gradient_of_weight(x)
        # a sum over the batch, which for small layers takes half the time as a product
        sums = layer.bias_grad.unsqueeze(-2)
        kernels.append(partial(self._matmul, self._ones, delta, out=sums))
        return kernels

    def _gradient_of_weight(self, x: Tensor) -> Program:
        gradient, delta = self._layer.weight_grad, self.delta
        if not is_narrow(*gradient.shape[-2:]):
            return self._product("gradient", delta.mT, x, gradient)
        if self._narrow_gradient is None:
            self._narrow_gradient = empty_matrix(gradient.shape, like=gradient)
        product = self._product("gradient", delta.mT, x, self._narrow_gradient)
        return [*product, partial(gradient.copy_, self._narrow_gradient)]

    def delta_of_input(self, out: Tensor) -> Program:
        """Return the kernels that write the gradient with respect to the layer's input."""
        return self._product("delta", self.delta, self._layer.weight, out)

    def _product(self, name: str, left: Tensor, right: Tensor, out: Tensor) -> Program:
        if self._product_dtype is None:
            return [self._threaded(partial(self._matmul, left, right, out=out))]
        if name not in self._casts:
            self._casts[name] = [
                torch.empty_like(tensor, dtype=self._product_dtype) for tensor in (left, right, out)
            ]
        *factors, product = self._casts[name]
        return [
            partial(factors[0].copy_, left),
            partial(factors[1].copy_, right),
            self._threaded(partial(self._matmul, *factors, out=product)),
            partial(out.copy_, product),
        ]

    def _elementwise(self, kernel: Callable[..., object], *args) -> Callable[[], object]:
        return self._pace.threaded(partial(kernel, *args), n_elements=self.delta.numel())

    def _threaded(self, product: Callable[[], object]) -> Callable[[], object]:
        return self._pace.threaded(product, multiply_adds=self._work)


class _Norm:
    """Batch or layer normalisation of one network, by torch's own kernels."""

    def __init__(self, module: torch.nn.Module, z: Tensor, y: Tensor):
        self._module, self._z, self._y = module, z, y
        self._weight, self._bias = module.weight.detach(), module.bias.detach()
        self._weight_grad, self._bias_grad = module.weight.grad, module.bias.grad
        self._is_batch = isinstance(module, torch.nn.BatchNorm1d)

    def forward(self) -> None:
        module, affine = self._module, (self._weight, self._bias)
        if self._is_batch:
            module.num_batches_tracked += 1
            statistics = (module.running_mean, module.running_var)
            normalized, *self._saved = torch.native_batch_norm(
                self._z, *affine, *statistics, True, module.momentum, module.eps
            )
        else:
            normalized, *self._saved = torch.native_layer_norm(
                self._z, module.normalized_shape, *affine, module.eps
            )
        self._y.copy_(normalized)

    def backward(self, delta: Tensor) -> None:
        module, wanted = self._module, [True, True, True]
        if self._is_batch:
            statistics = (module.running_mean, module.running_var, *self._saved)
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


def _shrink(tensor: Tensor, limit: float) -> None:
    aten.hardshrink.out(tensor, limit, out=tensor)


def _rows(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of a stack, or the only one."""
    return tensor.unbind() if tensor.ndim == 3 else (tensor,)
