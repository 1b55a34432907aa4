"""Large memory-mapped arrays: read piece by piece, and released.

Pages read from a memory map count as the process's memory until another process needs it, so an
epoch over a file would take as much memory as the file is long. The pages can be released: they
stay in the system's page cache as long as there is room, and the next access finds them there.
"""

import mmap
import weakref
from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np

# Maps of fewer bytes may stay in memory as a whole.
_LARGE = 2**28
# The process may grow by this many bytes of files before the pages are released. That is checked
# after this many rows, or this many contiguous bytes: on access to a single row, Linux maps the
# contiguous part of its page cache around it, up to two mebibytes.
_HELD, _ROWS_AT_ONCE, _BYTES_AT_ONCE = 2**25, 16, 2**23
# Bytes of files that were in the process's memory after the pages of a map were last released.
_resident_before: "weakref.WeakKeyDictionary[mmap.mmap, int]" = weakref.WeakKeyDictionary()


class Mapped:
    """Rows of a large memory map, converted as they are read.

    Indexing with an array of row numbers copies nothing; the rows are read when needed.

    Parameters
    ----------
    array : ndarray of shape (n_rows, n_features)
        A view of the map, with contiguous rows.
    dtype : dtype
        Type to which rows are converted when read.
    rows : ndarray of int, default=None
        The rows of the array to include; None for all.
    """

    def __init__(self, array: np.ndarray, dtype: np.dtype | type, rows: np.ndarray | None = None):
        self._array, self.dtype, self._rows = array, np.dtype(dtype), rows
        self._map: mmap.mmap = map_of(array)  # type: ignore[assignment]  # is_large_map() has seen it
        n_rows = len(array) if rows is None else len(rows)
        self.shape = (n_rows, array.shape[1])
        self.size = n_rows * array.shape[1]
        self._bytes_of_a_row = array.shape[1] * array.itemsize
        self.nbytes = n_rows * self._bytes_of_a_row

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, key: slice) -> np.ndarray: ...

    @overload
    def __getitem__(self, key: np.ndarray) -> "Mapped": ...

    def __getitem__(self, key: slice | np.ndarray) -> "np.ndarray | Mapped":
        """Return a copy of the rows for a slice, and a lazy selection for row numbers."""
        if not isinstance(key, slice):
            return Mapped(self._array, self.dtype, self._numbers(key))
        start, stop, step = key.indices(len(self))
        n_rows = len(range(start, stop, step))
        out = np.empty((n_rows, self.shape[1]), self.dtype)
        if step != 1 or self._rows is not None:
            return self.take(np.arange(start, stop, step), out=out)
        at_once = max(1, _BYTES_AT_ONCE // self._bytes_of_a_row)
        for piece in _pieces(n_rows, at_once):
            out[piece] = self._array[start + piece.start : start + piece.stop]
            self._hand_back()
        return out

    def take(
        self,
        rows: np.ndarray,
        axis: int = 0,
        *,
        out: np.ndarray,
        mode: Literal["raise", "wrap", "clip"] = "clip",
    ) -> np.ndarray:
        """Gather rows into a buffer, like ``numpy.take``."""
        rows = self._numbers(rows)
        for piece in _pieces(len(rows), _ROWS_AT_ONCE):
            if self._array.dtype == out.dtype:
                self._array.take(rows[piece], axis=axis, out=out[piece], mode=mode)
            else:
                out[piece] = self._array[rows[piece]]
            self._hand_back()
        return out

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield copies of all rows in order, in pieces."""
        for piece in _pieces(len(self), max(1, _BYTES_AT_ONCE // self._bytes_of_a_row)):
            yield self[piece]

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._rows is None else self._rows[rows]

    def _hand_back(self) -> None:
        """Release the pages that were read, if there are many."""
        resident = _resident()
        if resident is None or resident - _resident_before.get(self._map, 0) > _HELD:
            self._map.madvise(mmap.MADV_DONTNEED)
            _resident_before[self._map] = _resident() or 0


def _resident() -> int | None:
    """Return how many bytes of files are in this process's memory; None if unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return None


def _pieces(n_rows: int, at_once: int) -> list[slice]:
    return [slice(i, min(i + at_once, n_rows)) for i in range(0, n_rows, at_once)]


def map_of(array: Any) -> mmap.mmap | None:
    """Return the memory map that an array is a view of, if its pages can be released.

    Those of a private copy (``mode="c"``) cannot: they hold the only copy of what was written.
    """
    mode = None
    while array is not None and not isinstance(array, mmap.mmap):
        mode = getattr(array, "mode", mode)
        array = getattr(array, "base", None)
    is_kept = mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED")
    return array if is_kept else None


def is_large_map(X: Any) -> bool:
    """Return whether X is a large memory map, whose rows are read piece by piece."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return False
    map_ = map_of(X)
    return map_ is not None and len(map_) >= _LARGE and X.flags.c_contiguous
