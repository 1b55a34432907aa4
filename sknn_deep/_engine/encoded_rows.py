"""Rows of a table as an autoencoder reconstructs them: scaled numbers, then one-hot codes.

An autoencoder's input is also its target, so both are encoded once, before anything else sees them:
the numbers come first, scaled if requested, followed by one indicator per category for each
categorical column. A category not seen in training is encoded as zeros.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.features import ArrayRows, Features, Reader, SparseRows
from sknn_deep._networks.number_inputs import CLIP

# A number thirty scales from the center is clipped to this share of the clip's limit.
ALMOST_ONE = 0.995
# Encoded rows of at most this many bytes are cached; larger sets are encoded in every epoch.
_KEPT_BYTES = 2**28


@dataclass(frozen=True)
class TableEncoding:
    """The encoding of numbers and category codes.

    Parameters
    ----------
    n_features : int
    categories : sequence of (int, int), default=()
        The columns that hold codes, and the number of categories of each.
    center, scale : ndarray of shape (n_numbers,), default=None
        Subtracted from the numbers, and the divisor of the result.
    is_clipped : bool, default=False
        Whether scaled numbers are then clipped smoothly, z / sqrt(1 + (z / 3)²).

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._engine.encoded_rows import TableEncoding
    >>> encoding = TableEncoding(2, [(0, 3)])
    >>> encoding.encode(np.array([[1.0, 0.5], [-1.0, 2.0]]))
    array([[0.5, 0. , 1. , 0. ],
           [2. , 0. , 0. , 0. ]])
    >>> encoding.decode(np.array([[0.4, 0.2, 0.7, 0.1]]))
    (array([[0.4]]), array([[1]]))
    """

    n_features: int
    categories: Sequence[tuple[int, int]] = ()
    center: np.ndarray | None = None
    scale: np.ndarray | None = None
    is_clipped: bool = False

    @cached_property
    def numbers(self) -> list[int]:
        """The columns that hold numbers."""
        of_categories = {column for column, _ in self.categories}
        return [j for j in range(self.n_features) if j not in of_categories]

    @cached_property
    def columns(self) -> list[int]:
        """All columns in their new order: numbers, then categories."""
        return [*self.numbers, *(column for column, _ in self.categories)]

    @cached_property
    def places(self) -> np.ndarray:
        """The position of each column of the table in that order."""
        return np.argsort(self.columns)

    @property
    def n_encoded(self) -> int:
        """The number of columns of encoded rows."""
        return len(self.numbers) + sum(n for _, n in self.categories)

    def encode(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Encode numbers and codes, shape (n_rows, n_features), into shape (n_rows, n_encoded)."""
        if out is None:
            out = np.empty((len(rows), self.n_encoded), rows.dtype)
        start = len(self.numbers)
        numbers = out[:, :start]
        numbers[...] = rows[:, self.numbers] if self.categories else rows
        if self.center is not None and self.scale is not None:
            numbers -= self.center
            numbers /= self.scale
        if self.is_clipped:
            numbers /= np.sqrt(1 + np.square(numbers / CLIP))
        for column, n_categories in self.categories:
            indicators = out[:, start : start + n_categories]
            np.equal(rows[:, [column]], np.arange(n_categories), out=indicators, casting="unsafe")
            start += n_categories
        return out

    def encode_numbers(self, rows: Tensor) -> Tensor:
        """Encode rows without categories like :meth:`encode`, on their device."""
        if self.center is not None and self.scale is not None:
            rows = (rows - _there(self.center, rows)) / _there(self.scale, rows)
        return rows / (1 + (rows / CLIP).square()).sqrt() if self.is_clipped else rows

    def decode_numbers(self, encoded: Tensor) -> Tensor:
        """Return encoded numbers in their original units, on their device."""
        numbers = encoded
        if self.is_clipped:
            # a reconstruction may lie outside the range of the clip
            share = (numbers / CLIP).clamp(-ALMOST_ONE, ALMOST_ONE)
            numbers = CLIP * share / (1 - share.square()).sqrt()
        if self.center is not None and self.scale is not None:
            numbers = numbers * _there(self.scale, numbers) + _there(self.center, numbers)
        return numbers

    def decode(self, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers in their original units and the likeliest codes, -1 without categories."""
        start = len(self.numbers)
        numbers = self.decode_numbers(torch.from_numpy(encoded[:, :start].copy())).numpy()
        codes = np.full((len(encoded), len(self.categories)), -1)
        for i, (_, n_categories) in enumerate(self.categories):
            if n_categories:
                codes[:, i] = encoded[:, start : start + n_categories].argmax(axis=1)
            start += n_categories
        return numbers, codes


def _there(numbers: np.ndarray, other: Tensor) -> Tensor:
    """Return numbers as a tensor with the device and type of another."""
    return torch.from_numpy(numbers).to(other)


class EncodedRows(Features):
    """Encoded rows of other features.

    Parameters
    ----------
    features : Features of shape (n_rows, n_features)
        Numbers and codes.
    encoding : TableEncoding
    """

    def __init__(self, features: Features, encoding: TableEncoding):
        super().__init__((len(features), encoding.n_encoded), features.dtype)
        self._features, self._encoding = features, encoding
        self.kind, self.columns = features.kind, features.columns
        self.is_streamed = features.is_streamed

    @cached_property
    def _kept(self) -> ArrayRows | None:
        """All rows, encoded; None if they are too large to cache, sparse or streamed."""
        n_bytes = len(self) * self.shape[1] * self.dtype.itemsize
        is_kept = not (self.is_streamed or isinstance(self._features, SparseRows))
        if n_bytes > _KEPT_BYTES or not is_kept:
            return None
        return ArrayRows(self._encoding.encode(self._features.read(slice(None))))

    @property
    def tensor(self) -> Tensor | None:
        return None if self._kept is None else self._kept.tensor

    @property
    def nbytes(self) -> int:
        return self._features.nbytes if self._kept is None else self._kept.nbytes

    def read(self, part: slice) -> np.ndarray:
        if self._kept is not None:
            return self._kept.read(part)
        return self._encoding.encode(self._features.read(part))

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        if self._kept is not None:
            self._kept.gather(rows, out)
        else:
            self._encode(self._features.reader(rows), slice(0, len(rows)), out)

    def reader(self, order: np.ndarray) -> Reader:
        if self._kept is not None:
            return self._kept.reader(order)
        read = self._features.reader(order)
        return lambda part, out: self._encode(read, part, out)

    def _encode(self, read: Reader, part: slice, out: Tensor) -> None:
        rows = torch.empty((len(out), self._features.shape[1]), dtype=out.dtype)
        read(part, rows)
        self._encoding.encode(rows.numpy(), out.numpy())

    def shuffle(
        self, order: np.ndarray, rows: np.ndarray | None, random_state: np.random.RandomState
    ) -> None:
        self._features.shuffle(order, rows, random_state)

    def reading_order(self, rows: np.ndarray) -> np.ndarray:
        return self._features.reading_order(rows)

    def take(self, rows: np.ndarray) -> "EncodedRows":
        return EncodedRows(self._features.take(rows), self._encoding)

    def in_memory(self) -> Any:
        """Return unencoded numbers and codes; an estimator given these encodes them itself."""
        return self._features.in_memory()

    def stored(self) -> Iterator[np.ndarray]:
        return self._features.stored()
