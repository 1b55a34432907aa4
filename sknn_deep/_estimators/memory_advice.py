"""Estimates the memory of a training that ran out of it, and advises what to change.

The estimates are within a factor of two of the peaks measured in
``tests/estimators/test_memory_advice.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from sknn_deep._engine.activations import ACTIVATION_KERNELS
from sknn_deep._engine.losses import MANY_CLASSES
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._hardware.device import OutOfMemoryError, is_out_of_memory, resolve_device
from sknn_deep._networks.summary import network_layers
from sknn_deep._networks.table_input import TableInput
from sknn_deep._wording import counted

# SciPy's L-BFGS keeps ten pairs of correction vectors, and about ten further vectors.
_LBFGS_BYTES = 8 * (2 * 10 + 10)
# Copies that a trained network of an ensemble keeps: weights, gradients and two moments.
_KEPT_COPIES = 4


class TrainingMemory(NamedTuple):
    """Peak memory of a training in bytes, without the user's data.

    Attributes
    ----------
    network : float
        The weights, and everything that is stored once per weight.
    rows : float
        Intermediate results for the rows of a step.
    data : float
        A copy of the features.
    kept : float
        Memory that a trained network keeps.
    """

    network: float
    rows: float
    data: float
    kept: float

    @property
    def total(self) -> float:
        """The sum of network, rows and data."""
        return self.network + self.rows + self.data


@contextmanager
def memory_explained(
    estimator: NetworkHooks,
    n_samples: int,
    n_features: int,
    dtype: torch.dtype,
    copied_bytes: Callable[[], int] = lambda: 0,
    stored_per_row: Callable[[], float | None] = lambda: None,
) -> Iterator[None]:
    """Replace an out-of-memory error by one that states how much memory the training needs.

    Parameters
    ----------
    estimator : NetworkHooks
    n_samples, n_features : int
        Shape of the training data.
    dtype : torch.dtype
        Type of the weights.
    copied_bytes : callable
        Returns the bytes of a copy of the features, if there is one.
    stored_per_row : callable
        Returns the stored numbers per row of sparse rows that are multiplied directly, else None.

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
        need = training_memory(
            estimator, n_samples, n_features, dtype, copied_bytes(), stored_per_row()
        )
        message = _advice(estimator, n_samples, n_features, dtype, need)
        first = str(error).splitlines()[0]
        explained = OutOfMemoryError(f"{message} The first that did not fit: {first}")
        explained.kept_bytes = need.kept
        raise explained from error


@contextmanager
def ensemble_memory_explained(n_networks: int) -> Iterator[None]:
    """Add the memory of the whole ensemble to the out-of-memory error of one network."""
    try:
        yield
    except OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{error} This is one of n_networks={n_networks}, which take about "
            f"{n_networks * error.kept_bytes / 1e9:.3g} GB together when they are trained; fewer "
            "take less."
        ) from error


def training_memory(
    estimator: NetworkHooks,
    n_samples: int,
    n_features: int,
    dtype: torch.dtype,
    copied_bytes: int = 0,
    stored_per_row: float | None = None,
) -> TrainingMemory:
    """Return the memory of a network's training; parameters as in :func:`memory_explained`."""
    config = estimator._network_config(n_features, dtype)
    layers = network_layers(config, estimator.out_activation_)
    n_parameters = sum(layer.n_parameters for layer in layers)
    parameter_bytes: float
    if estimator.solver == "lbfgs":
        n_rows, parameter_bytes = n_samples, 3 * dtype.itemsize + _LBFGS_BYTES
    else:
        batch_size = _batch_size(estimator, n_samples)
        # a shorter last batch has its own buffers
        n_rows = batch_size + n_samples % batch_size
        parameter_bytes = _copies_of_weights(estimator) * dtype.itemsize
    n_inputs, *n_hidden, n_outputs = (layer.units for layer in layers)
    # each stored number comes with its column index
    of_features = n_inputs if stored_per_row is None else 2 * stored_per_row
    numbers = of_features + _numbers_per_unit(config) * sum(n_hidden)
    if config.get("input") is not None:  # output, gradient and intermediate results
        layer = TableInput(**config["input"], device=torch.device("meta"))
        numbers += 2 * n_inputs + layer.kept_per_row
    # outputs, their gradients, targets, and two intermediate arrays of the loss; in most trainings
    # on a CPU, gradients of many outputs overwrite the outputs
    is_on_host = resolve_device(estimator.device).type == "cpu"
    become_gradients = n_outputs >= MANY_CLASSES and is_on_host and estimator.solver != "lbfgs"
    numbers += (3 if become_gradients else 5) * n_outputs
    if estimator.dtype == "bfloat16":  # two factors and two products, at half the size
        numbers += 0.5 * n_inputs + 2 * sum(n_hidden)
    kept = _KEPT_COPIES * n_parameters * dtype.itemsize
    of_network, of_rows = n_parameters * parameter_bytes, n_rows * numbers * dtype.itemsize
    return TrainingMemory(of_network, of_rows, copied_bytes, kept)


