"""Matrix products: the choice of library and of memory layouts.

On a CPU two libraries are available. NumPy's (OpenBLAS) has less overhead per call, and is faster
for the products of a stack up to some size; torch's (MKL) is faster for larger ones and the only
one to support several threads, other devices and bfloat16. All constants were measured with
``python -m benchmarks.kernels``.

A NumPy call costs at most half as much as a torch call, which dominates products of a few thousand
multiply-adds. In a stack the gain is larger: the weights of the networks are strided in one buffer,
which torch's batched product is slow to write to, while NumPy goes from matrix to matrix. Large
products are dominated by arithmetic, where MKL is faster than the OpenBLAS in NumPy's PyPI wheels,
except for doubles on some processors (:mod:`sknn_deep._hardware.slow_mkl`).

NumPy never computes a product that OpenBLAS would divide among threads. Afterwards these threads
spin for some hundredths of a second; torch's threads then share the cores with them, and wait for
each other in every operation until the scheduler preempts one, which takes milliseconds. An earlier
version avoided that by computing large products with NumPy and everything else on one thread; it
lost more, because gathering, activations and the optimiser ran on one core.

OpenBLAS computes small products without packing their factors first if none is transposed. So a
stack stores its first matrix in column-major order (``share_buffer``), with which the product with
a batch takes at most two thirds of the time. The product that propagates gradients to a layer's
input would lose as much as the other gains, so this is done only for the layer whose input needs
no gradient.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._hardware.bfloat16 import is_worth_rounding
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.slow_mkl import lies_by_column
from sknn_deep._hardware.threads import numpy_takes_one_thread

# OpenBLAS computes products of fewer multiply-adds on one thread, however many it may use, and its
# call costs less than torch's; if a factor is transposed, as in the forward pass, MKL is faster
# from a smaller size on. A sum of rows is a product with a vector, which OpenBLAS divides among
# threads from a smaller size on.
_SMALL_PRODUCT, _SMALL_FORWARD_PRODUCT, _SMALL_SUM = 2**18, 2**16, 9000
# Up to this many multiply-adds each, NumPy is at least as fast as MKL for the products of a stack
# on one thread.
_MEDIUM_PRODUCT = 2**20
# With at most this many rows, MKL is faster than OpenBLAS for a stack's outputs, unless narrow.
_FEW_ROWS = 64
# For outputs with this many columns, OpenBLAS packs the factors if there are more rows than this;
# without packing, the product is faster.
_BLOCK_COLUMNS, _BLOCK_ROWS = range(5, 17), 100
# With rows shorter than this, a product is several times slower than in column-major order, as MKL
# works on whole vector registers of its output.
_NARROW = 32

# The two factors of each product of a layer, and whether they are transposed.
_FACTORS = {
    "forward": (("input", False), ("weight", True)),
    "gradient": (("delta", True), ("input", False)),
    "delta": (("delta", False), ("weight", False)),
}
# The first product of a step to read a factor.
_FIRST_USE = {"input": "forward", "weight": "forward", "delta": "gradient"}

Kernel = Callable[[], object]
Program = list[Kernel]


def is_narrow(n_rows: int, n_columns: int) -> bool:
    """Return whether to store a matrix in column-major order, because its rows are short."""
    return n_columns < min(_NARROW, n_rows)


def empty_matrix(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised matrix, or a stack, in column-major order if that is faster."""
    *leading, n_rows, n_columns = shape
    by_column = is_narrow(n_rows, n_columns) or lies_by_column(n_rows, n_columns, like)
    if like.device.type == "cpu" and by_column:
        return like.new_empty((*leading, n_columns, n_rows), dtype=dtype).mT
    return like.new_empty(shape, dtype=dtype)


