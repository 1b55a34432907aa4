"""Several processes that train one network together: what they say to each other.

The processes are the ranks of a process group of ``torch.distributed``. Each takes its rows of
every batch, and sums over the batch are added up over the ranks, which leaves the same bits on all
of them. Whatever is decided, rank 0 decides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

_present: ContextVar["Ranks | None"] = ContextVar("ranks", default=None)


class RowShare:
    """Which rows of the present batch are this rank's.

    Attributes
    ----------
    n_rows : int
        How many rows the batch has, over all ranks.
    rows : slice
        Those of this rank.
    """

    def __init__(self) -> None:
        self.n_rows, self.rows = 0, slice(0, 0)

    def set(self, n_rows: int, rows: slice) -> None:
        """Say it of the batch to come."""
        self.n_rows, self.rows = n_rows, rows


class Ranks:
    """The processes of a group, seen from one of them.

    Attributes
    ----------
    rank : int
        Number of this process.
    size : int
        How many processes there are.
    share : RowShare
        Which rows of the batch that is trained on are this rank's.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.share = dist.get_rank(), dist.get_world_size(), RowShare()

    def part_of(self, n_rows: int) -> slice:
        """Return which of so many rows are this rank's: as many as each other's, or one more."""
        starts = self._starts(n_rows)
        return slice(starts[self.rank], starts[self.rank + 1])

    def lengths(self, n_rows: int) -> list[int]:
        """Return how many of so many rows each rank has."""
        starts = self._starts(n_rows)
        return [stop - start for start, stop in pairwise(starts)]

    def _starts(self, n_rows: int) -> list[int]:
        return [n_rows * rank // self.size for rank in range(self.size + 1)]

    def add_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks."""
        dist.all_reduce(tensor)
        return tensor

    def copy_first_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0."""
        dist.broadcast(tensor, 0)
        return tensor

    def first(self, value: Any) -> Any:
        """Return what rank 0 has, an object that pickles."""
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of all ranks, one rank's after the other's."""
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return np.concatenate(parts)

    def check_alike(self, **values: Any) -> None:
        """Refuse what differs between the ranks.

        Raises
        ------
        ValueError
            On every rank.
        """
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, values)
        for name in values:
            of_each = [own[name] for own in found]
            if any(value != of_each[0] for value in of_each):
                raise ValueError(
                    f"{name} differs between the processes that train together: it is "
                    f"{', '.join(f'{value} on rank {i}' for i, value in enumerate(of_each))}. Pass "
                    "the same data and parameters on every rank; each takes its rows of a batch."
                )


def present_ranks() -> Ranks | None:
    """Return the ranks that train together at present; None where a process trains alone."""
    return _present.get()


@contextmanager
def training_together() -> Iterator[Ranks]:
    """Let the fits of a block be those of all ranks of the process group."""
    ranks = Ranks()
    token = _present.set(ranks)
    try:
        yield ranks
    finally:
        _present.reset(token)
