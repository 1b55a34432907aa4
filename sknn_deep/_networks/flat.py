"""The base class of ``MLP`` and ``Autoencoder``, both stacks of dense layers.

All parameters of a network are views of one flat buffer, weight matrices first, and their
gradients are views of another: an optimiser step, the L2 penalty, decoupled weight decay, the norm
of the gradient and early stopping's snapshots are single operations whatever the depth. Muon and a
user's own optimiser class see the parameters in their shapes.

Tied matrices are two views of the same memory. The second view has its own gradient, which is added
to the first's at the end of a step.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import UnionType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.ranks import RowShare
from sknn_deep._hardware.threads import one_thread
from sknn_deep._networks.inputs import InputLayer
from sknn_deep._networks.layers import DenseStack, Normalization, has_hooks
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.pickled_modules import PicklesAsArrays
from sknn_deep._networks.random_layers import Dropout, RandomModule


class Network(PicklesAsArrays):
    """Base class of the two networks: parameters in one flat buffer, gradients in another.

    Attributes
    ----------
    input : InputLayer or None
        Applied to a batch before the first dense layer; its parameters are in the flat buffer, too.
    flat : Tensor of shape (n_parameters,)
        All parameters: weight matrices, then biases, scales and shifts. Its ``grad`` is
        the flat gradient.
    weights : Tensor of shape (n_weights,)
        Only the matrices of the dense layers, a view of ``flat``; its ``grad`` is a view of the
        flat gradient.
    width : int
        Units of the widest layer, input and output included.
    generator : Generator or None
        Random generator for dropout, noise and the like in training.
    """

    input: InputLayer | None
    generator: torch.Generator | None = None
    flat: Tensor
    weights: Tensor
    width: int
    _within: list[nn.Module]
    _in_order: list[nn.Parameter]
    _sizes: list[int]
    _n_weights: int
    _gradients: list[tuple[Tensor, Tensor]]

    @property
    def code_layer(self) -> int | None:
        """The index of the dense layer whose output is the code, or None."""
        return None

    @property
    def takes_sparse_rows(self) -> bool:
        """Whether the first layer may be given sparse rows: on the CPU, without hooks or input."""
        is_on_host = self.input is None and self.flat.device.type == "cpu"
        return is_on_host and not any(map(has_hooks, (self, *self._within)))

    @property
    def needs_autograd(self) -> bool:
        """Whether the closed form of the gradient does not cover the network."""
        return False

    def flatten(self) -> None:
        """Make every parameter a view of the flat buffer, and every gradient of the other."""
        # cached, as torch's module traversal takes longer than most of the work during it; after
        # replacing a module, this must be called again
        own = vars(self)  # setting a module's attribute the usual way takes a microsecond
        own["_within"] = [module for module in self.modules() if module is not self]
        matrices = [layer.weight for layer in self.linear_layers()]
        own["_in_order"] = params = self._ordered_parameters(matrices)
        own["_sizes"] = [param.numel() for param in params]
        own["width"] = max(max(matrix.shape) for matrix in matrices)
        n_matrices = len(matrices) - len(self.tied_layers())
        own["_n_weights"] = sum(own["_sizes"][:n_matrices])
        flat = torch.cat([param.detach().reshape(-1) for param in params])
        self.view_of(flat, torch.zeros_like(flat))

    def twin(self) -> Self:
        """Return a copy of this untrained network, with its own memory.

        It takes a third of the time of constructing a network, as torch's modules set each
        attribute through ``__setattr__``; in a search over thousands of small networks that saves a
        tenth of the total time. This network must not be in training, and has no input layer.
        """
        flat = self.flat.clone()  # with the scales of normalisations, which are not drawn later
        params = {}
        for param, part in zip(self._in_order, flat.split_with_sizes(self._sizes), strict=True):
            own = part if param.ndim == 1 else part.view(param.shape)
            params[id(param)] = nn.Parameter(own, param.requires_grad)
        for encoder, decoder in self.tied_layers():
            params[id(decoder.weight)] = nn.Parameter(params[id(encoder.weight)].detach().mT)
        modules: dict[int, Any] = {}
        copy: Self = _copied_module(self, params, modules)
        own_attributes = vars(copy)
        own_attributes["_within"] = [modules[id(module)] for module in self._within]
        own_attributes["_in_order"] = [params[id(param)] for param in self._in_order]
        copy._take_over(flat, torch.zeros_like(flat))
        return copy

    @property
    def first_shape(self) -> torch.Size:
        """The shape of the first weight matrix: (out_features, in_features)."""
        return self._in_order[0].shape

    def views_in(self, buffers: Tensor) -> dict[int, Tensor]:
        """Return views of each parameter in the buffers of networks like this one.

        Parameters
        ----------
        buffers : Tensor of shape (n_networks, n_parameters)
            From :func:`share_buffer`.

        Returns
        -------
        views : dict of Tensor of shape (n_networks, ...)
            By the ``id`` of the parameter.
        """
        first = self._in_order[0]
        views = {
            id(param): rows.unflatten(-1, param.shape if param is not first else param.shape[::-1])
            for param, rows in zip(self._in_order, buffers.split(self._sizes, dim=-1), strict=True)
        }
        return views | {id(first): views[id(first)].mT}

    def _ordered_parameters(self, matrices: list[nn.Parameter]) -> list[nn.Parameter]:
        """Return the parameters in their order in the flat buffer: weight matrices first."""
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()}
        in_matrices = {id(matrix) for matrix in matrices}
        others = [
            param
            for module in self._within  # torch's own traversal is slower
            for param in module._parameters.values()
            if param is not None and id(param) not in in_matrices
        ]
        return [matrix for matrix in matrices if id(matrix) not in tied] + others

    def tied_layers(self) -> list[tuple[Linear, Linear]]:
        """Return pairs of layers in which the second's matrix is the first's, transposed."""
        return []

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters; tied matrices once, or twice without remove_duplicate."""
        # torch.export asks for duplicates, too
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()} if remove_duplicate else ()
        for name, param in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(param) not in tied:
                yield name, param

    def add_tied_gradients(self) -> None:
        """Add the gradients of tied matrices to those of the original matrices."""
        for encoder, decoder in self.tied_layers():
            gradient_of(encoder.weight).add_(gradient_of(decoder.weight).mT)

    def view_of(self, flat: Tensor, gradient: Tensor) -> None:
        """Make the parameters views of a flat buffer that already holds their values."""
        parts = flat.split_with_sizes(self._sizes)
        for param, own in zip(self._in_order, parts, strict=True):
            param.data = own if param.ndim == 1 else own.view(param.shape)
        for encoder, decoder in self.tied_layers():
            decoder.weight.data = encoder.weight.data.mT
        self._take_over(flat, gradient)

    def _take_over(self, flat: Tensor, gradient: Tensor) -> None:
        """Adopt a flat buffer, of which the parameters are views, and its gradient buffer."""
        gradients: list[tuple[Tensor, Tensor]] = []
        parts = gradient.split_with_sizes(self._sizes)
        for param, own in zip(self._in_order, parts, strict=True):
            gradients.append((param, own if param.ndim == 1 else own.view(param.shape)))
        for _, decoder in self.tied_layers():
            # separate memory, row-major whatever the layout of the matrix itself
            gradients.append((decoder.weight, flat.new_zeros(decoder.weight.shape)))
        weights, of_weights = flat[: self._n_weights], gradient[: self._n_weights]
        gradients += [(flat, gradient), (weights, of_weights)]
        vars(self).update(flat=flat, weights=weights, _gradients=gradients)
        self.attach_gradients()

    def attach_gradients(self) -> None:
        """Make every gradient a view of the flat one, even if it was set to None."""
        for tensor, gradient in self._gradients:
            tensor.grad = gradient

    def frozen_parameters(self) -> list[Tensor]:
        """Return the parameters that do not require a gradient."""
        return [param for param, _ in self._gradients[:-2] if not param.requires_grad]

    def train(self, mode: bool = True) -> "Network":
        """Set all modules to training mode or, like ``eval``, to evaluation mode."""
        for module in (self, *self._within):  # torch's own traversal is slower
            vars(module)["training"] = mode
        return self

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients to zero; they stay views, even with ``set_to_none``."""
        self.attach_gradients()
        gradient_of(self.flat).zero_()
        for _, decoder in self.tied_layers():
            gradient_of(decoder.weight).zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # for .to(), .double() and the like: all parameters at once
        flat = fn(self.flat)
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
        self.view_of(flat, torch.zeros_like(flat))
        return self

    def linear_layers(self) -> list[Linear]:
        """Return the dense layers from input to output."""
        of_input = () if self.input is None else set(self.input.modules())
        found = [module for module in self._within if isinstance(module, Linear)]
        return [module for module in found if module not in of_input]

    def stages(self) -> list[tuple[Linear, Normalization | None, str, Dropout | None]]:
        """Return each dense layer with its normalisation, activation name and dropout."""
        return [
            stage
            for stack in self._within
            if isinstance(stack, DenseStack)
            for stage in stack.stages()
        ]

    def hidden_matrices_and_others(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weight matrices except the last, and all other parameters."""
        tied = {id(decoder.weight) for _, decoder in self.tied_layers()}
        weights: list[Tensor] = [layer.weight for layer in self.linear_layers()[:-1]]
        matrices = [matrix for matrix in weights if id(matrix) not in tied]
        hidden = {id(matrix) for matrix in matrices}
        return matrices, [p for p in self.parameters() if id(p) not in hidden]

    def initialize(self, random_state: np.random.RandomState, activations: Sequence[str]) -> None:
        """Draw all weights like scikit-learn's MLP, layer by layer.

        ``activations`` names one activation per dense layer: for a hidden layer its own, for
        the others, which have none, that of the layer before.
        """
        for layer, name in zip(self.linear_layers(), activations, strict=True):
            layer.glorot_uniform_(random_state, gain=2.0 if name == "logistic" else 6.0)
        if self.input is not None:
            self.input.initialize(random_state)

    def set_generator(self, generator: torch.Generator | None) -> None:
        """Set the random generator of dropout, noise and other random modules."""
        self.generator = generator
        for module in self._within:
            if isinstance(module, RandomModule):
                module.generator = generator

    def set_share(self, share: RowShare | None) -> None:
        """Set whether random numbers are drawn for the rows of several processes or of this one."""
        for module in self._within:
            if isinstance(module, RandomModule):
                module.share = share

    def scale_dropout(self, share: float) -> None:
        """Scale the rates of all dropout layers by this factor."""
        for module in self._within:
            if isinstance(module, Dropout):
                module.scale(share)

    def leave_training(self) -> None:
        """Undo the changes of a training except the weights, so that another may begin."""
        self.eval()
        self.set_generator(None)
        self.set_share(None)
        self.scale_dropout(1.0)

    @property
    def is_random(self) -> bool:
        """Whether training draws random numbers, by dropout or another module."""
        return self._has(RandomModule)

    @property
    def has_normalization(self) -> bool:
        """Whether a layer is followed by batch or layer normalisation."""
        return self._has(Normalization)

    def _has(self, kind: type | UnionType) -> bool:
        # not a generator: a KeyboardInterrupt while one is closed would be lost
        return True in [isinstance(module, kind) for module in self._within]

    def zero_negligible(self) -> None:
        """Set weights to zero if their square would be a denormal number."""
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

    # Copying on one thread takes less time than waking others.

    @one_thread()
    def is_finite(self) -> bool:
        """Return whether all learned state, including the running statistics, is finite."""
        state = self._state()
        if self.flat.device.type == "cpu":
            # a finite sum implies finite terms, and is faster to compute
            return all(math.isfinite(part.sum()) or bool(part.isfinite().all()) for part in state)
        are_finite = [tensor.isfinite().all() for tensor in state]
        return bool(torch.stack(are_finite).all())  # synchronises only once

    @one_thread()
    def snapshot(self) -> list[Tensor]:
        """Return a copy of all learned state: the flat buffer and the running statistics."""
        return [tensor.clone() for tensor in self._state()]

    @one_thread()
    def restore(self, snapshot: Iterable[Tensor]) -> None:
        """Restore the state of a snapshot."""
        with torch.no_grad():
            for tensor, saved in zip(self._state(), snapshot, strict=True):
                tensor.copy_(saved)

    def learned_buffers(self) -> Iterator[tuple[str, Tensor]]:
        if self.input is None:
            yield from super().learned_buffers()
        else:
            persistent = self.state_dict().keys()
            yield from ((name, b) for name, b in self.named_buffers() if name in persistent)

    def _state(self) -> list[Tensor]:
        if self.input is not None:
            return [self.flat, *(buffer for _, buffer in self.learned_buffers())]
        # all buffers are learned then, and torch's own traversal is slower
        return [self.flat, *(b for m in self._within for b in m._buffers.values() if b is not None)]


