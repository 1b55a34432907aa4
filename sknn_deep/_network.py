"""The torch modules: ``MLP`` and ``Autoencoder``, both stacks of dense layers.

All parameters of a network are views of one flat buffer, weight matrices first, and
their gradients of another: an optimiser step, the L2 penalty and the norm of the gradient
are single operations whatever the depth.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._layers import Code, Contraction, Dropout, Linear, Noise, RandomModule
from sknn_deep._threads import one_thread

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
NORMALIZATIONS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class _PicklesAsArrays(nn.Module):
    """A module that pickles as its configuration and NumPy arrays.

    torch would pickle the whole flat buffer once for each view of it, and a network
    trained on a GPU only for machines with one.
    """

    config: dict[str, Any]

    def learned(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name; a matrix that two layers share stands once."""
        named = [*self.named_parameters(), *self.named_buffers()]
        return {name: tensor.detach() for name, tensor in named}

    def __reduce__(self):
        state = {name: tensor.cpu().numpy() for name, tensor in self.learned().items()}
        return rebuild, (type(self), self.config, state)


def rebuild(cls: type[nn.Module], config: dict[str, Any], state: dict[str, np.ndarray]):
    """Return a module with what it had learned, on the CPU."""
    module = cls(**config)
    for name, tensor in module.learned().items():
        tensor.copy_(torch.from_numpy(np.require(state[name], requirements="W")))
    return module.eval()


class DenseStack(_PicklesAsArrays, nn.Sequential):
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
    >>> from sknn_deep._network import DenseStack
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
        n_hidden = len(layer_units) - 2
        for i, (fan_in, fan_out) in enumerate(pairwise(layer_units)):
            self.append(Linear(fan_in, fan_out, dtype=dtype, device=device))
            if i == n_hidden:
                break
            if normalization is not None:
                self.append(NORMALIZATIONS[normalization](fan_out, dtype=dtype, device=device))
            self.append(ACTIVATIONS[activations[i]]())
            if dropout[i] > 0:
                self.append(Dropout(dropout[i]))
        if out_activation != "identity":
            self.append(ACTIVATIONS[out_activation]())

    def __getitem__(self, index):
        # a part of the stack is no stack of dense layers
        return (
            nn.Sequential(*list(self)[index])
            if isinstance(index, slice)
            else super().__getitem__(index)
        )


