"""Products with sparse rows, for a first layer.

With dense rows, a wide first layer would spend nearly all of its time on zeros. Two algorithms
avoid that:

- In training, a batch is multiplied unit by unit: the nonzeros are sorted by column, so that a
  unit's row of the weight matrix is read, and the row of its gradient written, from front to back,
  while the batch's outputs of this unit stay in the L1 cache. The matrix is row-major, as
  everything else expects; column-major, both products of 200 rows of 60 numbers out of 50,000 would
  take a fifth of the time, which is a sixth of the time of a step with Adam.
- Predictions process many rows at once. Then SciPy's product of a CSC matrix with a block of units
  is faster, although the block has to be transposed first: each weight is read once.

The constants were measured with ``python -m benchmarks.kernels``.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sknn_deep._hardware.products import Program

# Denser rows are multiplied as dense ones, which is faster: on one thread from twice this density
# on, but dense products can use several. Small batches are multiplied as dense ones, too, because
# of the calls: one per unit, and some to gather the rows.
_DENSEST_TO_TRAIN, _DENSEST_TO_PREDICT = 1 / 100, 1 / 20
_SMALLEST_TO_TRAIN, _SMALLEST_TO_PREDICT = 2**18, 2**16
# Units that are multiplied together in predictions.
_UNITS = 16
# Number of multiply-adds from which several threads pay off.
_WORTH_A_THREAD = 2**22

# y += A x for nonzeros in any order. It is private and does not check shapes, so they are checked
# here. SciPy's public products allocate an array of all columns for each unit.
_add_product: Any = getattr(getattr(sp, "_sparsetools", None), "coo_matvec", None)


def is_worth_it(n_rows: int, n_columns: int, n_nonzero: float, *, training: bool) -> bool:
    """Return whether multiplying sparse rows is faster than multiplying dense ones.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of a batch, or of the rows to predict.
    n_nonzero : float
        Number of stored values.
    training : bool
        Whether the gradient is computed, too.

    Examples
    --------
    >>> from sknn_deep._hardware.sparse_products import is_worth_it
    >>> is_worth_it(200, 50_000, 200 * 60, training=True)
    True
    >>> is_worth_it(200, 50_000, 200 * 6000, training=True)
    False
    """
    if _add_product is None:
        return False
    densest = _DENSEST_TO_TRAIN if training else _DENSEST_TO_PREDICT
    smallest = _SMALLEST_TO_TRAIN if training else _SMALLEST_TO_PREDICT
    size = n_rows * n_columns
    return size >= smallest and n_nonzero <= densest * size


class SparseBatch:
    """Rows of a CSR matrix on the host, which a layer multiplies without densifying them.

    In training the same object holds one batch after the other, like a buffer.

    Parameters
    ----------
    rows : CSR matrix of shape (n_rows, n_columns)
        Of float32 or float64; indices may be unsorted and contain duplicates.

    Attributes
    ----------
    shape : (int, int)
    """

    ndim = 2
    device = torch.device("cpu")

    def __init__(self, rows: Any):
        self.load(rows)

    def load(self, rows: Any) -> None:
        """Replace the rows."""
        self.shape, self._rows = rows.shape, rows
        self._entries: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice) -> Tensor:
        """Return the rows of a slice as a dense tensor."""
        return torch.from_numpy(self._rows[key].toarray())

    def part(self, key: slice) -> "SparseBatch":
        """Return the rows of a slice as a sparse batch."""
        return SparseBatch(self._rows[key])

    def data_ptr(self) -> int:
        """Return a number that identifies this buffer, like a tensor's address."""
        return id(self)

    def forward(self, weight: Tensor, out: Tensor) -> Program:
        """Return the kernels that write ``rows @ weight.T``.

        Parameters
        ----------
        weight : Tensor of shape (units, n_columns)
            Row-major.
        out : Tensor of shape (n_rows, units)
        """
        self._check(weight, out)
        by_unit = out.mT if out.mT.is_contiguous() else torch.empty_like(out.mT.contiguous())
        kernels: Program = [partial(self._multiply, weight.numpy(), by_unit.numpy())]
        return kernels if by_unit.data_ptr() == out.data_ptr() else [
            *kernels, partial(out.copy_, by_unit.mT)
        ]  # fmt: skip

    def gradient(self, delta: Tensor, out: Tensor) -> Program:
        """Return the kernels that write ``delta.T @ rows``.

        Parameters
        ----------
        delta : Tensor of shape (n_rows, units)
        out : Tensor of shape (units, n_columns)
            Row-major.
        """
        self._check(out, delta)
        by_unit = torch.empty_like(delta.mT.contiguous())
        return [
            partial(by_unit.copy_, delta.mT),
            out.zero_,
            partial(self._multiply_transposed, by_unit.numpy(), out.numpy()),
        ]

    def times(self, weight: Tensor) -> Tensor:
        """Return ``rows @ weight.T``, shape (n_rows, units), for a weight as in :meth:`forward`."""
        (n_rows, n_columns), n_units = self.shape, len(weight)
        weight = weight.detach()
        if self._rows.nnz < n_columns:  # fewer weights are read than there are
            by_unit = weight.new_empty((n_units, n_rows))
            self._check(weight, by_unit.mT)
            self._multiply(weight.numpy(), by_unit.numpy())
            return by_unit.mT
        out, by_column = weight.new_empty((n_rows, n_units)), self._rows.tocsc()
        multiply = partial(_multiply_blocks, by_column, weight.numpy(), out.numpy())
        n_threads = min(torch.get_num_threads(), -(-n_units // _UNITS))
        if n_threads == 1 or by_column.nnz * n_units < _WORTH_A_THREAD:
            multiply(range(0, n_units, _UNITS))
            return out
        shares = [range(i * _UNITS, n_units, n_threads * _UNITS) for i in range(n_threads)]
        with ThreadPoolExecutor(n_threads) as pool:  # SciPy releases the GIL
            list(pool.map(multiply, shares))
        return out

    def _multiply(self, weight: np.ndarray, out: np.ndarray) -> None:
        rows, columns, values = self._by_column()
        out.fill(0)
        for unit, total in zip(weight, out, strict=True):
            _add_product(len(values), rows, columns, values, unit, total)

    def _multiply_transposed(self, delta: np.ndarray, out: np.ndarray) -> None:
        rows, columns, values = self._by_column()
        for unit, total in zip(delta, out, strict=True):
            _add_product(len(values), columns, rows, values, unit, total)

    def _by_column(self) -> tuple[np.ndarray, ...]:
        """Return row, column and value of every entry, sorted by column."""
        if self._entries is None:
            entries = self._rows.tocsc().tocoo(copy=False)
            self._entries = entries.row, entries.col, entries.data
        return self._entries

    def _check(self, weight: Tensor, output: Tensor) -> None:
        """Raise an error for shapes with which SciPy would access memory out of bounds."""
        shape, dtype = (len(weight), self.shape[1]), torch.from_numpy(self._rows.data).dtype
        is_right = tuple(weight.shape) == shape and output.shape == (len(self), len(weight))
        if not (is_right and weight.is_contiguous() and weight.dtype == output.dtype == dtype):
            raise ValueError(
                f"Sparse rows of shape {self.shape} and {dtype} are multiplied by a contiguous "
                f"matrix of {shape}, got {tuple(weight.shape)} of {weight.dtype} and an output of "
                f"{tuple(output.shape)}."
            )


def _multiply_blocks(
    by_column: Any, weight: np.ndarray, out: np.ndarray, starts: Iterable[int]
) -> None:
    """Write the outputs of some blocks of units."""
    # reused, as allocating new memory takes longer than filling it
    turned = np.empty((weight.shape[1], min(_UNITS, len(weight))), weight.dtype)
    for start in starts:
        block = weight[start : start + _UNITS].T
        part = turned if block.shape == turned.shape else np.empty_like(block, order="C")
        np.copyto(part, block)
        out[:, start : start + _UNITS] = by_column @ part
