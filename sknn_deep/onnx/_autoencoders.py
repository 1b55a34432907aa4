"""The converter of autoencoders: codes, reconstructions, outlier scores.

A table is encoded first, and its reconstruction is a table again: the graph has one output per
column, as it has one input per column.
"""

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sknn_deep._engine.encoded_rows import ALMOST_ONE, TableEncoding
from sknn_deep._estimators.table_columns import feature_names
from sknn_deep._networks.models import Autoencoder
from sknn_deep._networks.number_inputs import CLIP
from sknn_deep.onnx._columns import matrix, refuse_empty_and_missing
from sknn_deep.onnx._graph import Graph
from sknn_deep.onnx._networks import dense_stack, encoder, indicators, smoothly_clipped
from sknn_deep.onnx._operators import declare, network_dtype, start, tensor_type

# The methods that an autoencoder's graph may compute.
Method: TypeAlias = Literal[
    "transform", "inverse_transform", "score_samples", "decision_function", "predict"
]
METHODS: tuple[str, ...] = get_args(Method)


def parse_autoencoder(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare the outputs of a method: a tensor, or the columns of a table."""
    method, dtype = _method(scope, model), network_dtype(model)
    if method == "inverse_transform" and model._columns is not None:
        kinds = [
            tensor_type(dtype if values is None else values.dtype, [])
            for values in _values_of_columns(model)
        ]
        return declare(scope, model, inputs, list(zip(feature_names(model), kinds, strict=True)))
    kind = tensor_type(np.dtype(np.int64) if method == "predict" else dtype, [])
    return declare(scope, model, inputs, [("variable", kind)])


def autoencoder_shapes(operator: Any) -> None:
    """Set the shapes of the outputs."""
    autoencoder = operator.raw_operator
    method = _method(operator.scope_inst, autoencoder)
    widths = {"transform": [autoencoder._n_features_out]}
    of_table = autoencoder._columns is not None
    widths["inverse_transform"] = [1 if of_table else autoencoder.n_features_in_]
    for output in operator.outputs:
        output.type.shape = [operator.inputs[0].get_first_dimension(), *widths.get(method, [])]


def convert_autoencoder(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes for a method."""
    autoencoder = operator.raw_operator
    method = _method(scope, autoencoder)
    if method == "inverse_transform":
        graph = Graph(scope, container, network_dtype(autoencoder))
        codes = matrix(graph, operator.inputs, autoencoder._n_features_out, None)
        results = _reconstructed(graph, autoencoder, codes)
    else:
        graph, x = start(scope, operator, container)
        results = [_of_rows(graph, autoencoder, x, method)]
    for result, output in zip(results, operator.outputs, strict=True):
        graph.node("Identity", result, out=output.full_name)


def _of_rows(graph: Graph, autoencoder: Any, x: str, method: str) -> str:
    """Return codes, scores or outlier labels."""
    network = autoencoder.module_
    if autoencoder._encoding is not None:
        x = _encoded(graph, autoencoder._encoding, x)
    result = encoder(graph, network, x)
    if method != "transform":
        raw = dense_stack(graph, network.decoder, result)
        result = _scores(graph, network, x, _with_probabilities(graph, network, raw))
    if method in ("decision_function", "predict"):
        result = graph.node("Sub", result, graph.number(autoencoder._known_offset()))
    if method == "predict":
        is_outlier = graph.node("Less", result, graph.number(0.0))
        labels = (graph.constant(np.array(label)) for label in (-1, 1))
        result = graph.node("Where", is_outlier, *labels)
    return result


def _method(scope: Any, autoencoder: Any) -> str:
    method: str = scope.get_options(autoencoder, {"method": "transform"})["method"]
    return method


def _encoded(graph: Graph, encoding: TableEncoding, x: str) -> str:
    """Return the network's input: scaled numbers, and indicators of categories."""
    parts = []
    if encoding.numbers:
        numbers = graph.columns(x, encoding.numbers) if encoding.categories else x
        if encoding.center is not None and encoding.scale is not None:
            numbers = graph.node("Sub", numbers, graph.numbers(encoding.center))
            numbers = graph.node("Div", numbers, graph.numbers(encoding.scale))
        parts = [smoothly_clipped(graph, numbers) if encoding.is_clipped else numbers]
    if pairs := [(column, code) for column, n in encoding.categories for code in range(n)]:
        columns, codes = np.array(pairs).T
        parts.append(indicators(graph, x, columns, codes))
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _reconstructed(graph: Graph, autoencoder: Any, codes: str) -> list[str]:
    """Return a matrix of numbers in their original units, or each column of a table."""
    encoding = autoencoder._encoding
    decoded = dense_stack(graph, autoencoder.module_.decoder, codes)
    if encoding is None:
        return [decoded]
    first, numbers = len(encoding.numbers), decoded
    if encoding.numbers:
        numbers = graph.columns(decoded, range(first)) if encoding.categories else decoded
        numbers = _in_own_units(graph, encoding, numbers)
    if not encoding.categories:
        return [numbers]
    columns = [graph.columns(numbers, [j]) for j in range(first)]
    values = _values_of_columns(autoencoder)
    for column, n_categories in encoding.categories:
        # a column without categories, such as identifiers, is reconstructed as missing
        own = range(first, first + n_categories) if n_categories else [0]
        likeliest = graph.node("ArgMax", graph.columns(decoded, own), axis=1, keepdims=1)
        columns.append(graph.node("Gather", graph.constant(values[column]), likeliest))
        first += n_categories
    return [columns[place] for place in encoding.places]


def _in_own_units(graph: Graph, encoding: TableEncoding, x: str) -> str:
    if encoding.is_clipped:
        share = graph.node("Div", x, graph.number(CLIP))
        share = graph.node("Clip", share, graph.number(-ALMOST_ONE), graph.number(ALMOST_ONE))
        rest = graph.node("Sub", graph.number(1.0), graph.node("Mul", share, share))
        scaled = graph.node("Mul", share, graph.number(CLIP))
        x = graph.node("Div", scaled, graph.node("Sqrt", rest))
    if encoding.center is not None and encoding.scale is not None:
        x = graph.node("Mul", x, graph.numbers(encoding.scale))
        x = graph.node("Add", x, graph.numbers(encoding.center))
    return x


def _values_of_columns(autoencoder: Any) -> list[np.ndarray | None]:
    """Return the categories of each column, None for columns of numbers."""
    categories = autoencoder._columns.categories
    return [
        _values(name, categories[j]) if j in categories else None
        for j, name in enumerate(feature_names(autoencoder))
    ]


def _values(name: str, values: list[Any]) -> np.ndarray:
    """Return categories as an array of strings, integers, booleans, or floats with NaN."""
    is_text = [isinstance(value, str) for value in values if value is not None]
    if all(is_text):
        refuse_empty_and_missing(name, values)
        return np.array(["" if value is None else value for value in values or [""]], object)
    found = np.array([np.nan if value is None else value for value in values])
    if found.dtype.kind not in "biuf":
        raise ValueError(
            f"Column {name!r} has the categories {values}, but an output of a graph is of numbers "
            "or of texts; write all as texts, and fit again, or convert the other methods."
        )
    return found


def _with_probabilities(graph: Graph, network: Autoencoder, raw: str) -> str:
    """Return a reconstruction with probabilities of categories instead of logits."""
    numbers, categories = _n_numbers(network), network.config["categories"]
    if not categories:
        return raw
    parts, first = [graph.columns(raw, range(numbers))] if numbers else [], numbers
    for _, n_categories in categories:
        if n_categories:
            logits = graph.columns(raw, range(first, first + n_categories))
            parts.append(graph.node("Softmax", logits, axis=1))
        first += n_categories
    return graph.node("Concat", *parts, axis=1)


def _scores(graph: Graph, network: Autoencoder, x: str, reconstruction: str) -> str:
    """Return the negative mean squared error of each row, without missing features.

    The squared error of a category is half the sum over its indicators. An unseen category, for
    which all of them are 0, counts as an additional indicator of 1.
    """
    n_inputs, n_numbers = network.encoder.config["layer_units"][0], _n_numbers(network)
    n_categorical = len(network.config["categories"])
    is_indicator = (np.arange(n_inputs) >= n_numbers)[:, np.newaxis]
    error = graph.node("Sub", reconstruction, x)
    square = graph.node("Mul", error, error)
    known_x = x
    if not network.config["allow_nan"]:
        number = graph.number(n_numbers + n_categorical)
    else:
        is_missing, zero = graph.node("IsNaN", x), graph.number(0.0)
        known_x = graph.node("Where", is_missing, zero, x)
        square = graph.node("Where", is_missing, zero, square)
        known = graph.cast(graph.node("Not", is_missing), graph.dtype)
        number = graph.node("MatMul", known, graph.numbers(~is_indicator))
        number = graph.node("Add", number, graph.number(n_categorical))
    score = graph.node("MatMul", square, graph.numbers(np.where(is_indicator, -0.5, -1.0)))
    if n_categorical:
        n_seen = graph.node("MatMul", known_x, graph.numbers(is_indicator))
        n_unseen = graph.node("Sub", graph.number(n_categorical), n_seen)
        score = graph.node("Sub", score, graph.node("Mul", n_unseen, graph.number(0.5)))
    score = graph.node("Div", score, number)
    return graph.node("Reshape", score, graph.constant(np.array([-1])))


def _n_numbers(network: Autoencoder) -> int:
    return network.n_columns - len(network.config["categories"])
