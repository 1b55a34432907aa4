"""Functions of a network applied to many rows in parts: outputs, losses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.divided_rows import DividedRows
from sknn_deep._engine.features import ArrayRows, Features, SparseRows, slices, to_device
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.samples import Samples
from sknn_deep._hardware.bfloat16 import FEWEST_TO_ROUND, RoundedLayers
from sknn_deep._hardware.device import OutOfMemoryError, release_cached_memory
from sknn_deep._hardware.pace import (
    FEWEST_TO_SHARE,
    OUTPUT_WORK_OF_A_THREAD,
    Pace,
    threads_of_outputs,
)
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._hardware.shared_parts import MOST_THREADS, share_parts
from sknn_deep._networks.flat import Network
from sknn_deep._networks.layers import is_watched
from sknn_deep._networks.numpy_pass import output_by_numpy

# Upper limit in bytes for a layer's activations of the rows that a thread predicts at a time: on a
# CPU they stay in the cache, and on an accelerator the work hides the launch overhead.
_CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**25, "xpu": 2**25}
_SPARSE_CHUNK_BYTES = 2**24
# At most this many of torch's threads share the rows of a part, whose memory would otherwise grow
# with the number of cores.
_MOST_SHARES = 8
# Products of fewer rows are slower per row, as each packs the weights anew; a few parts per thread
# are enough, unless the activations of larger parts would not fit in the cache.
_FEWEST_ROWS, _MOST_PARTS = 128, 32


def chunk_rows(width: int, dtype: torch.dtype | np.dtype, device_type: str = "cpu") -> int:
    """Return how many rows a chunk may have, given the units per row."""
    n_bytes = _CHUNK_BYTES.get(device_type, _CHUNK_BYTES["cpu"])
    return max(1, n_bytes // (width * dtype.itemsize))


def map_parts(
    function: Callable[[slice], Any],
    store: Callable[[slice, Any], None],
    n_samples: int,
    network: Network,
    product_dtype: torch.dtype | None = None,
    *,
    is_sparse: bool = False,
    may_share: bool = False,
) -> None:
    """Apply a function to rows part by part, to limit the memory of the activations.

    On a CPU, Python threads share the parts, if there are enough; otherwise torch's threads share
    each part. If a device runs out of memory, the part and all later ones are halved.

    Parameters
    ----------
    function : callable
        Called with a slice of rows, without gradients.
    store : callable
        Called once per part with its slice and the function's result, never concurrently, in any
        order.
    n_samples : int
    network : Network
        The network that the function applies.
    product_dtype : torch.dtype, default=None
        Type to which a CPU rounds the factors of large products.
    is_sparse : bool, default=False
        Whether the function reads sparse rows, which need no memory for dense copies.
    may_share : bool, default=False
        Whether several threads may call the function at once. They do not if hooks need to see
        the rows in order, or if modules draw random numbers.
    """
    flat, start = network.flat, 0
    is_on_cpu = flat.device.type == "cpu"
    rounds = product_dtype is not None and is_on_cpu
    work = n_samples * network.weights.numel()
    n_threads = threads_of_outputs(work)
    most_rows = n_threads * chunk_rows(network.width, flat.dtype)
    is_one_part = n_samples <= most_rows and (work < FEWEST_TO_SHARE or not may_share)
    if is_on_cpu and is_one_part and not (rounds and work >= FEWEST_TO_ROUND):
        # for few rows the calls take longer than the arithmetic
        is_set = torch.get_num_threads() == n_threads
        part = slice(0, n_samples)
        try:
            with nullcontext() if is_set else applying(network, n_samples), torch.inference_mode():
                store(part, function(part))
                return
        except torch.OutOfMemoryError:
            release_cached_memory(flat.device)  # and try again, with fewer rows at a time
    # autocast applies to the current thread only, not to helpers
    may_share &= is_on_cpu and not torch.is_autocast_enabled("cpu")
    if may_share and not any(map(is_watched, network.modules())):
        parts = _equal_parts(n_samples, network)
        n_threads = min(MOST_THREADS, n_threads)
        if len(parts) > 1 and len(parts) >= n_threads:

            def apply(number: int) -> Any:
                # these context managers apply to the current thread only
                with torch.inference_mode(), RoundedLayers(n_samples) if rounds else nullcontext():
                    return function(parts[number])

            share_parts(apply, lambda i, value: store(parts[i], value), len(parts), n_threads)
            return
    with applying(network, n_samples), RoundedLayers(n_samples) if rounds else nullcontext():
        # each thread keeps its share of a part in its own cache
        n_together = min(torch.get_num_threads(), _MOST_SHARES)
        rows = n_together * chunk_rows(network.width, flat.dtype, flat.device.type)
        if is_sparse:  # each part transposes the first layer's weights
            widest = max(layer.out_features for layer in network.linear_layers())
            rows = _SPARSE_CHUNK_BYTES // (widest * flat.element_size())
        while start < n_samples:
            n_rows = min(rows, n_samples - start)
            try:
                with torch.inference_mode():
                    part = slice(start, start + n_rows)
                    store(part, function(part))
                start += n_rows
                continue
            except torch.OutOfMemoryError as error:
                if n_rows == 1:
                    raise OutOfMemoryError(_too_small_for_a_row(flat.device, error)) from error
            # outside the except block, which keeps the tensors of the failed attempt alive
            rows = n_rows // 2
            release_cached_memory(flat.device)


def _equal_parts(n_samples: int, network: Network) -> list[slice]:
    """Divide rows into parts, one per thread at a time, independently of the number of threads."""
    work = n_samples * network.weights.numel()
    n_parts = min(work // OUTPUT_WORK_OF_A_THREAD, n_samples // _FEWEST_ROWS, _MOST_PARTS)
    n_parts = 1 << max(0, n_parts.bit_length() - 1)  # so that two or four threads share evenly
    most = chunk_rows(network.width, network.flat.dtype)
    return list(slices(n_samples, max(1, min(-(-n_samples // n_parts), most))))


def map_rows(
    function: Callable[[Any], Tensor],
    features: Features,
    network: Network,
    product_dtype: torch.dtype | None = None,
    *,
    may_be_sparse: bool = False,
) -> np.ndarray | Tensor:
    """Apply a part of a network to rows, part by part.

    Parameters
    ----------
    function : callable
        Maps a tensor of shape (n, n_features) to one with as many rows.
    features : Features of shape (n_rows, n_features)
    network : Network
    product_dtype : torch.dtype, default=None
        See :func:`map_parts`.
    may_be_sparse : bool, default=False
        Whether the function only passes the rows to the network, so that it may be given a
        ``SparseBatch``.

    Returns
    -------
    output : ndarray with n_rows rows, or Tensor if the features ask for one
    """
    n_rows = len(features)
    if isinstance(features, DividedRows):
        own: Any = None
        if len(features.own):
            own = map_rows(
                function, features.own, network, product_dtype, may_be_sparse=may_be_sparse
            )
        return features.joined(own)
    if features.gives_tensors:
        return _map_on_device(function, features, network, product_dtype)
    read, is_sparse = _reader(features, network, may_be_sparse)
    outputs: list[np.ndarray] = []  # one array for all rows, allocated with the first part

    def store(part: slice, rows: np.ndarray) -> None:
        if len(rows) == n_rows:
            outputs.append(np.ascontiguousarray(rows))
            return
        if not outputs:
            outputs.append(np.empty((n_rows, *rows.shape[1:]), rows.dtype))
        outputs[0][part] = rows

    map_parts(
        lambda part: function(read(part)).cpu().numpy(),
        store,
        n_rows,
        network,
        product_dtype,
        is_sparse=is_sparse,
        may_share=type(features) is ArrayRows,
    )
    return outputs[0]


def _reader(
    features: Features, network: Network, may_be_sparse: bool
) -> tuple[Callable[[slice], Any], bool]:
    """Return a function that reads rows for a network, and whether it returns a ``SparseBatch``."""
    flat = network.flat
    if may_be_sparse and isinstance(features, SparseRows) and features.suits_products():
        if network.takes_sparse_rows:
            return features.batch_of, True
    return (lambda part: features.to(part, flat.device, flat.dtype)), False


def _map_on_device(
    function: Callable[[Tensor], Tensor],
    features: Features,
    network: Network,
    product_dtype: torch.dtype | None,
) -> Tensor:
    flat, n_rows = network.flat, len(features)
    outputs: list[Tensor] = []  # one tensor for all rows, allocated with the first part

    def apply(part: slice) -> Tensor:
        return function(features.to(part, flat.device, flat.dtype))

    def store(part: slice, rows: Tensor) -> None:
        if not outputs:
            with torch.inference_mode(False):  # returned to the user, who may use it with autograd
                outputs.append(rows.new_empty((n_rows, *rows.shape[1:])))
        outputs[0][part] = rows

    map_parts(apply, store, n_rows, network, product_dtype)
    return outputs[0]


def evaluate_loss(
    network: Network,
    loss: Loss,
    samples: Samples,
    keep: bool,
    ranks: Ranks | None = None,
    product_dtype: torch.dtype | None = None,
) -> tuple[float, np.ndarray | None]:
    """Return the mean loss over a validation set and, if ``keep``, the raw output of every row.

    Ranks, if given, share the rows, and each gets the results for all rows.
    """
    device, dtype, divided = network.flat.device, network.flat.dtype, samples.X
    samples = samples.own()
    own = slice(0, len(samples.X))
    if ranks is not None and not isinstance(divided, DividedRows):
        if len(samples.X) < ranks.size:
            ranks = None
        else:
            own = ranks.part_of(len(samples.X))
    # an autoencoder's loss needs the rows themselves
    read, is_sparse = _reader(samples.X, network, samples.targets is not None)

    def evaluate(part: slice) -> tuple[float, float, np.ndarray | None]:
        part = slice(own.start + part.start, own.start + part.stop)
        X = read(part)
        target, weight = (
            None if array is None else to_device(array[part], device, dtype)
            for array in (samples.targets, samples.weight)
        )
        few = None
        if isinstance(X, Tensor) and device.type == "cpu":
            few = output_by_numpy(network, X.numpy(), on_one_thread=True)
        raw = network(X) if few is None else torch.from_numpy(few)
        losses = loss.per_sample(raw, X if target is None else loss.encoded(target, raw))
        total = losses.sum() if weight is None else torch.dot(losses, weight)
        weight_sum = float(len(X)) if weight is None else weight.sum().item()
        return total.item(), weight_sum, raw.cpu().numpy() if keep else None

    found: dict[int, tuple[float, float, np.ndarray | None]] = {}
    map_parts(
        evaluate,
        lambda part, result: found.update({part.start: result}),
        own.stop - own.start,
        network,
        product_dtype,
        is_sparse=is_sparse,
        may_share=type(samples.X) is ArrayRows,
    )
    parts = [found[start] for start in sorted(found)]
    total = float(sum(loss for loss, *_ in parts))
    weight_sum = float(sum(weight for _, weight, _ in parts))
    output = np.concatenate([raw for *_, raw in parts]) if keep and parts else None
    if ranks is not None:
        sums = torch.tensor([total, weight_sum], dtype=torch.float64, device=device)
        total, weight_sum = ranks.add_(sums).tolist()
        if keep:  # some rank may have none of the divided rows
            join: Any = divided.joined if isinstance(divided, DividedRows) else ranks.gathered
            output = join(output)
    return total / weight_sum * loss.reported_scale, output


@contextmanager
def applying(network: Network, n_rows: int) -> Iterator[None]:
    """Run a block that applies a network to this many rows, on as many threads as pay off."""
    pace = Pace.of_outputs(network.flat.device)
    with pace.steps(multiply_adds=n_rows * network.weights.numel()):
        yield


def _too_small_for_a_row(device: torch.device, error: Exception) -> str:
    return (
        f"The memory of device='{device}' is too small to predict a single row "
        f"({str(error).splitlines()[0]}). Free memory there, or pickle the estimator and load it "
        "where there is more."
    )
