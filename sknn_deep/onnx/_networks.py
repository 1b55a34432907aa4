"""The modules of a network as nodes, one function per module, with the modules' shapes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._networks.category_inputs import CategoryVectors, Indicators
from sknn_deep._networks.inputs import Corruption
from sknn_deep._networks.layers import DenseStack, Normalization
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.number_inputs import CLIP, EmbeddedNumbers, Numbers, ScaledNumbers
from sknn_deep._networks.table_input import TableInput
from sknn_deep.onnx._activations import activation
from sknn_deep.onnx._graph import Graph


def mlp(graph: Graph, network: MLP, x: str, n_layers: int | None = None) -> str:
    """Return the raw output of a network, or the output of its first hidden layers.

    Parameters
    ----------
    graph : Graph
    network : MLP
    x : str
        A tensor of shape (n, n_features), in the type of the network.
    n_layers : int, default=None
        Number of layers, each with its activation; None for all.
    """
    if network.input is not None:
        x = _input_layer(graph, network.input, x)
    return dense_stack(graph, network.layers, x, n_layers)


def encoder(graph: Graph, network: Autoencoder, x: str) -> str:
    """Return the codes of rows, shape (n, n_components)."""
    if isinstance(network.input, Corruption):
        x = filled(graph, network.input, x)
    return dense_stack(graph, network.encoder, x)


def filled(graph: Graph, layer: Corruption, x: str) -> str:
    """Return rows with missing values filled, shape (n, n_features)."""
    if layer.fill is None:
        return x
    return graph.node("Where", graph.node("IsNaN", x), graph.constant(_array(layer.fill)), x)


def dense_stack(graph: Graph, stack: DenseStack, x: str, n_layers: int | None = None) -> str:
    """Return the output of all dense layers, or of the first ``n_layers``."""
    for linear, norm, name, _ in stack.stages()[:n_layers]:
        x = activation(graph, name, _affine(graph, linear, norm, x))
    return x


def _affine(graph: Graph, linear: Linear, norm: Normalization | None, x: str) -> str:
    """Return a dense layer's pre-activations, normalised if it has a normalisation."""
    weight, bias = (_array(param).astype(np.float64) for param in (linear.weight, linear.bias))
    if isinstance(norm, nn.LayerNorm):
        # centred weights give centred units, which then only need to be divided by their deviation
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    weight_and_bias = (graph.constant(part.astype(graph.dtype)) for part in (weight, bias))
    z = graph.node("Gemm", x, *weight_and_bias, transB=1)
    if norm is None:
        return z
    # ONNX's normalisation operators support epsilon in single precision only
    if isinstance(norm, nn.LayerNorm):
        scale, shift = _array(norm.weight), _array(norm.bias)
        of_each = graph.constant(np.full((len(scale), 1), 1 / len(scale), graph.dtype))
        squares = graph.node("MatMul", graph.node("Mul", z, z), of_each)
        z = graph.node("Div", z, _deviation(graph, squares, norm.eps))
    else:
        statistics: Any = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        gain, offset, mean, variance = (_array(part).astype(np.float64) for part in statistics)
        scale = gain / np.sqrt(variance + norm.eps)
        shift = offset - mean * scale
    z = graph.node("Mul", z, graph.constant(scale.astype(graph.dtype)))
    return graph.node("Add", z, graph.constant(shift.astype(graph.dtype)))


def _deviation(graph: Graph, variance: str, epsilon: float) -> str:
    return graph.node("Sqrt", graph.node("Add", variance, graph.number(epsilon)))


# ------------------------------------------------------------------ tables


def _input_layer(graph: Graph, layer: nn.Module, x: str) -> str:
    """Return the input of the first dense layer, shape (n, n_inputs)."""
    write = _INPUT_LAYERS.get(type(layer))
    if write is None:
        raise ValueError(
            f"The input layer {type(layer).__name__} has no ONNX nodes; they are written for "
            f"{[known.__name__ for known in _INPUT_LAYERS]}."
        )
    return write(graph, layer, x)


def _table_input(graph: Graph, layer: TableInput, x: str) -> str:
    parts = [_input_layer(graph, part, x) for part in layer.parts]
    inputs = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)
    factors = layer.factors()
    return inputs if factors is None else graph.node("Mul", inputs, graph.constant(_array(factors)))


