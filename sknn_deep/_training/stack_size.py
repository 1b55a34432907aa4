"""The number of networks that fit into one stack."""

from sknn_deep._engine.solvers import MuonWithAdam
from sknn_deep._hardware.device import free_memory
from sknn_deep._training.training import Training

# On a CPU a stack saves calls but uses more cache. If only a few networks would fit, because each
# is large, training them one after the other is faster. Muon's steps are faster from two on.
_CPU_BYTES = 2**23
_FEWEST_ON_CPU, _FEWEST_OF_MUON, _MOST_NETWORKS = 4, 2, 128
# Larger networks are faster together, too, if they share the gathered rows.
_SHARING_BYTES = 2**25
# Share of a GPU's free memory that a stack may take.
_MEMORY_SHARE = 0.5


def stack_size(training: Training, max_memory: int | None, n_sharing: int = 1) -> int:
    """Return how many networks like this one to train together.

    Parameters
    ----------
    training : Training
    max_memory : int or None
        In bytes; None for half of a GPU's free memory.
    n_sharing : int, default=1
        Number of networks that use the same rows in the same order.
    """
    if training.batches.are_sparse:  # sparse products save more time than a stack
        return 1
    n_bytes = _bytes_of(training)
    device = training.network.flat.device
    if device.type == "cpu":
        is_muon = isinstance(training.optimizer, MuonWithAdam)
        fewest = _FEWEST_OF_MUON if is_muon else _FEWEST_ON_CPU
        for limit in (_CPU_BYTES, _SHARING_BYTES if n_sharing >= fewest else 0):
            fitting = (limit if max_memory is None else min(limit, max_memory)) // n_bytes
            if fitting >= fewest:
                return min(fitting, _MOST_NETWORKS)
        return 1
    most: float | None = max_memory
    if most is None:
        most = _MEMORY_SHARE * free_memory(device)
    return max(1, min(int(most // n_bytes), _MOST_NETWORKS))


def _bytes_of(training: Training) -> int:
    """Return approximately how many bytes a network adds to a stack."""
    network, batches = training.network, training.batches
    layers = network.linear_layers()
    n_units, n_outputs = sum(layer.out_features for layer in layers), layers[-1].out_features
    longest = batches.longest
    # gathered rows, outputs, targets and factors of at least one batch
    gathered = longest * (batches.n_features + 2 * n_outputs + 1)
    # pre-activations, activations and gradients; those of a short last batch, too
    n_per_row = 3 * n_units
    if network.input is not None:
        n_per_row += 2 * layers[0].in_features + network.input.kept_per_row
    passed = min(2, batches.n_batches) * longest * n_per_row
    # weights, gradients and moments; weights and gradients that the network keeps, and its twin
    copies = 8 if network.is_random or network.has_normalization else 6
    copies += isinstance(training.optimizer, MuonWithAdam)  # the momentum of the matrices
    copies += 0 if training.average is None else 2
    return (gathered + passed + copies * network.flat.numel()) * network.flat.element_size()
