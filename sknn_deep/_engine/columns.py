"""Features stored by column: an array in Fortran order, the columns of a frame.

They are not copied whole. Rows read in sequence are sliced from the columns and returned in
column-major order. Rows in random order cost more: a cache line holds neighbours within a column,
of which a batch needs only one. So the rows of many batches are read ahead, going through each
column in one direction. On two shared cores that takes 3 to 5 nanoseconds per number, compared
with 0.5 to 1.5 for contiguous rows, so columns of moderate size are copied into rows before
training.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.features import ArrayRows, Features, Reader, slices, to_device
from sknn_deep._hardware.device import lies_as_torch_knows

# Processing more numbers at once would not be faster.
_NUMBERS = 2**18
# Columns are transposed into rows in tiles: small enough for the cache, and large enough to make
# the call per column worthwhile. With a power of two all columns would map to the same cache set.
_TILE_BYTES, _TILE_ROWS = 2**22, 1000
# Bytes of rows that are read ahead.
_AHEAD_BYTES = 2**26
# Features of fewer bytes are copied into rows once before a network trains on them.
_COPIED_BYTES = 2**28


class ColumnRows(Features):
    """Features stored by column, such as an array in Fortran order or the columns of a frame.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (n_columns, n_rows)
        The columns in order, of any numeric type; each is preferably contiguous.
    dtype : dtype
        Type to which they are converted when read.
    """

    def __init__(self, blocks: Sequence[np.ndarray], dtype: np.dtype | type):
        super().__init__((blocks[0].shape[1], sum(map(len, blocks))), dtype)
        self._blocks = blocks
        row_bytes = self.shape[1] * self.dtype.itemsize
        self._row_bytes = row_bytes
        self._tile_rows = max(_TILE_ROWS, _TILE_BYTES // row_bytes)

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def read(self, part: slice) -> np.ndarray:
        columns = np.empty((self.shape[1], len(range(*part.indices(len(self))))), self.dtype)
        self._cut(part, columns)
        # column-major: products are as fast with it as with rows, but transposing takes time
        return columns.T

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        self._turn(rows, out.numpy())

    def _turn(self, rows: np.ndarray | None, out: np.ndarray) -> None:
        """Write the given rows, or all, in row-major order."""
        columns = np.empty((self.shape[1], min(len(out), self._tile_rows)), self.dtype)
        for tile in slices(len(out), self._tile_rows):
            cut = columns[:, : tile.stop - tile.start]
            self._cut(tile if rows is None else rows[tile], cut)
            out[tile] = cut.T

    def _cut(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Write the given rows of every column, shape (n_features, n_rows)."""
        start = 0
        for block in self._blocks:
            cut = out[start : start + len(block)]
            start += len(block)
            if isinstance(rows, slice):
                cut[...] = block[:, rows]
            elif block.dtype == cut.dtype:
                # one by one: NumPy would first copy a block that is not contiguous
                for column, values in zip(block, cut, strict=True):
                    column.take(rows, out=values, mode="clip")
            else:
                for column, values in zip(block, cut, strict=True):
                    values[...] = column.take(rows, mode="clip")

    def to(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        is_all = part.indices(len(self)) == (0, len(self), 1)
        array = self.unwrapped() if is_all and device.type == "cpu" else self
        if isinstance(array, np.ndarray) and lies_as_torch_knows(array):
            return to_device(array, device, dtype)
        return super().to(part, device, dtype)

    def unwrapped(self) -> "np.ndarray | ColumnRows":
        is_array = len(self._blocks) == 1 and self._blocks[0].dtype == self.dtype
        return self._blocks[0].T if is_array else self

    def in_memory(self) -> np.ndarray:
        return np.asarray(self.unwrapped())

    def take(self, rows: np.ndarray) -> "ArrayRows":
        """Return a copy of the given rows."""
        ahead = _Ahead(self, rows)
        out = torch.from_numpy(np.empty((len(rows), self.shape[1]), self.dtype))
        for part in slices(len(rows), ahead.n_rows):
            ahead(part, out[part])
        return ArrayRows(out.numpy())

    def reader(self, order: np.ndarray) -> Reader:
        return _Ahead(self, order)

    def in_rows(self, most_bytes: float | None = None) -> Features:
        if len(self) * self._row_bytes > (_COPIED_BYTES if most_bytes is None else most_bytes):
            return self
        if isinstance(self.unwrapped(), np.ndarray):
            return ArrayRows(np.ascontiguousarray(self.unwrapped()))
        out = np.empty(self.shape, self.dtype)
        self._turn(None, out)
        return ArrayRows(out)

    def numbers(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            at_once = max(1, _NUMBERS // len(self)) if block.dtype == self.dtype else 1
            for some in slices(len(block), at_once):
                for part in slices(len(self), _NUMBERS):
                    yield block[some, part].astype(self.dtype, copy=False)

    def pieces(self) -> Iterator[np.ndarray]:
        return map(self.read, slices(len(self), self._tile_rows))


class _Ahead:
    """Reads the rows of columns ahead, in a known order.

    A block of rows is read in storage order, from each column in one direction, and returned in
    the requested order.
    """

    def __init__(self, features: ColumnRows, order: np.ndarray):
        self._features, self._order = features, order
        self.n_rows = max(1, _AHEAD_BYTES // features._row_bytes)
        self._start = self._stop = 0

    def __call__(self, part: slice, out: Tensor) -> None:
        if part.stop - part.start > self.n_rows:
            self._features.gather(self._order[part], out)
            return
        if not self._start <= part.start <= part.stop <= self._stop:
            self._read_from(part.start)
        places = self._places[part.start - self._start : part.stop - self._start]
        torch.index_select(self._block, 0, places, out=out)

    def _read_from(self, start: int) -> None:
        rows = self._order[start : start + self.n_rows]
        self._start, self._stop = start, start + len(rows)
        by_row = np.argsort(rows)
        places = np.empty_like(by_row)
        places[by_row] = np.arange(len(rows))
        self._places = torch.from_numpy(places)
        self._block = self._space[: len(rows)]
        self._features.gather(rows[by_row], self._block)

    @cached_property
    def _space(self) -> Tensor:
        n_rows = min(self.n_rows, len(self._order))
        shape = (n_rows, self._features.shape[1])
        return torch.from_numpy(np.empty(shape, self._features.dtype))
