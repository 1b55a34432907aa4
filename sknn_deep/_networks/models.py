"""The two networks: ``MLP`` and ``Autoencoder``.

Variants of the autoencoder are modules or penalties. Those that change the forward pass are parts
of the network (:class:`Noise`, :class:`Code`, :class:`Contraction`, the buffer ``fill``), so they
are pickled, draw from the network's generator, and are noticed by a warm start, which compares
configurations. Those that change the loss are parts of the loss (``CodePenalty``).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sknn_deep._networks.category_inputs import indicator_slices
from sknn_deep._networks.flat import Network
from sknn_deep._networks.inputs import Corruption
from sknn_deep._networks.layers import DenseStack, has_hooks
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.random_layers import Code, Contraction
from sknn_deep._networks.table_input import TableInput

# Templates of which new networks are copies: at most this many are cached, each of at most this
# many parameters.
_MOST_MODELS, _MOST_PARAMETERS = 16, 2**15
_models: dict[tuple[type, str], Network] = {}
SomeNetwork = TypeVar("SomeNetwork", bound=Network)


def new_network(kind: type[SomeNetwork], config: dict[str, Any]) -> SomeNetwork:
    """Return a network with uninitialised weights, on the CPU and in evaluation mode.

    A small network is copied from the first with its configuration, in a third of the time.

    Parameters
    ----------
    kind : type
    config : dict
        In the form of ``network.config``.

    Examples
    --------
    >>> from sknn_deep._networks.models import MLP, new_network
    >>> config = {"layer_units": (5, 3, 1), "activations": ("relu",), "dropout": (0.0,)}
    >>> new_network(MLP, config).width
    5
    """
    key = kind, repr(config)
    model: Any = _models.get(key)
    if model is None:
        model = kind(**config, device=torch.device("cpu"))
        model.eval()
        if model.input is not None or model.flat.numel() > _MOST_PARAMETERS:
            return model
        for other in list(_models)[: 1 - _MOST_MODELS]:
            _models.pop(other, None)
        _models[key] = model
    copy: SomeNetwork = model.twin()
    return copy


class MLP(Network):
    """A multilayer perceptron that ends with its raw output (logits for a classifier).

    Input (batch, n_features), output (batch, n_outputs).

    Parameters
    ----------
    layer_units : sequence of int
        Units of every layer, input and output included.
    input : dict, default=None
        The arguments of a :class:`TableInput` that maps the features to the first layer's input.
    **options
        See :class:`DenseStack`.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.models import MLP
    >>> network = MLP((784, 128, 64, 10), activations=["relu"] * 2, dropout=[0.0] * 2)
    >>> network(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self, layer_units: Sequence[int], *, input: dict[str, Any] | None = None, **options: Any
    ):
        super().__init__()
        self.layers = DenseStack(layer_units, **options)
        self.config = self.layers.config | {"input": input}
        self.input = None
        if input is not None:
            dtype, device = self.config["dtype"], options.get("device")
            self.input = TableInput(**input, dtype=dtype, device=device)
        self.flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x if self.input is None else self.input(x))

    def outputs(self, x: Tensor, check: Callable[[], None] | None = None) -> Tensor:
        """Return the same as calling the network, faster; see :meth:`DenseStack.outputs`."""
        if check is not None and (self.input is not None or has_hooks(self)):
            check()
            check = None
        if has_hooks(self):
            result: Tensor = self(x)
            return result
        return self.layers.outputs(x if self.input is None else self.input(x), check)

    def up_to(self, n_layers: int) -> nn.Sequential:
        """Return the first part of the network, up to the activation of the given dense layer."""
        layers = self.layers.first(n_layers)
        return layers if self.input is None else nn.Sequential(self.input, layers)


