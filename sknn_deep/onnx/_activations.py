r"""Activations as nodes.

ONNX Runtime has only float32 kernels for some activations, so in double precision they are composed
of elementary nodes. The error function is one of them. Its complement is
:math:`\mathrm{erfc}(x) = e^{-x^2} f(t)` for :math:`x \ge 0`, where :math:`f` is smooth in
:math:`t = 2 / (2 + x)`: a polynomial through Chebyshev points gives it to the last digits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erfcx

from sknn_deep.onnx._graph import Graph

# alpha and scale, as in torch.nn.SELU
_SELU = (1.6732632423543772, 1.0507009873554805)
# torch replaces the softplus of larger numbers by the identity
_SOFTPLUS_THRESHOLD = 20.0
_ERFC_DEGREE = 24  # error 4e-15; higher powers would lose more digits to rounding


def activation(graph: Graph, name: str, x: str) -> str:
    """Return the activation of a tensor.

    Parameters
    ----------
    graph : Graph
    name : str
        A key of ``ACTIVATIONS``.
    x : str
        A tensor of any shape.
    """
    if name == "identity":
        return x
    if name not in _WRITTEN:
        raise ValueError(f"activation={name!r} has no ONNX nodes; it has {sorted(_WRITTEN)}.")
    kind = _NATIVE.get(name)
    is_double = graph.dtype == np.float64
    if kind is not None and not (is_double and name in _SINGLE_ONLY):
        return graph.node(kind, x, **_ATTRIBUTES.get(name, {}))
    return _WRITTEN[name](graph, x)


def sigmoid(graph: Graph, x: str) -> str:
    """Return 1 / (1 + exp(-x)), whose tail the runtime's float32 kernel cuts off."""
    exponential = graph.node("Exp", graph.node("Neg", x))
    return graph.node("Reciprocal", graph.node("Add", exponential, graph.number(1.0)))


def _silu(graph: Graph, x: str) -> str:
    exponential = graph.node("Exp", graph.node("Neg", x))
    return graph.node("Div", x, graph.node("Add", exponential, graph.number(1.0)))


def _leaky_relu(graph: Graph, x: str) -> str:
    return graph.node("Max", x, graph.node("Mul", x, graph.number(0.01)))


def _elu(graph: Graph, x: str) -> str:
    return graph.node("Where", _is_positive(graph, x), x, _expm1_of_negative(graph, x))


def _selu(graph: Graph, x: str) -> str:
    alpha, scale = _SELU
    below = graph.node("Mul", _expm1_of_negative(graph, x), graph.number(alpha))
    values = graph.node("Where", _is_positive(graph, x), x, below)
    return graph.node("Mul", values, graph.number(scale))


def _is_positive(graph: Graph, x: str) -> str:
    return graph.node("Greater", x, graph.number(0.0))


def _expm1_of_negative(graph: Graph, x: str) -> str:
    """Return exp(min(x, 0)) - 1 = 2 t / (1 - t) with t = tanh(min(x, 0) / 2)."""
    half = graph.node("Mul", graph.node("Min", x, graph.number(0.0)), graph.number(0.5))
    t = graph.node("Tanh", half)
    return graph.node("Div", graph.node("Add", t, t), graph.node("Sub", graph.number(1.0), t))


def _softplus(graph: Graph, x: str) -> str:
    is_large = graph.node("Greater", x, graph.number(_SOFTPLUS_THRESHOLD))
    return graph.node("Where", is_large, x, _log_of_one_and_exp(graph, x))


def _mish(graph: Graph, x: str) -> str:
    return graph.node("Mul", x, graph.node("Tanh", _log_of_one_and_exp(graph, x)))


def _log_of_one_and_exp(graph: Graph, x: str) -> str:
    """Return max(x, 0) + log(1 + exp(-|x|))."""
    exponential = graph.node("Exp", graph.node("Neg", graph.node("Abs", x)))
    logarithm = graph.node("Log", graph.node("Add", exponential, graph.number(1.0)))
    return graph.node("Add", graph.node("Max", x, graph.number(0.0)), logarithm)


def _gelu(graph: Graph, x: str) -> str:
    scaled = graph.node("Mul", x, graph.number(2**-0.5))
    erf = graph.node("Erf", scaled) if graph.dtype == np.float32 else _erf(graph, scaled)
    share = graph.node("Add", erf, graph.number(1.0))
    return graph.node("Mul", graph.node("Mul", x, share), graph.number(0.5))


def _erf(graph: Graph, x: str) -> str:
    """Return sign(x) * (1 - erfc(abs(x)))."""
    size = graph.node("Abs", x)
    two = graph.number(2.0)
    t = graph.node("Div", two, graph.node("Add", size, two))
    s = graph.node("Sub", graph.node("Mul", t, two), graph.number(1.0))  # from -1 to 1
    *others, value = map(graph.number, _erfc_coefficients())
    for coefficient in reversed(others):  # Horner's scheme
        value = graph.node("Add", graph.node("Mul", value, s), coefficient)
    square = graph.node("Mul", size, size)
    erfc = graph.node("Mul", value, graph.node("Exp", graph.node("Neg", square)))
    return graph.node("Mul", graph.node("Sign", x), graph.node("Sub", graph.number(1.0), erfc))


def _erfc_coefficients() -> np.ndarray:
    """Return the coefficients of the powers of s = 2 t - 1 in exp(x²) erfc(x), t = 2 / (2 + x)."""

    def scaled(s: np.ndarray) -> np.ndarray:
        return erfcx(4 / (s + 1) - 2)

    series = np.polynomial.Chebyshev.interpolate(scaled, _ERFC_DEGREE)
    return np.polynomial.chebyshev.cheb2poly(series.coef)


# The runtime's kernels.
_NATIVE = {
    "logistic": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "softplus": "Softplus",
}
_ATTRIBUTES: dict[str, dict[str, Any]] = {"leaky_relu": {"alpha": 0.01}, "elu": {"alpha": 1.0}}
_SINGLE_ONLY = {"leaky_relu", "elu", "selu", "softplus"}
_WRITTEN: dict[str, Callable[[Graph, str], str]] = {
    "logistic": sigmoid,
    "tanh": lambda graph, x: graph.node("Tanh", x),
    "relu": lambda graph, x: graph.node("Relu", x),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
    "softplus": _softplus,
}
