"""Summaries of networks: layers, their output shapes and numbers of parameters.

A summary is computed from a network's configuration dictionary, so an unfitted estimator can be
described without allocating weights, and scikit-learn's diagram of a fitted one can show it.
"""

from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from sklearn.utils.validation import check_is_fitted

from sknn_deep._networks.table_input import TableInput

_HEADINGS = ("layer", "output shape", "parameters")
# The sizes of an ensemble's networks are listed if there are at most this many different ones.
_MOST_SIZES = 3


@runtime_checkable
class PlannedNetwork(Protocol):
    """An estimator that knows, before it is fitted, which networks ``fit`` would create."""

    def _planned_networks(
        self, n_features: int, n_classes: int | None, n_outputs: int | None
    ) -> list[tuple[dict[str, Any], str]]: ...


@dataclass(frozen=True)
class Layer:
    """One line of a summary.

    Attributes
    ----------
    name : str
        Its position and what it computes, such as "hidden 1: dense, relu".
    units : int
        Length of its output for one sample.
    n_parameters : int
        Number of trainable parameters.
    """

    name: str
    units: int
    n_parameters: int


@dataclass(frozen=True, repr=False)
class NetworkSummary:
    """The layers of a network, as text and, in a notebook, as a table.

    Attributes
    ----------
    title : str
        Name of the estimator.
    layers : list of Layer
        From input to output; for an ensemble, those of the first network.
    n_parameters_of_networks : list of int
        Number of trainable parameters of each network.
    """

    title: str
    layers: list[Layer]
    n_parameters_of_networks: list[int]

    @property
    def n_networks(self) -> int:
        """The number of networks: more than one in an ensemble."""
        return len(self.n_parameters_of_networks)

    @property
    def n_parameters(self) -> int:
        """The number of trainable parameters of all networks."""
        return sum(self.n_parameters_of_networks)

    def __repr__(self) -> str:
        rows = [_HEADINGS, *self._cells(), self._total()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}"
            for name, shape, count in rows
        ]
        rule = "-" * len(lines[0])
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _repr_html_(self) -> str:
        # the class names are those of scikit-learn's diagrams, to be styled like them there
        rows = "".join(_html_row("td", cells) for cells in self._cells())
        return (
            '<div class="estimator-table"><details open>'
            f"<summary>{escape(self.title)}: {self.n_parameters:,} parameters</summary>"
            '<table class="parameters-table" style="margin: 0">'
            f"<thead>{_html_row('th', _HEADINGS)}</thead>"
            f"<tbody>{rows}{_html_row('th', self._total())}</tbody></table></details></div>"
        )

    def _cells(self) -> list[tuple[str, str, str]]:
        return [
            (layer.name, f"(n_samples, {layer.units})", f"{layer.n_parameters:,}")
            for layer in self.layers
        ]

    def _total(self) -> tuple[str, str, str]:
        numbers = [(n, len(list(same))) for n, same in groupby(self.n_parameters_of_networks)]
        sizes = " + ".join(f"{n_networks} × {n:,}" for n, n_networks in numbers)
        if len(numbers) > _MOST_SIZES:
            sizes = f"{self.n_networks} networks"
        return "total", sizes if self.n_networks > 1 else "", f"{self.n_parameters:,}"


def _html_row(tag: str, cells: tuple[str, str, str]) -> str:
    """Return a row of a table; scikit-learn's style would left-align its numbers."""
    *words, number = map(escape, cells)
    left = "".join(f'<{tag} style="text-align: left">{word}</{tag}>' for word in words)
    right = f'<{tag} style="text-align: right !important">{number}</{tag}>'
    return f'<tr class="default">{left}{right}</tr>'


