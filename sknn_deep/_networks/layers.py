"""The layers of networks, and stacks of them."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Self, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.device import numpy_dtype, torch_dtype
from sknn_deep._hardware.ranks import RowShare
from sknn_deep._hardware.slow_mkl import linear
from sknn_deep._hardware.sparse_products import SparseBatch


class Linear(nn.Linear):
    """A dense layer whose construction draws no random numbers.

    ``nn.Linear`` draws from torch's global generator; here ``Network.initialize`` sets
    the weights. Input (batch, in_features), output (batch, out_features).
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        nn.Module.__init__(self)
        # nn.Module.__setattr__ takes some microseconds each, which matters in a small fit
        vars(self).update(in_features=in_features, out_features=out_features)
        for name, shape in (("weight", (out_features, in_features)), ("bias", (out_features,))):
            self._parameters[name] = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

    def forward(self, input: Any) -> Tensor:
        """Return the layer's output for a Tensor or, in a first layer, a SparseBatch."""
        if isinstance(input, SparseBatch):
            return input.times(self.weight).add_(self.bias.detach())
        return linear(input, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def glorot_uniform_(self, random_state: np.random.RandomState, gain: float) -> None:
        """Draw weights and bias uniformly in ±sqrt(gain / (fan_in + fan_out)).

        The draws and their order are scikit-learn's: the matrix of shape (fan_in,
        fan_out), then the bias. With a gain of 6 this is Glorot and Bengio's
        initialisation [1]_; scikit-learn uses 2 for the logistic function.

        References
        ----------
        .. [1] X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep
           feedforward neural networks. AISTATS.
        """
        bound = math.sqrt(gain / (self.in_features + self.out_features))
        drawn = random_state.uniform(-bound, bound, (self.in_features + 1, self.out_features))
        for param, own in ((self.weight, drawn[:-1].T), (self.bias, drawn[-1])):
            values = param.detach()
            if values.device.type == "cpu":  # NumPy takes a third of the time
                values.numpy()[...] = own
            else:
                values.copy_(torch.from_numpy(own))


class RandomModule(nn.Module):
    """A module that draws from the network's generator in training.

    If several processes share the rows of a batch, each draws for all rows and uses the numbers of
    its own rows, so that every row gets the same numbers as in a single process.
    """

    generator: torch.Generator | None = None
    share: RowShare | None = None

    def of_own_rows(self, draw: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
        """Fill a tensor of this process's rows of a batch with random numbers."""
        share = self.share
        if share is None and out.is_contiguous():
            return draw(out)
        # numbers are drawn in memory order, and must not depend on the layout of a batch
        n_rows = out.shape[0] if share is None else share.n_rows
        drawn = draw(out.new_empty((n_rows, *out.shape[1:])))
        return out.copy_(drawn if share is None else drawn[share.rows])

    def draw_bits(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return random 16-bit integers; the first dimension is this process's rows."""
        if self.share is None:
            return _draw_bits(shape, self.generator, device)
        drawn = _draw_bits((self.share.n_rows, *shape[1:]), self.generator, device)
        return drawn[self.share.rows]


class Dropout(RandomModule):
    """Inverted dropout with its own generator [1]_.

    ``nn.Dropout`` draws from torch's global generator. Input and output (batch, units).

    References
    ----------
    .. [1] N. Srivastava et al. (2014). Dropout: a simple way to prevent neural networks
       from overfitting. JMLR 15.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = self._full = p

    def scale(self, share: float) -> None:
        """Set the rate to a fraction of the configured one."""
        self.p = self._full * share

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw_(torch.empty_like(x)) if self.training else x

    def draw_(self, mask: Tensor) -> Tensor:
        """Fill a mask: 0 with probability p, else 1 / (1 - p); on a CPU p is rounded to 16 bits."""
        if mask.device.type != "cpu":
            return self.of_own_rows(self._draw_bernoulli_, mask).div_(1 - self.p)
        n_dropped = min(round(self.p * 2**16), 2**16 - 1)
        torch.ge(self.draw_bits(mask.shape, mask.device), n_dropped - 2**15, out=mask)
        return mask.mul_(1 / (1 - n_dropped / 2**16))

    def _draw_bernoulli_(self, mask: Tensor) -> Tensor:
        return mask.bernoulli_(1 - self.p, generator=self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Noise(RandomModule):
    """Corruption of the input of a denoising autoencoder [1]_ in training.

    Input and output (batch, n_features).

    Parameters
    ----------
    kind : {"gaussian", "masking", "salt_pepper"}
        Add normal noise; set features to zero; or set them to their lowest or highest value,
        each with the same probability.
    amount : float
        Standard deviation of the normal noise, or fraction of the features that are replaced.
    n_features : int
    dtype, device
        Type and device of the buffers.

    References
    ----------
    .. [1] P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol (2010). Stacked
       denoising autoencoders. JMLR 11.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        kind: str,
        amount: float,
        n_features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.kind, self.amount = kind, amount
        if kind == "salt_pepper":
            self.register_buffer("low", torch.zeros(n_features, dtype=dtype, device=device))
            self.register_buffer("high", torch.ones(n_features, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.corrupt(x, torch.empty_like(x)) if self.training else x

    def corrupt(self, x: Tensor, out: Tensor) -> Tensor:
        """Write a corrupted copy of a batch."""
        if self.kind == "gaussian":
            return self.of_own_rows(self._draw_normal_, out).add_(x)
        n_replaced = min(round(self.amount * 2**16), 2**16 - 1)
        bits = self.draw_bits(x.shape, x.device)
        torch.mul(x, torch.ge(bits, n_replaced - 2**15), out=out)
        if self.kind == "salt_pepper":
            # the lower half of the replaced features is pepper, the upper half salt
            is_low = bits < n_replaced // 2 - 2**15
            out.add_(torch.where(is_low, self.low, self.high) * (bits < n_replaced - 2**15))
        return out

    def _draw_normal_(self, out: Tensor) -> Tensor:
        return out.normal_(0.0, self.amount, generator=self.generator)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, amount={self.amount}"


class Code(RandomModule):
    """The code of a variational autoencoder: a normal distribution for each row [1]_.

    Its mean is the output of the encoder's last layer. Input (batch, units) of the hidden layer
    before, output (batch, n_components): the logarithm of the variance.

    References
    ----------
    .. [1] D. Kingma, M. Welling (2014). Auto-encoding variational Bayes. ICLR.
    """

    def __init__(
        self,
        n_units: int,
        n_components: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.log_variance = Linear(n_units, n_components, dtype=dtype, device=device)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.log_variance(hidden)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return a sample, differentiable with respect to mean and variance."""
        normal = self.of_own_rows(self._draw_normal_, torch.empty_like(mean, requires_grad=False))
        return mean + normal * (0.5 * log_variance).exp()

    def _draw_normal_(self, out: Tensor) -> Tensor:
        return out.normal_(generator=self.generator)


class Contraction(RandomModule):
    r"""An estimate of the squared Frobenius norm of an encoder's Jacobian, per unit of code [1]_.

    With a vector :math:`v` of random signs, the expectation of :math:`\lVert J^\top v \rVert^2` is
    the squared norm [2]_: one backward pass instead of one per unit. All rows of a batch have the
    same signs.

    References
    ----------
    .. [1] S. Rifai, P. Vincent, X. Muller, X. Glorot, Y. Bengio (2011). Contractive
       auto-encoders: explicit invariance during feature extraction. ICML.
    .. [2] M. Hutchinson (1990). A stochastic estimator of the trace of the influence matrix
       for Laplacian smoothing splines. Communications in Statistics 19(2).
    """

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return the estimate for each row of x, shape (batch,), differentiable by autograd."""
        signs = code.new_empty(code.shape[1])
        signs = signs.random_(0, 2, generator=self.generator).mul_(2).sub_(1)
        (gradient,) = torch.autograd.grad((code @ signs).sum(), x, create_graph=True)
        return gradient.square().sum(dim=1) / code.shape[1]


def _draw_bits(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Return uniform random 16-bit integers, -2**15 to 2**15 - 1.

    Comparing them with a threshold is several times as fast as torch's ``bernoulli_`` on a CPU;
    probabilities are then multiples of 2**-16.
    """
    numel = math.prod(shape)
    words = torch.empty(-(-numel // 4), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    return words.view(torch.int16)[:numel].view(shape)


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
