"""Communication between processes that train one network together.

The processes are the ranks of a ``torch.distributed`` process group. Each computes its rows of
every batch, and sums over the batch are reduced over the ranks, which leaves the same bits on all
of them. All decisions are made by rank 0.

Either every rank has all rows, and batches are shared evenly; or each has rows of its own
(``sknn_deep/_engine/divided_rows.py``), and computes those of them that are in the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

_SAME_DATA = "Pass the same data and parameters on every rank; each takes its rows of a batch."
_present: ContextVar["Ranks | None"] = ContextVar("ranks", default=None)


class RowShare:
    """Which rows of the current batch belong to this rank.

    Attributes
    ----------
    n_rows : int
        Number of rows of the batch, over all ranks.
    rows : slice or Tensor of int
        This rank's rows.
    lengths : sequence of int
        Number of rows of each rank; empty if they are divided evenly.
    """

    def __init__(self) -> None:
        self.set(0, slice(0, 0))

    def set(self, n_rows: int, rows: slice | Tensor, lengths: Sequence[int] = ()) -> None:
        """Set the share of the next batch."""
        self.n_rows, self.rows, self.lengths = n_rows, rows, lengths


class Ranks:
    """The processes of a group, seen from one of them.

    Attributes
    ----------
    rank : int
        Number of this process.
    size : int
        Number of processes.
    share : RowShare
        Which rows of the current training batch belong to this rank.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.share = rank, size, RowShare()

    def part_of(self, n_rows: int) -> slice:
        """Return this rank's part of evenly divided rows; parts differ by at most one row."""
        starts = self._starts(n_rows)
        return slice(starts[self.rank], starts[self.rank + 1])

    def lengths(self) -> Sequence[int]:
        """Return how many rows of the current batch each rank has."""
        if self.share.lengths:
            return self.share.lengths
        starts = self._starts(self.share.n_rows)
        return [stop - start for start, stop in pairwise(starts)]

    def _starts(self, n_rows: int) -> list[int]:
        return [n_rows * rank // self.size for rank in range(self.size + 1)]

    def add_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks."""
        self.begin_to_add_(tensor)()
        return tensor

    def begin_to_add_(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to replace a tensor by its sum over the ranks; return a function to wait for it."""
        return dist.all_reduce(tensor, async_op=True).wait

    def copy_first_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0."""
        dist.broadcast(tensor, 0)
        return tensor

    def first(self, value: Any) -> Any:
        """Return rank 0's value, a picklable object."""
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def collected(self, value: Any) -> list[Any]:
        """Return the values of all ranks, picklable objects."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Return the concatenated rows of all ranks."""
        return np.concatenate(self.collected(rows))

    def check_alike(self, values: dict[str, Any], remedy: str = _SAME_DATA) -> None:
        """Raise an error if values differ between the ranks.

        Parameters
        ----------
        values : dict
            Values by their names in the error message.
        remedy : str
            Last sentence of the message.

        Raises
        ------
        ValueError
            On every rank.
        """
        found = self.collected(values)
        for name in values:
            of_each = [own[name] for own in found]
            if any(value != of_each[0] for value in of_each):
                raise ValueError(
                    f"{name} differs between the processes that train together: it is "
                    f"{', '.join(f'{value} on rank {i}' for i, value in enumerate(of_each))}. "
                    + remedy
                )


def present_ranks() -> Ranks | None:
    """Return the ranks that currently train together; None if a process trains alone."""
    return _present.get()


@contextmanager
def training_together(ranks: Ranks | None = None) -> Iterator[Ranks]:
    """Share the fits of a block between ranks, by default all of torch's process group."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size()) if ranks is None else ranks
    token = _present.set(ranks)
    try:
        yield ranks
    finally:
        _present.reset(token)
