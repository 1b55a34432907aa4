"""Rows of which each of several processes has some, and none has all.

All know which rank has which row, and targets and weights of every row. So they draw the same
order, and the rows of a batch that a rank has are its share of it. Statistics are joined from those
of each rank's rows. Where rows themselves are asked for, such as those that scales are learned
from, the ranks send each other theirs: each must ask for the same.

:class:`DividedTable` is what such a process passes to ``fit`` as X, and :class:`DividedRows` is
what it is validated to.
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
    """The rows that this process has of a table, and who has the others.

    Parameters
    ----------
    own : array, sparse matrix or frame of shape (n_own, n_features)
        In the order of all rows. Where this process has none, a row that is like the others'.
    owners : ndarray of int, shape (n_rows,)
        The rank that has each row.
    ranks : Ranks
    digest : ndarray of uint8, default=None
        What tells all rows from others, where a checkpoint is kept.
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
    """Features of rows of which each rank has some.

    Parameters
    ----------
    own : Features of shape (n_own, n_features)
        The rows of this rank, in the order of all.
    owners : ndarray of int, shape (n_rows,)
        The rank that has each row.
    ranks : Ranks
    digest : ndarray of uint8, default=None
        As of :class:`DividedTable`.

    Attributes
    ----------
    own : Features
        The rows of this rank.
    own_rows : ndarray of int, shape (n_own,)
        Their numbers among all, ascending.
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
        """Where among its own rows this rank has each row, shape (n_rows,); -1 for the others'."""
        places = np.full(len(self), -1)
        places[self.own_rows] = np.arange(len(self.own_rows))
        return places

    def with_own(self, own: Features) -> "DividedRows":
        """Return the same rows with other features."""
        return DividedRows(own, self._owners, self._ranks, self._digest)

    def share_of(self, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return which of some rows this rank has, by their place, and how many each rank has."""
        owners = self._owners[rows]
        counts = np.bincount(owners, minlength=self._ranks.size)
        return np.flatnonzero(owners == self._ranks.rank), counts.tolist()

    def joined(self, rows: np.ndarray | None) -> np.ndarray:
        """Return what all ranks have computed of their rows, in the order of the rows.

        Parameters
        ----------
        rows : ndarray with n_own rows, or None
            None, or no rows, where this rank has none.
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
        """Bytes of the rows that are here."""
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
        """Return None: those of this rank may be."""
        return None

    def unwrapped(self) -> "ElsewhereRows":
        return ElsewhereRows(self)

    def stored(self) -> Iterator[np.ndarray]:
        if self._digest is None:
            raise RuntimeError("Rows that are divided have no digest where no checkpoint is kept.")
        yield self._digest

    def numbers(self) -> Iterator[np.ndarray]:
        """Yield every number of the rows that are here: each rank checks its own."""
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
    """What a splitter or a callback sees of divided rows: how many there are."""

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
