"""The inputs of a graph as the matrix that a network reads: numbers, codes of categories, NaN.

What is done here is what :class:`~sknn_deep._estimators.table_columns.TableColumns` does to a
frame. ONNX has no missing text: the empty one stands for it.
"""

import math
from itertools import groupby
from typing import Any

import numpy as np

from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep.onnx._graph import Graph


def matrix(graph: Graph, inputs: list[Any], n_features: int, columns: TableColumns | None) -> str:
    """Return rows as the network reads them, shape (n, n_features), in its type.

    Parameters
    ----------
    graph : Graph
    inputs : list of skl2onnx's variables
        Side by side they are the features, each of shape (n, n_columns).
    n_features : int
    columns : TableColumns or None
        What is known of categories.
    """
    categories = {} if columns is None else columns.categories
    widths = [n_features] if len(inputs) == 1 else [v.type.shape[1] for v in inputs]
    if sum(widths) != n_features:
        raise ValueError(
            f"The graph has {sum(widths)} columns where the network was fitted to {n_features}; "
            "convert it with an X of the same columns."
        )
    parts: list[str] = []
    start = 0
    for variable, width in zip(inputs, widths, strict=True):
        own = {j: categories[start + j] for j in range(width) if start + j in categories}
        parts += _blocks(graph, variable, width, own)
        start += width
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _blocks(
    graph: Graph, variable: Any, width: int, categories: dict[int, list[Any]]
) -> list[str]:
    """Return the columns of one input, in blocks: each one of categories, others together."""
    holds_text = type(variable.type).__name__ == "StringTensorType"
    if holds_text and len(categories) < width:
        raise ValueError(
            f"{variable.raw_name!r} holds texts, but the network was fitted to numbers there; "
            "convert it with an X whose columns are of the same kinds."
        )
    blocks = []
    # consecutive columns of numbers are one block, a column of categories is one by itself
    for _, group in groupby(range(width), key=lambda j: j if j in categories else -1):
        members = list(group)
        block = variable.full_name
        if len(members) < width:
            block = graph.node("Gather", block, graph.constant(np.array(members)), axis=1)
        values = categories.get(members[0])
        if values is None:
            blocks.append(graph.cast(block, graph.dtype))
        else:
            codes = _codes(graph, block, values, holds_text, variable.raw_name)
            blocks.append(graph.cast(codes, graph.dtype))
    return blocks


def _codes(graph: Graph, x: str, values: list[Any], holds_text: bool, name: str) -> str:
    """Return the code of each category of a column, -1 for those that are not known."""
    from onnx import numpy_helper

    kinds = (str,) if holds_text else (int, float)
    code_of = {value: code for code, value in enumerate(values) if isinstance(value, kinds)}
    missing = "" if holds_text else math.nan
    if None in values and missing in code_of:
        raise ValueError(
            f"Column {name!r} has the empty text and missing values as two categories, which ONNX "
            "cannot tell apart; write one of them as another text, and fit again."
        )
    code_of.setdefault(missing, values.index(None) if None in values else -1)
    keys = np.array(list(code_of), dtype=object if holds_text else np.float64)
    return graph.node(
        "LabelEncoder",
        x if holds_text else graph.cast(x, np.float64),
        domain="ai.onnx.ml",
        keys_tensor=numpy_helper.from_array(keys),
        values_tensor=numpy_helper.from_array(np.array(list(code_of.values()))),
        default_tensor=numpy_helper.from_array(np.array([-1])),
    )
