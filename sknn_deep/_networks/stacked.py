"""Several networks of one shape as one: their parameters in one buffer.

The weights are copied into the buffer, in the order in which a stack computes fastest, and back
when a network leaves the stack or is evaluated. Making all parameters views of the buffer, and
then of memory of their own again, took longer than an epoch of many short trainings. Outside of a
stack the flat buffer keeps torch's order, in which snapshots, files and optimisers know it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sknn_deep._networks.flat import Network, gradient_of
from sknn_deep._networks.inputs import BoundInput
from sknn_deep._networks.layers import Dropout, Linear, Normalization


class NormLayer(NamedTuple):
    """What normalises in a network or in K networks, and its parameters where they are trained.

    Attributes
    ----------
    modules : tuple of Module, length K
    weight, bias, weight_grad, bias_grad : Tensor of shape (units,)
        For K networks with a leading dimension of K.
    """

    modules: tuple[Normalization, ...]
    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor

    def of_each(self) -> "list[NormLayer]":
        """Return those of the networks, each without the leading dimension."""
        if self.weight.ndim == 1:
            return [self]
        parts = zip(self.modules, *self[1:], strict=True)
        return [NormLayer((module,), *tensors) for module, *tensors in parts]


@dataclass(frozen=True)
class DenseLayer:
    """One layer of a network, or of K networks of one shape.

    Attributes
    ----------
    weight, weight_grad : Tensor of shape (out_features, in_features)
        For K networks, these and the following with a leading dimension of K.
    bias, bias_grad : Tensor of shape (out_features,)
    activation : str
    norm : NormLayer or None
    dropout : list of Dropout, length K or 0
    """

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor
    activation: str
    norm: NormLayer | None
    dropout: list[Dropout]

    def output_shape(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of the layer's output for this many rows."""
        return *self.weight.shape[:-2], n_rows, self.weight.shape[-2]


def share_buffer(networks: Sequence[Network]) -> tuple[Tensor, Tensor]:
    """Copy networks of one shape into one buffer, so that they can be trained as a stack.

    There the first matrix lies by column: where it is small, the product of a batch with it then
    takes OpenBLAS two thirds of the time or less. Those of other layers would gain as much, but
    their gradients with respect to the layer's input would lose it.

    Returns
    -------
    flat, gradient : Tensor of shape (n_networks, n_parameters)
        A row for each network; the gradient is zero. :func:`rows_of_networks` gives them back.
    """
    flat = torch.stack([network.flat for network in networks])
    turn_first(flat, networks[0].first_shape)
    return flat, torch.zeros_like(flat)


def rows_of_networks(buffer: Tensor, numbers: list[int], first_shape: torch.Size) -> Tensor:
    """Return a copy of some rows of a shared buffer in the order of the networks' own."""
    rows = buffer[numbers]
    turn_first(rows, first_shape[::-1])
    return rows


def turn_first(buffers: Tensor, shape: Sequence[int]) -> None:
    """Transpose the first matrix, of a shape, where it lies in one or many flat buffers."""
    if 1 in shape:  # a row is a column already
        return
    first = buffers[..., : shape[0] * shape[1]]
    first.copy_(first.unflatten(-1, shape).mT.reshape(first.shape))


def dense_layers(
    networks: Sequence[Network], buffers: tuple[Tensor, Tensor] | None = None
) -> list[DenseLayer]:
    """Return the layers of a network, or of several of one shape.

    Parameters
    ----------
    networks : sequence of Network, length K
    buffers : (Tensor, Tensor) or None
        Parameters and gradients of :func:`share_buffer`; None for the only network's own.
    """
    trained = _trained_tensors(networks, buffers)
    layers = []
    for stages in zip(*(network.stages() for network in networks), strict=True):
        linears, modules, names, dropouts = zip(*stages, strict=True)
        norm = None
        if modules[0] is not None:
            norm = NormLayer(modules, *_of_module(modules[0], trained))
        dropout = [module for module in dropouts if module is not None]
        layers.append(DenseLayer(*_of_module(linears[0], trained), names[0], norm, dropout))
    return layers


def bound_input(
    networks: Sequence[Network], buffers: tuple[Tensor, Tensor] | None = None
) -> BoundInput | None:
    """Return the input layer of a network, or those of several; None where they have none.

    Parameters are as in :func:`dense_layers`.
    """
    modules = [network.input for network in networks if network.input is not None]
    if not modules:
        return None
    trained = _trained_tensors(networks, buffers)
    pairs = {name: trained(param) for name, param in modules[0].named_parameters()}
    parameters, gradients = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
    return BoundInput(modules, parameters, gradients)


def _trained_tensors(
    networks: Sequence[Network], buffers: tuple[Tensor, Tensor] | None
) -> Callable[[nn.Parameter], tuple[Tensor, Tensor]]:
    """Return what finds a parameter of the first network, and its gradient, as they are trained."""
    if buffers is None:
        if len(networks) > 1:
            raise ValueError(
                f"The layers of {len(networks)} networks are those of a shared buffer."
            )
        return lambda param: (param.detach(), gradient_of(param))
    parameters, gradients = (networks[0].views_in(buffer) for buffer in buffers)
    return lambda param: (parameters[id(param)], gradients[id(param)])


def _of_module(
    module: Linear | Normalization, trained: Callable[[nn.Parameter], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight and bias of a module, and their gradients."""
    (weight, weight_grad), (bias, bias_grad) = trained(module.weight), trained(module.bias)
    return weight, bias, weight_grad, bias_grad


def shared_statistics(modules: Sequence[Normalization]) -> tuple[Tensor, Tensor, Tensor]:
    """Let batch normalisation of one layer of K networks keep its statistics in common memory.

    Returns
    -------
    means, variances : Tensor of shape (n_networks * units,)
    n_batches : Tensor of shape (n_networks,)
    """
    names = ("running_mean", "running_var", "num_batches_tracked")
    shared = []
    for name in names:
        buffer = torch.stack([getattr(module, name) for module in modules])
        for module, own in zip(modules, buffer, strict=True):
            setattr(module, name, own)
        shared.append(buffer)
    means, variances, n_batches = shared
    return means.view(-1), variances.view(-1), n_batches


def training_twin(network: Network) -> Network:
    """Return a copy in training mode that draws from the same generator."""
    twin = network.reconfigured(network.config)
    twin.train()
    twin.set_generator(network.generator)
    return twin
