"""skl2onnx's operators: the declaration of outputs, and the first and last nodes.

A network computes in its own type. Meta-estimators such as ``BaggingClassifier`` declare the
outputs of their estimators in the type of X and compute in that type: there outputs are cast.
"""

from typing import Any

import numpy as np

from sknn_deep.onnx._columns import matrix
from sknn_deep.onnx._graph import Graph


def declare(scope: Any, model: Any, inputs: Any, outputs: list[tuple[str, Any]]) -> Any:
    """Declare outputs by name, with the types that later steps should expect."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    operator = scope.declare_local_operator(sklearn_operator_name_map[type(model)], model)
    operator.inputs = inputs
    for name, kind in outputs:
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return operator.outputs


def start(scope: Any, operator: Any, container: Any, estimator: Any = None) -> tuple[Graph, str]:
    """Return the graph to which nodes are added, and the matrix that the network reads."""
    estimator = operator.raw_operator if estimator is None else estimator
    graph = Graph(scope, container, network_dtype(estimator))
    columns = getattr(estimator, "_columns", None)
    return graph, matrix(graph, operator.inputs, estimator.n_features_in_, columns)


def write(graph: Graph, x: str, output: Any) -> None:
    """Write numbers to an output, in its type."""
    if float_type(output) == graph.dtype:
        graph.node("Identity", x, out=output.full_name)
    else:
        graph.cast(x, float_type(output), out=output.full_name)


def set_shape(output: Any, shape: list[int | None]) -> None:
    """Set the shape of a numeric output, keeping its declared type."""
    output.set_type(tensor_type(float_type(output), shape))


def float_type(variable: Any) -> np.dtype:
    """Return the floating-point type that skl2onnx has declared for a variable."""
    is_double = type(variable.type).__name__ == "DoubleTensorType"
    return np.dtype(np.float64 if is_double else np.float32)


def network_dtype(estimator: Any) -> np.dtype:
    """Return the type in which a fitted estimator computes."""
    return np.dtype(estimator._network_dtype)


def tensor_type(dtype: np.dtype, shape: list[int | None]) -> Any:
    """Return skl2onnx's tensor type for a NumPy type and a shape."""
    from skl2onnx.common import data_types

    names = {"float32": "Float", "float64": "Double", "bool": "Boolean", "float16": "Float16"}
    name = "String" if dtype.kind in "OU" else names.get(dtype.name, dtype.name)
    if dtype.kind in "iu":
        name = name.replace("uint", "UInt").replace("int", "Int")
    if not hasattr(data_types, f"{name}TensorType"):
        raise ValueError(f"ONNX has no tensors of {dtype}.")
    return getattr(data_types, f"{name}TensorType")(shape)
