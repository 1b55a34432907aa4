"""Converters for skl2onnx: what an estimator's graph takes and returns, and its nodes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV
from sknn_deep.onnx._activations import sigmoid
from sknn_deep.onnx._columns import matrix
from sknn_deep.onnx._graph import Graph
from sknn_deep.onnx._networks import dense_stack, encoder, mlp

# What an autoencoder's graph may be of.
METHODS = ("transform", "inverse_transform")


def register() -> None:
    """Register converters for this package's estimators with skl2onnx.

    Then ``skl2onnx.to_onnx`` and ``skl2onnx.convert_sklearn`` know them, alone and inside of what
    skl2onnx converts: pipelines, searches, ``VotingClassifier``, ``CalibratedClassifierCV`` and
    the like. :func:`to_onnx` does it by itself. To call it twice does no harm.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.

    Examples
    --------
    >>> import sknn_deep.onnx
    >>> sknn_deep.onnx.register()
    """
    require_skl2onnx()
    from skl2onnx import update_registered_converter
    from skl2onnx.operator_converters.grid_search_cv import convert_sklearn_grid_search_cv
    from skl2onnx.shape_calculators import grid_search_cv

    of_classifiers = {
        "zipmap": [True, False, "columns"],
        "output_class_labels": [False, True],
        "nocl": [True, False],
    }
    kinds: list[tuple[tuple[type, ...], Callable, Callable, dict[str, Any]]] = [
        (
            (DeepMLPClassifier, TabularMLPClassifier),
            _classifier_shapes,
            _convert_classifier,
            {"options": of_classifiers},
        ),
        ((DeepMLPRegressor, TabularMLPRegressor), _regressor_shapes, _convert_regressor, {}),
        (
            (AutoencoderTransformer,),
            _autoencoder_shapes,
            _convert_autoencoder,
            {"parser": _parse_autoencoder, "options": {"method": list(METHODS)}},
        ),
    ]
    for classes, shapes, convert, options in kinds:
        for class_ in classes:
            alias = f"SknnDeep{class_.__name__}"
            update_registered_converter(class_, alias, shapes, convert, **options)
    for search in (FusedGridSearchCV, FusedRandomizedSearchCV):
        update_registered_converter(
            search,
            "SklearnGridSearchCV",
            grid_search_cv.convert_sklearn_grid_search_cv,
            convert_sklearn_grid_search_cv,
            parser=_parse_search,
            options="passthrough",
        )


def require_skl2onnx() -> None:
    """Raise an ImportError that says how to install skl2onnx, if it is missing."""
    try:
        import skl2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "ONNX graphs are made by skl2onnx, which is not installed: pip install sknn_deep[onnx]"
        ) from error


# ------------------------------------------------------------------ classifiers


def _classifier_shapes(operator: Any) -> None:
    classifier = operator.raw_operator
    n_rows, n_classes = operator.inputs[0].get_first_dimension(), len(classifier.classes_)
    label, probabilities = operator.outputs
    if is_multilabel(classifier):
        label.set_type(tensor_type(np.dtype(np.int64), [n_rows, n_classes]))
    else:
        label.set_type(tensor_type(classifier.classes_.dtype, [n_rows]))
    # a network that saw one class tells two probabilities
    width = max(n_classes, 1 if is_multilabel(classifier) else 2)
    probabilities.set_type(tensor_type(network_dtype(classifier), [n_rows, width]))


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    classifier = operator.raw_operator
    label, probabilities = (output.full_name for output in operator.outputs)
    graph, x = _start(scope, operator, container)
    raws = [mlp(graph, network.module_, x) for network in classifier._networks]
    own = probabilities if len(raws) == 1 else None
    of_each = [_probabilities(graph, classifier, raw, own) for raw in raws]
    if len(raws) == 1:
        _write_labels(graph, classifier, raws[0], classifier.n_outputs_, 0.0, label)
    else:
        graph.node("Identity", _mean(graph, classifier, of_each), out=probabilities)
        n_columns = 2 if classifier.n_outputs_ == 1 else classifier.n_outputs_
        _write_labels(graph, classifier, probabilities, n_columns, 0.5, label)


def _probabilities(graph: Graph, classifier: Any, raw: str, out: str | None) -> str:
    """Return the probability of each class, never 0, given raw output (n, n_outputs)."""
    limits = np.finfo(graph.dtype)
    if classifier.out_activation_ == "softmax":
        probabilities = graph.node("Softmax", raw, axis=1)
    elif classifier.n_outputs_ == 1:
        both = graph.node("Concat", graph.node("Neg", raw), raw, axis=1)
        probabilities = sigmoid(graph, both)
    else:
        probabilities = graph.node("Min", sigmoid(graph, raw), graph.number(1 - limits.eps))
    return graph.node("Max", probabilities, graph.number(limits.tiny), out=out)


def _write_labels(
    graph: Graph, classifier: Any, output: str, n_columns: int, threshold: float, label: str
) -> None:
    """Write the most probable labels, given raw output or probabilities of so many columns."""
    if n_columns > 1 and not is_multilabel(classifier):
        indices = graph.node("ArgMax", output, axis=1, keepdims=0)
    else:
        is_above = graph.node("Greater", output, graph.number(threshold))
        if is_multilabel(classifier):
            graph.cast(is_above, np.int64, out=label)
            return
        flat = graph.node("Reshape", graph.cast(is_above, np.int64), graph.constant([-1]))
        last = graph.constant(np.int64(len(classifier.classes_) - 1))
        indices = graph.node("Min", flat, last)
    graph.node("Gather", graph.constant(classifier.classes_), indices, out=label)


# ------------------------------------------------------------------ regressors


def _regressor_shapes(operator: Any) -> None:
    regressor = operator.raw_operator
    shape = [operator.inputs[0].get_first_dimension(), regressor.n_outputs_]
    operator.outputs[0].set_type(tensor_type(network_dtype(regressor), shape))


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    regressor = operator.raw_operator
    graph, x = _start(scope, operator, container)
    networks = regressor._networks
    of_each = [_values(graph, network, mlp(graph, network.module_, x)) for network in networks]
    graph.node("Identity", _mean(graph, regressor, of_each), out=operator.outputs[0].full_name)


def _values(graph: Graph, regressor: Any, raw: str) -> str:
    """Return the prediction that belongs to the raw output."""
    values = graph.node("Exp", raw) if regressor.out_activation_ == "exp" else raw
    if not regressor._has_target_scale:
        return values
    scaled = graph.node("Mul", values, graph.constant(regressor.target_scale_))
    return graph.node("Add", scaled, graph.constant(regressor.target_center_))


def _mean(graph: Graph, estimator: Any, of_each: list[str]) -> str:
    """Return the mean over the networks, by their weights where they have some."""
    if len(of_each) == 1:
        return of_each[0]
    weights = vars(estimator).get("ensemble_weights_")
    if weights is None:
        return graph.node("Div", graph.node("Sum", *of_each), graph.number(len(of_each)))
    shares = zip(of_each, weights.tolist(), strict=True)
    return graph.node("Sum", *(graph.node("Mul", o, graph.number(w)) for o, w in shares))


# ------------------------------------------------------------------ autoencoders


def _method(scope: Any, autoencoder: Any) -> str:
    method: str = scope.get_options(autoencoder, {"method": "transform"})["method"]
    return method


def _parse_autoencoder(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    operator = scope.declare_local_operator(f"SknnDeep{type(model).__name__}", model)
    operator.inputs = inputs
    output = scope.declare_local_variable("variable", tensor_type(network_dtype(model), []))
    operator.outputs.append(output)
    return operator.outputs


def _autoencoder_shapes(operator: Any) -> None:
    autoencoder = operator.raw_operator
    is_code = _method(operator.scope_inst, autoencoder) == "transform"
    width = autoencoder._n_features_out if is_code else autoencoder.n_features_in_
    shape = [operator.inputs[0].get_first_dimension(), width]
    operator.outputs[0].set_type(tensor_type(network_dtype(autoencoder), shape))


def _convert_autoencoder(scope: Any, operator: Any, container: Any) -> None:
    autoencoder = operator.raw_operator
    network = autoencoder.module_
    out = operator.outputs[0].full_name
    if _method(scope, autoencoder) == "transform":
        graph, x = _start(scope, operator, container)
        graph.node("Identity", encoder(graph, network, x), out=out)
    else:
        graph, code = _start(scope, operator, container, autoencoder._n_features_out)
        graph.node("Identity", dense_stack(graph, network.decoder, code), out=out)


# ------------------------------------------------------------------ all


def _start(
    scope: Any, operator: Any, container: Any, n_columns: int | None = None
) -> tuple[Graph, str]:
    """Return the graph to add to, and the rows as the network reads them."""
    estimator = operator.raw_operator
    graph = Graph(scope, container, network_dtype(estimator))
    columns = vars(estimator).get("_columns")
    n_columns = estimator.n_features_in_ if n_columns is None else n_columns
    return graph, matrix(graph, operator.inputs, n_columns, columns)


def _parse_search(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Parse a search as the estimator that it has found."""
    from skl2onnx._parse import _parse_sklearn

    scope.add_options(id(model.best_estimator_), scope.get_options(model))
    return _parse_sklearn(scope, model.best_estimator_, inputs, custom_parsers=custom_parsers)


def is_multilabel(classifier: Any) -> bool:
    """Return whether a classifier tells several labels a row."""
    kind: str = classifier._label_binarizer.y_type_
    return kind == "multilabel-indicator"


def network_dtype(estimator: Any) -> np.dtype:
    """Return the type in which a fitted estimator computes."""
    return np.dtype(estimator._network_dtype)


def tensor_type(dtype: np.dtype, shape: list[int | None]) -> Any:
    """Return skl2onnx's type of tensors of a type and shape."""
    from skl2onnx.common import data_types

    names = {"float32": "Float", "float64": "Double", "bool": "Boolean", "float16": "Float16"}
    name = "String" if dtype.kind in "OU" else names.get(dtype.name, dtype.name)
    if dtype.kind in "iu":
        name = name.replace("uint", "UInt").replace("int", "Int")
    if not hasattr(data_types, f"{name}TensorType"):
        raise ValueError(f"ONNX has no tensors of {dtype}.")
    return getattr(data_types, f"{name}TensorType")(shape)