class LayerProducts:
    """The products of a dense layer for batches of the same length, as kernels.

    Parameters
    ----------
    weight : Tensor of shape (out_features, in_features)
        For a stack of K layers, this and all other matrices have a leading dimension of K.
    n_rows : int
        Number of rows of a batch.
    dtype : torch.dtype or None
        Type to which factors are rounded if that makes products faster.
    pace : Pace
        Determines whether a stack's products use several threads.
    """

    def __init__(self, weight: Tensor, n_rows: int, dtype: torch.dtype | None, pace: Pace):
        self._is_stack = weight.ndim == 3
        self._torchs = torch.bmm if self._is_stack else torch.mm
        self._dtype, self._pace = dtype, pace
        # of all layers of the stack together
        self._multiply_adds = n_rows * weight.numel()
        self._is_on_host = weight.device.type == "cpu"
        self._rounds = dtype is not None and is_worth_rounding(n_rows, weight)
        # rounded factors and products, by role
        self._rounded: dict[str, Tensor] = {}

    def product(
        self, name: str, left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None
    ) -> Program:
        """Return the kernels that write ``left @ right``, plus a bias if ``out`` is rounded.

        Parameters
        ----------
        name : {"forward", "gradient", "delta"}
            Which of the layer's products: affects the library, and each has its own buffers.
        left : Tensor of shape (n, m)
        right : Tensor of shape (m, k)
        out : Tensor of shape (n, k)
            In the type of the rounded factors if it is to stay rounded.
        bias : Tensor of shape (k,), default=None
            In the type of the rounded factors.
        """
        if self._rounds:
            return self._of_rounded(name, left, right, out, bias)
        if self._is_on_host and self._prefers_numpy(name, right, out):
            if self._is_stack and name != "gradient":
                left, right, out = _in_blocks(left, right, out)
            return [self._by_numpy(left, right, out)]
        if not self._wants_buffer(out):
            return [self._by_torch(left, right, out)]
        buffer = empty_matrix(out.shape, like=out)
        if out.stride(-1) != 1 and not is_narrow(*out.shape[-2:]):
            buffer = out.new_empty(out.mT.shape).mT
        return [self._by_torch(left, right, buffer), partial(out.copy_, buffer)]

    def sum_of_rows(self, matrix: Tensor, out: Tensor) -> Program:
        """Return the kernels that write the sum over a matrix's rows, from (n, k) to (k,)."""
        if matrix.dtype != out.dtype:  # a product of rounded numbers would be rounded
            exact = torch.empty_like(matrix, dtype=out.dtype)
            return [partial(exact.copy_, matrix), *self.sum_of_rows(exact, out)]
        by_numpy = self._is_on_host and math.prod(matrix.shape[-2:]) <= _SMALL_SUM
        if self._is_stack and not by_numpy:
            # out is strided, and torch's batched product would write its rows one by one
            return [partial(torch.sum, matrix, dim=-2, out=out)]
        # a product with ones is faster than a sum
        ones = matrix.new_ones((1, matrix.shape[-2]))
        multiply = self._by_numpy if by_numpy else self._by_torch
        return [multiply(ones, matrix, out.unsqueeze(-2))]

    def _prefers_numpy(self, name: str, right: Tensor, out: Tensor) -> bool:
        """Return whether NumPy is faster than torch for a product."""
        if not self._is_stack:
            limit = _SMALL_FORWARD_PRODUCT if name == "forward" else _SMALL_PRODUCT
            return self._multiply_adds <= limit
        limit = _MEDIUM_PRODUCT if numpy_takes_one_thread() else _SMALL_PRODUCT
        are_spread = self._pace.threads_for(multiply_adds=self._multiply_adds) > 1
        if self._multiply_adds > limit * len(out) or are_spread:
            return False
        n_rows, n_columns = out.shape[-2:]
        suits_mkl = n_rows <= _FEW_ROWS and not is_narrow(n_rows, n_columns)
        is_turned = right.stride(-1) != 1
        return not (is_turned and suits_mkl)

    def _wants_buffer(self, out: Tensor) -> bool:
        """Return whether a product is faster into a buffer, in column-major order if narrow."""
        if not self._is_on_host:  # accelerators' libraries accept any row and matrix strides
            return False
        if self._is_stack:
            return not (out.is_contiguous() or out.mT.is_contiguous())
        return is_narrow(*out.shape) and out.is_contiguous()

    def _of_rounded(
        self, name: str, left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None
    ) -> Program:
        """Return the kernels of a product whose factors and result are rounded."""
        of_left, of_right = _FACTORS[name]
        round_left, left = self._rounded_factor(name, left, *of_left)
        round_right, right = self._rounded_factor(name, right, *of_right)
        if out.dtype == self._dtype:
            return [*round_left, *round_right, self._by_torch(left, right, out, bias)]
        product = self._buffer(f"{name} product", out)
        multiply = self._by_torch(left, right, product)
        return [*round_left, *round_right, multiply, partial(out.copy_, product)]

    def _rounded_factor(
        self, name: str, factor: Tensor, role: str, is_turned: bool
    ) -> tuple[Program, Tensor]:
        """Return the kernel that rounds a factor, if it is used first here, and the result.

        A factor that is kept rounded is used as it is.
        """
        if factor.dtype == self._dtype:
            return [], factor
        original = factor.mT if is_turned else factor
        if factor.ndim == 3 and factor.stride(0) == 0:  # shared by the networks of a stack
            original = original[:1]
        rounded = self._buffer(role, original)
        is_first = _FIRST_USE[role] == name
        as_factor = (rounded.mT if is_turned else rounded).expand_as(factor)
        return [partial(rounded.copy_, original)] if is_first else [], as_factor

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        """Return the buffer for a tensor's rounded copy, uninitialised at first."""
        if name not in self._rounded:
            self._rounded[name] = torch.empty_like(like, dtype=self._dtype)
        return self._rounded[name]

    def _by_torch(
        self, left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None
    ) -> Kernel:
        multiply: Callable[..., Any] = self._torchs
        if bias is not None:
            multiply = torch.baddbmm if self._is_stack else torch.addmm
        if self._is_stack:  # torch needs row-major outputs to compute a stack in one call
            if bias is not None:
                bias = bias.unsqueeze(-2 if out.stride(-1) == 1 else -1)
            left, right, out = _by_row(left, right, out)
        added = () if bias is None else (bias,)
        kernel = partial(multiply, *added, left, right, out=out)
        if not self._pace.follows:
            return kernel
        layout = tuple(map(_layout_of, (left, right, out)))
        zeros = (torch.zeros_like(each) for each in added)
        probe = partial(_of_random_numbers, partial(multiply, *zeros), *layout)
        work = out.numel() * left.shape[-1]
        return self._pace.checked(kernel, probe, (multiply, layout), work)

    def _by_numpy(self, left: Tensor, right: Tensor, out: Tensor) -> Kernel:
        left, right, out = _by_row(left, right, out)
        if out.ndim == 2:
            return partial(np.dot, left.numpy(), right.numpy(), out.numpy())
        if left.shape[-1] == 1:  # NumPy would compute it element by element
            return partial(torch.mul, left, right, out=out)
        return partial(np.matmul, left.numpy(), right.numpy(), out.numpy())