def _batch_size(estimator: NetworkHooks, n_samples: int) -> int:
    if estimator.batch_size == "auto":
        return estimator._batch_size_for(n_samples)
    return min(n_samples, estimator.batch_size)


def _copies_of_weights(estimator: NetworkHooks) -> float:
    # weights, gradients, two moments; a temporary copy while they are checked for being finite
    copies = 5.0
    if getattr(estimator, "early_stopping", False):  # the best weights
        copies += 1
    if estimator.dtype == "bfloat16":  # a rounded copy, and a product for the gradient
        copies += 1
    return copies


def _numbers_per_unit(config: dict[str, Any]) -> int:
    """Return how many numbers are stored per hidden unit and row."""
    parts = [config["encoder"], config["decoder"]] if "encoder" in config else [config]
    activations = {name for part in parts for name in part["activations"]}
    # pre-activations and their gradients
    numbers = 2
    if not all(ACTIVATION_KERNELS[name].in_place for name in activations):
        numbers += 1
    if any(part["normalization"] for part in parts):
        numbers += 1
    if any(rate > 0 for part in parts for rate in part["dropout"]):  # the mask and the product
        numbers += 2
    return numbers


def _advice(
    estimator: NetworkHooks,
    n_samples: int,
    n_features: int,
    dtype: torch.dtype,
    need: TrainingMemory,
) -> str:
    config = estimator._network_config(n_features, dtype)
    layers = network_layers(config, estimator.out_activation_)
    n_parameters = sum(layer.n_parameters for layer in layers)
    device = resolve_device(estimator.device)
    parts = [
        f"{need.network / 1e9:.3g} GB for a network of {n_parameters:,} parameters with gradients "
        "and the optimiser's state",
    ]
    remedies = [f"lower hidden_layer_sizes={estimator.hidden_layer_sizes!r}"]
    if estimator.solver == "lbfgs":
        n_rows, fewer_rows = n_samples, "choose solver='adam', which takes the rows in batches"
    else:
        n_rows = _batch_size(estimator, n_samples)
        fewer_rows = f"choose a batch_size below {n_rows}"
    parts.append(f"{need.rows / 1e9:.3g} GB for {counted(n_rows, 'row')} at once")
    # L-BFGS also keeps a history of the weights
    is_first = need.rows > need.network or estimator.solver == "lbfgs"
    remedies.insert(0 if is_first else 1, fewer_rows)
    if need.data:
        parts.append(f"{need.data / 1e9:.3g} GB for a copy of the features")
        if device.type == "cpu":
            remedies.append(f"pass X as a C-ordered array of {str(dtype).removeprefix('torch.')}")
    if dtype == torch.float64:
        remedies.append("choose dtype='float32'")
    if device.type != "cpu":
        remedies.append("train with device='cpu'")
    return (
        f"Training on device='{device}' ran out of memory. It takes about {need.total / 1e9:.3g} "
        f"GB: {', '.join(parts[:-1])}, and {parts[-1]}. To take less, {', or '.join(remedies)}."
    )