class Autoencoder(Network):
    """An encoder that computes a code, and a decoder that reconstructs the input from it.

    Input and output (batch, n_features); ``encode`` gives (batch, n_components). The encoder reads
    the input through a :class:`Corruption` if ``noise`` or ``allow_nan`` is set.

    Parameters
    ----------
    encoder, decoder : dict
        The arguments of their :class:`DenseStack`, without the device.
    noise : tuple of (str, float), default=None
        Kind and amount of a :class:`Noise`.
    allow_nan : bool, default=False
        Whether missing values are filled.
    tied_weights : bool, default=False
        Whether the matrices of the decoder are those of the encoder, transposed.
    variational : bool, default=False
        Whether the code is drawn from a distribution in training (:class:`Code`).
    contractive : bool, default=False
        Whether the loss uses the Jacobian of the encoder (:class:`Contraction`).
    categories : sequence of (int, int), default=()
        The categorical columns of an encoded table, and the number of categories of each: the
        last inputs are their indicators, the last outputs their logits.
    device : torch.device, default=None

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.models import Autoencoder
    >>> options = {"activations": ["relu"], "dropout": [0.0]}
    >>> network = Autoencoder(
    ...     encoder={"layer_units": (784, 64, 2), **options},
    ...     decoder={"layer_units": (2, 64, 784), **options},
    ... )
    >>> network(torch.zeros(5, 784)).shape, network.encode(torch.zeros(5, 784)).shape
    (torch.Size([5, 784]), torch.Size([5, 2]))
    """

    fill: Tensor | None

    input: Corruption | None

    def __init__(
        self,
        encoder: dict[str, Any],
        decoder: dict[str, Any],
        noise: tuple[str, float] | None = None,
        allow_nan: bool = False,
        tied_weights: bool = False,
        variational: bool = False,
        contractive: bool = False,
        categories: Sequence[tuple[int, int]] = (),
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
            "categories": tuple(categories),
        }
        self._groups = indicator_slices(units[0], [n for _, n in categories])
        self.contraction = Contraction() if contractive else None
        is_corrupted = noise is not None or allow_nan
        self.input = Corruption(units[0], noise, allow_nan, **options) if is_corrupted else None
        self.flatten()

    def forward(self, x: Tensor) -> Tensor:
        x = self.corrupted(x)
        code = self.drawn(*self.distribution(x)) if self.training else self.encoder(x)
        return self.decoder(code)

    def corrupted(self, x: Tensor) -> Tensor:
        """Return the encoder's input: missing values filled, and noise in training."""
        return x if self.input is None else self.input(x)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the means of the codes and, for a variational code, the log variances."""
        if self.code is None:
            return self.encoder(x), None
        hidden = self.encoder[:-1](x)
        return self.encoder[-1](hidden), self.code(hidden)

    def drawn(self, mean: Tensor, log_variance: Tensor | None) -> Tensor:
        """Return the codes: samples of variational ones, else the means."""
        if self.code is None or log_variance is None:
            return mean
        return self.code.draw(mean, log_variance)

    @property
    def fills(self) -> bool:
        """Whether missing values are filled before the encoder reads them."""
        return self.input is not None and self.input.fill is not None

    def encode(self, x: Tensor, check: Callable[[], None] | None = None) -> Tensor:
        """Return the codes of rows, without noise; ``check`` as in :meth:`DenseStack.outputs`."""
        if self.fills:
            if check is not None:
                check()
                check = None
            x = self.input.filled(x)  # type: ignore[union-attr]
        return self.encoder.outputs(x, check)

    def decode(self, code: Tensor) -> Tensor:
        """Return the decoded numbers and the probabilities of the categories."""
        return self._with_probabilities(self.decoder(code))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return rows as the network reconstructs them, with probabilities of categories."""
        return self._with_probabilities(self(x))

    def _with_probabilities(self, raw: Tensor) -> Tensor:
        if not self._groups:
            return raw
        numbers = raw[..., : self._groups[0].start]
        return torch.cat([numbers, *(raw[..., g].softmax(dim=-1) for g in self._groups)], dim=-1)

    def squared_errors(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        r"""Return the squared error of each column of a table, NaN for missing values.

        The error of a category is half the sum over its indicators, as in Gower's distance: 0 if
        the true category has probability 1, and 1 if another one has [1]_. An unseen category
        counts as an additional indicator with probability 0.

        Parameters
        ----------
        reconstruction : Tensor of shape (batch, n_inputs)
            From :meth:`reconstruct`, or any other numbers and probabilities.
        x : Tensor of shape (batch, n_inputs)

        Returns
        -------
        errors : Tensor of shape (batch, n_columns)
            Those of numbers first, then those of categories.

        References
        ----------
        .. [1] J. C. Gower (1971). A general coefficient of similarity and some of its properties.
           Biometrics 27(4).
        """
        # infinity for numbers that have overflowed, as NaN would count as a missing value
        squares = (reconstruction.nan_to_num(torch.inf, torch.inf, -torch.inf) - x).square()
        if not self._groups:
            return squares
        columns = [squares[:, : self._groups[0].start]]
        for group in self._groups:
            is_unseen = 1 - x[:, group].sum(dim=1)
            columns.append((0.5 * (squares[:, group].sum(dim=1) + is_unseen)).unsqueeze(1))
        return torch.cat(columns, dim=1)

    @property
    def n_columns(self) -> int:
        """The number of table columns that the inputs encode."""
        return self.encoder.config["layer_units"][0] - sum(
            group.stop - group.start - 1 for group in self._groups
        )

    @property
    def needs_autograd(self) -> bool:
        return self.code is not None or self.contraction is not None

    @property
    def code_layer(self) -> int:
        return len(self.encoder.config["layer_units"]) - 2

    def tied_layers(self) -> list[tuple[Linear, Linear]]:
        """Return the layers of the encoder with their mirror images in the decoder."""
        if not self.config["tied_weights"]:
            return []
        encoder, decoder = (
            [module for module in stack if isinstance(module, Linear)]
            for stack in (self.encoder, self.decoder)
        )
        return list(zip(encoder, reversed(decoder), strict=True))