def _copied_module(
    module: nn.Module, params: dict[int, nn.Parameter], modules: dict[int, Any]
) -> Any:
    """Copy a module and its submodules with other parameters, and record the copies.

    Parameters
    ----------
    module : Module
    params : dict of Parameter
        The new parameters, by the ``id`` of those that they replace.
    modules : dict
        The copies, by the ``id`` of their originals; extended in place.
    """
    copy = modules[id(module)] = object.__new__(type(module))
    own = vars(copy)
    for name, value in vars(module).items():
        if isinstance(value, (dict, set)):  # a union type would take twice as long
            value = value.copy() if value else type(value)()
        own[name] = value
    for name, part in module._modules.items():
        own["_modules"][name] = None if part is None else _copied_module(part, params, modules)
    for name, param in module._parameters.items():
        own["_parameters"][name] = None if param is None else params[id(param)]
    for name, buffer in module._buffers.items():
        own["_buffers"][name] = None if buffer is None else buffer.clone()
    return copy


def gradient_of(tensor: Tensor) -> Tensor:
    """Return a tensor's gradient buffer, as set by ``Network.attach_gradients``."""
    if tensor.grad is None:
        raise RuntimeError("A network's gradient is not attached; call attach_gradients first.")
    return tensor.grad


def zero_negligible(weights: Tensor) -> None:
    """Set weights to zero if their square would be a denormal number.

    The L2 penalty keeps shrinking the weights of dead units, until their products with gradients
    are denormal numbers, on which a CPU is many times slower.
    """
    limit = torch.finfo(weights.dtype).tiny ** 0.5
    torch.ops.aten.hardshrink.out(weights, limit, out=weights)
