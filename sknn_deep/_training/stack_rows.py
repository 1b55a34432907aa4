"""The rows of a stack's networks: shared orders, gathered batches.

If all networks of a stack share one order, their products read the same memory: the batch is a
tensor whose first stride is zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.features import joined
from sknn_deep._engine.samples import Samples
from sknn_deep._training.training import SharedOrder, Training

# Sets of at most this many bytes in total are copied into one, so that one call gathers all rows.
_JOINED_BYTES = 2**23


def sources_of(
    sets: list[Batches], device: torch.device, dtype: torch.dtype
) -> tuple[list[tuple[slice, Batches]], np.ndarray]:
    """Return the sources from which rows are gathered, and the offset of each set's rows in them.

    Returns
    -------
    sources : list of (slice, Batches)
        Adjacent sets whose rows are gathered by one call, and the source.
    offsets : ndarray of int, length K
        Added to the row numbers of each set.
    """
    keys = [(id(batches.samples.X), id(batches.samples.targets)) for batches in sets]
    distinct = dict(zip(keys, sets, strict=True))
    samples = [batches.samples for batches in distinct.values()]
    one = _joined(samples) if len(samples) > 1 else None
    if one is not None:
        n_rows = [len(own.X) for own in samples]
        source = Batches(one, batch_size=sum(n_rows), device=device, dtype=dtype)
        starts = dict(zip(distinct, np.cumsum([0, *n_rows[:-1]]), strict=True))
        return [(slice(len(sets)), source)], np.array([starts[key] for key in keys])
    groups = [list(ks) for _, ks in groupby(range(len(sets)), key=keys.__getitem__)]
    by_row = {key: _by_row(batches, device, dtype) for key, batches in distinct.items()}
    sources = [(slice(ks[0], ks[-1] + 1), by_row[keys[ks[0]]]) for ks in groups]
    return sources, np.zeros(len(sets), dtype=np.intp)


def _by_row(batches: Batches, device: torch.device, dtype: torch.dtype) -> Batches:
    """Return a source for the rows of a set, with a row-major copy if it is stored by column.

    Columns of any size can be read ahead in the order of one network, but not in those of many.
    """
    X = batches.samples.X
    rows = X.in_rows(np.inf) if device.type == "cpu" else X
    if rows is X:
        return batches
    samples = batches.samples._replace(X=rows, weight=None)
    return Batches(samples, batch_size=len(rows), device=device, dtype=dtype)


def _joined(sets: list[Samples]) -> Samples | None:
    """Return small in-memory sets as one; None for others."""
    parts = [part for own in sets for part in (own.X, own.targets) if part is not None]
    if sum(part.nbytes for part in parts) > _JOINED_BYTES:
        return None
    X = joined([own.X for own in sets])
    if X is None:
        return None
    targets: list[Any] = [own.targets for own in sets]  # all have them, or none
    return Samples(X, None, None if targets[0] is None else np.concatenate(targets), None)


@dataclass
class _Order:
    """Networks with the same order of rows; ``shared`` is None if there is only one."""

    members: list[int]
    shared: SharedOrder | None


def orders_of(trainings: list[Training]) -> list[_Order]:
    """Group trainings that shuffle identically, and let those of a group share their order."""
    groups: dict[tuple, list[int]] = {}
    for k, training in enumerate(trainings):
        groups.setdefault(training.order_key(), []).append(k)
    orders = []
    for members in groups.values():
        shared = SharedOrder(trainings[members[0]]) if len(members) > 1 else None
        if shared is not None:
            for k in members:
                trainings[k].share(shared)
        orders.append(_Order(members, shared))
    return orders


class Gathered:
    """Rows of a stack, gathered once per order.

    Attributes
    ----------
    of_networks : Tensor of shape (n_networks, n_rows, ...), or None
        The rows of each network; None if ``new`` returns None.
    """

    def __init__(self, new: Callable, n_rows: int, order_of: Tensor, n_orders: int):
        n_networks = len(order_of)
        own = new((1 if n_orders == 1 else n_networks, n_rows))
        self._own = self._of_orders = self.of_networks = own
        if own is None:
            return
        self._order_of = order_of[: len(own)]
        self.of_networks = own.expand(n_networks, *own.shape[1:])
        if len(own) != n_orders or not own.is_contiguous():
            self._of_orders = own.new_empty((n_orders, *own.shape[1:]))

    def part(self, orders: slice) -> Tensor | None:
        """Return the buffer for the rows of some orders, one order after the other."""
        return None if self._own is None else self._of_orders[orders].flatten(0, 1)

    def hand_out(self) -> None:
        """Copy the gathered rows to the networks, unless they share the memory."""
        if self._of_orders is self._own:
            return
        if self._own.is_contiguous():
            torch.index_select(self._of_orders, 0, self._order_of, out=self._own)
        else:
            self._own.copy_(self._of_orders.index_select(0, self._order_of))


class StackBuffers(NamedTuple):
    """Buffers for the gathered rows of each network."""

    X: Gathered
    target: Gathered
    scale: Tensor | None
