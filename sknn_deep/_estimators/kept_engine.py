"""The engine that calls of ``partial_fit`` share, so that what they record outlives them.

On CUDA the steps of a chunk are recorded the second time that it comes. A call of ``partial_fit``
is a single epoch, often of one chunk: an engine of its own would record nothing, or what is never
replayed. So the engine stays from call to call with its graphs, and so do the buffers of batches,
whose addresses they hold. Batches are gathered by powers of two, so that a call with more rows
finds the graphs of one with fewer.
"""

from typing import Any

import torch

from sknn_deep._engine.batches import Batches, Buffers
from sknn_deep._engine.engine import Engine

# Lengths of batches and numbers of them that come in one call or another.
_MOST_KINDS = 24


class KeptEngine:
    """An engine, and under what circumstances it may go on.

    Parameters
    ----------
    params : dict
        Of the estimator.
    optimizer : torch.optim.Optimizer
        Of the engine.

    Attributes
    ----------
    engine : Engine or None
        None until the first call has made it.
    generator : Generator or None
        From which the network draws; a graph knows no other.
    """

    engine: Engine | None = None
    generator: torch.Generator | None = None

    def __init__(self, params: dict[str, Any], optimizer: torch.optim.Optimizer):
        self._params, self._optimizer = params, optimizer
        self._buffers: list[Buffers] = []

    def fits(self, params: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
        """Return whether a call with these parameters may go on with the engine."""
        if optimizer is not self._optimizer or params.keys() != self._params.keys():
            return False
        if self.engine is not None and self.engine.n_workspaces > _MOST_KINDS:
            return False
        return all(_is_same(params[name], self._params[name]) for name in params)

    def share(self, batches: Batches) -> None:
        """Let batches be gathered where those of the calls before were."""
        batches.share(self._buffers)


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, str | int | float) and one == other


def keeps_engine(estimator: Any, device: torch.device) -> bool:
    """Return whether a call of ``partial_fit`` may record its steps."""
    return device.type == "cuda" and not estimator.callbacks
