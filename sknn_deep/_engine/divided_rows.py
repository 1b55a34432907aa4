"""Rows that are divided between several processes, none of which holds all of them.

Every rank knows which rank has which row, and the targets and weights of all rows. So all ranks
draw the same order, and a rank's share of a batch consists of those rows that it holds. Statistics
are combined from those of each rank's rows. When the rows themselves are needed, for instance to
learn scales, the ranks exchange them: all must request the same rows.

Such a process passes a :class:`DividedTable` to ``fit`` as X; validation turns it into
:class:`DividedRows`.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.features import Features
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._wording import counted


class DividedTable:
    """The rows of a table that this process has, and the owners of all rows.

    Parameters
    ----------
    own : array, sparse matrix or frame of shape (n_own, n_features)
        The rows in their overall order. If this process has none, one row of the same kind.
    owners : ndarray of int, shape (n_rows,)
        The rank that has each row.
    ranks : Ranks
    digest : ndarray of uint8, default=None
        Hash that identifies the rows of all processes, needed for checkpoints.
    """

    ndim = 2

    def __init__(
        self, own: Any, owners: np.ndarray, ranks: Ranks, digest: np.ndarray | None = None
    ):
        self.own, self.owners, self.ranks, self.digest = own, owners, ranks, digest
        self.shape = (len(owners), own.shape[1])

    def __len__(self) -> int:
        return self.shape[0]


class DividedRows(Features):
    """Features of rows that are divided between ranks.

    Parameters
    ----------
    own : Features of shape (n_own, n_features)
        The rows of this rank, in their overall order.
    owners : ndarray of int, shape (n_rows,)
        The rank that has each row.
    ranks : Ranks
    digest : ndarray of uint8, default=None
        See :class:`DividedTable`.

    Attributes
    ----------
    own : Features
        The rows of this rank.
    own_rows : ndarray of int, shape (n_own,)
        Their overall row numbers, ascending.
    """

    def __init__(
        self, own: Features, owners: np.ndarray, ranks: Ranks, digest: np.ndarray | None = None
    ):
        super().__init__((len(owners), own.shape[1]), own.dtype)
        self.own, self.kind, self.columns = own, own.kind, own.columns
        self._owners, self._ranks, self._digest = owners, ranks, digest
        self.own_rows = np.flatnonzero(owners == ranks.rank)

    @cached_property
    def places(self) -> np.ndarray:
        """Position of each row among this rank's own, shape (n_rows,); -1 for other ranks' rows."""
        places = np.full(len(self), -1)
        places[self.own_rows] = np.arange(len(self.own_rows))
        return places

    def with_own(self, own: Features) -> "DividedRows":
        """Return the same rows with other features."""
        return DividedRows(own, self._owners, self._ranks, self._digest)

    def share_of(self, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return the positions in ``rows`` that this rank has, and how many each rank has."""
        owners = self._owners[rows]
        counts = np.bincount(owners, minlength=self._ranks.size)
        return np.flatnonzero(owners == self._ranks.rank), counts.tolist()

    def joined(self, rows: np.ndarray | None) -> np.ndarray:
        """Combine what all ranks have computed for their rows, in the overall order.

        Parameters
        ----------
        rows : ndarray with n_own rows, or None
            None or empty if this rank has no rows.
        """
        parts = self._ranks.collected(rows)
        example = next(part for part in parts if part is not None and len(part))
        out = np.empty((len(self), *example.shape[1:]), example.dtype)
        for rank, part in enumerate(parts):
            if part is not None and len(part):
                out[self._owners == rank] = part
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's rows."""
        return self.own.nbytes

    def read(self, part: slice) -> np.ndarray:
        if part.indices(len(self)) == (0, len(self), 1):
            return self.joined(np.asarray(self.own))
        return self.take(np.arange(*part.indices(len(self)))).read(slice(None))

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        out.copy_(torch.from_numpy(self.take(rows).read(slice(None))))

    def take(self, rows: np.ndarray) -> "DividedRows":
        own = self.places[rows]
        return DividedRows(self.own.take(own[own >= 0]), self._owners[rows], self._ranks)

    def resident(self, device: torch.device, dtype: torch.dtype, most_bytes: float) -> None:
        """Return None: only this rank's own rows can be on its device."""
        return None

    def unwrapped(self) -> "ElsewhereRows":
        return ElsewhereRows(self)

    def stored(self) -> Iterator[np.ndarray]:
        if self._digest is None:
            raise RuntimeError("Rows that are divided have no digest where no checkpoint is kept.")
        yield self._digest

    def numbers(self) -> Iterator[np.ndarray]:
        """Yield every number of this rank's rows: each rank checks its own."""
        return self.own.numbers()

    # ------------------------------------------------------------------ statistics of all rows

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        own = None if weight is None else weight[self.own_rows]
        return sum(self._ranks.collected(self.own.weighted_sums(own)))

    def known_sums(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = np.stack(self.own.known_sums(weight[self.own_rows]))
        sums, totals = sum(self._ranks.collected(own))
        return sums, totals

    def missing(self) -> np.ndarray:
        return np.logical_or.reduce(self._ranks.collected(self.own.missing()))

    def column_limits(self) -> tuple[np.ndarray, np.ndarray]:
        of_ranks = self._ranks.collected(self.own.column_limits() if len(self.own) else None)
        low, high = zip(*filter(None, of_ranks), strict=True)
        return np.fmin.reduce(low), np.fmax.reduce(high)

    def limits(self) -> tuple[float, float]:
        of_ranks = self._ranks.collected(self.own.limits() if len(self.own) else None)
        low, high = zip(*filter(None, of_ranks), strict=True)
        return float(np.fmin.reduce(low)), float(np.fmax.reduce(high))


class ElsewhereRows:
    """What a splitter or a callback sees of divided rows: their number only."""

    ndim = 2

    def __init__(self, features: Features):
        self.shape, self.dtype = features.shape, features.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(
            f"X, {counted(self.shape[0], 'row')}, is divided between processes, and a callback or "
            "a splitter is in one of them. Score by the parameter scoring instead, and choose a "
            "splitter that looks at y or groups alone."
        )

    def __getitem__(self, key: Any) -> NoReturn:
        self.__array__()
