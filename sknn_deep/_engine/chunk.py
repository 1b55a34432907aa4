"""Batches that are on the network's device, and all samples as one batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.divided_rows import DividedRows
from sknn_deep._engine.features import SparseRows, to_device
from sknn_deep._engine.samples import Samples, check_weight
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._hardware.sparse_products import SparseBatch


class Chunk(NamedTuple):
    """One or more batches that are gathered together, because they are small.

    Attributes
    ----------
    X : Tensor or SparseBatch of shape (rows, n_features)
        Like the rest, valid until the next chunk is gathered. A SparseBatch holds a single batch.
    target : Tensor of shape (rows, n_outputs) or (rows,)
    scale : Tensor of shape (rows, 1) or None
        Weight of each row divided by the sum of the weights of its batch.
    parts : list of slice
        The rows of each batch.
    weight_sums : list of float
        Sum of each batch's weights; the number of its rows if there are no weights.
    first : int
        Index of the first batch in the epoch.
    shares : list of (int, slice)
        For each batch that several processes share evenly: the number of its rows, and which of
        them are this process's. Empty if one process has all rows, or each has rows of its own.
    is_own : bool
        Whether the chunk holds only this process's rows of one batch.
    """

    X: Any
    target: Tensor
    scale: Tensor | None
    parts: list[slice]
    weight_sums: list[float]
    first: int = 0
    shares: Sequence[tuple[int, slice]] = ()
    is_own: bool = False

    def of_rank(self, ranks: Ranks) -> "Chunk":
        """Return this process's rows of a chunk that is one batch."""
        if self.is_own:
            return self
        n_rows = self.X.shape[0]
        own = ranks.part_of(n_rows)
        X = self.X.part(own) if isinstance(self.X, SparseBatch) else self.X[own]
        scale = self.X[:0].new_full((n_rows, 1), 1 / n_rows) if self.scale is None else self.scale
        return self._replace(
            X=X,
            target=self.target[own],
            scale=scale[own],
            parts=[slice(0, own.stop - own.start)],
            shares=[(n_rows, own)],
        )


def suits_products(samples: Samples, n_rows: int) -> bool:
    """Return whether batches of this many rows are best multiplied as sparse rows."""
    has_targets = samples.targets is not None  # else the rows are also the (dense) targets
    return has_targets and isinstance(samples.X, SparseRows) and samples.X.suits_products(n_rows)


def whole(
    samples: Samples,
    *,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks | None = None,
    may_be_sparse: bool = False,
) -> Chunk:
    """Return all samples in order as one batch; of divided rows, those of this rank.

    Options are those of :class:`Batches`.
    """
    check_weight(samples.weight)
    if ranks is not None and isinstance(samples.X, DividedRows):
        return _whole_share(samples, samples.X, device, dtype, ranks)
    X: Any
    if may_be_sparse and suits_products(samples, len(samples.X)):
        X = SparseBatch(samples.X.unwrapped())
    else:
        X = samples.X.to(slice(None), device, dtype)
    target = X if samples.targets is None else to_device(samples.targets, device, dtype)
    parts = [slice(0, X.shape[0])]
    if samples.weight is None:
        return Chunk(X, target, None, parts, [float(X.shape[0])])
    weight_sum = float(samples.weight.sum())
    scale = to_device((samples.weight / weight_sum)[:, np.newaxis], device, dtype)
    return Chunk(X, target, scale, parts, [weight_sum])


def _whole_share(
    samples: Samples, X: DividedRows, device: torch.device, dtype: torch.dtype, ranks: Ranks
) -> Chunk:
    """Return this rank's rows of all samples, as its share of one batch."""
    n_rows, weight, own = len(X), samples.weight, samples.own()
    places, lengths = X.share_of(np.arange(n_rows))
    ranks.share.set(n_rows, torch.from_numpy(places), lengths)
    sum_of_all = float(n_rows) if weight is None else float(weight.sum())
    factors = np.ones(len(places)) if own.weight is None else own.weight
    rows = own.X.to(slice(None), device, dtype)
    target = rows if own.targets is None else to_device(own.targets, device, dtype)
    scale = to_device((factors / sum_of_all)[:, np.newaxis], device, dtype)
    return Chunk(rows, target, scale, [slice(0, len(rows))], [sum_of_all], is_own=True)
