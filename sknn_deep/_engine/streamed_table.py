"""Tables that are read in chunks because they do not fit in memory.

A source consists of parts, such as the row groups of a Parquet file, which may be read in any
order; each part is an iterator of chunks of rows. Users pass a :class:`StreamedTable` as X. A
:class:`Cursor` is a position in a source from which reading continues.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from sknn_deep._sklearn import safe_indexing
from sknn_deep._wording import counted

# Number of rows of the first chunk from which column names and types are taken.
_HEAD_ROWS = 100


class Source(Protocol):
    """Rows divided into parts, each of which is read in chunks.

    Attributes
    ----------
    lengths : sequence of int, length n_parts
        Number of rows of each part.
    """

    @property
    def lengths(self) -> Sequence[int]: ...

    def open(self, part: int) -> Iterator[Any]:
        """Yield the chunks of a part in order: arrays, frames or sparse matrices."""
        ...


class StreamedTable:
    """A table that is read in chunks, to be passed as X to an estimator.

    It is made by the functions of ``sknn_deep.streams``. Indexing with a slice or with ascending
    row numbers, ``X[rows]``, reads no rows, so the table can be split into folds.

    Parameters
    ----------
    source : Source
        Where the rows are.
    window : int
        Number of rows that are shuffled together. Twice as many are in memory.
    head : array-like or frame, default=None
        Some rows, from which names and types are taken; None reads them.
    rows : ndarray of int, default=None
        The rows of the source that belong to the table, ascending; None for all.

    Attributes
    ----------
    shape : (int, int)
        Rows and features.
    window : int
        Number of rows that are shuffled together.
    head : array or frame
        The first rows, as the source has them.
    """

    ndim = 2
    is_streamed = True

    def __init__(
        self, source: Source, *, window: int, head: Any = None, rows: np.ndarray | None = None
    ):
        self.source, self.window, self.rows = source, window, rows
        self.head = _head(source) if head is None else head
        n_rows = sum(source.lengths) if rows is None else len(rows)
        self.shape = (int(n_rows), int(self.head.shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {counted(self.shape[0], 'row')} and "
            f"{counted(self.shape[1], 'column')}, window={self.window:,}>"
        )

    def __getitem__(self, key: Any) -> "StreamedTable":
        """Return a table of some rows, for a slice, a mask or ascending row numbers."""
        if isinstance(key, tuple) and len(key) == 2 and key[1] in (Ellipsis, slice(None)):
            key = key[0]  # scikit-learn's splitters index like this
        own = np.arange(len(self)) if self.rows is None else self.rows
        rows = own[key]
        if rows.ndim != 1 or (np.diff(rows) <= 0).any():
            raise ValueError(
                "A streamed table is read in its order, so its rows can only be chosen by "
                "ascending numbers, each once. Sort them, and choose those of y alike; "
                "train_test_split takes shuffle=False, and early_stopping=True holds out rows "
                "that are drawn."
            )
        return StreamedTable(self.source, window=self.window, head=self.head, rows=rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(
            f"{self!r} is read in chunks, by the estimators of sknn_deep. Others need an array."
        )

    def chunks(self) -> Iterator[Any]:
        """Yield all rows in order, in the chunks of the source."""
        start = 0
        for part in range(len(self.source.lengths)):
            for chunk in self.source.open(part):
                stop = start + chunk.shape[0]
                if self.rows is None:
                    yield chunk
                else:
                    own = self.rows[slice(*np.searchsorted(self.rows, [start, stop]))]
                    if len(own):
                        yield safe_indexing(chunk, own - start)
                start = stop


def _head(source: Source) -> Any:
    """Return some rows of the first non-empty chunk."""
    for part, length in enumerate(source.lengths):
        for chunk in source.open(part) if length else ():
            if getattr(chunk, "ndim", 2) != 2:
                raise ValueError(
                    f"A chunk of X must have two dimensions, rows and features, got the shape "
                    f"{np.shape(chunk)}; reshape it."
                )
            if chunk.shape[0]:
                return safe_indexing(chunk, np.arange(min(chunk.shape[0], _HEAD_ROWS)))
    if sum(source.lengths):
        raise ValueError(
            f"The source had {counted(sum(source.lengths), 'row')} when it was first read, and "
            "none now; a function must return a new iterator every time that it is called."
        )
    raise ValueError("The source has no rows.")


class Cursor:
    """A position in a source, from which reading continues.

    Parameters
    ----------
    source : Source
    convert : callable
        Converts a chunk to an array of numbers, shape (n_rows, n_features).
    """

    def __init__(self, source: Source, convert: Callable[[Any], np.ndarray]):
        self._source, self._convert = source, convert
        self._starts = np.concatenate([[0], np.cumsum(source.lengths)]).astype(np.intp)
        self.close()

    def close(self) -> None:
        """Release the current chunk."""
        self._part, self._start, self._stop = -1, 0, 0
        self._chunks: Iterator[Any] = iter(())
        self._chunk: Any = None
        self._values: np.ndarray | None = None

    def parts_of(self, rows: np.ndarray) -> Collection[int]:
        """Return the parts that contain the given rows."""
        return set(np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist())

    def fill(self, rows: np.ndarray, out: np.ndarray, ahead: Collection[int] = ()) -> None:
        """Write some rows, numbered in any order, into an array.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
        out : ndarray of shape (n, n_features)
        ahead : collection of int
            Parts whose rows will be needed next: one of them is read last.
        """
        places = np.argsort(rows, kind="stable")
        rows = rows[places]
        bounds = np.searchsorted(rows, self._starts)
        present = np.flatnonzero(np.diff(bounds)).tolist()
        for part in sorted(present, key=lambda part: (part != self._part, part in ahead)):
            own = slice(bounds[part], bounds[part + 1])
            self._fill_from(part, rows[own] - self._starts[part], places[own], out)

    def _fill_from(self, part: int, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Write ascending rows of a part, numbered from the start of the part."""
        if part != self._part or rows[0] < self._start:
            self.close()
            self._part, self._chunks = part, self._source.open(part)
        done = 0
        while done < len(rows):
            if rows[done] >= self._stop:
                self._advance()
                continue
            stop = int(np.searchsorted(rows, self._stop))
            some, values = rows[done:stop] - self._start, self._present()
            if not np.array_equal(some, np.arange(len(values))):  # else it is the whole chunk
                values = values.take(some, axis=0)
            out[places[done:stop]] = values
            done = stop

    def _advance(self) -> None:
        self._values = self._chunk = None
        self._chunk = next(self._chunks, None)
        expected, found = self._source.lengths[self._part], self._stop
        if self._chunk is not None:
            found += self._chunk.shape[0]
        if self._chunk is None or found > expected:
            self.close()
            raise ValueError(
                f"The source had {counted(expected, 'row')} when it was first read, and {found} "
                "now; it must yield the same rows every time that it is read."
            )
        self._start, self._stop = self._stop, found

    def _present(self) -> np.ndarray:
        """Return the numbers of the current chunk."""
        if self._values is None:
            try:
                self._values = self._convert(self._chunk)
            except (TypeError, ValueError) as error:
                first = self._starts[self._part] + self._start
                n_rows = self._stop - self._start
                error.add_note(f"In the chunk of X that has the rows {first} to {first + n_rows}.")
                raise
            self._chunk = None
        return self._values
