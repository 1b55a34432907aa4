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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sknn_deep._batches import Chunk
from sknn_deep._device import empty_matrix, is_narrow
from sknn_deep._losses import Loss
from sknn_deep._network import DenseLayer, Network, NormLayer, dense_layers
from sknn_deep._threads import Pace, numpy_takes_one_thread

aten = torch.ops.aten
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as in torch.nn.SELU

# A saturated unit gives denormal numbers, on which a CPU is many times slower: black
# pixels of an autoencoder make it twenty times slower. Logits are cut where the sigmoid is
# 1e-13 in single precision (1e-107 in double), and gradients where they are negligible.
_LOWEST_LOGIT = {
    dtype: 0.35 * math.log(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)
}
_NEGLIGIBLE = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in _LOWEST_LOGIT}

# A product of so few multiply-adds OpenBLAS computes on one thread, however many it may take, and
# its call costs less than torch's; where a factor is transposed, as in the forward pass, MKL is
# faster sooner. A sum of rows is a product by a vector, which OpenBLAS spreads sooner.
_SMALL_PRODUCT, _SMALL_FORWARD_PRODUCT, _SMALL_SUM = 2**18, 2**16, 9000
# Up to so many multiply-adds each NumPy takes no more time than MKL for the products of a stack,
# where it has one thread.
_MEDIUM_PRODUCT = 2**20
# With so few rows a stack's outputs take MKL less time than OpenBLAS, unless they are narrow.
_FEW_ROWS = 64
# OpenBLAS packs the factors of outputs of so many units for more rows than that; without it they
# take less time.
_BLOCK_COLUMNS, _BLOCK_ROWS = range(5, 17), 100
# A tensor of so many elements stays in a CPU's cache between two kernels.
_SMALL_TENSOR = 2**17

