"""The output of a plain network for a few rows, in as few calls as possible.

For few rows the calls around the products count, and for one row they take longer than the numbers.
Very few rows are multiplied by NumPy, whose calls are shorter than torch's, and others by torch.
The arrays are views of the network's weights, and are made anew where those have moved.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from sknn_deep._hardware.device import as_tensor
from sknn_deep._hardware.pace import threads_of_outputs
from sknn_deep._hardware.slow_mkl import linear
from sknn_deep._hardware.threads import one_thread
from sknn_deep._networks.layers import DenseStack, Dropout, Linear, is_watched
from sknn_deep._networks.models import MLP

# Multiply-adds of a product that OpenBLAS computes on one thread.
MOST_WORK = 2**18
# Activations of more rows leave the cache, so that others take them in parts.
MOST_BYTES = 2**22
# By NumPy and by torch; they work in place.
_ACTIVATIONS: dict[type, tuple[Callable[[np.ndarray], Any], Callable[[Tensor], Any]]] = {
    nn.ReLU: (lambda z: np.maximum(z, 0, out=z), torch.relu_),
    nn.Tanh: (lambda z: np.tanh(z, out=z), torch.tanh_),
    nn.Sigmoid: (lambda z: expit(z, out=z), torch.sigmoid_),
}
_WITHOUT_EFFECT = (nn.Identity, Dropout)


class _Step(NamedTuple):
    """A dense layer, and the activation behind it."""

    params: tuple[Tensor, Tensor]
    places: tuple[int, int]
    weight: np.ndarray
    bias: np.ndarray
    by_numpy: Callable[[np.ndarray], Any] | None = None
    by_torch: Callable[[Tensor], Any] | None = None


class _Plan(NamedTuple):
    """What a network consists of, and what is computed."""

    parts: list[nn.Module]
    steps: list[_Step]
    largest: int
    n_weights: int
    row_bytes: int


def output_of_few_rows(
    network: nn.Module, X: np.ndarray, *, rounds: bool = False
) -> np.ndarray | None:
    """Return what calling the network does, or None where its modules have to be called.

    That is so for many rows, other kinds of layers and modules with hooks; and if a number of X may
    be NaN or infinite, or the output is. All sums of such a row in the first layer are NaN or
    infinite, so that one of them tells.

    Parameters
    ----------
    network : MLP or DenseStack
    X : ndarray of shape (n_rows, n_features)
        Of the network's floating-point type, contiguous.
    rounds : bool, default=False
        Whether the factors of products that are worth it are to be rounded, which is not done here.
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
    if not plan.steps or n_rows * plan.row_bytes > MOST_BYTES:
        return None
    if is_watched(layers) or any(map(is_watched, plan.parts)):
        return None
    if n_rows * plan.largest <= MOST_WORK:
        return _by_numpy(plan, X)
    return None if rounds else _by_torch(plan, X)


def _by_numpy(plan: _Plan, X: np.ndarray) -> np.ndarray | None:
    activations = X
    with np.errstate(all="ignore"):
        for step in plan.steps:
            is_first = activations is X
            activations = np.dot(activations, step.weight)
            if is_first and not _has_finite_sum(activations[:, 0]):
                return None
            activations += step.bias
            if step.by_numpy is not None:
                step.by_numpy(activations)
        return activations if _has_finite_sum(activations) else None


def _by_torch(plan: _Plan, X: np.ndarray) -> np.ndarray | None:
    rows = as_tensor(X)
    if rows is None or threads_of_outputs(len(X) * plan.n_weights) > 1:
        return None
    activations = rows
    with (
        nullcontext() if torch.get_num_threads() == 1 else one_thread(),
        torch.inference_mode(),
        np.errstate(all="ignore"),
    ):
        for step in plan.steps:
            is_first = activations is rows
            activations = linear(activations, *step.params)
            if is_first and not _has_finite_sum(activations.numpy()[:, 0]):
                return None
            if step.by_torch is not None:
                step.by_torch(activations)
        output = np.ascontiguousarray(activations.numpy())
        return output if _has_finite_sum(output) else None


def _has_finite_sum(numbers: np.ndarray) -> bool:
    """Return whether there is neither NaN nor infinity, because the sum is finite."""
    return math.isfinite(np.add.reduce(numbers, axis=None))


def _is_current(plan: _Plan, layers: DenseStack) -> bool:
    """Return whether the layers are the plan's, with their weights where they were."""
    if list(layers._modules.values()) != plan.parts:
        return False
    for (weight, bias), places, *_ in plan.steps:
        if (weight.data_ptr(), bias.data_ptr()) != places:
            return False
    return True


def _plan(layers: DenseStack) -> _Plan:
    """Return the steps through layers, none where some are of another kind."""
    parts = list(layers)
    steps: list[_Step] = []
    is_on_cpu = next(layers.parameters()).device.type == "cpu"
    for part in parts if is_on_cpu else ():
        if type(part) is Linear:
            weight, bias = part.weight, part.bias
            arrays = weight.detach().numpy().T, bias.detach().numpy()
            steps.append(_Step((weight, bias), (weight.data_ptr(), bias.data_ptr()), *arrays))
        elif type(part) in _ACTIVATIONS and steps[-1].by_numpy is None:
            by_numpy, by_torch = _ACTIVATIONS[type(part)]
            steps[-1] = steps[-1]._replace(by_numpy=by_numpy, by_torch=by_torch)
        elif type(part) not in _WITHOUT_EFFECT:
            steps = []
            break
    sizes = [step.weight.size for step in steps]
    row_bytes = max((max(s.weight.shape) * s.weight.itemsize for s in steps), default=0)
    # not the layers: a cycle would keep its memory
    return _Plan(parts, steps, max(sizes, default=0), sum(sizes), row_bytes)