class Network(_PicklesAsArrays):
    """Base of the two networks: parameters in one flat buffer, gradients in another.

    Attributes
    ----------
    flat : Tensor of shape (n_parameters,)
        All parameters: weight matrices, then biases, scales and shifts. Its ``grad`` is
        the flat gradient.
    weights : Tensor of shape (n_weights,)
        The weight matrices alone, a view of ``flat``; its ``grad`` is a view likewise.
    width : int
        Units of the widest layer, input and output included.
    generator : Generator or None
        From which dropout, noise and the like draw while training.
    code_layer : int or None
        Number of the dense layer whose output is the code.
    needs_autograd : bool
        Whether the closed form of the gradient does not cover the network.
    """

    generator: torch.Generator | None = None
    code_layer: int | None = None
    needs_autograd: bool = False

    def input_changes(self) -> list[Callable[[Tensor, Tensor], object]]:
        """Return what happens to a batch before the first layer, in training.

        Each is called with a batch and a buffer of its shape to write to.
        """
        return []

    def flatten(self) -> None:
        """Make every parameter a view of the flat buffer, every gradient of the other."""
        # torch's own walk through them takes longer than most of what is done on the way; who
        # replaces one of them must call this again
        self._within = [module for module in self.modules() if module is not self]
        self._in_order = self._ordered_parameters()
        self._sizes = [param.numel() for param in self._in_order]
        matrices = [param for param in self._in_order if param.ndim == 2]
        self._n_weights = sum(self._sizes[: len(matrices)])
        self.width = max(max(matrix.shape) for matrix in matrices)
        flat = torch.cat([param.detach().reshape(-1) for param in self._in_order])
        self.view_of(flat, torch.zeros_like(flat))

    @property
    def first_shape(self) -> torch.Size:
        """The shape of the first weight matrix: (out_features, in_features)."""
        return self._in_order[0].shape

    def views_in(self, buffers: Tensor) -> dict[int, Tensor]:
        """Return where each parameter lies in the buffers of networks like this one.

        Parameters
        ----------
        buffers : Tensor of shape (n_networks, n_parameters)
            As :func:`share_buffer` returns them.

        Returns
        -------
        views : dict of Tensor of shape (n_networks, ...)
            By the identity of the parameter.
        """
        first = self._in_order[0]
        views = {
            id(param): rows.unflatten(-1, param.shape if param is not first else param.shape[::-1])
            for param, rows in zip(self._in_order, buffers.split(self._sizes, dim=-1), strict=True)
        }
        return views | {id(first): views[id(first)].mT}

    def _ordered_parameters(self) -> list[nn.Parameter]:
        """Return the parameters in their order in the flat buffer: weight matrices first."""
        matrices = [layer.weight for layer in self.linear_layers()]
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()}
        in_matrices = {id(matrix) for matrix in matrices}
        others = [p for p in self.parameters() if id(p) not in in_matrices]
        return [matrix for matrix in matrices if id(matrix) not in tied] + others

    def tied_layers(self) -> list[tuple[Linear, Linear]]:
        """Return pairs of layers of which the second's matrix is the first's, transposed."""
        return []

    def named_parameters(self, *args, **kwargs) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with their names; a matrix that two layers share once."""
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()}
        for name, param in super().named_parameters(*args, **kwargs):
            if id(param) not in tied:
                yield name, param

    def add_tied_gradients(self) -> None:
        """Add the gradients of tied matrices to those of the matrices that they are."""
        for encoder, decoder in self.tied_layers():
            encoder.weight.grad.add_(decoder.weight.grad.mT)

    def view_of(self, flat: Tensor, gradient: Tensor) -> None:
        """Make the parameters views of a flat buffer, which holds them already."""
        gradients = []
        parts = zip(flat.split(self._sizes), gradient.split(self._sizes), strict=True)
        for param, (own, own_gradient) in zip(self._in_order, parts, strict=True):
            if param.ndim > 1:
                own, own_gradient = own.view(param.shape), own_gradient.view(param.shape)
            param.data = own
            gradients.append((param, own_gradient))
        for encoder, decoder in self.tied_layers():
            decoder.weight.data = encoder.weight.data.mT
            # its own, by row whatever the order of the matrix itself
            gradients.append((decoder.weight, flat.new_zeros(decoder.weight.shape)))
        weights, of_weights = flat[: self._n_weights], gradient[: self._n_weights]
        self.flat, self.weights = flat, weights
        self._gradients = [*gradients, (flat, gradient), (weights, of_weights)]
        self.attach_gradients()

    def attach_gradients(self) -> None:
        """Make every gradient a view of the flat one, whoever has set it to None."""
        for tensor, gradient in self._gradients:
            tensor.grad = gradient

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that want no gradient."""
        params = [param for param, _ in self._gradients[:-2]]
        return [param for param in params if not param.requires_grad]

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients to zero; they stay views, whatever ``set_to_none`` asks."""
        self.attach_gradients()
        self.flat.grad.zero_()
        for _, decoder in self.tied_layers():
            decoder.weight.grad.zero_()

    def _apply(self, fn, recurse=True):
        # .to(), .double() and their kin replace the parameters one by one
        super()._apply(fn, recurse)
        self.flatten()
        return self

    def linear_layers(self) -> list[Linear]:
        """Return the dense layers from input to output."""
        return [module for module in self._within if isinstance(module, Linear)]

    def stages(self) -> "list[tuple[Linear, nn.Module | None, str, Dropout | None]]":
        """Return each dense layer with its normalisation, its activation's name, its dropout."""
        stages = []
        for stack in self._within:
            if isinstance(stack, DenseStack):
                config, parts = stack.config, list(stack)
                names = [*config["activations"], config["out_activation"]]
                starts = [i for i, part in enumerate(parts) if isinstance(part, Linear)]
                for name, start, end in zip(names, starts, [*starts[1:], None], strict=True):
                    found = {type(part): part for part in parts[start:end]}
                    norm = next(
                        (found[kind] for kind in NORMALIZATIONS.values() if kind in found), None
                    )
                    stages.append((parts[start], norm, name, found.get(Dropout)))
        return stages

    def hidden_matrices_and_others(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weight matrices but the last, and all other parameters."""
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()}
        matrices = [layer.weight for layer in self.linear_layers()[:-1]]
        matrices = [matrix for matrix in matrices if id(matrix) not in tied]
        hidden = {id(matrix) for matrix in matrices}
        return matrices, [p for p in self.parameters() if id(p) not in hidden]

    def initialize(self, random_state: np.random.RandomState, activations: Sequence[str]) -> None:
        """Draw all weights as scikit-learn's MLP does, layer after layer.

        ``activations`` names one activation per dense layer: its own for a hidden layer,
        that of the layer before for the others, which have none of their own.
        """
        for layer, name in zip(self.linear_layers(), activations, strict=True):
            layer.glorot_uniform_(random_state, gain=2.0 if name == "logistic" else 6.0)

    def set_generator(self, generator: torch.Generator | None) -> None:
        """Let dropout, noise and all else that is random draw from one generator."""
        self.generator = generator
        for module in self._within:
            if isinstance(module, RandomModule):
                module.generator = generator

    @property
    def is_random(self) -> bool:
        """Whether training draws random numbers, by dropout or another module."""
        return self._has(RandomModule)

    @property
    def has_normalization(self) -> bool:
        return self._has(*NORMALIZATIONS.values())

    def _has(self, *kinds: type) -> bool:
        # no generator: an interruption while one is closed would be lost
        return True in [isinstance(module, kinds) for module in self._within]

    def zero_negligible(self) -> None:
        """Set weights to zero whose square would be a denormal number."""
        zero_negligible(self.weights)

    def learn_statistics(self, X: Tensor) -> None:
        """Set the running statistics of batch normalisation to those of one large batch."""
        norms = [module for module in self._within if isinstance(module, nn.BatchNorm1d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                self.train()(X)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    # Copies take one thread less time than it takes to wake others.

    @one_thread()
    def is_finite(self) -> bool:
        """Return whether all learned state are numbers, the running statistics too."""
        return False not in [bool(tensor.isfinite().all()) for tensor in self._state()]

    @one_thread()
    def snapshot(self) -> list[Tensor]:
        """Return a copy of all learned state: the flat buffer and the running statistics."""
        return [tensor.clone() for tensor in self._state()]

    @one_thread()
    def restore(self, snapshot: Iterable[Tensor]) -> None:
        """Put a snapshot back in place."""
        with torch.no_grad():
            for tensor, saved in zip(self._state(), snapshot, strict=True):
                tensor.copy_(saved)

    def _state(self) -> list[Tensor]:
        return [self.flat, *self.buffers()]


def zero_negligible(weights: Tensor) -> None:
    """Set weights to zero whose square would be a denormal number.

    L2 shrinks the weights of dead units without end; their products with gradients
    are denormal numbers then, on which a CPU is many times slower.
    """
    limit = torch.finfo(weights.dtype).tiny ** 0.5
    torch.ops.aten.hardshrink.out(weights, limit, out=weights)


class NormLayer(NamedTuple):
    """A module that normalises, and its parameters where they are trained."""

    module: nn.Module
    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor


@dataclass(frozen=True)
class DenseLayer:
    """One layer of a network, or of K networks of one shape.

    Attributes
    ----------
    weight, weight_grad : Tensor of shape (out_features, in_features)
        For K networks, these and the following with a leading dimension of K.
    bias, bias_grad : Tensor of shape (out_features,)
    activation : str
    norms : list of NormLayer, length K or 0
    dropout : list of Dropout, length K or 0
    """

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor
    activation: str
    norms: list[NormLayer]
    dropout: list[Dropout]


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
    if buffers is None and len(networks) > 1:
        raise ValueError(f"The layers of {len(networks)} networks are those of a shared buffer.")
    views = [networks[0].views_in(buffer) for buffer in buffers or ()]

    def trained(module: nn.Module) -> list[Tensor]:
        params = [module.weight, module.bias]
        if views:
            return [of_parameters[id(param)] for of_parameters in views for param in params]
        return [param.detach() for param in params] + [param.grad for param in params]

    layers = []
    for stages in zip(*(network.stages() for network in networks), strict=True):
        linears, modules, names, dropouts = zip(*stages, strict=True)
        norms = []
        if modules[0] is not None:
            tensors = trained(modules[0])
            rows = [tensors] if buffers is None else zip(*tensors, strict=True)
            norms = [NormLayer(module, *row) for module, row in zip(modules, rows, strict=True)]
        dropout = [module for module in dropouts if module is not None]
        layers.append(DenseLayer(*trained(linears[0]), names[0], norms, dropout))
    return layers


def training_twin(network: Network) -> Network:
    """Return a copy in training mode that draws from the same generator."""
    twin = copy.deepcopy(network).to(network.flat.device).train()
    twin.set_generator(network.generator)
    return twin


class MLP(Network):
    """A multilayer perceptron up to its raw output (logits for a classifier).

    Input (batch, n_features), output (batch, n_outputs).

    Parameters
    ----------
    layer_units : sequence of int
        Units of every layer, input and output included.
    **options
        As of :class:`DenseStack`.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._network import MLP
    >>> network = MLP((784, 128, 64, 10), activations=["relu"] * 2, dropout=[0.0] * 2)
    >>> network(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    def __init__(self, layer_units: Sequence[int], **options: Any):
        super().__init__()
        self.layers = DenseStack(layer_units, **options)
        self.config = self.layers.config
        self.flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Autoencoder(Network):
    """An encoder to a code and a decoder back from it.

    Input and output (batch, n_features); ``encode`` gives (batch, n_components). NaN in the
    input is replaced by ``fill`` where the network has it.

    Parameters
    ----------
    encoder, decoder : dict
        The arguments of their :class:`DenseStack`, without the device.
    noise : tuple of (str, float), default=None
        Kind and amount of a :class:`Noise`.
    allow_nan : bool, default=False
        Whether there is a buffer ``fill`` of shape (n_features,) for missing values.
    tied_weights : bool, default=False
        Whether the matrices of the decoder are those of the encoder, transposed.
    variational : bool, default=False
        Whether the code is drawn from a distribution while training (:class:`Code`).
    contractive : bool, default=False
        Whether the loss asks for the Jacobian of the encoder (:class:`Contraction`).
    device : torch.device, default=None

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._network import Autoencoder
    >>> options = {"activations": ["relu"], "dropout": [0.0]}
    >>> network = Autoencoder(
    ...     encoder={"layer_units": (784, 64, 2), **options},
    ...     decoder={"layer_units": (2, 64, 784), **options},
    ... )
    >>> network(torch.zeros(5, 784)).shape, network.encode(torch.zeros(5, 784)).shape
    (torch.Size([5, 784]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        decoder: dict[str, Any],
        noise: tuple[str, float] | None = None,
        allow_nan: bool = False,
        tied_weights: bool = False,
        variational: bool = False,
        contractive: bool = False,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.encoder = DenseStack(**encoder, device=device)
        options = {"dtype": self.encoder.config["dtype"], "device": device}
        units = self.encoder.config["layer_units"]
        self.code = Code(*units[-2:], **options) if variational else None
        self.decoder = DenseStack(**decoder, device=device)
        self.config = {
            "encoder": self.encoder.config,
            "decoder": self.decoder.config,
            "noise": noise,
            "allow_nan": allow_nan,
            "tied_weights": tied_weights,
            "variational": variational,
            "contractive": contractive,
        }
        self.contraction = Contraction() if contractive else None
        self.noise = None if noise is None else Noise(*noise, units[0], **options)
        self.register_buffer("fill", torch.zeros(units[0], **options) if allow_nan else None)
        self.flatten()

    def forward(self, x: Tensor) -> Tensor:
        if self.code is None or not self.training:
            return self.decoder(self.encoder(self.corrupted(x)))
        return self.decoder(self.code.draw(*self.distribution(self.corrupted(x))))

    def corrupted(self, x: Tensor) -> Tensor:
        """Return what the encoder reads: without missing values, and noisy while training."""
        x = self.filled(x)
        return x if self.noise is None else self.noise(x)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the means of the codes and, of a variational code, the log variances."""
        if self.code is None:
            return self.encoder(x), None
        hidden = self.encoder[:-1](x)
        return self.encoder[-1](hidden), self.code(hidden)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of rows, without noise."""
        return self.encoder(self.filled(x))

    def filled(self, x: Tensor) -> Tensor:
        """Return rows without missing values."""
        return x if self.fill is None else torch.where(x.isnan(), self.fill, x)

    def input_changes(self) -> list[Callable[[Tensor, Tensor], object]]:
        changes: list[Callable[[Tensor, Tensor], object]] = []
        if self.fill is not None:
            changes.append(lambda x, out: torch.where(x.isnan(), self.fill, x, out=out))
        if self.noise is not None:
            changes.append(self.noise.corrupt)
        return changes

    @property
    def needs_autograd(self) -> bool:
        return self.code is not None or self.contraction is not None

    @property
    def code_layer(self) -> int:
        return len(self.encoder.config["layer_units"]) - 2

    def tied_layers(self) -> list[tuple[Linear, Linear]]:
        """Return the layers of the encoder with those of the decoder that mirror them."""
        if not self.config["tied_weights"]:
            return []
        encoder, decoder = (
            [module for module in stack if isinstance(module, Linear)]
            for stack in (self.encoder, self.decoder)
        )
        return list(zip(encoder, reversed(decoder), strict=True))