Kernel = Callable[[], object]
Program = list[Kernel]


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative, as kernels that write into a given buffer.

    Attributes
    ----------
    forward : callable
        ``forward(z, out)`` returns the kernels that write the activation.
    backward : callable
        ``backward(delta, saved)`` returns the kernels that multiply delta by the derivative;
        ``saved`` is the activation where ``in_place``, else the pre-activation.
    in_place : bool
        Whether the derivative is a function of the activation, so that ``z`` need not be kept.
    saturates : bool
        Whether the derivative can come arbitrarily close to zero without being zero.
    """

    forward: Callable[[Tensor, Tensor], Program]
    backward: Callable[[Tensor, Tensor], Program]
    in_place: bool
    saturates: bool = True


def _sigmoid(z: Tensor, out: Tensor) -> Program:
    lowest = _LOWEST_LOGIT[z.dtype]
    return [partial(torch.clamp_min_, z, lowest), partial(torch.sigmoid, z, out=out)]


def _derivative(name: str, *constants, in_place: bool | None = None) -> Callable:
    """Return a builder of one of torch's own backward kernels.

    Those of the units that are linear above zero take the constants first and say whether
    they are given the activation or the pre-activation.
    """
    kernel = getattr(aten, name).grad_input

    def build(delta: Tensor, saved: Tensor) -> Program:
        if in_place is not None:
            return [partial(kernel, delta, *constants, in_place, saved, grad_input=delta)]
        return [partial(kernel, delta, saved, *constants, grad_input=delta)]

    return build


def _step(delta: Tensor, a: Tensor) -> Program:
    if delta.device.type != "cpu" or delta.numel() > _SMALL_TENSOR:
        return [partial(aten.threshold_backward.grad_input, delta, a, 0, grad_input=delta)]
    sign = torch.empty_like(a)  # two calls, but they cost less than one of this kind
    return [partial(torch.sign, a, out=sign), partial(delta.mul_, sign)]


def _mish_derivative(delta: Tensor, z: Tensor) -> Program:
    return [lambda: delta.copy_(aten.mish_backward(delta, z))]  # it has no form with a buffer


ACTIVATIONS = {
    "identity": Activation(lambda z, out: [], lambda delta, a: [], in_place=True, saturates=False),
    "logistic": Activation(_sigmoid, _derivative("sigmoid_backward"), in_place=True),
    "tanh": Activation(
        lambda z, out: [partial(torch.tanh, z, out=out)],
        _derivative("tanh_backward"),
        in_place=True,
    ),
    "relu": Activation(
        lambda z, out: [partial(torch.relu_, out)],
        _step,
        in_place=True,
        saturates=False,
    ),
    "leaky_relu": Activation(
        lambda z, out: [partial(aten.leaky_relu.out, z, 0.01, out=out)],
        lambda delta, a: [
            partial(aten.leaky_relu_backward.grad_input, delta, a, 0.01, True, grad_input=delta)
        ],
        in_place=True,
        saturates=False,
    ),
    "elu": Activation(
        lambda z, out: [partial(aten.elu.out, z, 1, 1, 1, out=out)],
        _derivative("elu_backward", 1, 1, 1, in_place=True),
        in_place=True,
    ),
    "selu": Activation(
        lambda z, out: [partial(aten.elu.out, z, *_SELU, 1, out=out)],
        _derivative("elu_backward", *_SELU, 1, in_place=True),
        in_place=True,
    ),
    "gelu": Activation(
        lambda z, out: [partial(aten.gelu.out, z, out=out)],
        _derivative("gelu_backward"),
        in_place=False,
    ),
    "silu": Activation(
        lambda z, out: [partial(aten.silu.out, z, out=out)],
        _derivative("silu_backward"),
        in_place=False,
    ),
    "mish": Activation(
        lambda z, out: [partial(aten.mish.out, z, out=out)], _mish_derivative, in_place=False
    ),
    "softplus": Activation(
        lambda z, out: [partial(aten.softplus.out, z, 1, 20, out=out)],
        _derivative("softplus_backward", 1, 20),
        in_place=False,
    ),
}


class Backprop:
    """The gradient of a loss for one network or a stack, in closed form.

    Parameters
    ----------
    networks : sequence of Network, length K
        Of one shape.
    loss : Loss
    product_dtype : torch.dtype, default=None
        In which matrix products are computed, where it is not the weights' own: with
        ``torch.bfloat16`` the weights, the sums and all else stay in single precision [1]_.
    pace : Pace, default=None
        What knows whether a stack's products are worth several threads; None for one thread.
    buffers : (Tensor, Tensor), default=None
        Parameters and gradients of several networks, from ``share_buffer``: all tensors then have
        a leading dimension of K. None for those of a single network.

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
        buffers: tuple[Tensor, Tensor] | None = None,
    ):
        self._layers = dense_layers(networks, buffers)
        self.loss = loss
        self._product_dtype, self._pace = product_dtype, pace or Pace(1)
        # the last batch may be shorter than the others, or longer: each length has its buffers
        self._passes: dict[int, list[_Pass]] = {}
        self._workspaces: dict[tuple, Workspace] = {}
        # what happens to a batch before the first layer, by each network of the stack
        self._changes = [
            tuple(functions)
            for functions in zip(*(network.input_changes() for network in networks), strict=True)
        ]
        self._changed: dict[tuple, Tensor] = {}
        self._code_layer = networks[0].code_layer
        self._add_tied_gradients = [
            network.add_tied_gradients for network in networks if network.tied_layers()
        ]

    def workspace(self, chunk: Chunk) -> "Workspace":
        """Return the programs of a chunk's batches, bound to its buffers."""
        # a workspace holds its chunk's tensors, so that no others can come to lie there
        key = (chunk.X.data_ptr(), chunk.X.shape[-2], len(chunk.parts), chunk.scale is None)
        if key not in self._workspaces:
            self._workspaces[key] = Workspace(self, chunk)
        return self._workspaces[key]

    def largest_kernels(self, n_rows: int) -> dict[str, int]:
        """Return how much the largest kernels of a step along so many rows do.

        Returns
        -------
        work : dict
            "multiply_adds" of the largest product, and "n_elements" of the optimiser's pass over
            weights, gradients and two moments.
        """
        sizes = [layer.weight.numel() for layer in self._layers]
        return {"multiply_adds": n_rows * max(sizes), "n_elements": 4 * sum(sizes)}

    def empty_output(self, n_batches: int, n_rows: int) -> Tensor:
        """Return a buffer for the outputs of some batches of so many rows."""
        weight = self._layers[-1].weight
        return empty_matrix((n_batches, *weight.shape[:-2], n_rows, weight.shape[-2]), like=weight)

    def program(
        self, X: Tensor, target: Tensor, scale: Tensor, raw: Tensor, penalty: Tensor
    ) -> Program:
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
        penalty : Tensor of shape ()
            Where the penalty of the code is written, if the loss has one.
        """
        passes = self._passes_for(X.shape[-2])
        kernels, first_input = self._take_in(X)
        inputs, saved = [first_input], []
        for layer in passes:
            out = raw if layer is passes[-1] else None
            forward, output, for_backward = layer.forward(inputs[-1], out)
            kernels += forward
            inputs.append(output)
            saved.append(for_backward)
        delta = passes[-1].delta
        kernels.append(partial(self.loss.gradient, raw, target, scale, delta))
        for i in range(len(passes) - 1, -1, -1):
            if i == self._code_layer and self.loss.penalty is not None:
                kernels.append(self._sparsify(inputs[i + 1], scale, passes[i].delta, penalty))
            is_merged = self.loss.is_merged and passes[i] is passes[-1]
            kernels += passes[i].backward(inputs[i], saved[i], is_merged)
            if i > 0:
                kernels += passes[i].delta_of_input(passes[i - 1].delta)
        return kernels + self._add_tied_gradients

    def _take_in(self, X: Tensor) -> tuple[Program, Tensor]:
        """Return what the first layer reads in the place of a batch, and the kernels for it."""
        kernels: Program = []
        for change in self._changes:
            # each length has one buffer for it, which all batches share
            key = (change, X.shape[-2])
            if key not in self._changed:
                self._changed[key] = torch.empty(X.shape, dtype=X.dtype, device=X.device)
            out = self._changed[key]
            kernels += [
                partial(function, *rows)
                for function, *rows in zip(change, _rows(X), _rows(out), strict=True)
            ]
            X = out
        return kernels, X

    def _sparsify(self, code: Tensor, scale: Tensor, delta: Tensor, penalty: Tensor) -> Kernel:
        """Return what adds the gradient of the code's absolute values, and writes their mean."""
        factor = self.loss.penalty.sparsity / code.shape[-1]

        def kernel() -> None:
            delta.add_(torch.sign(code).mul_(scale), alpha=factor)
            torch.sum(code.abs().mul_(scale), dim=(-2, -1), out=penalty).mul_(factor)

        return kernel

    def _passes_for(self, n_rows: int) -> "list[_Pass]":
        if n_rows not in self._passes:
            self._passes[n_rows] = [
                _Pass(layer, n_rows, self._product_dtype, self._pace) for layer in self._layers
            ]
        return self._passes[n_rows]


