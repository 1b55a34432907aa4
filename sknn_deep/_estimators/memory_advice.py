"""What a training that ran out of memory needs, and what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._hardware.device import OutOfMemoryError, is_out_of_memory, resolve_device
from sknn_deep._networks.summary import network_layers


@contextmanager
def memory_explained(
    estimator: NetworkHooks, n_samples: int, n_features: int, dtype: torch.dtype
) -> Iterator[None]:
    """Replace an error for want of memory by one that says what the training needs.

    Raises
    ------
    OutOfMemoryError
        With figures and remedies.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemoryError):
            raise
        message = _advice(estimator, n_samples, n_features, dtype)
        first = str(error).splitlines()[0]
        raise OutOfMemoryError(f"{message} The first that did not fit: {first}") from error


def _advice(estimator: NetworkHooks, n_samples: int, n_features: int, dtype: torch.dtype) -> str:
    layers = network_layers(estimator._network_config(n_features, dtype), estimator.out_activation_)
    n_parameters = sum(layer.n_parameters for layer in layers)
    n_rows, takes_batches = n_samples, estimator.solver != "lbfgs"
    if takes_batches:
        batch_size = 200 if estimator.batch_size == "auto" else estimator.batch_size
        n_rows = min(n_samples, batch_size)
    # weights, gradients, two moments; pre-activations, activations and their gradients
    of_network = 4 * n_parameters * dtype.itemsize
    of_batch = 3 * n_rows * sum(layer.units for layer in layers) * dtype.itemsize
    remedies = [f"lower hidden_layer_sizes={estimator.hidden_layer_sizes!r}"]
    fewer_rows = f"choose a batch_size below {n_rows}"
    if not takes_batches:
        fewer_rows = "choose solver='adam', which takes the rows in batches"
    remedies.insert(0 if of_batch > of_network else 1, fewer_rows)
    if dtype == torch.float64:
        remedies.append("choose dtype='float32'")
    device = resolve_device(estimator.device)
    if device.type != "cpu":
        remedies.append("train with device='cpu'")
    return (
        f"Training on device='{device}' ran out of memory. It takes about "
        f"{(of_network + of_batch) / 1e9:.3g} GB: {of_network / 1e9:.3g} GB for a network of "
        f"{n_parameters:,} parameters with gradients and the optimiser's state, and "
        f"{of_batch / 1e9:.3g} GB for {n_rows:,} rows at once. To take less, "
        f"{', or '.join(remedies)}."
    )
