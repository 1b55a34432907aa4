"""Whether a state from a file is one that an optimiser of a network goes on from.

It is told without making the optimiser: the first one of torch's takes a second to import.
"""

import inspect
import math
import numbers
from typing import Any

import numpy as np
import torch

from sknn_deep._engine.optimizers import SGD, Adam
from sknn_deep._engine.solvers import TORCH_OPTIMIZERS
from sknn_deep._networks.flat import Network

_KINDS = {"sgd": SGD, "adam": Adam, **TORCH_OPTIMIZERS}
# What optimisers keep for each parameter: numbers, arrays, and arrays that an option adds.
_KEPT: dict[type, tuple[set[str], set[str], set[str]]] = {
    SGD: (set(), {"velocity"}, set()),
    Adam: ({"step"}, {"m", "v"}, set()),
    torch.optim.Adam: ({"step"}, {"exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    torch.optim.NAdam: ({"step", "mu_product"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RAdam: ({"step"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RMSprop: ({"step"}, {"square_avg"}, {"momentum_buffer", "grad_avg"}),
    torch.optim.Adagrad: ({"step"}, {"sum"}, set()),
    torch.optim.Muon: (set(), {"momentum_buffer"}, set()),
}  # fmt: skip


def check_optimizer_state(network: Network, solver: str | type, state: Any) -> None:
    """Raise a ValueError if an optimiser of a solver could not go on from a state.

    Parameters
    ----------
    network : Network
    solver : str or type
        As the parameter of the estimators.
    state : dict
        The optimiser's ``state_dict``, with arrays in place of tensors. Of classes that are not
        this package's or torch's, the names of what they keep are not known.
    """
    kinds: list[Any] = [_KINDS.get(solver, solver)]
    params = [[network.flat]] if isinstance(solver, str) else [list(network.parameters())]
    parts = [state]
    if solver == "muon":
        matrices, others = network.hidden_matrices_and_others()
        kinds, params = [torch.optim.Muon, torch.optim.Adam], [matrices, others]
        if not matrices:
            kinds, params = kinds[1:], params[1:]
        parts = state["parts"]
    if not isinstance(kinds[0], type) or len(parts) != len(kinds):
        raise ValueError(f"solver={solver!r} keeps no such state of an optimiser.")
    for part, kind, own in zip(parts, kinds, params, strict=True):
        (group,) = part["param_groups"]
        _check_group(group, kind, list(range(len(own))))
        for number, kept in part["state"].items():
            _check_kept(kept, kind, tuple(own[number].shape))


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits a float, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        float(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
    return True


def _check_group(group: dict[str, Any], kind: type, params: list[int]) -> None:
    """Check the options of an optimiser; its constructor names them, schedulers add numbers."""
    options = list(inspect.signature(kind.__init__).parameters.values())[2:]
    missing = {option.name for option in options} - group.keys()
    if group["params"] != params or missing:
        raise ValueError(f"the options {sorted(group)} are not those of {kind.__name__}.")
    defaults = {option.name: option.default for option in options}
    for name, value in group.items():
        default = 0.0 if name == "lr" else defaults.get(name)
        if name != "params" and not _is_option(value, default):
            raise ValueError(f"{name}={value!r} is no option of {kind.__name__}.")


def _is_option(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return len(value) == len(default) and all(map(_is_finite, value))
    if is_number(default):
        return _is_finite(value)
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    return value is None or isinstance(value, bool | str) or _is_finite(value)


def _is_finite(value: Any) -> bool:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return is_number(value) and math.isfinite(value)


def _check_kept(kept: dict[str, Any], kind: type, shape: tuple[int, ...]) -> None:
    """Check what an optimiser keeps for a parameter of a shape."""
    single, arrays, optional = _KEPT.get(kind, (set(), set(), kept.keys()))
    if not single | arrays <= kept.keys() <= single | arrays | optional:
        raise ValueError(f"{kind.__name__} does not keep {sorted(kept)}.")
    if kind not in _KEPT:
        return
    for name, value in kept.items():
        if name in single:
            # torch counts in tensors, ours does not
            is_right = type(value) is int if kind is Adam else np.shape(value) == ()
            is_right = is_right and _is_finite(value) and value >= 0
        elif value is None:
            is_right = name in optional
        else:
            is_right = value.shape == shape and value.dtype.kind == "f"
        if not is_right:
            raise ValueError(f"{name}={value!r} of {kind.__name__} does not fit {shape}.")