class Workspace:
    """The programs of a chunk's batches, their raw outputs and encoded targets.

    The output of each batch lies in one piece of memory, by column where it is narrow, and
    those of all batches of one length side by side, so that their losses are one operation.

    Attributes
    ----------
    programs : list of Program
        One for each batch of the chunk.
    raws : list of Tensor of shape (batch, n_outputs)
        The output of each batch before its step.
    """

    def __init__(self, backprop: Backprop, chunk: Chunk):
        # without the gradient itself, which holds its workspaces: what refers to each other stays
        # in memory until Python looks for such circles, and that may be many fits later
        self._chunk, self.programs, self.raws = chunk, [], []
        self._loss, self._batches = backprop.loss, []
        self._penalties = chunk.X.new_zeros((len(chunk.parts), *chunk.X.shape[:-2]))
        lengths = [part.stop - part.start for part in chunk.parts]
        n_alike = len(lengths) if lengths[-1] == lengths[0] else len(lengths) - 1
        # all batches but the last have one length
        groups = [slice(0, n_alike), slice(n_alike, len(lengths))]
        self._groups = [
            self._group(backprop, chunk, chunk.parts[group])
            for group in groups
            if chunk.parts[group]
        ]

    def _group(self, backprop: Backprop, chunk: Chunk, parts: list[slice]) -> "_Group":
        """Add the programs of batches of one length."""
        length, n_batches = parts[0].stop - parts[0].start, len(parts)
        raw = backprop.empty_output(n_batches, length)

        def batches_of(rows: Tensor, dim: int) -> Tensor:
            rows = rows.narrow(dim, parts[0].start, n_batches * length)
            return rows.unflatten(dim, (n_batches, length)).movedim(dim - 1, 0)

        has_labels = chunk.target.ndim < chunk.X.ndim
        labels = target = encoded = batches_of(chunk.target, -1 if has_labels else -2)
        if self._loss.encode is not None:
            encoded = target = backprop.empty_output(n_batches, length)
            if labels.ndim == 3 and labels.stride(1) == 0:  # the networks of a stack share them
                encoded = empty_matrix((n_batches, 1, *target.shape[2:]), like=target)
                labels, target = labels[:, :1], encoded.expand_as(target)
        if chunk.scale is None:
            # a factor that all rows share costs less than one of each
            scale = raw.new_full((n_batches,) + (1,) * (raw.ndim - 1), 1 / length)
        else:
            shape = (*chunk.X.shape[:-1], 1)
            scale = batches_of(chunk.scale.expand(shape), -2)
        for i, part in enumerate(parts):
            own_scale = scale[i].squeeze() if chunk.scale is None else scale[i]
            batch = (target[i], own_scale, raw[i], self._penalties[len(self.raws)])
            self.programs.append(backprop.program(chunk.X[..., part, :], *batch))
            self.raws.append(raw[i])
            self._batches.append(batch)
        return _Group(raw, labels, encoded, target, None if chunk.scale is None else scale)

    def load(self) -> None:
        """Make the present targets of the chunk's buffers what the loss takes."""
        if self._loss.encode is not None:
            for group in self._groups:
                self._loss.encode(group.labels, group.encoded)

    def losses(self) -> Tensor:
        """Return the mean loss of every batch, each before its own step.

        Its shape is (n_batches,), for a stack (n_networks, n_batches).
        """
        losses = []
        for group in self._groups:
            of_rows = self._losses_of_rows(group)
            if group.scale is None:
                losses.append(of_rows.mean(dim=-1))
            else:
                losses.append((of_rows * group.scale.squeeze(-1)).sum(dim=-1))
        return torch.cat(losses).add_(self._penalties).movedim(0, -1)

    def _losses_of_rows(self, group: "_Group") -> Tensor:
        if group.raw.device.type != "cpu" or group.raw[0].numel() <= _SMALL_TENSOR:
            return self._loss.per_sample(group.raw, group.target)
        # what is computed on the way for one batch stays in the cache
        batches = zip(group.raw, group.target, strict=True)
        return torch.stack([self._loss.per_sample(raw, target) for raw, target in batches])

    def loss(self, number: int) -> Tensor:
        """Return the mean loss of one batch."""
        target, scale, raw, penalty = self._batches[number]
        losses = self._loss.per_sample(raw, target)
        return (losses * (scale.squeeze(-1) if scale.ndim else scale)).sum(dim=-1) + penalty


