r"""Input layers, which a network applies to a batch before its first dense layer.

An input layer maps raw features to the input of the first dense layer. It may fill missing values,
add noise, or embed numbers and categories with weights of its own. To write one, derive a module
from :class:`InputLayer` and set it as ``network.input`` before ``network.flatten()``:

* ``forward(x)`` maps (batch, n_features) to (batch, n_inputs) with torch operations: predictions
  and autograd use it. ``n_inputs`` is the number of inputs of the first dense layer.
* ``kernels(own, x, out)`` returns kernels that do the same in training for one network, into a
  buffer. Without it ``forward`` is called.
* ``gradient_kernels(own, x, delta)`` is for layers with parameters :math:`\theta`. Given
  :math:`\delta = \partial L / \partial \text{out}`, its kernels write
  :math:`\partial L / \partial \theta`, every entry, into ``own.gradients``.

In a stack of K networks these run network by network. A layer with a faster algorithm overrides
``forward_kernels`` and ``backward_kernels``: there ``x``, ``out`` and ``delta`` have a leading
dimension of K, and so have the parameters and the gradients in ``own``, which are views of the flat
buffers. Neither the L2 penalty nor ``weight_decay`` applies to a layer's parameters;
``embedding_weight_decay`` applies to those of ``vectors_to_decay``. The gradient with respect to
the first dense layer's input is only computed for layers with parameters.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.products import Program
from sknn_deep._networks.random_layers import Noise


class InputLayer(nn.Module):
    """Base class of the modules that a network applies to its input first.

    Input (batch, n_features), output (batch, n_inputs).
    """

    n_inputs: int

    def initialize(self, random_state: np.random.RandomState) -> None:
        """Draw the parameters, after those of the dense layers; by default they are unchanged."""

    @property
    def kept_per_row(self) -> int:
        """Number of values that a training step stores per row of a batch, besides the outputs."""
        return 0

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        """Return a name for each output, given the names of the features and their categories."""
        raise NotImplementedError(f"{type(self).__name__} has no names of its outputs.")

    def vectors_to_decay(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """Return views of the parameters to which ``embedding_weight_decay`` applies.

        Parameters
        ----------
        parameters : dict of Tensor
            The trained tensors by name, with a leading dimension of K in a stack.
        """
        return []

    def forward_kernels(self, own: "BoundInput", x: Tensor, out: Tensor) -> Program:
        """Return the kernels that write a batch of shape (batch, n_inputs) in training.

        Parameters
        ----------
        own : BoundInput
            This layer, or those of all networks of a stack.
        x : Tensor of shape (batch, n_features)
            Filled when a kernel runs; each network of a stack has its own rows.
        out : Tensor of shape (batch, n_inputs)
        """
        return [
            kernel
            for one, x_k, out_k in _networks(own, x, out)
            for kernel in one.modules[0].kernels(one, x_k, out_k)
        ]

    def kernels(self, own: "BoundInput", x: Tensor, out: Tensor) -> Program:
        """Return the forward kernels of one network, by default a call of ``write``."""
        return [partial(self.write, x, out)]

    def write(self, x: Tensor, out: Tensor) -> None:
        """Write the output for one network's rows, for layers without parameters."""
        out.copy_(self(x))

    def backward_kernels(self, own: "BoundInput", x: Tensor, delta: Tensor) -> Program:
        """Return the kernels that write the gradients of the parameters.

        Parameters
        ----------
        own : BoundInput
        x : Tensor of shape (batch, n_features)
        delta : Tensor of shape (batch, n_inputs)
            The gradient of the loss with respect to this layer's output.
        """
        return [
            kernel
            for one, x_k, delta_k in _networks(own, x, delta)
            for kernel in one.modules[0].gradient_kernels(one, x_k, delta_k)
        ]

    def gradient_kernels(self, own: "BoundInput", x: Tensor, delta: Tensor) -> Program:
        """Return the backward kernels of one network."""
        raise NotImplementedError(
            f"{type(self).__name__} has the parameters {list(own.parameters)}, but no "
            "gradient_kernels that write their gradients."
        )


