r"""One dense layer's forward and backward pass over batches of the same length.

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
from sknn_deep._engine.masks import Masks
from sknn_deep._engine.norm_pass import Statistics, norm_pass, rows_side_by_side
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import LayerProducts, Program, empty_matrix
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._hardware.sparse_products import SparseBatch
from sknn_deep._networks.inputs import matrices_of
from sknn_deep._networks.stacked import DenseLayer

# Activations whose kernels give the same bits on any number of threads: for the others torch
# rounds the last elements of each thread's share differently.
_ALIKE_ON_ANY_THREADS = ("identity", "relu", "leaky_relu", "tanh")
_NEGLIGIBLE = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in LOWEST_LOGIT}


class LayerPass:
    """One dense layer's kernels for batches of the same length, and their buffers.

    Kernels that touch only these buffers are built once for all batches: in a small network,
    whose step takes microseconds, separate kernels per batch would evict each other from the
    cache.

    Parameters
    ----------
    layer : DenseLayer
    n_rows : int
        Number of rows of a batch.
    product_dtype : torch.dtype or None
        See :class:`Backprop`.
    pace : Pace
    masks : Masks, default=None
        Dropout's masks of several batches; None if they are drawn batch by batch.
    statistics : Statistics, default=None
        Those of batch normalisation in a stack on a device.
    ranks : Ranks, default=None
        The processes that share every batch.
    keeps_rounded : bool, default=False
        Whether outputs and deltas stay in ``product_dtype``, for a layer without normalisation
        and dropout that is followed by another layer with rounded products.

    Attributes
    ----------
    delta : Tensor of shape (batch, out_features)
        The gradient of the loss with respect to the output; after :meth:`backward`, with
        respect to the pre-activation.
    """

    def __init__(
        self,
        layer: DenseLayer,
        n_rows: int,
        product_dtype: torch.dtype | None,
        pace: Pace,
        masks: Masks | None = None,
        statistics: Statistics | None = None,
        ranks: Ranks | None = None,
        keeps_rounded: bool = False,
    ):
        self._layer, self._n_rows, self._pace = layer, n_rows, pace
        self._activation = ACTIVATION_KERNELS[layer.activation]
        self._products = LayerProducts(layer.weight, n_rows, product_dtype, pace)
        self._built: dict[tuple, tuple[Program, tuple]] = {}
        make = empty_matrix if statistics is None else rows_side_by_side
        new = partial(make, layer.output_shape(n_rows), like=layer.weight)
        self._rounded_bias: Tensor | None = None
        if keeps_rounded and product_dtype is not None:
            new = partial(new, dtype=product_dtype)
            self._rounded_bias = torch.empty_like(layer.bias, dtype=product_dtype)
        self.delta = new()
        self._z = new()
        self._y = new() if layer.norm is not None else self._z
        self._a = self._y if self._activation.in_place else new()
        self._masks = masks
        self._mask = new() if layer.dropout and masks is None else None
        self._kept = new() if layer.dropout else None
        self._norm = None
        if layer.norm is not None:
            self._norm = norm_pass(layer.norm, self._z, self._y, statistics, ranks)

    def forward(
        self, x: Any, out: Tensor | None, number: int = 0
    ) -> tuple[Program, Tensor, Tensor]:
        """Return the kernels for an input of shape (batch, in_features), and two results.

        The input is a Tensor or, for a first layer, a SparseBatch.

        The results are the output and the argument of the activation's derivative. The output
        layer, which has neither normalisation nor dropout, writes its output to ``out``. The index
        of the batch in its epoch selects its mask if several are drawn together.
        """
        z, y, a = self._z, self._y, self._a
        if out is not None:
            a = out
            z = y = out if self._activation.in_place else z
        kernels = self._once(self._multiply, x, z) + self._once(self._activate, z, y, a)
        if self._kept is not None:
            kernels += self._once(self._drop, a, self._slot(number))
        return (
            kernels,
            a if self._kept is None else self._kept,
            a if self._activation.in_place else y,
        )

    def _multiply(self, x: Any, z: Tensor) -> Program:
        if isinstance(x, SparseBatch):
            return x.forward(self._layer.weight, z)
        product = partial(self._products.product, "forward", x, self._layer.weight.mT, z)
        if self._rounded_bias is None:
            return product()
        round_bias = partial(self._rounded_bias.copy_, self._layer.bias)
        return [round_bias, *product(bias=self._rounded_bias)]

    def _activate(self, z: Tensor, y: Tensor, a: Tensor) -> Program:
        layer = self._layer
        kernels: Program = []
        if self._rounded_bias is None:
            kernels = [partial(z.add_, layer.bias.unsqueeze(-2) if z.ndim == 3 else layer.bias)]
        if self._norm is not None:
            kernels.append(self._pace.pinned(self._norm.forward, z.numel()))
        return kernels + self._pinned(self._activation.forward(y, a))

    def _pinned(self, program: Program) -> Program:
        """Return the activation's kernels, with a fixed number of threads if bits depend on it."""
        if self._layer.activation in _ALIKE_ON_ANY_THREADS:
            return program
        return [self._pace.pinned(kernel, self.delta.numel()) for kernel in program]

    def _drop(self, a: Tensor, slot: int) -> Program:
        kernels: Program = []
        if self._masks is None and self._mask is not None:
            masks = zip(self._layer.dropout, matrices_of(self._mask), strict=True)
            kernels += [partial(dropout.draw_, mask) for dropout, mask in masks]
        elif self._masks is not None and slot == 0:
            kernels.append(self._masks.draw)
        return [*kernels, partial(torch.mul, a, self._mask_of(slot), out=self._kept)]

    def _slot(self, number: int) -> int:
        return 0 if self._masks is None else number % self._masks.n_batches

    def _mask_of(self, slot: int) -> Any:
        """Return the mask of a batch, if there is one."""
        return self._mask if self._masks is None else self._masks.of_batch(slot, self._n_rows)

    def backward(self, x: Any, saved: Tensor, is_merged: bool = False, number: int = 0) -> Program:
        """Return the kernels that propagate delta to the pre-activation and write the gradients.

        With ``is_merged``, delta is already with respect to the pre-activation.
        """
        differentiate = self._once(self._differentiate, saved, is_merged, self._slot(number))
        return differentiate + self._once(self._of_weight, x) + self._once(self._of_bias)

    def _differentiate(self, saved: Tensor, is_merged: bool, slot: int) -> Program:
        delta, mask = self.delta, self._mask_of(slot)
        kernels = [] if is_merged else self._pinned(self._activation.backward(delta, saved))
        if mask is not None:
            kernels.insert(0, partial(delta.mul_, mask))
        if self._norm is not None:
            kernels.append(self._pace.pinned(partial(self._norm.backward, delta), delta.numel()))
        if self._activation.saturates and delta.device.type == "cpu":
            kernels.append(partial(_shrink, delta, _NEGLIGIBLE[delta.dtype]))
        return kernels

    def _of_weight(self, x: Any) -> Program:
        delta, gradient = self.delta, self._layer.weight_grad
        if isinstance(x, SparseBatch):
            return x.gradient(delta, gradient)
        return self._products.product("gradient", delta.mT, x, gradient)

    def _of_bias(self) -> Program:
        return self._products.sum_of_rows(self.delta, self._layer.bias_grad)

    def delta_of_input(self, out: Tensor) -> Program:
        """Return the kernels that write the gradient with respect to the layer's input."""
        return self._once(self._propagate, out)

    def _propagate(self, out: Tensor) -> Program:
        return self._products.product("delta", self.delta, self._layer.weight, out)

    def _once(self, build: Callable[..., Program], *args: Any) -> Program:
        """Return the kernels that a method builds for tensors, cached by the tensors' ids."""
        # the tensors are kept with the kernels, so that no others can get their ids
        key = (build.__name__, *map(id, args))
        if key not in self._built:
            self._built[key] = (build(*args), args)
        return self._built[key][0]


def _shrink(tensor: Tensor, limit: float) -> None:
    aten.hardshrink.out(tensor, limit, out=tensor)
