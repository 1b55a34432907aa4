"""Several processes that train one network together: what they say to each other.

The processes are the ranks of a process group of ``torch.distributed``. Each takes its rows of
every batch, and sums over the batch are added up over the ranks, which leaves the same bits on all
of them. Whatever is decided, rank 0 decides.

Each may have all rows, and take as many of a batch as the others. Or it has rows of its own
(``sknn_deep/_engine/divided_rows.py``), and takes those that a batch has of them.
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
    """Which rows of the present batch are this rank's.

    Attributes
    ----------
    n_rows : int
        How many rows the batch has, over all ranks.
    rows : slice or Tensor of int
        Those of this rank.
    lengths : sequence of int
        How many of them each rank has; empty where they are divided evenly.
    """

    def __init__(self) -> None:
        self.set(0, slice(0, 0))

    def set(self, n_rows: int, rows: slice | Tensor, lengths: Sequence[int] = ()) -> None:
        """Say it of the batch to come."""
        self.n_rows, self.rows, self.lengths = n_rows, rows, lengths


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

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.share = rank, size, RowShare()

    def part_of(self, n_rows: int) -> slice:
        """Return which of so many rows are this rank's: as many as each other's, or one more."""
        starts = self._starts(n_rows)
        return slice(starts[self.rank], starts[self.rank + 1])

    def lengths(self) -> Sequence[int]:
        """Return how many rows of the present batch each rank has."""
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
        """Begin to replace a tensor by its sum over the ranks; return what waits for it."""
        return dist.all_reduce(tensor, async_op=True).wait

    def copy_first_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0."""
        dist.broadcast(tensor, 0)
        return tensor

    def first(self, value: Any) -> Any:
        """Return what rank 0 has, an object that pickles."""
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def collected(self, value: Any) -> list[Any]:
        """Return what each rank has, objects that pickle."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of all ranks, one rank's after the other's."""
        return np.concatenate(self.collected(rows))

    def check_alike(self, values: dict[str, Any], remedy: str = _SAME_DATA) -> None:
        """Refuse what differs between the ranks.

        Parameters
        ----------
        values : dict
            By what the error calls them.
        remedy : str
            What it says last.

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
    """Return the ranks that train together at present; None where a process trains alone."""
    return _present.get()


@contextmanager
def training_together(ranks: Ranks | None = None) -> Iterator[Ranks]:
    """Let the fits of a block be those of some ranks, by default all of torch's process group."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size()) if ranks is None else ranks
    token = _present.set(ranks)
    try:
        yield ranks
    finally:
        _present.reset(token)
