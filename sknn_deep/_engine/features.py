"""Rows of features in any container: the only module that knows the container types.

An estimator's features are an array, a sparse matrix, a memory-mapped file or the columns of a
frame. :class:`Features` provides their rows to networks, statistics and scorers, so that no other
code depends on the type of X. Each call of ``fit`` or ``predict`` wraps its data anew: copies on a
device belong to that object and are freed with it.

===================  ================================================================
:class:`ArrayRows`   An array whose rows are contiguous. Nothing is copied.
:class:`SparseRows`  A CSR matrix. Rows are densified when read, or multiplied as sparse rows.
:class:`MappedRows`  A large memory map. Rows are read piece by piece and released.
``ColumnRows``       Columns, in their own file: an array in Fortran order, a frame.
``StreamedRows``     A table that is read in chunks, in its own file.
``DividedRows``      Rows divided between several processes, in its own file.
===================  ================================================================
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sknn_deep._hardware.device import as_tensor, lies_as_torch_knows
from sknn_deep._hardware.memory_maps import Mapped
from sknn_deep._hardware.sparse_products import SparseBatch, is_worth_it

# Rows that statistics process at a time, and the most numbers among them, so that their
# double-precision copies stay in the cache.
_ROWS, _NUMBERS = 4096, 2**18
# Rows are copied to an accelerator in pieces of this many bytes.
_UPLOADED_BYTES = 2**25
Reader = Callable[[slice, Tensor], None]


def _nothing() -> None:
    """Return None, in place of rows on a device."""


class Features(ABC):
    """Validated features of some rows.

    Parameters
    ----------
    shape : (int, int)
        Rows and features.
    dtype : dtype
        The network's input type, float32 or float64.

    Attributes
    ----------
    tensor : Tensor of shape (n_rows, n_features), or None
        All rows without a copy; None if torch cannot share their memory.
    """

    ndim = 2
    # the container's name in descriptions of the data
    kind = ""
    # whether results computed for these rows stay on a device
    gives_tensors = False
    # what an estimator has learned about the columns of a table
    columns: Any = None
    # checks the numbers for NaN and infinity, if that has not been done yet
    check: Callable[[], None] | None = None
    # whether rows come in chunks, so that only some orders of them are fast to read
    is_streamed = False

    def __init__(self, shape: tuple[int, int], dtype: np.dtype | type):
        self.shape, self.dtype = (int(shape[0]), int(shape[1])), np.dtype(dtype)
        self._resident: Callable[[], Tensor | None] = _nothing

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_resident": _nothing}
        state.pop("tensor", None)  # shares the array's memory, but would be pickled as a copy
        return state

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def tensor(self) -> Tensor | None:
        """All rows, sharing their memory."""
        return None

    @overload
    def __getitem__(self, key: slice) -> np.ndarray: ...

    @overload
    def __getitem__(self, key: np.ndarray) -> "Features": ...

    def __getitem__(self, key: slice | np.ndarray) -> "np.ndarray | Features":
        """Return an array for a slice, and features of the chosen rows for row numbers."""
        return self.read(key) if isinstance(key, slice) else self.take(key)

    def __array__(
        self, dtype: np.dtype | type | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.asarray(self.read(slice(None)), dtype=dtype)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the numbers as stored, in memory or in a file."""

    @abstractmethod
    def read(self, part: slice) -> np.ndarray:
        """Return rows, shape (n, n_features), in any memory layout, possibly as a view."""

    @abstractmethod
    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        """Write the given rows into a tensor of shape (len(rows), n_features) on the host."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> "Features":
        """Return the given rows as features."""

    def shuffle(
        self, order: np.ndarray, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> None:
        """Permute the order in which an epoch goes through some rows, in place.

        Parameters
        ----------
        order : ndarray of int, shape (n,)
            Indices into ``rows``.
        rows : ndarray of int, shape (n,), or None
            Row numbers, as returned by :meth:`reading_order`; None for all.
        random_state : RandomState
        """
        random_state.shuffle(order)

    def reading_order(self, rows: np.ndarray) -> np.ndarray:
        """Return row numbers in the order in which to store a subset."""
        return rows

    def reader(self, order: np.ndarray) -> Reader:
        """Return a function that writes rows of a known order: ``read(part, out)``.

        Parameters
        ----------
        order : ndarray of int, shape (n,)
            Row numbers. Parts of it are requested from the start on.
        """
        return lambda part, out: self.gather(order[part], out)

    def to(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return consecutive rows as a tensor on a device."""
        return to_device(self.read(part), device, dtype)

    def resident(
        self, device: torch.device, dtype: torch.dtype, most_bytes: float
    ) -> Tensor | None:
        """Return all rows on an accelerator, the same tensor as long as it is referenced.

        None if they would take more than this many bytes there.
        """
        present = self._resident()
        if present is not None and (present.device, present.dtype) == (device, dtype):
            return present
        n_rows, n_features = self.shape
        row_bytes = n_features * dtype.itemsize
        if n_rows * row_bytes > most_bytes:
            return None
        resident = torch.empty(self.shape, dtype=dtype, device=device)
        for part in slices(n_rows, max(1, _UPLOADED_BYTES // row_bytes)):
            resident[part] = self.to(part, device, dtype)
        self._resident = weakref.ref(resident)
        return resident

    @property
    def resident_bytes(self) -> int:
        """Bytes that the rows currently take on an accelerator."""
        present = self._resident()
        return 0 if present is None else present.nbytes

    def in_rows(self, most_bytes: float | None = None) -> "Features":
        """Return features whose rows are fast to gather repeatedly in any order.

        Parameters
        ----------
        most_bytes : float, default=None
            The most bytes that a copy may take; None for what pays off for a single network.
        """
        return self

    def unwrapped(self) -> Any:
        """Return the array or the CSR matrix itself, if there is one, else the features.

        Features can be used like an array: they have a shape and are indexed with slices and row
        numbers.
        """
        return self

    def in_memory(self) -> Any:
        """Return an array or a CSR matrix for arbitrary use by the user's code."""
        return np.asarray(self)

    def stored(self) -> Iterator[np.ndarray]:
        """Yield arrays that together identify these rows, for fingerprints."""
        return self.pieces()

    def numbers(self) -> Iterator[np.ndarray]:
        """Yield every number once in the network's input type, in arrays of any shape and order."""
        return self.pieces()

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows in order, in pieces small enough to copy."""
        n_rows = max(1, min(_ROWS, _NUMBERS // self.shape[1]))
        return map(self.read, slices(len(self), n_rows))

    # Sums use ``einsum``: it reads single-precision rows without a copy and uses no threads.
    # OpenBLAS, which computes matrix products, leaves its threads spinning for some hundredths of
    # a second afterwards, and torch's threads would have to share the cores with them.

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        """Return the weighted sum of each feature over the rows, in double precision.

        ``weight=None`` stands for weights of one.
        """
        weight = np.ones(len(self)) if weight is None else weight
        sums, start = np.zeros(self.shape[1]), 0
        for rows in self.pieces():
            sums += np.einsum("i,ij->j", weight[start : start + len(rows)], rows)
            start += len(rows)
        return sums

    def known_sums(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted sums without missing values, and each feature's sum of weights."""
        sums, totals = np.zeros((2, self.shape[1]))
        start = 0
        for rows in self.pieces():
            weights = weight[start : start + len(rows)]
            start += len(rows)
            is_known = ~np.isnan(rows)
            sums += np.einsum("i,ij->j", weights, np.where(is_known, rows, 0.0))
            totals += np.einsum("i,ij->j", weights, is_known)
        return sums, totals

    def missing(self) -> np.ndarray:
        """Return a mask of the features with missing values."""
        missing = np.zeros(self.shape[1], dtype=bool)
        for rows in self.pieces():
            missing |= np.isnan(rows).any(axis=0)
        return missing

    def column_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and largest known value of each feature, NaN if none is known."""
        both = [[f.reduce(rows, axis=0) for f in (np.fmin, np.fmax)] for rows in self.pieces()]
        return np.fmin.reduce([low for low, _ in both]), np.fmax.reduce([high for _, high in both])

    def limits(self) -> tuple[float, float]:
        """Return the smallest and largest known value, including the zeros of sparse rows."""
        both = [[f.reduce(rows, axis=None) for f in (np.fmin, np.fmax)] for rows in self.pieces()]
        low, high = np.fmin.reduce(both)[0], np.fmax.reduce(both)[1]
        return float(low), float(high)


class ArrayRows(Features):
    """An array with contiguous rows, in the network's input type."""

    def __init__(self, X: np.ndarray):
        super().__init__(X.shape, X.dtype)
        self._X = X

    @cached_property
    def tensor(self) -> Tensor | None:
        return as_tensor(self._X)

    @property
    def nbytes(self) -> int:
        return self._X.nbytes

    def read(self, part: slice) -> np.ndarray:
        return self._X[part]

    def to(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        tensor = self.tensor
        if tensor is None or tensor.dtype != dtype or device.type != "cpu":
            return super().to(part, device, dtype)
        is_whole = part.start == 0 and part.stop == len(self)
        return tensor if is_whole else tensor[part]

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        if self.tensor is not None:  # on torch's threads
            torch.index_select(self.tensor, 0, torch.from_numpy(rows), out=out)
        else:
            # with mode="raise" NumPy would fill a temporary buffer first
            self._X.take(rows, axis=0, out=out.numpy(), mode="clip")

    def take(self, rows: np.ndarray) -> "ArrayRows":
        return ArrayRows(self._X[rows])

    def unwrapped(self) -> np.ndarray:
        return self._X

    in_memory = unwrapped

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        if weight is not None or self.tensor is None:
            return super().weighted_sums(weight)
        sums = torch.zeros(self.shape[1], dtype=torch.double)
        for rows in self.tensor.split(max(1, _NUMBERS // self.shape[1])):
            # each column is summed by a single thread, whatever their number
            sums += rows.sum(dim=0, dtype=torch.double)
        return sums.numpy()

    def stored(self) -> Iterator[np.ndarray]:
        yield self._X

    numbers = stored


class SparseRows(Features):
    """A CSR matrix, in the network's input type."""

    kind = "sparse "

    def __init__(self, X: Any):
        super().__init__(X.shape, X.dtype)
        self._X = X

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.stored())

    def read(self, part: slice) -> np.ndarray:
        return self._X[part].toarray()

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        self._X[rows].toarray(out=out.numpy())

    @property
    def stored_per_row(self) -> float:
        """The average number of stored values per row."""
        return float(self._X.nnz) / max(1, len(self))

    def suits_products(self, n_rows: int | None = None) -> bool:
        """Return whether a first layer is faster with sparse than with dense rows.

        Parameters
        ----------
        n_rows : int, default=None
            Number of rows of a training batch; None for predictions of all rows.
        """
        n_at_once = len(self) if n_rows is None else n_rows
        n_nonzero = n_at_once * self.stored_per_row
        return is_worth_it(n_at_once, self.shape[1], n_nonzero, training=n_rows is not None)

    def no_rows(self) -> SparseBatch:
        """Return a batch that holds no rows yet."""
        return SparseBatch(self._X[:0])

    def load(self, rows: np.ndarray, batch: SparseBatch) -> None:
        """Load the given rows into a batch."""
        batch.load(self._X[rows])

    def batch_of(self, part: slice) -> SparseBatch:
        """Return rows as a sparse batch."""
        return SparseBatch(self._X[part])

    def take(self, rows: np.ndarray) -> "SparseRows":
        return SparseRows(self._X[rows])

    def resident(self, device: torch.device, dtype: torch.dtype, most_bytes: float) -> None:
        """Return None: dense rows could take many times as many bytes."""
        return None

    def unwrapped(self) -> Any:
        return self._X

    in_memory = unwrapped

    def stored(self) -> Iterator[np.ndarray]:
        yield from (self._X.data, self._X.indices, self._X.indptr)

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        return np.ravel((np.ones(len(self)) if weight is None else weight) @ self._X)

    def column_limits(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._X.nanmin(axis=0), self._X.nanmax(axis=0)
        return low.toarray().ravel(), high.toarray().ravel()

    def limits(self) -> tuple[float, float]:
        low, high = (f.reduce(self._X.data, initial=0.0) for f in (np.fmin, np.fmax))
        return float(low), float(high)


class MappedRows(Features):
    """A large memory map: rows are converted as they are read, and pages are released."""

    def __init__(self, mapped: Mapped):
        super().__init__(mapped.shape, mapped.dtype)
        self._mapped = mapped

    @property
    def nbytes(self) -> int:
        return self._mapped.nbytes

    def read(self, part: slice) -> np.ndarray:
        return self._mapped[part]

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        self._mapped.take(rows, out=out.numpy())

    def take(self, rows: np.ndarray) -> "MappedRows":
        return MappedRows(self._mapped[rows])

    def numbers(self) -> Iterator[np.ndarray]:
        return self._mapped.pieces()


def features_of(X: Any) -> Features:
    """Return the features of a float32 or float64 array, preferably in C order, or a CSR matrix."""
    if isinstance(X, Features):
        return X
    return SparseRows(X) if sp.issparse(X) else ArrayRows(np.ascontiguousarray(X))


def joined(sets: Sequence[Features]) -> ArrayRows | None:
    """Return the concatenated rows of several sets; None unless all are arrays in memory."""
    arrays = [features.unwrapped() for features in sets]
    if not all(type(array) is np.ndarray for array in arrays):
        return None
    return ArrayRows(np.concatenate(arrays))


def to_device(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return an array as a tensor on a device; class indices keep their integer type."""
    if not lies_as_torch_knows(array):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def slices(n_rows: int, at_once: int) -> Iterator[slice]:
    """Yield consecutive slices of ``at_once`` rows each, the last perhaps shorter."""
    return (slice(i, min(i + at_once, n_rows)) for i in range(0, n_rows, at_once))
