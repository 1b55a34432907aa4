"""Converts a graph's inputs to the matrix that a network reads: numbers, category codes, NaN.

The nodes do the same as :class:`~sknn_deep._estimators.table_columns.TableColumns` for a frame.
ONNX has no missing strings: the empty string represents them.
"""

from itertools import groupby
from typing import Any

import numpy as np

from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep._wording import counted
from sknn_deep.onnx._graph import Graph

# Not all larger integers can be represented in double precision.
_LARGEST_WHOLE = 2**53


def matrix(graph: Graph, inputs: list[Any], n_features: int, columns: TableColumns | None) -> str:
    """Return the matrix that the network reads, shape (n, n_features), in its type.

    Parameters
    ----------
    graph : Graph
    inputs : list of skl2onnx's variables
        Each of shape (n, n_columns); concatenated, they are the features.
    n_features : int
    columns : TableColumns or None
        Contains the categories.
    """
    categories = {} if columns is None else columns.categories
    widths = [n_features] if len(inputs) == 1 else [v.type.shape[1] for v in inputs]
    if sum(widths) != n_features:
        raise ValueError(
            f"The graph has {counted(sum(widths), 'column')} where the network was fitted to "
            f"{n_features}; convert it with an X of the same columns."
        )
    parts: list[str] = []
    start = 0
    for variable, width in zip(inputs, widths, strict=True):
        own = {j: categories[start + j] for j in range(width) if start + j in categories}
        parts += _blocks(graph, variable, width, own)
        start += width
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _blocks(graph: Graph, variable: Any, width: int, categories: dict[int, list[Any]]) -> list[str]:
    """Return the columns of one input in blocks: categorical ones singly, others together."""
    kind = type(variable.type).__name__.removesuffix("TensorType")
    if kind == "String" and len(categories) < width:
        raise ValueError(
            "A step before the network gives numbers and texts as one matrix, in which a graph "
            "holds all as texts. Encode the texts in that step, for example by OneHotEncoder in a "
            "ColumnTransformer, or convert the network by itself."
            if categories
            else f"{variable.raw_name!r} holds texts, but the network was fitted to numbers there; "
            "convert it with an X whose columns are of the same kinds."
        )
    blocks = []
    # consecutive columns of numbers form one block, each categorical column its own
    for _, group in groupby(range(width), key=lambda j: j if j in categories else -1):
        members = list(group)
        block = variable.full_name
        if len(members) < width:
            block = graph.columns(block, members)
        values = categories.get(members[0])
        if values is None:
            is_same = kind == {"float32": "Float", "float64": "Double"}[graph.dtype.name]
            blocks.append(block if is_same else graph.cast(block, graph.dtype))
        else:
            codes = (
                _codes_of_texts(graph, block, values, variable.raw_name)
                if kind == "String"
                else _codes_of_numbers(graph, block, values, kind)
            )
            blocks.append(graph.cast(codes, graph.dtype))
    return blocks


def _codes_of_texts(graph: Graph, x: str, values: list[Any], name: str) -> str:
    """Return the code of each string of a column, -1 for unknown ones."""
    code_of = {value: code for code, value in enumerate(values) if isinstance(value, str)}
    refuse_empty_and_missing(name, values)
    code_of.setdefault("", _code_of_missing(values))
    return _looked_up(graph, x, "strings", code_of)


def refuse_empty_and_missing(name: str, values: list[Any]) -> None:
    """Raise an error for two categories that would both be the empty string in ONNX."""
    if None in values and "" in values:
        raise ValueError(
            f"Column {name!r} has the empty text and missing values as two categories, which ONNX "
            "cannot tell apart; write one of them as another text, and fit again."
        )


def _codes_of_numbers(graph: Graph, x: str, values: list[Any], kind: str) -> str:
    """Return the code of each number of a column, -1 for unknown ones; ``kind`` is its type."""
    code_of = {value: code for code, value in enumerate(values) if isinstance(value, int | float)}
    are_whole = all(float(value).is_integer() for value in code_of)
    if "Int" in kind or kind == "Boolean":
        whole_codes = {int(v): code for v, code in code_of.items() if float(v).is_integer()}
        return _looked_up(graph, graph.cast(x, np.int64), "int64s", whole_codes)
    if code_of and (largest := max(code_of, key=abs)) and abs(largest) > _LARGEST_WHOLE:
        raise ValueError(
            f"The graph would read the category {largest} in double precision, so that it could "
            "not tell it from others near it: write such categories as texts, and fit again."
        )
    x = graph.cast(x, np.float64)
    if are_whole:
        unknown = graph.constant(np.int64(-1))
        is_known = graph.node("Equal", x, graph.node("Floor", x))
        whole = graph.cast(graph.node("Where", is_known, x, graph.constant(0.0)), np.int64)
        codes = _looked_up(graph, whole, "int64s", {int(v): code for v, code in code_of.items()})
        codes = graph.node("Where", is_known, codes, unknown)
    else:  # one comparison per category
        keys, numbers = np.array(list(code_of), np.float64), np.array(list(code_of.values()), float)
        is_equal = graph.cast(graph.node("Equal", x, graph.constant(keys)), np.float64)
        order = graph.node("MatMul", is_equal, graph.constant(numbers[:, np.newaxis] + 1))
        codes = graph.cast(graph.node("Sub", order, graph.constant(1.0)), np.int64)
    missing = graph.constant(np.int64(_code_of_missing(values)))
    return graph.node("Where", graph.node("IsNaN", x), missing, codes)


def _code_of_missing(values: list[Any]) -> int:
    return values.index(None) if None in values else -1


def _looked_up(graph: Graph, x: str, kind: str, code_of: dict[Any, int]) -> str:
    """Return the codes of keys, -1 for those without one."""
    pairs = code_of or {0: -1}  # the operator needs at least one
    attributes: dict[str, Any] = {
        f"keys_{kind}": list(pairs),
        "values_int64s": list(pairs.values()),
        "default_int64": -1,
    }
    return graph.node("LabelEncoder", x, domain="ai.onnx.ml", **attributes)