@dataclass(frozen=True)
class BoundInput:
    """The input layer of one network or of K networks, with the tensors that are trained.

    Attributes
    ----------
    modules : list of InputLayer, length 1 or K
    parameters, gradients : dict of Tensor
        By name, with a leading dimension of K in a stack.
    """

    modules: list[Any]
    parameters: dict[str, Tensor]
    gradients: dict[str, Tensor]
    _cache: dict[Hashable, Any] = field(default_factory=dict)

    def forward(self, x: Tensor, out: Tensor) -> Program:
        """Return the kernels of :meth:`InputLayer.forward_kernels`."""
        return self.modules[0].forward_kernels(self, x, out)

    def backward(self, x: Tensor, delta: Tensor) -> Program:
        """Return the kernels of :meth:`InputLayer.backward_kernels`."""
        return self.modules[0].backward_kernels(self, x, delta)

    def network(self, number: int) -> "BoundInput":
        """Return the input of one network of a stack, without the leading dimension."""
        return self.cached(("network", number), partial(self._network, number))

    def _network(self, number: int) -> "BoundInput":
        parameters, gradients = (
            {name: tensor[number] for name, tensor in tensors.items()}
            for tensors in (self.parameters, self.gradients)
        )
        return BoundInput([self.modules[number]], parameters, gradients)

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return something that all batches share, such as buffers, created on first use."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def part(self, number: int) -> "BoundInput":
        """Return one of this layer's ``parts``, bound to its tensors."""
        return self.cached(("part", number), partial(self._part, number))

    def _part(self, number: int) -> "BoundInput":
        parameters, gradients = (
            parameters_of_part(number, tensors) for tensors in (self.parameters, self.gradients)
        )
        modules = [module.parts[number] for module in self.modules]
        return BoundInput(modules, parameters, gradients)


def parameters_of_part(number: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of one of a layer's ``parts``, by their names within the part."""
    prefix = f"parts.{number}."
    return {n.removeprefix(prefix): t for n, t in parameters.items() if n.startswith(prefix)}


class Corruption(InputLayer):
    """The input of an autoencoder's encoder: missing values filled, and noise in training.

    Input and output (batch, n_features).

    Parameters
    ----------
    n_features : int
    noise : tuple of (str, float), default=None
        Kind and amount of a :class:`Noise`.
    allow_nan : bool, default=False
        Whether NaN is replaced by ``fill``, a buffer of shape (n_features,).
    dtype, device
        Type and device of the buffers.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.inputs import Corruption
    >>> corruption = Corruption(2, allow_nan=True)
    >>> corruption(torch.tensor([[1.0, torch.nan]]))
    tensor([[1., 0.]])
    """

    fill: Tensor | None
    noise: Noise | None

    def __init__(
        self,
        n_features: int,
        noise: tuple[str, float] | None = None,
        allow_nan: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.noise = None
        if noise is not None:
            self.noise = Noise(*noise, n_features, dtype=dtype, device=device)
        fill = torch.zeros(n_features, dtype=dtype, device=device) if allow_nan else None
        self.register_buffer("fill", fill)

    def forward(self, x: Tensor) -> Tensor:
        x = self.filled(x)
        return x if self.noise is None else self.noise(x)

    def filled(self, x: Tensor) -> Tensor:
        """Return rows with missing values filled."""
        return x if self.fill is None else torch.where(x.isnan(), self.fill, x)

    def write(self, x: Tensor, out: Tensor) -> None:
        if self.fill is not None:
            torch.where(x.isnan(), self.fill, x, out=out)
            x = out if self.noise is None else out.clone()
        if self.noise is not None:
            self.noise.corrupt(x, out)
        elif self.fill is None:
            out.copy_(x)


def matrices_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of a stack, or the only one."""
    return tensor.unbind() if tensor.ndim == 3 else (tensor,)


def _networks(
    own: BoundInput, x: Tensor, rows: Tensor
) -> Iterator[tuple[BoundInput, Tensor, Tensor]]:
    """Yield for each network its layer, its batch and its rows of the layer's output."""
    if x.ndim == 2:
        yield own, x, rows
    else:
        yield from zip(map(own.network, range(len(x))), x, rows, strict=True)
