"""From validated arrays to device tensors: shuffled batches to train, chunks to predict.

No ``DataLoader``: an epoch is one permutation and one gather per batch. Dense rows on the
CPU are gathered into one buffer that all batches reuse, so an array of any size, memory
map included, is never copied whole; sparse rows are densified there batch by batch. On an
accelerator the features move once if they fit, else batch by batch.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import gen_batches, shuffle
from torch import Tensor

# Activations of one prediction chunk stay below this, in bytes.
_CHUNK_BYTES = 32 * 2**20
# Share of an accelerator's free memory that the training features may take.
_RESIDENT_SHARE = 0.5


class Batch(NamedTuple):
    """What one training step sees.

    Attributes
    ----------
    X : Tensor of shape (batch, n_features)
        Valid until the next batch is drawn.
    target : Tensor of shape (batch, n_outputs) or (batch,)
    weight : Tensor of shape (batch,) or None
    weight_sum : float
        Sum of the weights, the number of rows without weights.
    """

    X: Tensor
    target: Tensor
    weight: Tensor | None
    weight_sum: float

    @property
    def n_samples(self) -> int:
        return self.X.shape[0]


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
    """A training or validation set, handed out in batches on the network's device.

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
        if weight is not None and not weight[... if rows is None else rows].any():
            raise ValueError(
                f"All sample weights of the {n_samples} rows to train on or to validate with are "
                "zero; give some rows a positive weight."
            )
        self._order = np.arange(n_samples)
        self._slices = list(gen_batches(n_samples, batch_size, min_batch_size=min_batch_size))
        self._targets = None if targets is None else _to_device(targets, device, dtype)
        self._weight = None if weight is None else _to_device(weight, device, dtype)
        self._resident = _resident_features(X, device, dtype)
        buffer = torch.empty((self.longest_batch, X.shape[1]), dtype=dtype)
        # at most three lengths: a full batch, the last one, the last but one joined by it
        lengths = {part.stop - part.start for part in self._slices}
        self._buffers = {n: (buffer[:n], buffer[:n].numpy()) for n in lengths}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._order)

    @property
    def n_batches(self) -> int:
        return len(self._slices)

    @property
    def longest_batch(self) -> int:
        return max(part.stop - part.start for part in self._slices)

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
        self._order = shuffle(self._order, random_state=random_state)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in the present order."""
        rows = self._order if self._rows is None else self._rows[self._order]
        index = torch.from_numpy(rows).to(self._device)
        targets = None if self._targets is None else self._targets[index]
        weights = None if self._weight is None else self._weight[index]
        for part in self._slices:
            X = self._gather(rows[part], index[part])
            target = X if targets is None else targets[part]
            if weights is None:
                yield Batch(X, target, None, float(part.stop - part.start))
            else:
                # summed on the host: reading it from the device would wait for the device
                weight_sum = float(self._samples.weight[rows[part]].sum())
                yield Batch(X, target, weights[part], weight_sum)

    def _gather(self, rows: np.ndarray, index: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident.index_select(0, index)
        buffer, array = self._buffers[len(rows)]
        X = self._samples.X
        if sp.issparse(X):
            X[rows].toarray(out=array)
        else:
            # with mode="raise" NumPy would fill a buffer of its own first
            X.take(rows, axis=0, out=array, mode="clip")
        return buffer.to(self._device)


def chunk_rows(width: int, dtype: torch.dtype) -> int:
    """Return how many rows of so many units a chunk may have."""
    return max(1, _CHUNK_BYTES // (width * dtype.itemsize))


def chunks(X, width: int, *, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the rows of ``X`` in order, as tensors whose activations stay in bounds.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
    width : int
        Units of the widest layer, input and output included.
    device : torch.device
    dtype : torch.dtype
    """
    for part in gen_batches(X.shape[0], chunk_rows(width, dtype)):
        rows = X[part]
        dense = rows.toarray() if sp.issparse(rows) else rows
        yield _to_device(dense, device, dtype)


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
    for part in gen_batches(X.shape[0], chunk_rows(X.shape[1], dtype)):
        resident[part] = _to_device(X[part], device, dtype)
    return resident
