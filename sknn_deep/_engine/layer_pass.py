"""One dense layer's forward and backward pass over batches of one length."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.activations import ACTIVATIONS, LOWEST_LOGIT, aten
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import (
    FEW_ROWS,
    MEDIUM_PRODUCT,
    SMALL_FORWARD_PRODUCT,
    SMALL_PRODUCT,
    SMALL_SUM,
    Kernel,
    Program,
    empty_matrix,
    in_blocks,
    is_narrow,
)
from sknn_deep._hardware.threads import numpy_takes_one_thread
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
        return [*self._product("gradient", x, self._layer.weight_grad), self._sum_of_rows()]

    def _sum_of_rows(self) -> Kernel:
        """Return what writes the gradient of the bias."""
        delta, sums = self.delta, self._layer.bias_grad
        # a sum takes longer than a product with ones
        by_numpy = self._suits_numpy and math.prod(delta.shape[-2:]) <= SMALL_SUM
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
                left, right, out = in_blocks(left, right, out)
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
            limit = SMALL_FORWARD_PRODUCT if name == "forward" else SMALL_PRODUCT
            return self._work <= limit
        limit = MEDIUM_PRODUCT if numpy_takes_one_thread() else SMALL_PRODUCT
        are_spread = self._pace.threads_for(multiply_adds=self._work) > 1
        if self._work > limit * len(out) or are_spread:
            return False
        n_rows, n_columns = out.shape[-2:]
        suits_mkl = n_rows <= FEW_ROWS and not is_narrow(n_rows, n_columns)
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


def matrices_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of a stack, or the only one."""
    return tensor.unbind() if tensor.ndim == 3 else (tensor,)
