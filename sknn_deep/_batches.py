"""From validated arrays to device tensors: shuffled batches to train, chunks to predict.

No ``DataLoader``: an epoch is one permutation, and a gather for each batch or, where they
are small, for many together. Dense rows on the CPU are gathered into one buffer that all
batches reuse, so an array of any size, memory map included, is never copied whole; sparse
rows are densified there. On an accelerator the features move once if they fit, else
gather by gather from pinned memory.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sknn_deep._device import empty_matrix
from sknn_deep._threads import one_thread, worthwhile_threads

# Activations of one prediction chunk stay below this, in bytes.
_CHUNK_BYTES = 32 * 2**20
# Small batches are gathered together up to this size: on a CPU it stays in the cache.
_GATHER_BYTES = {"cpu": 2**20, "cuda": 2**26}
_MAX_TOGETHER = 64
# Share of an accelerator's free memory that the training features may take.
_RESIDENT_SHARE = 0.5


class Chunk(NamedTuple):
    """Some batches that are gathered together, because they are small.

    Attributes
    ----------
    X : Tensor of shape (rows, n_features)
        Like the rest, valid until the next chunk is gathered.
    target : Tensor of shape (rows, n_outputs) or (rows,)
    scale : Tensor of shape (rows, 1) or None
        Weight of each row over the sum of the weights of its batch.
    parts : list of slice
        The rows of each batch.
    weight_sums : list of float
        Sum of each batch's weights, the number of its rows without weights.
    """

    X: Tensor
    target: Tensor
    scale: Tensor | None
    parts: list[slice]
    weight_sums: list[float]


class Samples(NamedTuple):
    """Validated data on the host.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
    y : ndarray or None
        The user's targets, for what scores predictions.
    targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
        What the loss compares the output with; None stands for ``X`` itself.
    weight : ndarray of shape (n_samples,) or None
        Weights of the loss, class weights included.
    given_weight : ndarray of shape (n_samples,) or None
        The user's weights, by which predictions are scored.
    """

    X: Any
    y: np.ndarray | None
    targets: np.ndarray | None
    weight: np.ndarray | None
    given_weight: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Samples":
        """Return a copy of some rows."""
        return Samples(*(None if part is None else part[rows] for part in self))


class Batches:
    """A training set, handed out in batches on the network's device.

    Parameters
    ----------
    samples : Samples
    rows : ndarray of int or None
        The rows of ``X`` that belong to this set; None for all.
    batch_size : int
    min_batch_size : int, default=0
        A shorter last batch joins the one before.
    device : torch.device
    dtype : torch.dtype
    """

    def __init__(
        self,
        samples: Samples,
        *,
        rows: np.ndarray | None = None,
        batch_size: int,
        min_batch_size: int = 0,
        device: torch.device,
        dtype: torch.dtype,
    ):
        X, targets, weight = samples.X, samples.targets, samples.weight
        self._samples, self._rows, self._device = samples, rows, device
        n_samples = X.shape[0] if rows is None else len(rows)
        check_weight(weight if rows is None or weight is None else weight[rows])
        self._order = np.arange(n_samples)
        slices = batch_slices(n_samples, batch_size, min_batch_size)
        self.n_batches = len(slices)
        longest_batch = max(part.stop - part.start for part in slices)
        batch_bytes = longest_batch * X.shape[1] * dtype.itemsize
        fitting = _GATHER_BYTES.get(device.type, 2**20) // batch_bytes
        n_together = min(max(1, fitting), _MAX_TOGETHER)
        self._groups = [slices[i : i + n_together] for i in range(0, len(slices), n_together)]
        self._targets = None if targets is None else _to_device(targets, device, dtype)
        self._resident = _resident_features(X, device, dtype)
        n_rows = max(group[-1].stop - group[0].start for group in self._groups)
        self._X = torch.empty((n_rows, X.shape[1]), dtype=dtype, device=device)
        if targets is not None:
            shape = (n_rows, *targets.shape[1:])
            self._target = (
                empty_matrix(shape, like=self._targets)
                if targets.ndim == 2
                else self._targets.new_empty(shape)
            )
        self._scale = None if weight is None else self._X.new_empty((n_rows, 1))
        self._transfer = None
        if device.type == "cuda" and self._resident is None:
            self._transfer = _Transfer(self._X)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._order)

    @property
    def X(self):
        """The rows of this set, as skorch's scoring callbacks expect them."""
        return self._samples.X if self._rows is None else self._samples.X[self._rows]

    @property
    def y(self):
        """The user's targets of these rows."""
        y = self._samples.y
        return y if self._rows is None or y is None else y[self._rows]

    def shuffle(self, random_state: np.random.RandomState) -> None:
        """Permute the present order, as scikit-learn's MLP does before each epoch."""
        random_state.shuffle(self._order)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield all batches in the present order, those gathered together as one chunk."""
        order = self._order if self._rows is None else self._rows[self._order]
        index = torch.from_numpy(order).to(self._device)
        for group in self._groups:
            start, stop = group[0].start, group[-1].stop
            rows, index_part, n_rows = order[start:stop], index[start:stop], stop - start
            X = self._gather(rows, index_part)
            target = X
            if self._targets is not None:
                target = self._target[:n_rows]
                torch.index_select(self._targets, 0, index_part, out=target)
            parts = [slice(part.start - start, part.stop - start) for part in group]
            scale, weight_sums = self._weigh(rows, parts)
            yield Chunk(X, target, scale, parts, weight_sums)

    def _gather(self, rows: np.ndarray, index: Tensor) -> Tensor:
        out = self._X[: len(rows)]
        if self._resident is not None:
            return torch.index_select(self._resident, 0, index, out=out)
        if self._transfer is not None:
            return self._transfer(len(rows), lambda staged: self._take(rows, staged))
        if self._device.type == "cpu":
            self._take(rows, out)
            return out
        staged = torch.empty_like(out, device="cpu")
        self._take(rows, staged)
        return out.copy_(staged)

    def _take(self, rows: np.ndarray, out: Tensor) -> None:
        X = self._samples.X
        if sp.issparse(X):
            X[rows].toarray(out=out.numpy())
        else:
            # with mode="raise" NumPy would fill a buffer of its own first
            X.take(rows, axis=0, out=out.numpy(), mode="clip")

    def _weigh(self, rows: np.ndarray, parts: list[slice]) -> tuple[Tensor | None, list[float]]:
        lengths = [part.stop - part.start for part in parts]
        if self._scale is None:
            return None, [float(length) for length in lengths]
        # summed on the host: reading a sum from the device would wait for the device
        weight = self._samples.weight[rows]
        sums = np.add.reduceat(weight, [part.start for part in parts])
        divisor = np.repeat(np.where(sums > 0, sums, 1.0), lengths)
        scale = self._scale[: len(rows)]
        # from pageable memory: it is copied aside before this returns, and nothing waits
        host = torch.from_numpy(weight / divisor).unsqueeze(1).to(scale.dtype)
        scale.copy_(host, non_blocking=True)
        return scale, sums.tolist()


class _Transfer:
    """Brings rows to a GPU while it works on those before them.

    Two pinned buffers on the host are filled in turn, and copied on a stream of their own into two
    on the device, each as soon as the work that was launched on it is done.
    """

    def __init__(self, buffer: Tensor):
        options = {"dtype": buffer.dtype, "device": "cpu", "pin_memory": True}
        self._on_host = [torch.empty(buffer.shape, **options) for _ in range(2)]
        self._on_device = [buffer, torch.empty_like(buffer)]
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._used = [torch.cuda.Event() for _ in range(2)]
        self._stream = torch.cuda.Stream()
        self._turn = 0

    def __call__(self, n_rows: int, fill: Callable[[Tensor], None]) -> Tensor:
        turn, self._turn = self._turn, 1 - self._turn
        staged, out = self._on_host[turn][:n_rows], self._on_device[turn][:n_rows]
        computing = torch.cuda.current_stream()
        self._used[1 - turn].record(computing)  # all work on the other buffer is launched
        self._copied[turn].synchronize()
        fill(staged)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[turn])
            out.copy_(staged, non_blocking=True)
            self._copied[turn].record()
        computing.wait_event(self._copied[turn])
        return out


def batch_slices(n_samples: int, batch_size: int, min_batch_size: int = 0) -> list[slice]:
    """Return what ``sklearn.utils.gen_batches`` yields, without its validation, which is slow.

    Examples
    --------
    >>> from sknn_deep._batches import batch_slices
    >>> batch_slices(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    >>> batch_slices(7, 3, min_batch_size=2)
    [slice(0, 3, None), slice(3, 7, None)]
    """
    starts = list(range(0, n_samples, batch_size))
    if len(starts) > 1 and n_samples - starts[-1] < min_batch_size:
        starts.pop()
    return [slice(*bounds) for bounds in pairwise([*starts, n_samples])]


def whole(samples: Samples, *, device: torch.device, dtype: torch.dtype) -> Chunk:
    """Return all samples in their order as one batch."""
    check_weight(samples.weight)
    X = dense(samples.X, device, dtype)
    target = X if samples.targets is None else _to_device(samples.targets, device, dtype)
    parts = [slice(0, X.shape[0])]
    if samples.weight is None:
        return Chunk(X, target, None, parts, [float(X.shape[0])])
    weight_sum = float(samples.weight.sum())
    scale = _to_device((samples.weight / weight_sum)[:, np.newaxis], device, dtype)
    return Chunk(X, target, scale, parts, [weight_sum])


def check_weight(weight: np.ndarray | None) -> None:
    """Refuse weights of which none is positive."""
    if weight is not None and not weight.any():
        raise ValueError(
            f"All sample weights of the {len(weight)} rows to train on or to validate with are "
            "zero; give some rows a positive weight."
        )


def chunk_rows(width: int, dtype: torch.dtype) -> int:
    """Return how many rows of so many units a chunk may have."""
    return max(1, _CHUNK_BYTES // (width * dtype.itemsize))


def map_parts(function: Callable[[slice], Any], n_samples: int, network) -> list[Any]:
    """Apply a function to rows part by part, so that the activations stay in bounds.

    On a CPU the parts are spread over threads. Each takes part after part and none waits
    for another, as torch's own threads do in each operation: a core that another process
    holds costs its share and no more.

    Parameters
    ----------
    function : callable
        Called with a slice of rows, without gradients.
    n_samples : int
    network : Network
        What the function applies.
    """

    def apply(part: slice) -> Any:
        with torch.inference_mode():
            return function(part)

    flat = network.flat
    work = n_samples * network.weights.numel()
    n_threads = worthwhile_threads(work) if flat.device.type == "cpu" else 1
    rows = chunk_rows(network.width, flat.dtype)
    if n_threads > 1:
        rows = min(rows, -(-n_samples // (4 * n_threads)))
    parts = batch_slices(n_samples, rows)
    with one_thread():
        if n_threads == 1:
            return [apply(part) for part in parts]
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(apply, parts))


def dense(X, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return rows, an array or a CSR matrix, as a tensor."""
    return _to_device(X.toarray() if sp.issparse(X) else X, device, dtype)


def _to_device(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor of an array; class indices keep their integer type."""
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no read-only tensors and no negative strides
    tensor = torch.from_numpy(array)
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def _resident_features(X, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """Return the features on an accelerator if they fit; None on the CPU and elsewhere."""
    if device.type != "cuda" or sp.issparse(X):
        return None
    n_bytes = X.size * dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    if n_bytes > _RESIDENT_SHARE * free:
        return None
    resident = torch.empty(X.shape, dtype=dtype, device=device)
    for part in batch_slices(X.shape[0], chunk_rows(X.shape[1], dtype)):
        resident[part] = _to_device(X[part], device, dtype)
    return resident
