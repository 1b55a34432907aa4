"""From validated features to device tensors: shuffled batches to train with.

No ``DataLoader``: an epoch is one permutation and one gather per batch, or per group of
batches if they are small. On the CPU, rows are gathered into one buffer that all batches
reuse, so features of any size are never copied whole. Features are moved to an accelerator
once if they fit, otherwise gather by gather from pinned memory.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.chunk import Chunk, suits_products
from sknn_deep._engine.divided_rows import DividedRows
from sknn_deep._engine.features import SparseRows, to_device
from sknn_deep._engine.order import Lookahead
from sknn_deep._engine.samples import Samples, check_weight
from sknn_deep._engine.transfer import Transfer
from sknn_deep._hardware.device import free_memory, has_streams
from sknn_deep._hardware.products import empty_matrix
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._hardware.sparse_products import SparseBatch

# Small batches are gathered together up to this size, which stays in the cache on a CPU.
_GATHER_BYTES = {"cpu": 2**22, "cuda": 2**26, "xpu": 2**26}
_MAX_TOGETHER = 64
# Share of an accelerator's free memory that the training features may take.
_RESIDENT_SHARE = 0.5


class Batches:
    """A training set, yielded in batches on the network's device.

    Parameters
    ----------
    samples : Samples
    rows : ndarray of int or None
        The rows of ``X`` that belong to this set; None for all.
    batch_size : int
    min_batch_size : int, default=0
        A shorter last batch is merged into the one before.
    n_outputs : int, default=1
        Number of outputs of the network, which may exceed the width of targets that are class
        indices.
    device : torch.device
    dtype : torch.dtype
    ranks : Ranks, default=None
        The processes that share every batch; each yields its own rows.
    may_be_sparse : bool, default=False
        Whether the network may multiply sparse rows directly, where that takes less time.

    Attributes
    ----------
    are_sparse : bool
        Whether batches are yielded as sparse rows.
    order : ndarray of int, shape (n_rows,)
        The current order of the rows of this set.
    slices : list of slice
        The rows of each batch, in the current order.
    n_batches : int
    """

    # which divided rows belong to a batch is known only once the epoch's order is drawn
    _divided: DividedRows | None = None

    def __init__(
        self,
        samples: Samples,
        *,
        rows: np.ndarray | None = None,
        batch_size: int,
        min_batch_size: int = 0,
        n_outputs: int = 1,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks | None = None,
        may_be_sparse: bool = False,
    ):
        X, weight = samples.X, samples.weight
        self.samples, self._rows, self._device, self._dtype = samples, rows, device, dtype
        n_samples = len(X) if rows is None else len(rows)
        check_weight(weight if rows is None or weight is None else weight[rows])
        self.order, self._lookahead = np.arange(n_samples), Lookahead()
        self.slices = batch_slices(n_samples, batch_size, min_batch_size)
        self.n_batches = len(self.slices)
        self.ranks = ranks
        self.are_sparse = may_be_sparse and suits_products(samples, self.longest)
        if ranks is not None and isinstance(X, DividedRows):
            self._divided = X
            X = X.own
        self._X = X
        self._width = max(self.n_features, n_outputs)
        self._shared: list[Buffers] | None = None
        # all rows on the device, if they are there already or fit
        self._all: Tensor | None = None
        if device.type == "cpu":
            self._all = X.tensor
        else:
            self._all = X.resident(device, dtype, _RESIDENT_SHARE * free_memory(device))

    @cached_property
    def _targets(self) -> Tensor | None:
        """All targets on the device; the networks of a stack share one copy."""
        own = self.samples if self._divided is None else self.samples.own()
        targets = own.targets
        return None if targets is None else to_device(targets, self._device, self._dtype)

    @cached_property
    def longest(self) -> int:
        """The number of this process's rows in the longest batch.

        For divided rows it is the average per rank.
        """
        if self._divided is not None and self.ranks is not None:
            return -(-max(self.sizes) // self.ranks.size)
        return max(part.stop - part.start for part in self._own_slices)

    @cached_property
    def sizes(self) -> list[int]:
        """The number of rows of each batch."""
        return [part.stop - part.start for part in self.slices]

    @cached_property
    def _shares(self) -> list[tuple[int, slice]]:
        """The number of rows of each batch and the slice that is this process's; empty if alone."""
        return [] if self.ranks is None else [(n, self.ranks.part_of(n)) for n in self.sizes]

    @cached_property
    def _own_slices(self) -> list[slice]:
        """The rows of each batch, as slices of this process's rows."""
        if self.ranks is None:
            return self.slices
        stops = np.cumsum([0, *(own.stop - own.start for _, own in self._shares)]).tolist()
        return [slice(*ends) for ends in pairwise(stops)]

    @cached_property
    def _own_places(self) -> np.ndarray | slice:
        """The positions of this process's rows in the order of an epoch."""
        if self.ranks is None:
            return slice(None)
        own = zip(self.slices, self._shares, strict=True)
        return np.concatenate(
            [np.arange(part.start + some.start, part.start + some.stop) for part, (_, some) in own]
        )

    def undivided(self) -> "Batches":
        """Return the same set in the same order, with all rows belonging to this process."""
        if self.ranks is None:
            return self
        whole = copy(self)
        own = ("_own_slices", "_own_places", "_shares", "_pieces", "_buffers", "longest")
        for name in (*own, "_targets", "_divided") if self._divided is not None else own:
            vars(whole).pop(name, None)
        if self._divided is not None:
            whole._X, whole._all = self._divided, None
        whole.ranks = None
        return whole

    def _divide(self, now: np.ndarray, X: DividedRows, ranks: Ranks) -> np.ndarray:
        """Set this process's rows of each batch of an epoch; return their places among its own."""
        shares = [X.share_of(now[part]) for part in self.slices]
        places = [place for place, _ in shares]
        stops = np.cumsum([0, *map(len, places)]).tolist()
        self._own_slices = [slice(*ends) for ends in pairwise(stops)]
        # batches of one chunk would need the same length
        self._pieces = [[own] for own in self._own_slices]
        self._uneven = [
            (n_rows, torch.from_numpy(place), lengths)
            for n_rows, (place, lengths) in zip(self.sizes, shares, strict=True)
        ]
        starts = [part.start for part in self.slices]
        return X.places[
            now[np.concatenate([p + start for p, start in zip(places, starts, strict=True)])]
        ]

    @cached_property
    def _pieces(self) -> list[list[slice]]:
        """The batches that are gathered together."""
        size = n_together(max(1, self.longest) * self._width * self._dtype.itemsize, self._device)
        size = 1 if self.are_sparse else size
        if self._shared is not None:
            return _by_powers_of_two(self._own_slices, size)
        return [self._own_slices[i : i + size] for i in range(0, self.n_batches, size)]

    def share(self, buffers: "list[Buffers]") -> None:
        """Reuse the buffers of earlier sets, or add new ones to the list if none is suitable.

        Batches are then grouped in powers of two, so that other sets have groups of the same size.
        """
        self._shared = buffers

    @cached_property
    def _buffers(self) -> "Buffers":
        """The buffers into which batches are gathered, allocated on first use."""
        n_rows = max(piece[-1].stop - piece[0].start for piece in self._pieces)
        if self._divided is not None:  # this process may have more rows of a batch in later epochs
            n_rows = max(self.sizes)
        for known in self._shared or []:
            if self._is_suited(known, n_rows):
                return known
        made = self._new_buffers(n_rows)
        if self._shared is not None:
            self._shared.insert(0, made)
        return made

    def _is_suited(self, buffers: "Buffers", n_rows: int) -> bool:
        """Return whether this many rows of the set can be gathered into these buffers."""
        target = self.new_target((0,))
        is_as_wide = target is None or (
            buffers.target is not None
            and buffers.target.dtype == target.dtype
            and buffers.target.shape[1:] == target.shape[1:]
        )
        return (
            isinstance(buffers.X, SparseBatch) == self.are_sparse
            and (self.are_sparse or len(buffers.X) >= n_rows)
            and buffers.X.shape[1] == self.n_features
            and is_as_wide
            and (buffers.scale is None) == (self.weight is None)
            and (buffers.transfer is None) == (self._all is not None)
        )

    def _new_buffers(self, n_rows: int) -> "Buffers":
        options: dict[str, Any] = {"dtype": self._dtype, "device": self._device}
        is_plain = self.weight is None and self.ranks is None
        scale = None if is_plain else torch.empty((n_rows, 1), **options)
        if isinstance(self.samples.X, SparseRows) and self.are_sparse:
            return Buffers(self.samples.X.no_rows(), self.new_target((n_rows,)), scale, None)
        X = torch.empty((n_rows, self.n_features), **options)
        is_far = self._all is None and has_streams(self._device)
        return Buffers(X, self.new_target((n_rows,)), scale, Transfer(X) if is_far else None)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.order)

    @property
    def n_features(self) -> int:
        """The number of features."""
        return self.samples.X.shape[1]

    @property
    def weight(self) -> np.ndarray | None:
        """The weights of all samples in the loss."""
        return self.samples.weight

    @property
    def weight_sum(self) -> float:
        """The sum of the weights of this set; the number of its rows if there are no weights."""
        if self.weight is None:
            return float(len(self))
        return float((self.weight if self._rows is None else self.weight[self._rows]).sum())

    @property
    def X(self) -> Any:
        """The rows of this set, as skorch's scoring callbacks expect them."""
        X = self.samples.X if self._rows is None else self.samples.X.take(self._rows)
        return X.unwrapped()

    @property
    def y(self) -> Any:
        """The user's targets of these rows."""
        y = self.samples.y
        return y if self._rows is None or y is None else y[self._rows]

    @property
    def n_readers(self) -> int:
        """The number of threads that read rows during training."""
        return int(self.samples.X.is_streamed)

    def shuffle(self, random_state: np.random.RandomState) -> None:
        """Permute the current order, as scikit-learn's MLP does before each epoch."""
        features = self.samples.X
        if features.is_streamed:
            features.shuffle(self.order, self._rows, random_state)
        else:
            self._lookahead.shuffle(random_state, self.order)

    def look_ahead(self) -> None:
        """Draw the next permutation now, if one was drawn before."""
        self._lookahead.draw(self.order)

    def order_key(self) -> tuple:
        """Return a key that is equal for sets of the same rows in the same order."""
        rows = None if self._rows is None else self._rows.tobytes()
        return id(self.samples.X), id(self.samples.targets), rows, self.order.tobytes()

    def __iter__(self) -> Iterator[Chunk]:
        """Yield all batches in the current order; batches gathered together form one chunk."""
        divided, ranks, now = self._divided, self.ranks, self.start_epoch()
        if divided is not None and ranks is not None:
            now = self._divide(now, divided, ranks)
        else:
            now = now[self._own_places]
        # like the copies below, from pageable memory, which CUDA stages first: nothing waits
        index = torch.from_numpy(now).to(self._device, non_blocking=True)
        buffers, read = self._buffers, self._X.reader(now)
        is_on_host, first = self._all is None and self._device.type == "cpu", 0
        for piece in self._pieces:
            part = slice(piece[0].start, piece[-1].stop)
            start, n_rows = part.start, part.stop - part.start
            X, target = buffers.X, buffers.target
            if target is not None:
                target = target[:n_rows]
            if isinstance(self.samples.X, SparseRows) and isinstance(X, SparseBatch):
                self.samples.X.load(now[part], X)
                self._fill_targets(index[part], target)
            elif buffers.transfer is None and not is_on_host:
                X = X[:n_rows]
                self.fill(now[part], index[part], X, target)
            else:  # the order is known, so the reader may read ahead
                if buffers.transfer is None:
                    X = X[:n_rows]
                    read(part, X)
                else:
                    X = buffers.transfer(n_rows, partial(read, part))
                self._fill_targets(index[part], target)
            parts = [slice(own.start - start, own.stop - start) for own in piece]
            weight_sums, scale = [float(own.stop - own.start) for own in parts], None
            if buffers.scale is not None:
                factors, sums = self._weigh_shares(slice(first, first + len(parts)))
                scale, weight_sums = buffers.scale[:n_rows], sums.tolist()
                # from pageable memory: it is staged before this returns, and nothing waits
                scale.copy_(torch.from_numpy(factors).unsqueeze(1), non_blocking=True)
            shares: Sequence[tuple[int, slice]] = ()
            if divided is not None and ranks is not None:
                ranks.share.set(*self._uneven[first])  # before the one batch of the chunk
            else:
                shares = self._shares[first : first + len(parts)]
            target = X if target is None else target
            yield Chunk(X, target, scale, parts, weight_sums, first, shares)
            first += len(parts)

    def start_epoch(self) -> np.ndarray:
        """Begin an epoch in the current order; return its row numbers in ``samples``."""
        self._now = self.order if self._rows is None else self._rows[self.order]
        return self._now

    def fill(self, rows: np.ndarray, index: Tensor, X: Tensor, target: Tensor | None) -> None:
        """Gather rows of ``samples``, whether they are of this set or not.

        Parameters
        ----------
        rows : ndarray of int
        index : Tensor
            The same numbers on the device.
        X : Tensor of shape (len(rows), n_features)
            Receives the features.
        target : Tensor of shape (len(rows), n_outputs) or (len(rows),), or None
            Receives the targets.
        """
        if self._all is not None:  # on the CPU, on torch's threads
            torch.index_select(self._all, 0, index, out=X)
        elif self._device.type == "cpu":
            self._X.gather(rows, X)
        else:
            staged = torch.empty_like(X, device="cpu")
            self._X.gather(rows, staged)
            X.copy_(staged)
        self._fill_targets(index, target)

    def _fill_targets(self, index: Tensor, target: Tensor | None) -> None:
        if self._targets is not None:
            torch.index_select(self._targets, 0, index, out=target)

    def new_target(self, shape: Sequence[int]) -> Tensor | None:
        """Return a buffer for the targets of rows; None if the targets are the features."""
        if self._targets is None:
            return None
        if self._targets.ndim == 2:
            return empty_matrix((*shape, self._targets.shape[1]), like=self._targets).zero_()
        return self._targets.new_zeros(shape)

    def _weigh_shares(self, batches: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors of this process's rows of some batches, and the sums over all rows."""
        parts = self.slices[batches]
        start = parts[0].start
        within = [slice(part.start - start, part.stop - start) for part in parts]
        factors, sums = self.weigh(slice(start, parts[-1].stop), within)
        if self.ranks is None:
            return factors, sums
        if self._divided is not None:
            ((_, places, _),) = self._uneven[batches]
            return factors[places.numpy()], sums
        own = [
            factors[part.start + some.start : part.start + some.stop]
            for part, (_, some) in zip(within, self._shares[batches], strict=True)
        ]
        return np.concatenate(own), sums

    def weigh(self, part: slice, batches: list[slice]) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's factor in the loss of its batch, and the sums of the weights.

        Parameters
        ----------
        part : slice
            Rows of the epoch's order.
        batches : list of slice
            The rows of each batch, relative to the start of ``part``.
        """
        lengths = [batch.stop - batch.start for batch in batches]
        if self.weight is None:
            return np.repeat(1.0 / np.array(lengths), lengths), np.array(lengths, dtype=float)
        # summed on the host: reading a sum from the device would wait for the device
        weight = self.weight[self._now[part]]
        sums = np.add.reduceat(weight, [batch.start for batch in batches])
        return weight / np.repeat(np.where(sums > 0, sums, 1.0), lengths), sums


class Buffers(NamedTuple):
    """The buffers into which a set's batches are gathered; X is a Tensor or a SparseBatch."""

    X: Any
    target: Tensor | None
    scale: Tensor | None
    transfer: Transfer | None


def n_together(batch_bytes: int, device: torch.device) -> int:
    """Return how many batches of this many bytes to gather together."""
    fitting = _GATHER_BYTES.get(device.type, 2**20) // batch_bytes
    return min(max(1, fitting), _MAX_TOGETHER)


def _by_powers_of_two(slices: list[slice], most: int) -> list[list[slice]]:
    """Group batches by powers of two; a last batch of another length forms its own group."""
    pieces, start, length = [], 0, slices[0].stop - slices[0].start
    last = slices[-1].stop - slices[-1].start
    n_alike = len(slices) if last == length else len(slices) - 1
    while start < n_alike:
        size = 2 ** (min(most, n_alike - start).bit_length() - 1)
        pieces.append(slices[start : start + size])
        start += size
    return pieces if start == len(slices) else [*pieces, slices[start:]]


def batch_slices(n_samples: int, batch_size: int, min_batch_size: int = 0) -> list[slice]:
    """Return what ``sklearn.utils.gen_batches`` yields, without its slow validation.

    Examples
    --------
    >>> from sknn_deep._engine.batches import batch_slices
    >>> batch_slices(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    >>> batch_slices(7, 3, min_batch_size=2)
    [slice(0, 3, None), slice(3, 7, None)]
    """
    starts = list(range(0, n_samples, batch_size))
    if len(starts) > 1 and n_samples - starts[-1] < min_batch_size:
        starts.pop()
    return [slice(*bounds) for bounds in pairwise([*starts, n_samples])]
