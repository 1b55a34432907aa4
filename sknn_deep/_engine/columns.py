"""Features whose columns lie apart: an array in Fortran order, the columns of a frame.

They are not copied whole. Rows that are read in their order are cut from the columns and handed
out by column. Rows in a random order cost more: a cache line holds as many neighbours of a column
as of a row, and a batch wants one of them. So those of many batches are read ahead, from each
column in one direction. On two shared cores that takes 3 to 5 nanoseconds a number where rows take
0.5 to 1.5, so that columns of moderate size are copied into rows before a training.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.features import ArrayRows, Features, Reader, slices, to_device
from sknn_deep._hardware.device import lies_as_torch_knows

# To look at more numbers at once would not take less time.
_NUMBERS = 2**18
# Columns are turned into rows some at a time: few enough for the cache, and enough for each column
# to be worth its call. A power of two would put the ends of all into one set of it.
_TILE_BYTES, _TILE_ROWS = 2**22, 1000
# So many bytes of rows are read ahead.
_AHEAD_BYTES = 2**26
# Columns whose rows take fewer bytes are copied into rows once before a network trains on them.
_COPIED_BYTES = 2**28


class ColumnRows(Features):
    """Columns that lie apart, such as those of an array in Fortran order or of a frame.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (n_columns, n_rows)
        Columns, of any type of numbers, one block after the other; each is best contiguous.
    dtype : dtype
        In which they are read.
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
        # by column, which takes a product no more time than by row, unlike turning them
        return columns.T

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        self._turn(rows, out.numpy())

    def _turn(self, rows: np.ndarray | None, out: np.ndarray) -> None:
        """Write some rows, or all, row by row."""
        columns = np.empty((self.shape[1], min(len(out), self._tile_rows)), self.dtype)
        for tile in slices(len(out), self._tile_rows):
            cut = columns[:, : tile.stop - tile.start]
            self._cut(tile if rows is None else rows[tile], cut)
            out[tile] = cut.T

    def _cut(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Write some rows of every column, shape (n_features, n_rows)."""
        start = 0
        for block in self._blocks:
            cut = out[start : start + len(block)]
            start += len(block)
            if isinstance(rows, slice):
                cut[...] = block[:, rows]
            elif block.dtype == cut.dtype:
                # one by one: of a block that is not contiguous NumPy would make a copy first
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
        """Return a copy of some rows."""
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
    """Rows of columns in an order that is known, read many at a time before they are asked for.

    A block of them is read as it is stored, from each column in one direction, and handed out in
    the order that was asked for.
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
