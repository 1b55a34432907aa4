"""Rows of features in any container: the only module that knows which.

An estimator's features are an array, a sparse matrix, a file that is mapped into memory or the
columns of a frame. :class:`Features` hands their rows to a network, to the statistics and to
scorers, so that nobody else asks what X is. Each call of ``fit`` or ``predict`` wraps its data
anew: what is copied to a device belongs to that object and goes with it.

===================  ================================================================
:class:`ArrayRows`   An array whose rows are contiguous. Nothing is copied.
:class:`SparseRows`  A CSR matrix. Rows are densified as they are read, or multiplied as they are.
:class:`MappedRows`  A large memory map. Rows are read piece by piece and let go of.
``ColumnRows``       Columns, in a file of their own: an array in Fortran order, a frame.
``StreamedRows``     A table that is read in chunks, in a file of its own.
``DividedRows``      Rows of which several processes have some each, in a file of its own.
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

# Rows that statistics look at together, and how many numbers they are at most: copies in double
# precision stay in the cache.
_ROWS, _NUMBERS = 4096, 2**18
# Rows go to an accelerator in pieces of this many bytes.
_UPLOADED_BYTES = 2**25
Reader = Callable[[slice, Tensor], None]


def _nothing() -> None:
    """Return no rows on a device."""


class Features(ABC):
    """Validated features of some rows.

    Parameters
    ----------
    shape : (int, int)
        Rows and features.
    dtype : dtype
        In which a network reads them, float32 or float64.

    Attributes
    ----------
    tensor : Tensor of shape (n_rows, n_features), or None
        All rows in the memory in which they are; None where torch cannot have that.
    """

    ndim = 2
    # what a description of the data calls it
    kind = ""
    # whether what is computed for these rows stays on a device
    gives_tensors = False
    # what an estimator has learned of the columns of a table
    columns: Any = None
    # looks for NaN and infinity in the numbers, where nobody has yet
    check: Callable[[], None] | None = None
    # whether rows come in chunks, so that only some orders of them are quick to read
    is_streamed = False

    def __init__(self, shape: tuple[int, int], dtype: np.dtype | type):
        self.shape, self.dtype = (int(shape[0]), int(shape[1])), np.dtype(dtype)
        self._resident: Callable[[], Tensor | None] = _nothing

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_resident": _nothing}
        state.pop("tensor", None)  # it shares the array's memory, and would travel as another copy
        return state

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def tensor(self) -> Tensor | None:
        """All rows in the memory in which they are."""
        return None

    @overload
    def __getitem__(self, key: slice) -> np.ndarray: ...

    @overload
    def __getitem__(self, key: np.ndarray) -> "Features": ...

    def __getitem__(self, key: slice | np.ndarray) -> "np.ndarray | Features":
        """Return rows for a slice, and a set of some rows for their numbers."""
        return self.read(key) if isinstance(key, slice) else self.take(key)

    def __array__(
        self, dtype: np.dtype | type | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.asarray(self.read(slice(None)), dtype=dtype)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the numbers where they are, in memory or in a file."""

    @abstractmethod
    def read(self, part: slice) -> np.ndarray:
        """Return rows, shape (n, n_features), in any layout and perhaps where they are."""

    @abstractmethod
    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        """Write some rows into a tensor of shape (len(rows), n_features) on the host."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> "Features":
        """Return a set of some rows."""

    def shuffle(
        self, order: np.ndarray, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> None:
        """Permute the order in which an epoch goes through some rows, in place.

        Parameters
        ----------
        order : ndarray of int, shape (n,)
            Places among ``rows``.
        rows : ndarray of int, shape (n,), or None
            Row numbers, as of :meth:`reading_order`; None for all.
        random_state : RandomState
        """
        random_state.shuffle(order)

    def reading_order(self, rows: np.ndarray) -> np.ndarray:
        """Return row numbers in the order in which a set of them is kept."""
        return rows

    def reader(self, order: np.ndarray) -> Reader:
        """Return what writes rows of an order that is known: ``read(part, out)``.

        Parameters
        ----------
        order : ndarray of int, shape (n,)
            Row numbers. Parts of it are asked for from the first on.
        """
        return lambda part, out: self.gather(order[part], out)

    def to(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return rows in their order as a tensor on a device."""
        return to_device(self.read(part), device, dtype)

    def resident(
        self, device: torch.device, dtype: torch.dtype, most_bytes: float
    ) -> Tensor | None:
        """Return all rows on an accelerator, the same tensor as long as someone holds it.

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
        """Bytes that the rows take on an accelerator at present."""
        present = self._resident()
        return 0 if present is None else present.nbytes

    def in_rows(self, most_bytes: float | None = None) -> "Features":
        """Return features whose rows are quick to gather in any order, again and again.

        Parameters
        ----------
        most_bytes : float, default=None
            What a copy may take; None is what is worth it for one network.
        """
        return self

    def unwrapped(self) -> Any:
        """Return the array or the CSR matrix itself; other rows as they are.

        These read like an array: they have a shape, slices and numbers of rows as keys.
        """
        return self

    def in_memory(self) -> Any:
        """Return an array or a CSR matrix, with which a user's code may do anything."""
        return np.asarray(self)

    def stored(self) -> Iterator[np.ndarray]:
        """Yield the numbers in arrays that tell these rows from others, one after the other."""
        return self.pieces()

    def numbers(self) -> Iterator[np.ndarray]:
        """Yield every number once as a network reads it, in arrays of any shape and order."""
        return self.pieces()

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows in their order, some at a time: copies of them are small."""
        n_rows = max(1, min(_ROWS, _NUMBERS // self.shape[1]))
        return map(self.read, slices(len(self), n_rows))

    # Sums are ``einsum``'s: it reads rows of single precision as they are, and has no threads.
    # Those of OpenBLAS, which computes products, spin for some hundredths of a second when they
    # are done, and torch's would have to share the cores with them.

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        """Return the sum of each feature over the rows times their weights, in double precision.

        Weights of None are one.
        """
        weight = np.ones(len(self)) if weight is None else weight
        sums, start = np.zeros(self.shape[1]), 0
        for rows in self.pieces():
            sums += np.einsum("i,ij->j", weight[start : start + len(rows)], rows)
            start += len(rows)
        return sums

    def known_sums(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same without what is missing, and the weights of what is known of each."""
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
        """Return a mask of the features of which some value is missing."""
        missing = np.zeros(self.shape[1], dtype=bool)
        for rows in self.pieces():
            missing |= np.isnan(rows).any(axis=0)
        return missing

    def column_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and the largest known value of each feature; NaN where none is."""
        both = [[f.reduce(rows, axis=0) for f in (np.fmin, np.fmax)] for rows in self.pieces()]
        return np.fmin.reduce([low for low, _ in both]), np.fmax.reduce([high for _, high in both])

    def limits(self) -> tuple[float, float]:
        """Return the smallest and the largest known value; zeros of sparse rows count."""
        both = [[f.reduce(rows, axis=None) for f in (np.fmin, np.fmax)] for rows in self.pieces()]
        low, high = np.fmin.reduce(both)[0], np.fmax.reduce(both)[1]
        return float(low), float(high)


class ArrayRows(Features):
    """An array with contiguous rows, in the type that a network reads."""

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
            # with mode="raise" NumPy would fill a buffer of its own first
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
            # on however many threads, one of them adds up a column
            sums += rows.sum(dim=0, dtype=torch.double)
        return sums.numpy()

    def stored(self) -> Iterator[np.ndarray]:
        yield self._X

    numbers = stored


class SparseRows(Features):
    """A CSR matrix, in the type that a network reads."""

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
        """How many numbers a row stores, on average."""
        return float(self._X.nnz) / max(1, len(self))

    def suits_products(self, n_rows: int | None = None) -> bool:
        """Return whether a first layer best multiplies the rows as they are.

        Parameters
        ----------
        n_rows : int, default=None
            Of the batches to train with; None for predictions of all rows.
        """
        n_at_once = len(self) if n_rows is None else n_rows
        n_nonzero = n_at_once * self.stored_per_row
        return is_worth_it(n_at_once, self.shape[1], n_nonzero, training=n_rows is not None)

    def no_rows(self) -> SparseBatch:
        """Return a batch that holds no rows yet."""
        return SparseBatch(self._X[:0])

    def load(self, rows: np.ndarray, batch: SparseBatch) -> None:
        """Let a batch hold some rows."""
        batch.load(self._X[rows])

    def batch_of(self, part: slice) -> SparseBatch:
        """Return rows as they are."""
        return SparseBatch(self._X[part])

    def take(self, rows: np.ndarray) -> "SparseRows":
        return SparseRows(self._X[rows])

    def resident(self, device: torch.device, dtype: torch.dtype, most_bytes: float) -> None:
        """Return None: as dense rows they could take many times their bytes."""
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
    """A large memory map: its rows are converted as they are read, and its pages handed back."""

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
    """Return the features of a float32 or float64 array, best in C order, or of a CSR matrix."""
    if isinstance(X, Features):
        return X
    return SparseRows(X) if sp.issparse(X) else ArrayRows(np.ascontiguousarray(X))


def joined(sets: Sequence[Features]) -> ArrayRows | None:
    """Return the rows of several sets as one, where all are arrays in memory."""
    arrays = [features.unwrapped() for features in sets]
    if not all(type(array) is np.ndarray for array in arrays):
        return None
    return ArrayRows(np.concatenate(arrays))


def to_device(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor of an array; class indices keep their integer type."""
    if not lies_as_torch_knows(array):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def slices(n_rows: int, at_once: int) -> Iterator[slice]:
    """Yield the parts of so many rows that have some of them each, in their order."""
    return (slice(i, min(i + at_once, n_rows)) for i in range(0, n_rows, at_once))
