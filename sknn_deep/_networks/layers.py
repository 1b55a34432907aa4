"""Stacks of dense layers, and activations and normalisations by name."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias, overload

import torch
from torch import Tensor, nn

from sknn_deep._hardware.slow_mkl import linear
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.pickled_modules import PicklesAsArrays
from sknn_deep._networks.random_layers import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
}
Normalization: TypeAlias = nn.BatchNorm1d | nn.LayerNorm
NORMALIZATIONS: dict[str, type[Normalization]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


def has_hooks(module: nn.Module | None) -> bool:
    """Return whether a module has hooks that a call would run."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def is_watched(module: nn.Module) -> bool:
    """Return whether a module has hooks or is in training mode."""
    return has_hooks(module) or module.__dict__["training"]


def _call(function: Callable[[], None] | None) -> None:
    if function is not None:
        function()


class DenseStack(PicklesAsArrays, nn.Sequential):
    """Dense layers in sequence: linear, normalisation, activation, dropout, linear and so on.

    Parameters
    ----------
    layer_units : sequence of int, length n_layers
        Units of the input, of every hidden layer and of the output.
    activations : sequence of str, length n_layers - 2
        Names in ``ACTIVATIONS``, one per hidden layer.
    dropout : sequence of float, length n_layers - 2
    normalization : {"batch", "layer"} or None
    out_activation : str, default="identity"
    dtype : torch.dtype, default=torch.float32
    device : torch.device, default=None

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.layers import DenseStack
    >>> stack = DenseStack((784, 128, 10), activations=["relu"], dropout=[0.0])
    >>> stack(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        layer_units: Sequence[int],
        *,
        activations: Sequence[str],
        dropout: Sequence[float],
        normalization: str | None = None,
        out_activation: str = "identity",
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.config = {
            "layer_units": tuple(layer_units),
            "activations": tuple(activations),
            "dropout": tuple(dropout),
            "normalization": normalization,
            "out_activation": out_activation,
            "dtype": dtype,
        }
        parts: list[nn.Module] = []
        n_hidden = len(layer_units) - 2
        for i, (fan_in, fan_out) in enumerate(pairwise(layer_units)):
            parts.append(Linear(fan_in, fan_out, dtype=dtype, device=device))
            if i == n_hidden:
                break
            if normalization is not None:
                parts.append(NORMALIZATIONS[normalization](fan_out, dtype=dtype, device=device))
            parts.append(ACTIVATIONS[activations[i]]())
            if dropout[i] > 0:
                parts.append(Dropout(dropout[i]))
        if out_activation != "identity":
            parts.append(ACTIVATIONS[out_activation]())
        self._modules.update((str(i), part) for i, part in enumerate(parts))

    def stages(self) -> list[tuple[Linear, Normalization | None, str, Dropout | None]]:
        """Return each dense layer with its normalisation, activation name and dropout."""
        names = [*self.config["activations"], self.config["out_activation"]]
        linears: list[Linear] = []
        norms: list[Normalization | None] = []
        dropouts: list[Dropout | None] = []
        for part in self:
            if isinstance(part, Linear):
                linears.append(part)
                norms.append(None)
                dropouts.append(None)
            elif isinstance(part, Normalization):
                norms[-1] = part
            elif isinstance(part, Dropout):
                dropouts[-1] = part
        return list(zip(linears, norms, names, dropouts, strict=True))

    def outputs(self, x: Tensor, check: Callable[[], None] | None = None) -> Tensor:
        """Return the same as calling the stack, in less time.

        ``Module.__call__`` looks for hooks first, which takes as long as a small layer itself.

        Parameters
        ----------
        x : Tensor of shape (batch, n_inputs)
        check : callable, default=None
            Called if a number of x may be NaN or infinite. All outputs of its row in the first
            layer are then NaN or infinite, and checking these is faster than checking x.
        """
        if has_hooks(self):
            _call(check)
            result: Tensor = self(x)
            return result
        is_own = False  # whether x may be overwritten, because no other code has seen it
        for part in self._modules.values():
            kind = type(part)
            if has_hooks(part):
                _call(check)
                check, is_own = None, False
                x = part(x)
            elif kind is Linear and isinstance(x, Tensor):  # a SparseBatch goes through forward
                # direct access is faster than torch's attribute lookup
                weight, bias = part._parameters.values()
                x, is_own = linear(x, weight, bias), True  # type: ignore[arg-type]
                if check is not None:
                    if not math.isfinite(x.sum()):
                        check()
                    check = None
            elif kind is nn.ReLU and is_own:
                x = x.relu_()
            else:
                x, is_own = part.forward(x), False
        return x

    def first(self, n_layers: int) -> nn.Sequential:
        """Return the first dense layers, each with its normalisation and activation."""
        starts = [i for i, part in enumerate(self) if isinstance(part, Linear)]
        return self[: starts[n_layers]] if n_layers < len(starts) else self[:]

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...

    @overload
    def __getitem__(self, index: slice) -> nn.Sequential: ...

    def __getitem__(self, index: int | slice) -> nn.Module:
        # a slice of the stack need not be a DenseStack
        return (
            nn.Sequential(*list(self)[index])
            if isinstance(index, slice)
            else super().__getitem__(index)
        )
