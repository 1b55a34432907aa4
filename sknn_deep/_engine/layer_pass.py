r"""One dense layer's forward and backward pass over batches of one length.

.. math::
    z = x W^\top + b, \qquad y = \nu(z), \qquad a = m \odot \phi(y)

and, given :math:`\delta = \partial L / \partial a`,

.. math::
    \delta \leftarrow \nu'(\delta \odot m \odot \phi'(y)), \qquad
    \frac{\partial L}{\partial W} = \delta^\top x, \qquad
    \frac{\partial L}{\partial b} = 1^\top \delta, \qquad
    \frac{\partial L}{\partial x} = \delta W
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sknn_deep._engine.activations import ACTIVATION_KERNELS, LOWEST_LOGIT, aten
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import LayerProducts, Program, empty_matrix
from sknn_deep._networks.inputs import matrices_of
from sknn_deep._networks.stacked import DenseLayer, NormLayer

_NEGLIGIBLE = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in LOWEST_LOGIT}


class LayerPass:
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
        self._activation = ACTIVATION_KERNELS[layer.activation]
        self._products = LayerProducts(layer.weight, n_rows, product_dtype, pace)
        self._built: dict[tuple, tuple[Program, tuple]] = {}
        shape = (*layer.weight.shape[:-2], n_rows, layer.weight.shape[-2])
        new = partial(empty_matrix, shape, like=layer.weight)
        self.delta = new()
        self._z = new()
        self._y = new() if layer.norms else self._z
        self._a = self._y if self._activation.in_place else new()
        self._mask = new() if layer.dropout else None
        self._kept = new() if layer.dropout else None
        parts = zip(matrices_of(self._z), matrices_of(self._y), strict=True) if layer.norms else ()
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
        kernels = self._once(self._multiply, x, z) + self._once(self._activate, z, y, a)
        return (
            kernels,
            a if self._kept is None else self._kept,
            a if self._activation.in_place else y,
        )

    def _multiply(self, x: Tensor, z: Tensor) -> Program:
        return self._products.product("forward", x, self._layer.weight.mT, z)

    def _activate(self, z: Tensor, y: Tensor, a: Tensor) -> Program:
        layer = self._layer
        bias = layer.bias.unsqueeze(-2) if z.ndim == 3 else layer.bias
        kernels: Program = [partial(z.add_, bias)]
        kernels += [norm.forward for norm in self._norms]
        kernels += self._activation.forward(y, a)
        if self._mask is not None:
            masks = zip(layer.dropout, matrices_of(self._mask), strict=True)
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
            norms = zip(self._norms, matrices_of(delta), strict=True)
            kernels += [partial(norm.backward, delta_k) for norm, delta_k in norms]
        if self._activation.saturates:
            kernels.append(partial(_shrink, delta, _NEGLIGIBLE[delta.dtype]))
        return kernels

    def _gradients(self, x: Tensor) -> Program:
        layer, delta = self._layer, self.delta
        return [
            *self._products.product("gradient", delta.mT, x, layer.weight_grad),
            self._products.sum_of_rows(delta, layer.bias_grad),
        ]

    def delta_of_input(self, out: Tensor) -> Program:
        """Return the kernels that write the gradient with respect to the layer's input."""
        return self._once(self._propagate, out)

    def _propagate(self, out: Tensor) -> Program:
        return self._products.product("delta", self.delta, self._layer.weight, out)

    def _once(self, build: Callable[..., Program], *args: Any) -> Program:
        """Return what a method builds of tensors, from the time before if it is the same."""
        # they are kept beside it, so that no other can get the name
        key = (build.__name__, *map(id, args))
        if key not in self._built:
            self._built[key] = (build(*args), args)
        return self._built[key][0]


class _Norm:
    """Batch or layer normalisation of one network, by torch's own kernels."""

    def __init__(self, layer: NormLayer, z: Tensor, y: Tensor):
        self._module: Any  # which of the two is known by `_is_batch`
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
