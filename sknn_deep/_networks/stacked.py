"""Several networks of the same shape as a stack, with their parameters in one buffer.

The weights are copied into the buffer, in the layout in which a stack computes fastest, and back
when a network leaves the stack or is evaluated. Making all parameters views of the buffer, and
later of their own memory again, took longer than an epoch of many short trainings. Outside a
stack the flat buffer keeps torch's layout, which snapshots, files and optimisers rely on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sknn_deep._networks.flat import Network, gradient_of
from sknn_deep._networks.inputs import BoundInput
from sknn_deep._networks.layers import Normalization
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.random_layers import Dropout


class NormLayer(NamedTuple):
    """A normalisation layer of one network or of K networks, with its trained tensors.

    Attributes
    ----------
    modules : tuple of Module, length K
    weight, bias, weight_grad, bias_grad : Tensor of shape (units,)
        With a leading dimension of K for K networks.
    """

    modules: tuple[Normalization, ...]
    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor

    def of_each(self) -> "list[NormLayer]":
        """Return the layer of each network, without the leading dimension."""
        if self.weight.ndim == 1:
            return [self]
        parts = zip(self.modules, *self[1:], strict=True)
        return [NormLayer((module,), *tensors) for module, *tensors in parts]


@dataclass(frozen=True)
class DenseLayer:
    """One layer of a network, or of K networks of the same shape.

    Attributes
    ----------
    weight, weight_grad : Tensor of shape (out_features, in_features)
        For K networks, these and the following have a leading dimension of K.
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
    """Copy networks of the same shape into one buffer, so that they can be trained as a stack.

    There the first matrix is column-major: if it is small, OpenBLAS then computes its product with
    a batch in at most two thirds of the time. Other layers' products would gain as much, but their
    gradients with respect to the layer's input would lose it.

    Returns
    -------
    flat, gradient : Tensor of shape (n_networks, n_parameters)
        One row per network; the gradient is zero. :func:`rows_of_networks` converts rows back.
    """
    flat = torch.stack([network.flat for network in networks])
    turn_first(flat, networks[0].first_shape)
    return flat, torch.zeros_like(flat)


def rows_of_networks(buffer: Tensor, numbers: list[int], first_shape: torch.Size) -> Tensor:
    """Return a copy of some rows of a shared buffer in the layout of the networks' own buffers."""
    rows = buffer[numbers]
    turn_first(rows, first_shape[::-1])
    return rows


def turn_first(buffers: Tensor, shape: Sequence[int]) -> None:
    """Transpose the first matrix, of the given shape, in place in one or many flat buffers."""
    if 1 in shape:  # a vector has the same layout either way
        return
    first = buffers[..., : shape[0] * shape[1]]
    first.copy_(first.unflatten(-1, shape).mT.reshape(first.shape))


def dense_layers(
    networks: Sequence[Network], buffers: tuple[Tensor, Tensor] | None = None
) -> list[DenseLayer]:
    """Return the layers of a network, or of several networks of the same shape.

    Parameters
    ----------
    networks : sequence of Network, length K
    buffers : (Tensor, Tensor) or None
        Parameters and gradients from :func:`share_buffer`; None for a single network's own.
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
    """Return the input layer of a network, or those of several; None if they have none.

    Parameters are those of :func:`dense_layers`.
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
    """Return a function that maps the first network's parameters to trained tensor and gradient."""
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
    """Move the batch normalisation statistics of one layer of K networks to shared memory.

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