def _scaled(graph: Graph, layer: Numbers, x: str) -> str:
    """Return scaled numbers, NaN for missing values, shape (n, n_columns)."""
    z = graph.node(
        "Sub", graph.columns(x, _array(layer.columns)), graph.constant(_array(layer.center))
    )
    z = graph.node("Mul", z, graph.constant(_array(layer.factor)))
    return smoothly_clipped(graph, z) if layer.scaling == "robust" else z


def smoothly_clipped(graph: Graph, z: str) -> str:
    """Return z / sqrt(1 + (z / 3)²) of scaled numbers."""
    ratio = graph.node("Div", z, graph.number(CLIP))
    square = graph.node("Add", graph.node("Mul", ratio, ratio), graph.number(1.0))
    return graph.node("Div", z, graph.node("Sqrt", square))


def _scaled_numbers(graph: Graph, layer: ScaledNumbers, x: str) -> str:
    z = _scaled(graph, layer, x)
    is_missing = graph.node("IsNaN", z)
    middle = layer.middle.clone()
    if len(layer.gaps):
        middle.index_add_(0, layer.gaps, layer.fill.detach())
    z = graph.node("Where", is_missing, graph.constant(_array(middle)), z)
    if not len(layer.gaps):
        return z
    indicators = graph.cast(graph.columns(is_missing, _array(layer.gaps)), graph.dtype)
    return graph.node("Concat", z, indicators, axis=1)


def _embedded_numbers(graph: Graph, layer: EmbeddedNumbers, x: str) -> str:
    z = graph.node("Unsqueeze", _scaled(graph, layer, x), graph.constant(np.array([2])))
    is_missing, zero = graph.node("IsNaN", z), graph.number(0.0)
    z = graph.node("Where", is_missing, zero, z)
    if layer.basis == "periodic":
        angles = graph.node("Mul", z, graph.constant(_array(2 * math.pi * layer.frequencies)))
        shifted = graph.node("Add", angles, graph.constant(_array(layer.phases)))
        functions = graph.node("Cos", shifted)
    else:
        low, high = (graph.constant(end[:, np.newaxis]) for end in _array(layer.ends))
        z = graph.node(
            "Where", is_missing, zero, graph.node("Min", graph.node("Max", z, low), high)
        )
        above = graph.node("Sub", z, graph.constant(_array(layer.low)))
        share = graph.node("Mul", above, graph.constant(_array(layer.rate)))
        functions = graph.node("Clip", share, zero, graph.number(1.0))
    functions = graph.node("Where", is_missing, zero, functions)
    values = graph.node("Concat", functions, z, graph.cast(is_missing, graph.dtype), axis=2)
    # one product per column
    by_column = graph.node("Transpose", values, perm=[1, 0, 2])
    vectors = graph.node("MatMul", by_column, graph.constant(_array(layer.weight)))
    return graph.node("Flatten", graph.node("Transpose", vectors, perm=[1, 0, 2]), axis=1)


def _indicators(graph: Graph, layer: Indicators, x: str) -> str:
    return indicators(graph, x, _array(layer.columns), _array(layer.codes))


def indicators(graph: Graph, x: str, columns: np.ndarray, codes: np.ndarray) -> str:
    """Return, for each pair of column and code, 1 in the rows that have it and 0 in others."""
    is_equal = graph.node("Equal", graph.columns(x, columns), graph.numbers(codes))
    return graph.cast(is_equal, graph.dtype)


def _category_vectors(graph: Graph, layer: CategoryVectors, x: str) -> str:
    codes = graph.cast(graph.columns(x, _array(layer.columns)), np.int64)
    first, last = _array(layer.first), _array(layer.last)
    rows = graph.node("Add", codes, graph.constant(first + 1))
    is_known = graph.node(
        "And",
        graph.node("Greater", rows, graph.constant(first)),
        graph.node("Less", rows, graph.constant(last + 1)),
    )
    rows = graph.node("Where", is_known, rows, graph.constant(first))
    vectors = graph.node("Gather", graph.constant(_array(layer.vectors)), rows, axis=0)
    return graph.node("Flatten", vectors, axis=1)


def _array(tensor: Tensor) -> np.ndarray:
    with torch.no_grad():
        return tensor.detach().cpu().numpy()


_INPUT_LAYERS: dict[type, Callable[[Graph, Any, str], str]] = {
    TableInput: _table_input,
    ScaledNumbers: _scaled_numbers,
    EmbeddedNumbers: _embedded_numbers,
    Indicators: _indicators,
    CategoryVectors: _category_vectors,
}