def summary(
    estimator: PlannedNetwork,
    n_features: int | None = None,
    *,
    n_classes: int | None = None,
    n_outputs: int | None = None,
) -> NetworkSummary:
    """Describe a network layer by layer: output shape and number of parameters.

    Parameters
    ----------
    estimator : DeepMLPClassifier, DeepMLPRegressor or AutoencoderTransformer
        Fitted, or not fitted if ``n_features`` is given.

    n_features : int, default=None
        Describe the network that ``fit`` would create for this many features. None describes the
        fitted network.

    n_classes : int, default=None
        Number of classes, for a classifier and together with ``n_features``.

    n_outputs : int, default=None
        Number of columns of the target, together with ``n_features``: for a regressor, where None
        means one, or for a multilabel classifier, instead of ``n_classes``.

    Returns
    -------
    summary : NetworkSummary
        Prints as text and is shown as a table in a notebook; ``summary.n_parameters`` is the
        total, ``summary.layers`` the lines. For an ensemble it shows the first network, and in
        front of the total the numbers of parameters of its networks.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted and ``n_features`` is None.
    TypeError
        If the estimator is not one of this package.
    ValueError
        If the sizes do not fit the estimator.

    Examples
    --------
    >>> from sknn_deep import DeepMLPClassifier, summary
    >>> summary(DeepMLPClassifier((128, 64)), n_features=784, n_classes=10)
    DeepMLPClassifier
    ----------------------------------------------------
    layer                   output shape      parameters
    ----------------------------------------------------
    input                   (n_samples, 784)           0
    hidden 1: dense, relu   (n_samples, 128)     100,480
    hidden 2: dense, relu   (n_samples, 64)        8,256
    output: dense, softmax  (n_samples, 10)          650
    ----------------------------------------------------
    total                                        109,386
    """
    title = type(estimator).__name__
    if not isinstance(estimator, PlannedNetwork):
        raise TypeError(
            f"summary describes the estimators of sknn_deep, got {title}; of a pipeline or a "
            "search pass the network itself, such as pipeline[-1] or search.best_estimator_."
        )
    if n_features is not None:
        planned = estimator._planned_networks(n_features, n_classes, n_outputs)
        return _of_networks(title, [network_layers(*network) for network in planned])
    if n_classes is not None or n_outputs is not None:
        raise ValueError(
            f"n_classes={n_classes} and n_outputs={n_outputs} describe a network that is yet to "
            "be made; pass n_features, too, or neither for the fitted network."
        )
    check_is_fitted(
        estimator, msg="This %(name)s is not fitted yet: call fit, or pass n_features to summary."
    )
    fitted: Any = estimator
    configs = [network.module_.config for network in fitted._networks]
    return _of_networks(title, [network_layers(own, fitted.out_activation_) for own in configs])


def _of_networks(title: str, networks: list[list[Layer]]) -> NetworkSummary:
    """Return the summary of some networks, each given as its layers."""
    sizes = [sum(layer.n_parameters for layer in layers) for layers in networks]
    return NetworkSummary(title, networks[0], sizes)


def network_layers(config: dict[str, Any], out_activation: str) -> list[Layer]:
    """Return the layers of a network with the given configuration, its input first.

    Parameters
    ----------
    config : dict
        Configuration of an ``MLP`` or an ``Autoencoder``.
    out_activation : str
        Activation that turns the raw output into predictions; a classifier's network ends before
        it.
    """
    if "encoder" in config:
        encoder, decoder = config["encoder"], config["decoder"]
        layers = _stack_layers("encoder", "code", encoder, encoder["out_activation"])
        if config["variational"]:
            mean = layers.pop()  # a parallel layer computes the variances
            layers.append(Layer(f"{mean.name}, drawn", mean.units, 2 * mean.n_parameters))
        is_tied = config["tied_weights"]
        layers += _stack_layers("decoder", "output", decoder, out_activation, is_tied)
        n_features = encoder["layer_units"][0]
    else:
        layers = _stack_layers("hidden", "output", config, out_activation)
        n_features = config["layer_units"][0]
    n_parameters = 0
    if config.get("input") is not None:
        layer = TableInput(**config["input"], device=torch.device("meta"))
        n_parameters = sum(param.numel() for param in layer.parameters())
    return [Layer("input", n_features, n_parameters), *layers]


def _stack_layers(
    hidden_name: str,
    last_name: str,
    config: dict[str, Any],
    out_activation: str,
    is_tied: bool = False,
) -> list[Layer]:
    """Return the layers of one stack: dense, normalised, activated, dropped, and so on.

    The matrices of tied layers are counted only in the encoder.
    """
    normalization, layers = config["normalization"], []
    *hidden, last = pairwise(config["layer_units"])
    options = zip(hidden, config["activations"], config["dropout"], strict=True)
    for i, ((n_in, n_out), activation, dropout) in enumerate(options, start=1):
        parts = ["dense", *([f"{normalization} norm"] if normalization else []), activation]
        if dropout > 0:
            parts.append(f"dropout {dropout:g}")
        n_scales = 2 * n_out if normalization else 0  # a scale and a shift for each unit
        name = f"{hidden_name} {i}: {', '.join(parts)}"
        layers.append(Layer(name, n_out, n_in * n_out * (not is_tied) + n_out + n_scales))
    n_in, n_out = last
    n_parameters = n_in * n_out * (not is_tied) + n_out
    return [*layers, Layer(f"{last_name}: dense, {out_activation}", n_out, n_parameters)]
