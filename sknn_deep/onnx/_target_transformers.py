"""The inverse target transformations of a ``TransformedTargetRegressor`` as nodes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from sknn_deep.onnx._graph import Graph


def inverse_transformed(graph: Graph, transformer: Any, x: str) -> str:
    """Return predictions on the scale of the target.

    Parameters
    ----------
    graph : Graph
    transformer : transformer
        Fitted to the targets.
    x : str
        A tensor of shape (n, n_outputs).
    """
    if isinstance(transformer, Pipeline):
        for _, step in reversed(transformer.steps):
            if step not in (None, "passthrough"):
                x = inverse_transformed(graph, step, x)
        return x
    if type(transformer) is FunctionTransformer:
        return _by_function(graph, transformer, x)
    if type(transformer) not in _SCALES:
        raise ValueError(
            f"{type(transformer).__name__} as the transformer of a target has no ONNX nodes; "
            f"choose among {sorted(known.__name__ for known in (*_SCALES, FunctionTransformer))}, "
            "or convert regressor_ and transform its predictions back by yourself."
        )
    factor, shift = _SCALES[type(transformer)](transformer)
    if factor is not None:
        x = graph.node("Mul", x, graph.constant(np.asarray(factor, graph.dtype)))
    if shift is not None:
        x = graph.node("Add", x, graph.constant(np.asarray(shift, graph.dtype)))
    return x


def _by_function(graph: Graph, transformer: FunctionTransformer, x: str) -> str:
    function = transformer.inverse_func
    if function is None:
        return x
    is_known = isinstance(function, np.ufunc) and function in _FUNCTIONS
    if not is_known or transformer.inv_kw_args:
        raise ValueError(
            f"inverse_func={function!r} has no ONNX nodes; choose NumPy's "
            f"{', '.join(known.__name__ for known in _FUNCTIONS)} without arguments, or convert "
            "regressor_ and transform its predictions back by yourself."
        )
    return _FUNCTIONS[function](graph, x)


def _expm1(graph: Graph, x: str) -> str:
    """Return exp(x) - 1, near 0 as 2 t / (1 - t) with t = tanh(x / 2), to avoid cancellation."""
    one, t = graph.number(1.0), graph.node("Tanh", graph.node("Mul", x, graph.number(0.5)))
    near = graph.node("Div", graph.node("Add", t, t), graph.node("Sub", one, t))
    far = graph.node("Sub", graph.node("Exp", x), one)
    return graph.node("Where", graph.node("Less", graph.node("Abs", x), one), near, far)


def _log1p(graph: Graph, x: str) -> str:
    """Return log(1 + x) as log(u) x / (u - 1), where u is 1 + x after rounding [1]_.

    .. [1] D. Goldberg (1991). What every computer scientist should know about floating-point
       arithmetic. ACM Computing Surveys 23(1). Theorem 4.
    """
    one = graph.number(1.0)
    u = graph.node("Add", x, one)
    rounded = graph.node("Sub", u, one)
    is_lost = graph.node("Equal", rounded, graph.number(0.0))
    found = graph.node("Mul", graph.node("Log", u), graph.node("Div", x, rounded))
    return graph.node("Where", is_lost, x, found)


# The factor and then the summand that invert each transformation.
_SCALES: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    StandardScaler: lambda t: (
        t.scale_ if t.with_std else None,
        t.mean_ if t.with_mean else None,
    ),
    RobustScaler: lambda t: (
        t.scale_ if t.with_scaling else None,
        t.center_ if t.with_centering else None,
    ),
    MaxAbsScaler: lambda t: (t.scale_, None),
    MinMaxScaler: lambda t: (1 / t.scale_, -t.min_ / t.scale_),
}
_FUNCTIONS: dict[np.ufunc, Callable[[Graph, str], str]] = {
    np.exp: lambda graph, x: graph.node("Exp", x),
    np.expm1: _expm1,
    np.log: lambda graph, x: graph.node("Log", x),
    np.log1p: _log1p,
    np.sqrt: lambda graph, x: graph.node("Sqrt", x),
    np.square: lambda graph, x: graph.node("Mul", x, x),
    np.negative: lambda graph, x: graph.node("Neg", x),
}