# Matrix libraries treat addresses at multiples of this many bytes differently from others.
_ALIGNMENT = 64
# Number of random products to compare.
_PROBES = 4


def _layout_of(matrix: Tensor) -> tuple[Any, ...]:
    """Return type, shape and strides of a matrix, and its offset from an aligned address."""
    offset = matrix.data_ptr() % _ALIGNMENT // matrix.element_size()
    return matrix.dtype, matrix.shape, matrix.stride(), offset


def _of_random_numbers(multiply: Callable, *layouts: tuple[Any, ...]) -> list[Tensor]:
    """Return products of random matrices, the same on every call.

    A different order of summation may change only one element at the edge of a block, and by
    chance not even that. So the terms of each sum nearly cancel, which leaves the rounding errors,
    and several products are computed.

    Parameters
    ----------
    multiply : callable
        torch's product, which takes two factors and ``out``.
    *layouts : tuple
        Layouts of both factors and the product, see :func:`_layout_of`.
    """
    generator, products = torch.Generator().manual_seed(0), []
    for _ in range(_PROBES):
        matrices = []
        for dtype, shape, strides, offset in layouts:
            size = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            numbers = torch.randn(size, dtype=dtype, generator=generator)  # new, so aligned
            matrices.append(numbers.as_strided(shape, strides, offset))
        left, right, out = matrices
        half = left.shape[-1] // 2
        if 0 not in (*left.stride(), *right.stride()):
            left[..., half : 2 * half] = left[..., :half]
            right[..., half : 2 * half, :] = -right[..., :half, :]
        products.append(multiply(left, right, out=out))
    return products


def _by_row(left: Tensor, right: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a product with row-major output, transposing one with column-major output."""
    return (left, right, out) if out.stride(-1) == 1 else (right.mT, left.mT, out.mT)


def _in_blocks(left: Tensor, right: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Divide a product into blocks of rows of equal length, if that is faster."""
    n_rows, n_columns = out.shape[-2:]
    if n_columns in _BLOCK_COLUMNS and n_rows > _BLOCK_ROWS:
        for length in range(_BLOCK_ROWS, _BLOCK_ROWS // 2, -1):
            if n_rows % length == 0:
                blocks = (n_rows // length, length)
                return left.unflatten(-2, blocks), right.unsqueeze(-3), out.unflatten(-2, blocks)
    return left, right, out
