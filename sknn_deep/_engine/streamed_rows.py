"""Features that are read in chunks: shuffled within windows, and read ahead in a thread.

An epoch goes through the parts of the source in random order, and through the rows of each part in
sequence. The rows of this sequence are shuffled within consecutive windows. While a network trains
on one window, a thread reads the next and writes each row to its place in the order, so that two
windows and a chunk are in memory.

Row numbers, targets and weights are in memory, so held-out rows, class weights, checkpoints and
the order of an epoch work as in any other training.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from sknn_deep._engine.features import ArrayRows, Features, Reader, slices
from sknn_deep._engine.streamed_table import Cursor, StreamedTable


class StreamedRows(Features):
    """Rows of a table that is read in chunks.

    Parameters
    ----------
    table : StreamedTable
    convert : callable
        Converts a chunk to an array of the network's input type.
    dtype : dtype
        That type.
    """

    is_streamed = True

    def __init__(
        self, table: StreamedTable, convert: Callable[[Any], np.ndarray], dtype: np.dtype | type
    ):
        super().__init__(table.shape, dtype)
        self._table, self._convert, self.window = table, convert, table.window
        # a checkpoint is tied to one order of the rows, which depends on the window
        self.kind = f"read in windows of {self.window} rows, "
        self._cursor = self.new_cursor()
        self._missing: np.ndarray | None = None

    def new_cursor(self) -> Cursor:
        """Return an independent position in the source."""
        return Cursor(self._table.source, self._convert)

    def numbers_in_source(self, rows: np.ndarray) -> np.ndarray:
        """Return the row numbers in the source of the given rows."""
        return rows if self._table.rows is None else self._table.rows[rows]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        rows = np.arange(start, stop, step)
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        self._cursor.fill(self.numbers_in_source(rows), out)
        if stop == len(self):
            self._cursor.close()
        return out

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        self._cursor.fill(self.numbers_in_source(rows), out.numpy())

    def take(self, rows: np.ndarray) -> Features:
        """Return the given rows: copied if they fit in a window, else read when needed."""
        if len(rows) > self.window:
            return StreamedRows(self._table[rows], self._convert, self.dtype)
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        self._cursor.fill(self.numbers_in_source(rows), out)
        self._cursor.close()
        return ArrayRows(out)

    def in_rows(self, most_bytes: float | None = None) -> Features:
        """Return a copy in memory if all rows fit in one window."""
        return ArrayRows(self.read(slice(None))) if len(self) <= self.window else self

    def shuffle(
        self, order: np.ndarray, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> None:
        """Permute the parts, then the rows within each window.

        Parameters
        ----------
        order : ndarray of int, shape (n,)
        rows : ndarray of int, shape (n,), or None
            Ascending.
        random_state : RandomState
        """
        ends, start = np.cumsum(self._table.source.lengths), 0
        own = self._table.rows if rows is None else self.numbers_in_source(rows)
        if own is not None:
            ends = np.searchsorted(own, ends)
        n_parts = len(ends)
        # in place, part by part: with many rows a copy of the order would be large
        for part in random_state.permutation(n_parts) if n_parts > 1 else [0]:
            first = 0 if part == 0 else ends[part - 1]
            stop = start + ends[part] - first
            order[start:stop] = np.arange(first, ends[part])
            start = stop
        for window in slices(len(order), self.window):
            random_state.shuffle(order[window])

    def reading_order(self, rows: np.ndarray) -> np.ndarray:
        return np.sort(rows)

    def reader(self, order: np.ndarray) -> Reader:
        return _Ahead(self, order)

    def numbers(self) -> Iterator[np.ndarray]:
        missing = np.zeros(self.shape[1], dtype=bool)
        for rows in self.pieces():
            if np.isnan(np.add.reduce(rows, axis=None)):
                missing |= np.isnan(rows).any(axis=0)
            yield rows
        self._missing = missing  # cached, which saves a pass of its own

    def missing(self) -> np.ndarray:
        return super().missing() if self._missing is None else self._missing


class _Ahead:
    """Reads rows in a known order, one window ahead."""

    def __init__(self, features: StreamedRows, order: np.ndarray):
        self._features, self._order = features, order
        self._cursor, self._thread = features.new_cursor(), ThreadPoolExecutor(1)
        self._windows = list(slices(len(order), features.window))
        shape = (min(features.window, len(order)), features.shape[1])
        self._buffers = [np.empty(shape, features.dtype) for _ in range(2)]
        self._number, self._next = -1, Future[None]()

    def __call__(self, part: slice, out: Tensor) -> None:
        size, start, rows = self._features.window, part.start, out.numpy()
        while start < part.stop:
            number, first = divmod(start, size)
            if number != self._number:
                self._go_to(number)
            n_rows = min(part.stop - start, size - first)
            to = start - part.start
            rows[to : to + n_rows] = self._buffers[number % 2][first : first + n_rows]
            start += n_rows

    def _go_to(self, number: int) -> None:
        """Wait until a window has been read, and start reading the next one."""
        if number == 0 or number != self._number + 1:
            self._next = self._thread.submit(self._read, number)
        self._next.result()
        self._number = number
        if number + 1 < len(self._windows):
            self._next = self._thread.submit(self._read, number + 1)

    def _read(self, number: int) -> None:
        rows, *after = (
            self._features.numbers_in_source(self._order[window])
            for window in self._windows[number : number + 2]
        )
        ahead = self._cursor.parts_of(after[0]) if after else ()
        self._cursor.fill(rows, self._buffers[number % 2][: len(rows)], ahead)
