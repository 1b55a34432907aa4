"""Modules that are pickled as their configuration and NumPy arrays."""

import operator
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.device import numpy_dtype, torch_dtype


class PicklesAsArrays(nn.Module):
    """A module whose pickled state is its configuration, in plain types, and NumPy arrays.

    torch would pickle the whole flat buffer once for each view of it, and a network trained on a
    GPU could only be loaded on machines with one.
    """

    config: dict[str, Any]

    def learned(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name; a matrix shared by two layers appears once."""
        named = [*self.named_parameters(), *self.learned_buffers()]
        return {name: tensor.detach() for name, tensor in named}

    def learned_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and buffers, except those that follow from the configuration."""
        yield from self.named_buffers()

    def reconfigured(self, config: dict[str, Any]) -> Self:
        """Return a network with another configuration and the same weights, on the same device.

        Only for changes without weights, such as dropout: all tensors must match in order.
        """
        device = next(self.parameters()).device
        other = type(self)(**config, device=device)
        pairs = zip(self.learned().values(), other.learned().values(), strict=True)
        for own, theirs in pairs:
            theirs.copy_(own)
        for param, new in zip(self.parameters(), other.parameters(), strict=True):
            new.requires_grad_(param.requires_grad)
        other.eval()
        return other

    def __getstate__(self) -> dict[str, Any]:
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.learned().items()}
        return {"config": _with_type_names(self.config), "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # on the CPU, wherever it was before; no more memory is allocated than the arrays fill
        config, arrays = _with_torch_types(state["config"]), state["arrays"]
        _check_n_weights(config, sum(array.size for array in arrays.values()))
        self.__init__(**config)  # type: ignore[misc]  # its class wrote the configuration
        learned = self.learned()
        if learned.keys() != arrays.keys():
            raise ValueError("the arrays of a network do not fit its configuration.")
        for name, tensor in learned.items():
            array = arrays[name]
            source = torch.from_numpy(array if array.flags.writeable else array.copy())
            if source.shape != tensor.shape or source.dtype != tensor.dtype:
                raise ValueError(f"the array {name} of a network does not fit its configuration.")
            tensor.copy_(source)
        self.eval()


def _with_type_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with type names for torch's types, also in encoder and decoder."""
    named: dict[str, Any] = {
        name: _with_type_names(c) for name, c in config.items() if isinstance(c, dict)
    }
    if "dtype" in config:
        named["dtype"] = numpy_dtype(config["dtype"]).__name__
    return config | named


def _with_torch_types(config: dict[str, Any]) -> dict[str, Any]:
    """Reverse :func:`_with_type_names`."""
    typed: dict[str, Any] = {
        name: _with_torch_types(c) for name, c in config.items() if isinstance(c, dict)
    }
    if "dtype" in config:
        typed["dtype"] = torch_dtype(np.dtype(config["dtype"]))
    return config | typed


def _check_n_weights(config: dict[str, Any], n_elements: int) -> None:
    """Raise an error for layers with more weights than there are numbers in the arrays."""
    # each category has weights, as a learned vector or as an input of the first layer
    sizes = [operator.index(n) for _, n in config.get("categories", ())]
    if config.get("embedding") is not None:
        sizes += [operator.index(config["n_functions"])] * len(config["numbers"])
    if min(sizes, default=0) < 0 or sum(sizes) > n_elements:
        raise ValueError(f"an input layer of {sizes} has more weights than there are arrays for.")
    for part in config.values():
        if isinstance(part, dict):
            _check_n_weights(part, n_elements)
    units = [operator.index(n) for n in config.get("layer_units", ())]  # small types overflow
    if min(units, default=1) < 1:
        raise ValueError(f"layers have at least one unit each, got {units}.")
    if sum(n_in * n_out for n_in, n_out in pairwise(units)) > n_elements:
        raise ValueError(f"layers of {units} units have more weights than there are arrays for.")
