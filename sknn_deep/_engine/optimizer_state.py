"""Checks whether an optimiser can continue from a state that was read from a file.

No optimiser is constructed for this: the first of torch's costs an import of a second.
"""

import inspect
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.optimizers import SGD, Adam
from sknn_deep._engine.solvers import TORCH_OPTIMIZERS
from sknn_deep._networks.flat import Network

_CLASSES: dict[str, type] = {"sgd": SGD, "adam": Adam, **TORCH_OPTIMIZERS}
# State that optimisers keep for each parameter: counts, arrays of its shape, and optional arrays.
_KEPT: dict[type, tuple[set[str], set[str], set[str]]] = {
    SGD: (set(), {"velocity"}, set()),
    Adam: ({"step"}, {"m", "v"}, set()),
    torch.optim.Adam: ({"step"}, {"exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    torch.optim.AdamW: ({"step"}, {"exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    torch.optim.SGD: (set(), set(), {"momentum_buffer"}),
    torch.optim.NAdam: ({"step", "mu_product"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RAdam: ({"step"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RMSprop: ({"step"}, {"square_avg"}, {"momentum_buffer", "grad_avg"}),
    torch.optim.Adagrad: ({"step"}, {"sum"}, set()),
    torch.optim.Muon: (set(), {"momentum_buffer"}, set()),
}

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_optimizer_state(network: Network, solver: str | type, state: dict[str, Any]) -> None:
    """Raise an error, usually a ValueError, if an optimiser cannot continue from a state.

    Parameters
    ----------
    network : Network
    solver : str or type
        See the parameter of the estimators.
    state : dict
        The optimiser's ``state_dict``, with arrays in place of tensors. Classes that belong neither
        to this package nor to torch are not checked, and torch's rare ones only for numeric values;
        any other error there surfaces in the first step.
    """
    parts: list[tuple[dict[str, Any], type, Sequence[Tensor]]]
    if not isinstance(solver, str):
        parts = [(state, solver, list(network.parameters()))]
    elif solver == "muon":
        matrices, others = network.hidden_matrices_and_others()
        own = [(torch.optim.Muon, matrices), (torch.optim.Adam, others)]
        own = own if matrices else own[1:]
        parts = [(part, *pair) for part, pair in zip(state["parts"], own, strict=True)]
    else:
        parts = [(state, _CLASSES[solver], [network.flat])]
    for part, cls, params in parts:
        if cls not in _KEPT and getattr(torch.optim, cls.__name__, None) is not cls:
            continue
        (group,) = part["param_groups"]
        _, *options = inspect.signature(cls).parameters.values()
        names = {option.name for option in options if option.kind not in _ANY_NUMBER}
        if names - group.keys() or group["params"] != list(range(len(params))):
            raise ValueError(f"{sorted(group)} are not the options of {cls.__name__}.")
        for name, value in group.items():
            if not _is_option(value) or (name == "lr" and not _is_finite(value)):
                raise ValueError(f"{name}={value!r} is no option of {cls.__name__}.")
        for number, kept in part["state"].items():
            _check_kept(kept, cls, tuple(params[number].shape))


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits into a float, NaN and infinity included."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:  # an integer of hundreds of digits
        return False


def _is_finite(value: Any) -> bool:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return is_number(value) and math.isfinite(value)


def _is_option(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    return value is None or isinstance(value, bool | str) or _is_finite(value)


def _check_kept(kept: dict[str, Any], cls: type, shape: tuple[int, ...]) -> None:
    counts, arrays, optional = _KEPT.get(cls, (set(), set(), kept.keys()))
    if not counts | arrays <= kept.keys() <= counts | arrays | optional:
        raise ValueError(f"{cls.__name__} does not keep {sorted(kept)}.")
    for name, value in kept.items():
        if name in counts:  # ours is a Python number, torch's a tensor
            is_right = type(value) is int if cls is Adam else np.shape(value) == ()
            is_right = is_right and _is_finite(value) and value >= 0
        elif cls in _KEPT:
            is_array = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            is_right = (is_array and value.shape == shape) or (value is None and name in optional)
        else:
            is_right = _is_numeric(value)
        if not is_right:
            raise ValueError(f"{name}={value!r} of {cls.__name__} does not fit {shape}.")


def _is_numeric(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_numeric, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, bool) or is_number(value)
