"""The engine that calls of ``partial_fit`` share, to reuse recorded CUDA graphs.

On CUDA the steps of a chunk are recorded the second time that it is used. A call of ``partial_fit``
is a single epoch, often of one chunk: with an engine per call, nothing would be recorded, or never
replayed. So the engine and its graphs are kept between calls, and so are the buffers of the
batches, whose addresses the graphs contain. Batches are gathered by powers of two, so that a call
with more rows finds the graphs of one with fewer.
"""

from typing import Any

import torch

from sknn_deep._engine.batches import Batches, Buffers
from sknn_deep._engine.engine import Engine

# Largest number of different workspaces (batch lengths and counts) before the engine is replaced.
_MOST_KINDS = 24


class KeptEngine:
    """An engine, and the conditions under which it can be reused.

    Parameters
    ----------
    params : dict
        Parameters of the estimator.
    optimizer : torch.optim.Optimizer
        Optimiser of the engine.

    Attributes
    ----------
    engine : Engine or None
        None until the first call makes it.
    generator : Generator or None
        Generator of the network's draws; recorded graphs cannot use another.
    """

    engine: Engine | None = None
    generator: torch.Generator | None = None

    def __init__(self, params: dict[str, Any], optimizer: torch.optim.Optimizer):
        self._params, self._optimizer = params, optimizer
        self._buffers: list[Buffers] = []

    def fits(self, params: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
        """Return whether a call with these parameters can reuse the engine."""
        if optimizer is not self._optimizer or params.keys() != self._params.keys():
            return False
        if self.engine is not None and self.engine.n_workspaces > _MOST_KINDS:
            return False
        return all(_is_same(params[name], self._params[name]) for name in params)

    def share(self, batches: Batches) -> None:
        """Let batches be gathered in the buffers of the previous calls."""
        batches.share(self._buffers)


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, str | int | float) and one == other


def keeps_engine(estimator: Any, device: torch.device) -> bool:
    """Return whether a call of ``partial_fit`` may record its steps."""
    return device.type == "cuda" and not estimator.callbacks
