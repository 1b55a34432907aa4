"""The output of a plain network for a few rows, by NumPy.

A call of NumPy takes half as long as one of torch, and of one row the calls take longer than the
numbers. The arrays are views of the network's weights, and are made anew where those have moved.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from torch import Tensor, nn

from sknn_deep._networks.layers import Dropout, Linear, has_hooks
from sknn_deep._networks.models import MLP

# Multiply-adds of a product that OpenBLAS computes on one thread.
MOST_WORK = 2**18
# Work in place.
_ACTIVATIONS: dict[type, Callable[[np.ndarray], Any]] = {
    nn.ReLU: lambda z: np.maximum(z, 0, out=z),
    nn.Tanh: lambda z: np.tanh(z, out=z),
    nn.Sigmoid: lambda z: expit(z, out=z),
}
_WITHOUT_EFFECT = (nn.Identity, Dropout)


class _Step(NamedTuple):
    """A dense layer, and the activation behind it."""

    params: tuple[Tensor, Tensor]
    places: tuple[int, int]
    weight: np.ndarray
    bias: np.ndarray
    activate: Callable[[np.ndarray], Any] | None


class _Plan(NamedTuple):
    """What a network consists of, and what is computed."""

    parts: list[nn.Module]
    steps: list[_Step]
    largest: int


def output_of_few_rows(network: nn.Module, X: np.ndarray) -> np.ndarray | None:
    """Return what calling the network does, or None where torch has to compute or to look at it.

    That is so for many rows, other kinds of layers and modules with hooks; and if a number of X may
    be NaN or infinite, or the output is. All sums of such a row in the first layer are NaN or
    infinite, so that one of them tells.

    Parameters
    ----------
    network : Module
    X : ndarray of shape (n_rows, n_features)
        Of the network's floating-point type, contiguous.
    """
    state = network.__dict__
    plan: _Plan | None = state.get("_plan")
    if plan is None or not _is_current(plan, network):
        state["_plan"] = plan = _plan(network)
    if len(X) * plan.largest > MOST_WORK or not plan.steps:
        return None
    if _are_watched([network, network.layers, *plan.parts]):  # type: ignore[list-item]
        return None
    activations = X
    with np.errstate(all="ignore"):
        for step in plan.steps:
            is_first = activations is X
            activations = np.dot(activations, step.weight)
            if is_first and not math.isfinite(np.add.reduce(activations[:, 0])):
                return None
            activations += step.bias
            if step.activate is not None:
                step.activate(activations)
        return activations if math.isfinite(np.add.reduce(activations, axis=None)) else None


def _is_current(plan: _Plan, network: nn.Module) -> bool:
    """Return whether the network has the plan's parts, with their weights where they were."""
    if list(network.layers._modules.values()) != plan.parts:  # type: ignore[union-attr]
        return False
    for (weight, bias), places, *_ in plan.steps:
        if (weight.data_ptr(), bias.data_ptr()) != places:
            return False
    return True


def _are_watched(modules: list[nn.Module]) -> bool:
    """Return whether hooks want to see what the modules compute, or training is on."""
    for module in modules:
        if has_hooks(module) or module.__dict__["training"]:
            return True
    return False


def _plan(network: nn.Module) -> _Plan:
    """Return the steps of a network, none where NumPy does not compute them all."""
    parts = list(network.layers)  # type: ignore[arg-type]
    steps: list[_Step] = []
    is_plain = type(network) is MLP and network.input is None
    for part in parts if is_plain and network.flat.device.type == "cpu" else ():
        if type(part) is Linear:
            weight, bias = part.weight, part.bias
            arrays = weight.detach().numpy().T, bias.detach().numpy()
            steps.append(_Step((weight, bias), (weight.data_ptr(), bias.data_ptr()), *arrays, None))
        elif type(part) in _ACTIVATIONS and steps[-1].activate is None:
            steps[-1] = steps[-1]._replace(activate=_ACTIVATIONS[type(part)])
        elif type(part) not in _WITHOUT_EFFECT:
            steps = []
            break
    largest = max((step.weight.size for step in steps), default=0)
    return _Plan(parts, steps, largest)  # not the network: a cycle would keep its memory
