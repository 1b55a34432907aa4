"""The output of a plain network with NumPy's products, in as few calls as possible.

For few rows the call overhead matters, and for one row it exceeds the arithmetic: NumPy's calls are
shorter than torch's. Waiting for its threads takes less time, too: they share only the products,
where torch's share every operation, and they wake faster after a pause or a product of another
library. ``python -m benchmarks.predict`` measures both.

The arrays are views of the network's weights, and are recreated if the weights have moved.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from sknn_deep._hardware.bfloat16 import is_worth_rounding
from sknn_deep._hardware.threads import one_thread, wants_the_same_bits
from sknn_deep._networks.layers import DenseStack, is_watched
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.models import MLP
from sknn_deep._networks.random_layers import Dropout

# Multiply-adds of a product that OpenBLAS computes on one thread.
ON_ONE_THREAD = 2**18
# Larger activations would not fit in the cache, so rows are processed in parts.
PART_BYTES = 2**22
# In-place activations. torch has more overhead per call but is faster per number: those that use
# it for many numbers are `_BY_TORCH`.
_ACTIVATIONS: dict[type, Callable[[np.ndarray], Any]] = {
    nn.ReLU: lambda z: np.maximum(z, 0, out=z),
    nn.Tanh: lambda z: np.tanh(z, out=z) if z.size < _FEW else torch.tanh_(torch.from_numpy(z)),
    nn.Sigmoid: lambda z: expit(z, out=z) if z.size < _FEW else torch.sigmoid_(torch.from_numpy(z)),
}
_BY_TORCH = (nn.Tanh, nn.Sigmoid)
_FEW = 1000
_WITHOUT_EFFECT = (nn.Identity, Dropout)


class _Step(NamedTuple):
    """A dense layer and the activation that follows it."""

    layer: Linear
    params: tuple[Tensor, Tensor]
    places: tuple[int, int]
    weight: np.ndarray
    bias: np.ndarray
    activate: Callable[[np.ndarray], Any] | None = None


class _Plan(NamedTuple):
    """A network's modules, the steps to compute, and the sizes of its largest matrix and layer."""

    parts: list[nn.Module]
    steps: list[_Step]
    uses_torch: bool
    largest: int
    row_bytes: int


def output_by_numpy(
    network: nn.Module, X: np.ndarray, *, rounds: bool = False, on_one_thread: bool = False
) -> np.ndarray | None:
    """Return the same as calling the network, or None if its modules have to be called.

    That is the case for other kinds of layers and modules with hooks; if a product on several
    threads must have the same bits for any number of NumPy's threads; and if a number of X may be
    NaN or infinite, or the output is. All sums of such a row in the first layer are NaN or
    infinite, so checking one of them is enough.

    Parameters
    ----------
    network : MLP or DenseStack
    X : ndarray of shape (n_rows, n_features)
        Contiguous, of the network's floating-point type.
    rounds : bool, default=False
        Whether factors of large products have to be rounded, which is not done here.
    on_one_thread : bool, default=False
        Whether to accept only products that NumPy computes on one thread, whose bits do not depend
        on its number of threads.
    """
    layers = network
    if type(network) is MLP:
        if network.input is not None or is_watched(network):
            return None
        layers = network.layers
    if type(layers) is not DenseStack:
        return None
    state = layers.__dict__
    plan: _Plan | None = state.get("_plan")
    if plan is None or not _is_current(plan, layers):
        state["_plan"] = plan = _plan(layers)
    n_rows = len(X)
    if not plan.steps or is_watched(layers) or any(map(is_watched, plan.parts)):
        return None
    if n_rows * plan.largest <= ON_ONE_THREAD:
        return _output_of_part(plan, X)
    if on_one_thread or wants_the_same_bits():
        return None
    if rounds and any(is_worth_rounding(n_rows, step.params[0]) for step in plan.steps):
        return None
    wakes_none = not plan.uses_torch or torch.get_num_threads() == 1
    with nullcontext() if wakes_none else one_thread():
        at_once = max(1, PART_BYTES // plan.row_bytes)
        if n_rows <= at_once:
            return _output_of_part(plan, X)
        output = np.empty((n_rows, len(plan.steps[-1].bias)), X.dtype)
        for start in range(0, n_rows, at_once):
            part = _output_of_part(plan, X[start : start + at_once])
            if part is None:
                return None
            output[start : start + at_once] = part
        return output


def _output_of_part(plan: _Plan, X: np.ndarray) -> np.ndarray | None:
    activations = X
    with np.errstate(all="ignore"):
        for step in plan.steps:
            is_first = activations is X
            activations = np.dot(activations, step.weight)
            if is_first and not _has_finite_sum(activations[:, 0]):
                return None
            activations += step.bias
            if step.activate is not None:
                step.activate(activations)
        return activations if _has_finite_sum(activations) else None


def _has_finite_sum(numbers: np.ndarray) -> bool:
    """Return whether the sum is finite, so that there is neither NaN nor infinity."""
    return math.isfinite(np.add.reduce(numbers, axis=None))


def _is_current(plan: _Plan, layers: DenseStack) -> bool:
    """Return whether a plan is for these layers and their weights have not moved."""
    if list(layers._modules.values()) != plan.parts:
        return False
    for step in plan.steps:
        weight, bias = step.layer._parameters.values()
        if weight is not step.params[0] or bias is not step.params[1]:
            return False
        if (weight.data_ptr(), bias.data_ptr()) != step.places:
            return False
    return True


def _plan(layers: DenseStack) -> _Plan:
    """Return the plan of a stack, without steps if some layers are of another kind."""
    parts = list(layers)
    steps: list[_Step] = []
    is_on_cpu = next(layers.parameters()).device.type == "cpu"
    for part in parts if is_on_cpu else ():
        if type(part) is Linear and part.bias is not None:
            weight, bias = part.weight, part.bias
            arrays = weight.detach().numpy().T, bias.detach().numpy()
            steps.append(_Step(part, (weight, bias), (weight.data_ptr(), bias.data_ptr()), *arrays))
        elif type(part) in _ACTIVATIONS and steps and steps[-1].activate is None:
            steps[-1] = steps[-1]._replace(activate=_ACTIVATIONS[type(part)])
        elif type(part) not in _WITHOUT_EFFECT:
            steps = []
            break
    sizes = [step.weight.size for step in steps]
    row_bytes = max((max(s.weight.shape) * s.weight.itemsize for s in steps), default=0)
    # without a reference to layers: a reference cycle would keep its memory
    uses_torch = any(isinstance(part, _BY_TORCH) for part in parts)
    return _Plan(parts, steps, uses_torch, max(sizes, default=0), row_bytes)
