"""Converters for skl2onnx: what an estimator's graph takes and returns, and its nodes."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.hidden_activations import HiddenActivations
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.supervised import hidden_layer_number
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep._wording import counted
from sknn_deep.model_selection._halving import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV
from sknn_deep.onnx._activations import sigmoid
from sknn_deep.onnx._columns import matrix
from sknn_deep.onnx._graph import Graph
from sknn_deep.onnx._networks import dense_stack, encoder, mlp
from sknn_deep.onnx._target_transformers import inverse_transformed

# What an autoencoder's graph may be of.
Method: TypeAlias = Literal[
    "transform", "inverse_transform", "score_samples", "decision_function", "predict"
]
METHODS: tuple[str, ...] = get_args(Method)
_SEARCHES = (
    FusedGridSearchCV, FusedRandomizedSearchCV, FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)  # fmt: skip
_TRANSFORMED_TARGET = "SknnDeepTransformedTargetRegressor"


def register() -> None:
    """Register converters for this package's estimators with skl2onnx.

    Then ``skl2onnx.to_onnx`` and ``skl2onnx.convert_sklearn`` know them, alone and inside of what
    skl2onnx converts: pipelines, searches, ``VotingClassifier``, ``CalibratedClassifierCV`` and
    the like. :func:`sknn_deep.to_onnx` does it by itself. Calling it twice does no harm.

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
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.operator_converters.grid_search_cv import convert_sklearn_grid_search_cv
    from skl2onnx.shape_calculators import grid_search_cv

    of_classifiers = {
        "zipmap": [True, False, "columns"],
        "output_class_labels": [False, True],
        "nocl": [True, False],
        "raw_scores": [True, False],
    }
    kinds: list[tuple[tuple[type, ...], Callable, Callable, dict[str, Any]]] = [
        (
            (DeepMLPClassifier, TabularMLPClassifier),
            _classifier_shapes,
            _convert_classifier,
            {"options": of_classifiers},
        ),
        ((DeepMLPRegressor, TabularMLPRegressor), _regressor_shapes, _convert_regressor, {}),
        ((HiddenActivations,), _hidden_shapes, _convert_hidden, {"parser": _parse_hidden}),
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
    for search in _SEARCHES:
        update_registered_converter(
            search,
            "SklearnGridSearchCV",
            grid_search_cv.convert_sklearn_grid_search_cv,
            convert_sklearn_grid_search_cv,
            parser=_parse_search,
            options="passthrough",
        )
    alias = sklearn_operator_name_map.get(TransformedTargetRegressor, _TRANSFORMED_TARGET)
    if alias == _TRANSFORMED_TARGET:  # else the user, or skl2onnx, has a converter for it
        update_registered_converter(
            TransformedTargetRegressor, alias, _transformed_shapes, _convert_transformed
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
    wants_scores = scope.get_options(classifier, {"raw_scores": False})["raw_scores"]
    graph, x = _start(scope, operator, container)
    raws = [mlp(graph, network.module_, x) for network in classifier._networks]
    temperature = vars(classifier).get("temperature_")
    is_mean = len(raws) > 1 or temperature is not None
    own = None if wants_scores or is_mean else probabilities
    of_each = [_probabilities(graph, classifier, raw, own) for raw in raws]
    mean = _mean(graph, classifier, of_each)
    if len(raws) == 1:
        _write_labels(graph, classifier, raws[0], classifier.n_outputs_, 0.0, label)
    else:
        n_columns = 2 if classifier.n_outputs_ == 1 else classifier.n_outputs_
        _write_labels(graph, classifier, mean, n_columns, 0.5, label)
    logits = raws[0] if len(raws) == 1 else _logits(graph, classifier, mean)
    if temperature is not None:
        logits = graph.node("Div", logits, graph.number(temperature))
        mean = _probabilities(graph, classifier, logits, None)
    if wants_scores:
        scores = logits
        if classifier.n_outputs_ == 1:  # skl2onnx expects a column for each class
            scores = graph.node("Concat", graph.node("Neg", scores), scores, axis=1)
        graph.node("Identity", scores, out=probabilities)
    elif own is None:
        graph.node("Identity", mean, out=probabilities)


def _logits(graph: Graph, classifier: Any, mean: str) -> str:
    """Return the logits of shape (n, n_outputs) that have such probabilities."""
    logs = graph.node("Log", mean)
    if classifier.out_activation_ == "softmax":
        return logs
    if classifier.n_outputs_ == 1:
        columns = (
            graph.node("Gather", logs, graph.constant(np.array([j])), axis=1) for j in (1, 0)
        )
        return graph.node("Sub", *columns)
    others = graph.node("Sub", graph.number(1.0), mean)
    return graph.node("Sub", logs, graph.node("Log", others))


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
    """Write the most probable labels, given ``n_columns`` raw outputs or probabilities."""
    if n_columns > 1 and not is_multilabel(classifier):
        are_numbers = np.array_equal(classifier.classes_, np.arange(n_columns))
        if are_numbers and classifier.classes_.dtype == np.int64:  # as the nodes tell them
            graph.node("ArgMax", output, out=label, axis=1, keepdims=0)
            return
        indices = graph.node("ArgMax", output, axis=1, keepdims=0)
    else:
        is_above = graph.node("Greater", output, graph.number(threshold))
        if is_multilabel(classifier):
            graph.cast(is_above, np.int64, out=label)
            return
        indices = graph.node("Reshape", graph.cast(is_above, np.int64), graph.constant([-1]))
    if len(classifier.classes_) == 1:
        indices = graph.node("Min", indices, graph.constant(np.int64(0)))
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
    if regressor.out_activation_ in ("normal", "quantiles"):  # the middles come first
        raw = graph.node("Slice", raw, *(graph.constant([n]) for n in (0, regressor.n_outputs_, 1)))
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


def _transformed_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import guess_tensor_type

    given, last = operator.inputs[0], ends(operator.raw_operator.regressor_)[-1]
    is_ours = hasattr(last, "_network_dtype")
    kind = tensor_type(network_dtype(last), []) if is_ours else guess_tensor_type(given.type)
    kind.shape = [given.get_first_dimension(), getattr(last, "n_outputs_", None)]
    operator.outputs[0].set_type(kind)


def _convert_transformed(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx._parse import _parse_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    regressor, output = operator.raw_operator, operator.outputs[0]
    predicted, *_ = _parse_sklearn(scope, regressor.regressor_, operator.inputs)
    is_double = isinstance(output.type, DoubleTensorType)
    graph = Graph(scope, container, np.float64 if is_double else np.float32)
    values = inverse_transformed(graph, regressor.transformer_, predicted.full_name)
    graph.node("Identity", values, out=output.full_name)


# ------------------------------------------------------------------ autoencoders


def _method(scope: Any, autoencoder: Any) -> str:
    method: str = scope.get_options(autoencoder, {"method": "transform"})["method"]
    return method


def _parse_autoencoder(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    is_label = _method(scope, model) == "predict"
    return _parsed(scope, model, inputs, np.dtype(np.int64) if is_label else network_dtype(model))


def _autoencoder_shapes(operator: Any) -> None:
    autoencoder = operator.raw_operator
    method = _method(operator.scope_inst, autoencoder)
    widths = {"transform": [autoencoder._n_features_out]}
    widths["inverse_transform"] = [autoencoder.n_features_in_]
    shape = [operator.inputs[0].get_first_dimension(), *widths.get(method, [])]
    dtype = np.dtype(np.int64) if method == "predict" else network_dtype(autoencoder)
    operator.outputs[0].set_type(tensor_type(dtype, shape))


def _convert_autoencoder(scope: Any, operator: Any, container: Any) -> None:
    autoencoder = operator.raw_operator
    network, method = autoencoder.module_, _method(scope, autoencoder)
    if autoencoder._encoding is not None:
        n_categories = len(autoencoder._encoding.categories)
        raise ValueError(
            "An autoencoder that encodes categories or scales by itself has no ONNX nodes, got "
            f"scaling={autoencoder.scaling!r} and {counted(n_categories, 'column')} of categories: "
            "put OneHotEncoder and StandardScaler before it, in a pipeline, and leave scaling at "
            "None."
        )
    is_decoder = method == "inverse_transform"
    n_columns = autoencoder._n_features_out if is_decoder else None
    graph, x = _start(scope, operator, container, n_columns)
    output = x if is_decoder else encoder(graph, network, x)
    if method != "transform":
        output = dense_stack(graph, network.decoder, output)
    if method in ("score_samples", "decision_function", "predict"):
        output = _scores(graph, autoencoder, x, output)
    if method in ("decision_function", "predict"):
        output = graph.node("Sub", output, graph.number(autoencoder._known_offset()))
    if method == "predict":
        is_outlier = graph.node("Less", output, graph.number(0.0))
        labels = (graph.constant(np.array(label)) for label in (-1, 1))
        output = graph.node("Where", is_outlier, *labels)
    graph.node("Identity", output, out=operator.outputs[0].full_name)


def _scores(graph: Graph, autoencoder: Any, x: str, reconstruction: str) -> str:
    """Return the negative mean squared error of each row, missing features left out."""
    error = graph.node("Sub", reconstruction, x)
    square = graph.node("Mul", error, error)
    minus_one = np.full((autoencoder.n_features_in_, 1), -1, graph.dtype)
    number = graph.number(autoencoder.n_features_in_)
    if autoencoder.module_.config["allow_nan"]:
        is_missing = graph.node("IsNaN", x)
        square = graph.node("Where", is_missing, graph.number(0.0), square)
        known = graph.cast(graph.node("Not", is_missing), graph.dtype)
        number = graph.node("MatMul", known, graph.constant(-minus_one))
    score = graph.node("Div", graph.node("MatMul", square, graph.constant(minus_one)), number)
    return graph.node("Reshape", score, graph.constant(np.array([-1])))


# ------------------------------------------------------------------ hidden activations


def _parse_hidden(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    return _parsed(scope, model, inputs, network_dtype(model.estimator_))


def _hidden_shapes(operator: Any) -> None:
    transformer = operator.raw_operator
    shape = [operator.inputs[0].get_first_dimension(), transformer._n_features_out]
    operator.outputs[0].set_type(tensor_type(network_dtype(transformer.estimator_), shape))


def _convert_hidden(scope: Any, operator: Any, container: Any) -> None:
    transformer = operator.raw_operator
    graph, x = _start(scope, operator, container, estimator=transformer.estimator_)
    parts = [
        mlp(graph, network.module_, x, hidden_layer_number(network, transformer.layer) + 1)
        for network in transformer.estimator_._networks
    ]
    graph.node("Concat", *parts, axis=1, out=operator.outputs[0].full_name)


# ------------------------------------------------------------------ all


def _parsed(scope: Any, model: Any, inputs: Any, dtype: np.dtype) -> Any:
    """Declare one output, of the type that the steps behind it are to expect."""
    operator = scope.declare_local_operator(f"SknnDeep{type(model).__name__}", model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("variable", tensor_type(dtype, [])))
    return operator.outputs


def _start(
    scope: Any,
    operator: Any,
    container: Any,
    n_columns: int | None = None,
    estimator: Any = None,
) -> tuple[Graph, str]:
    """Return the graph to add to, and the rows as the network reads them."""
    estimator = operator.raw_operator if estimator is None else estimator
    graph = Graph(scope, container, network_dtype(estimator))
    columns = getattr(estimator, "_columns", None)
    n_columns = estimator.n_features_in_ if n_columns is None else n_columns
    return graph, matrix(graph, operator.inputs, n_columns, columns)


def _parse_search(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Parse a search as the estimator that it has found."""
    from skl2onnx._parse import _parse_sklearn

    scope.add_options(id(model.best_estimator_), scope.get_options(model))
    return _parse_sklearn(scope, model.best_estimator_, inputs, custom_parsers=custom_parsers)


def ends(estimator: Any) -> list[Any]:
    """Return an estimator and, in turn, what ends it: a pipeline's last step, a search's best."""
    parts = [estimator]
    while True:
        last = parts[-1]
        if isinstance(last, Pipeline):
            parts.append(last.steps[-1][1])
        elif hasattr(last, "best_estimator_"):
            parts.append(last.best_estimator_)
        else:
            return parts


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