class _Group(NamedTuple):
    """Some batches of one length: the first dimension is that of the batches.

    There is no scale where all rows count alike.
    """

    raw: Tensor
    labels: Tensor
    encoded: Tensor
    target: Tensor
    scale: Tensor | None


class _Pass:
    """One dense layer's kernels for batches of one length, and their buffers.

    Kernels that only touch these buffers are built once for all batches: in a small
    network, whose step is a matter of microseconds, those of other batches would push them
    out of the cache.

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
        self._built: dict[tuple, Program] = {}
        self._work = n_rows * layer.weight.numel()
        # NumPy knows neither bfloat16 nor devices
        self._suits_numpy = product_dtype is None and layer.weight.device.type == "cpu"
        shape = (*layer.weight.shape[:-2], n_rows, layer.weight.shape[-2])
        new = partial(empty_matrix, shape, like=layer.weight)
        self.delta = new()
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
        z, y, a = self._z, self._y, self._a
        if out is not None:
            a = out
            z = y = out if self._activation.in_place else z
        kernels = self._once(self._product, "forward", x, z) + self._once(self._activate, z, y, a)
        return (
            kernels,
            a if self._kept is None else self._kept,
            a if self._activation.in_place else y,
        )

    def _activate(self, z: Tensor, y: Tensor, a: Tensor) -> Program:
        layer = self._layer
        bias = layer.bias.unsqueeze(-2) if self._is_stack else layer.bias
        kernels: Program = [partial(z.add_, bias)]
        kernels += [norm.forward for norm in self._norms]
        kernels += self._activation.forward(y, a)
        if self._mask is not None:
            masks = zip(layer.dropout, _rows(self._mask), strict=True)
            kernels += [partial(dropout.draw_, mask) for dropout, mask in masks]
            kernels.append(partial(torch.mul, a, self._mask, out=self._kept))
        return kernels

    def backward(self, x: Tensor, saved: Tensor, is_merged: bool = False) -> Program:
        """Return the kernels that take delta back to the pre-activation, and the gradients'.

        With ``is_merged`` delta is with respect to the pre-activation already.
        """
        differentiate = self._once(self._differentiate, saved, is_merged)
        return differentiate + self._once(self._gradients, x)

    def _differentiate(self, saved: Tensor, is_merged: bool) -> Program:
        delta = self.delta
        kernels = [] if is_merged else self._activation.backward(delta, saved)
        if self._mask is not None:
            kernels.insert(0, partial(delta.mul_, self._mask))
        if self._norms:
            norms = zip(self._norms, _rows(delta), strict=True)
            kernels += [partial(norm.backward, delta_k) for norm, delta_k in norms]
        if self._activation.saturates:
            kernels.append(partial(_shrink, delta, _NEGLIGIBLE[delta.dtype]))
        return kernels

    def _gradients(self, x: Tensor) -> Program:
        return [*self._product("gradient", x, self._layer.weight_grad), self._sum_of_rows()]

    def _sum_of_rows(self) -> Kernel:
        """Return what writes the gradient of the bias."""
        delta, sums = self.delta, self._layer.bias_grad
        # a sum takes longer than a product with ones
        by_numpy = self._suits_numpy and math.prod(delta.shape[-2:]) <= _SMALL_SUM
        if self._is_stack and not by_numpy:
            # its rows lie apart, which a batched product of torch would take one by one
            return partial(torch.sum, delta, dim=-2, out=sums)
        ones = delta.new_ones((1, delta.shape[-2]))
        return self._multiply(ones, delta, sums.unsqueeze(-2), by_numpy)

    def delta_of_input(self, out: Tensor) -> Program:
        """Return the kernels that write the gradient with respect to the layer's input."""
        return self._once(self._product, "delta", None, out)

    def _product(self, name: str, x: Tensor | None, out: Tensor) -> Program:
        """Return the kernels of one of the layer's three products."""
        left, right = {
            "forward": (x, self._layer.weight.mT),
            "gradient": (self.delta.mT, x),
            "delta": (self.delta, self._layer.weight),
        }[name]
        if self._product_dtype is not None:
            return self._product_of_casts(name, left, right, out)
        if self._suits_numpy and self._prefers_numpy(name, right, out):
            if self._is_stack and name != "gradient":
                left, right, out = _in_blocks(left, right, out)
            return [self._multiply(left, right, out, by_numpy=True)]
        if not self._wants_buffer(out):
            return [self._multiply(left, right, out, by_numpy=False)]
        buffer = empty_matrix(out.shape, like=out)
        if out.stride(-1) != 1 and not is_narrow(*out.shape[-2:]):
            buffer = out.new_empty(out.mT.shape).mT
        return [self._multiply(left, right, buffer, by_numpy=False), partial(out.copy_, buffer)]

    def _prefers_numpy(self, name: str, right: Tensor, out: Tensor) -> bool:
        """Return whether NumPy takes less time for a product than torch."""
        if not self._is_stack:
            limit = _SMALL_FORWARD_PRODUCT if name == "forward" else _SMALL_PRODUCT
            return self._work <= limit
        limit = _MEDIUM_PRODUCT if numpy_takes_one_thread() else _SMALL_PRODUCT
        are_spread = self._pace.threads_for(multiply_adds=self._work) > 1
        if self._work > limit * len(out) or are_spread:
            return False
        n_rows, n_columns = out.shape[-2:]
        suits_mkl = n_rows <= _FEW_ROWS and not is_narrow(n_rows, n_columns)
        is_turned = right.stride(-1) != 1
        return not (is_turned and suits_mkl)

    def _wants_buffer(self, out: Tensor) -> bool:
        """Return whether a product is faster into a buffer: by column where it is narrow."""
        if self._is_stack:
            return not (out.is_contiguous() or out.mT.is_contiguous())
        return is_narrow(*out.shape) and out.is_contiguous()

    def _product_of_casts(self, name: str, left: Tensor, right: Tensor, out: Tensor) -> Program:
        if name not in self._casts:
            self._casts[name] = [
                torch.empty_like(tensor, dtype=self._product_dtype) for tensor in (left, right, out)
            ]
        *factors, product = self._casts[name]
        return [
            partial(factors[0].copy_, left),
            partial(factors[1].copy_, right),
            self._multiply(*factors, product, by_numpy=False),
            partial(out.copy_, product),
        ]

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor, by_numpy: bool) -> Kernel:
        """Return a product as a kernel, of NumPy or of torch."""
        # a product by column is the transposed product by row, which is all that NumPy knows
        # and what torch computes in one call for a stack
        if (by_numpy or self._is_stack) and out.stride(-1) != 1:
            left, right, out = right.mT, left.mT, out.mT
        if not by_numpy:
            return partial(self._matmul, left, right, out=out)
        if out.ndim == 2:
            return partial(np.dot, left.numpy(), right.numpy(), out.numpy())
        if left.shape[-1] == 1:  # NumPy would take it element by element
            return partial(torch.mul, left, right, out=out)
        return partial(np.matmul, left.numpy(), right.numpy(), out.numpy())

    def _once(self, build: Callable[..., Program], *args) -> Program:
        """Return what a method builds of tensors, from the time before if it is the same."""
        # they are kept beside it, so that no other can get the name
        key = (build.__name__, *map(id, args))
        if key not in self._built:
            self._built[key] = (build(*args), args)
        return self._built[key][0]


def _in_blocks(left: Tensor, right: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a product as those of blocks of its rows, all of one length, where that is faster."""
    n_rows, n_columns = out.shape[-2:]
    if n_columns in _BLOCK_COLUMNS and n_rows > _BLOCK_ROWS:
        for length in range(_BLOCK_ROWS, _BLOCK_ROWS // 2, -1):
            if n_rows % length == 0:
                blocks = (n_rows // length, length)
                return left.unflatten(-2, blocks), right.unsqueeze(-3), out.unflatten(-2, blocks)
    return left, right, out


class _Norm:
    """Batch or layer normalisation of one network, by torch's own kernels."""

    def __init__(self, layer: NormLayer, z: Tensor, y: Tensor):
        self._module, self._weight, self._bias, self._weight_grad, self._bias_grad = layer
        self._z, self._y = z, y
        self._is_batch = isinstance(self._module, torch.nn.BatchNorm1d)
        if self._is_batch:  # a module takes its time to look its buffers up
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


def _shrink(tensor: Tensor, limit: float) -> None:
    aten.hardshrink.out(tensor, limit, out=tensor)


def _rows(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of a stack, or the only one."""
    return tensor.unbind() if tensor.ndim == 3 else (tensor,)
