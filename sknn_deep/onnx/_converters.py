"""Converters for skl2onnx: the inputs, outputs and nodes of an estimator's graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.hidden_activations import HiddenActivations
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.supervised import hidden_layer_number
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep.model_selection._halving import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV
from sknn_deep.onnx._activations import sigmoid
from sknn_deep.onnx._autoencoders import (
    METHODS,
    autoencoder_shapes,
    convert_autoencoder,
    parse_autoencoder,
)
from sknn_deep.onnx._graph import Graph
from sknn_deep.onnx._networks import mlp
from sknn_deep.onnx._operators import (
    declare,
    float_type,
    network_dtype,
    set_shape,
    start,
    tensor_type,
    write,
)
from sknn_deep.onnx._target_transformers import inverse_transformed

_SEARCHES = (
    FusedGridSearchCV, FusedRandomizedSearchCV, FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)  # fmt: skip
_TRANSFORMED_TARGET = "SknnDeepTransformedTargetRegressor"


def register() -> None:
    """Register converters for this package's estimators with skl2onnx.

    Then ``skl2onnx.to_onnx`` and ``skl2onnx.convert_sklearn`` can convert them, alone and within
    estimators that skl2onnx supports: pipelines, searches, ``VotingClassifier``,
    ``CalibratedClassifierCV`` and the like. :func:`sknn_deep.to_onnx` calls it automatically.
    Calling it twice is harmless.

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
            {"parser": _parse_classifier, "options": of_classifiers},
        ),
        (
            (DeepMLPRegressor, TabularMLPRegressor),
            _regressor_shapes,
            _convert_regressor,
            {"parser": _parse_regressor},
        ),
        ((HiddenActivations,), _hidden_shapes, _convert_hidden, {"parser": _parse_hidden}),
        (
            (AutoencoderTransformer,),
            autoencoder_shapes,
            convert_autoencoder,
            {"parser": parse_autoencoder, "options": {"method": list(METHODS)}},
        ),
    ]
    for classes, shapes, convert, options in kinds:
        for class_ in classes:
            alias = f"SknnDeep{class_.__name__}"
            update_registered_converter(class_, alias, shapes, convert, **options)
    _register_meta_estimators()


def _register_meta_estimators() -> None:
    """Register scikit-learn's estimators around others that skl2onnx does not convert as needed."""
    from skl2onnx import update_registered_converter, update_registered_parser
    from skl2onnx._parse import _parse_sklearn_pipeline, sklearn_parsers_map
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.operator_converters.grid_search_cv import convert_sklearn_grid_search_cv
    from skl2onnx.shape_calculators import grid_search_cv

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
    if alias == _TRANSFORMED_TARGET:  # else the user or skl2onnx provides a converter
        update_registered_converter(
            TransformedTargetRegressor,
            alias,
            _transformed_shapes,
            _convert_transformed,
            parser=_parse_transformed,
        )
    if sklearn_parsers_map.get(Pipeline) is _parse_sklearn_pipeline:  # do not replace a user's own
        update_registered_parser(Pipeline, _parse_pipeline)
    if (
        FrozenEstimator not in sklearn_parsers_map
        and FrozenEstimator not in sklearn_operator_name_map
    ):
        update_registered_parser(FrozenEstimator, _parse_frozen)


def require_skl2onnx() -> None:
    """Raise an ImportError with installation instructions if skl2onnx is missing."""
    try:
        import skl2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "ONNX graphs are made by skl2onnx, which is not installed: pip install sknn_deep[onnx]"
        ) from error


# ------------------------------------------------------------------ classifiers


def _parse_classifier(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare skl2onnx's usual classifier outputs, in the types of the classes and the network."""
    from skl2onnx._parse import _parse_sklearn_classifier

    outputs = _parse_sklearn_classifier(scope, model, inputs, custom_parsers)
    operator = [one for one in scope.operators.values() if one.raw_operator is model][-1]
    label, probabilities = operator.outputs
    label.set_type(tensor_type(_label_dtype(model), []))
    probabilities.set_type(tensor_type(network_dtype(model), []))
    return outputs


def _label_dtype(classifier: Any) -> np.dtype:
    return np.dtype(np.int64) if is_multilabel(classifier) else classifier.classes_.dtype


def _classifier_shapes(operator: Any) -> None:
    classifier = operator.raw_operator
    n_rows, n_classes = operator.inputs[0].get_first_dimension(), len(classifier.classes_)
    label, probabilities = operator.outputs
    dtype = _label_dtype(classifier)
    # meta-estimators expect integer labels, even from classifiers with boolean classes
    is_kept = _is_int64(label) and dtype.kind in "biu"
    shape = [n_rows, n_classes] if is_multilabel(classifier) else [n_rows]
    label.set_type(tensor_type(np.dtype(np.int64) if is_kept else dtype, shape))
    # a network trained on a single class still returns two probabilities
    width = max(n_classes, 1 if is_multilabel(classifier) else 2)
    set_shape(probabilities, [n_rows, width])


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    classifier = operator.raw_operator
    label, probabilities = operator.outputs
    wants_scores = scope.get_options(classifier, {"raw_scores": False})["raw_scores"]
    graph, x = start(scope, operator, container)
    raws = [mlp(graph, network.module_, x) for network in classifier._networks]
    temperature = vars(classifier).get("temperature_")
    is_last = len(raws) == 1 and temperature is None and not wants_scores
    is_last &= float_type(probabilities) == graph.dtype
    own = probabilities.full_name if is_last else None
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
        if classifier.n_outputs_ == 1:  # skl2onnx expects one column per class
            scores = graph.node("Concat", graph.node("Neg", scores), scores, axis=1)
        write(graph, scores, probabilities)
    elif own is None:
        write(graph, mean, probabilities)


def _logits(graph: Graph, classifier: Any, mean: str) -> str:
    """Return the logits, shape (n, n_outputs), for these probabilities."""
    logs = graph.node("Log", mean)
    if classifier.out_activation_ == "softmax":
        return logs
    if classifier.n_outputs_ == 1:
        return graph.node("Sub", *(graph.columns(logs, [j]) for j in (1, 0)))
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
    graph: Graph, classifier: Any, output: str, n_columns: int, threshold: float, label: Any
) -> None:
    """Write the most probable labels, given ``n_columns`` raw outputs or probabilities."""
    classes, out = classifier.classes_, label.full_name
    if _is_int64(label):
        classes = classes.astype(np.int64)
    if n_columns > 1 and not is_multilabel(classifier):
        are_numbers = np.array_equal(classes, np.arange(n_columns))
        if are_numbers and classes.dtype == np.int64:  # the indices are the labels
            graph.node("ArgMax", output, out=out, axis=1, keepdims=0)
            return
        indices = graph.node("ArgMax", output, axis=1, keepdims=0)
    else:
        is_above = graph.node("Greater", output, graph.number(threshold))
        if is_multilabel(classifier):
            graph.cast(is_above, np.int64, out=out)
            return
        indices = graph.node("Reshape", graph.cast(is_above, np.int64), graph.constant([-1]))
    if len(classes) == 1:
        indices = graph.node("Min", indices, graph.constant(np.int64(0)))
    graph.node("Gather", graph.constant(classes), indices, out=out)


def _is_int64(label: Any) -> bool:
    return type(label.type).__name__ == "Int64TensorType"


# ------------------------------------------------------------------ regressors


def _parse_regressor(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    return declare(scope, model, inputs, [("variable", tensor_type(network_dtype(model), []))])


def _regressor_shapes(operator: Any) -> None:
    n_rows = operator.inputs[0].get_first_dimension()
    set_shape(operator.outputs[0], [n_rows, operator.raw_operator.n_outputs_])


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    regressor = operator.raw_operator
    graph, x = start(scope, operator, container)
    networks = regressor._networks
    of_each = [_values(graph, network, mlp(graph, network.module_, x)) for network in networks]
    write(graph, _mean(graph, regressor, of_each), operator.outputs[0])


def _values(graph: Graph, regressor: Any, raw: str) -> str:
    """Return the prediction for the raw output."""
    if regressor.out_activation_ in ("normal", "quantiles"):  # means or medians come first
        raw = graph.node("Slice", raw, *(graph.constant([n]) for n in (0, regressor.n_outputs_, 1)))
    values = graph.node("Exp", raw) if regressor.out_activation_ == "exp" else raw
    if not regressor._has_target_scale:
        return values
    scaled = graph.node("Mul", values, graph.constant(regressor.target_scale_))
    return graph.node("Add", scaled, graph.constant(regressor.target_center_))


def _mean(graph: Graph, estimator: Any, of_each: list[str]) -> str:
    """Return the mean over the networks, weighted if the ensemble has weights."""
    if len(of_each) == 1:
        return of_each[0]
    weights = vars(estimator).get("ensemble_weights_")
    if weights is None:
        return graph.node("Div", graph.node("Sum", *of_each), graph.number(len(of_each)))
    shares = zip(of_each, weights.tolist(), strict=True)
    return graph.node("Sum", *(graph.node("Mul", o, graph.number(w)) for o, w in shares))


def _parse_transformed(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    return declare(scope, model, inputs, [("variable", _type_of_regressor(model, inputs[0]))])


def _type_of_regressor(transformed: Any, given: Any) -> Any:
    """Return the type of the inner regressor's predictions."""
    from skl2onnx.common.data_types import guess_tensor_type

    last = ends(transformed.regressor_)[-1]
    is_ours = hasattr(last, "_network_dtype")
    return tensor_type(network_dtype(last), []) if is_ours else guess_tensor_type(given.type)


def _transformed_shapes(operator: Any) -> None:
    last = ends(operator.raw_operator.regressor_)[-1]
    n_rows = operator.inputs[0].get_first_dimension()
    set_shape(operator.outputs[0], [n_rows, getattr(last, "n_outputs_", None)])


def _convert_transformed(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx._parse import _parse_sklearn

    regressor, output = operator.raw_operator, operator.outputs[0]
    predicted, *_ = _parse_sklearn(scope, regressor.regressor_, operator.inputs)
    graph = Graph(scope, container, float_type(predicted))
    values = inverse_transformed(graph, regressor.transformer_, predicted.full_name)
    write(graph, values, output)


# ------------------------------------------------------------------ hidden activations


def _parse_hidden(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    kind = tensor_type(network_dtype(model.estimator_), [])
    return declare(scope, model, inputs, [("variable", kind)])


def _hidden_shapes(operator: Any) -> None:
    transformer = operator.raw_operator
    shape = [operator.inputs[0].get_first_dimension(), transformer._n_features_out]
    operator.outputs[0].set_type(tensor_type(network_dtype(transformer.estimator_), shape))


def _convert_hidden(scope: Any, operator: Any, container: Any) -> None:
    transformer = operator.raw_operator
    graph, x = start(scope, operator, container, estimator=transformer.estimator_)
    parts = [
        mlp(graph, network.module_, x, hidden_layer_number(network, transformer.layer) + 1)
        for network in transformer.estimator_._networks
    ]
    graph.node("Concat", *parts, axis=1, out=operator.outputs[0].full_name)


# ------------------------------------------------------------------ all


def _parse_search(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Parse a search as its best estimator."""
    from skl2onnx._parse import _parse_sklearn

    scope.add_options(id(model.best_estimator_), scope.get_options(model))
    return _parse_sklearn(scope, model.best_estimator_, inputs, custom_parsers=custom_parsers)


def _parse_frozen(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Parse a frozen estimator as its inner estimator."""
    from skl2onnx._parse import _parse_sklearn

    # get_options would look for a converter of its class
    scope.add_options(id(model.estimator), (scope.options or {}).get(id(model)))
    return _parse_sklearn(scope, model.estimator, inputs, custom_parsers=custom_parsers)


def _parse_pipeline(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Parse a pipeline without "passthrough" and None steps, on which skl2onnx fails."""
    from skl2onnx._parse import _parse_sklearn_pipeline

    steps = _working_steps(model)
    if 0 < len(steps) < len(model.steps):
        given, model = model, Pipeline(steps)
        scope.add_options(id(model), scope.get_options(given))
    return _parse_sklearn_pipeline(scope, model, inputs, custom_parsers)


def _working_steps(pipeline: Pipeline) -> list[tuple[str, Any]]:
    return [(name, step) for name, step in pipeline.steps if step not in (None, "passthrough")]


def ends(estimator: Any) -> list[Any]:
    """Return an estimator followed by its nested final estimators.

    This is the last step of a pipeline, the best estimator of a search, or a frozen estimator's
    inner one.
    """
    parts = [estimator]
    while True:
        last = parts[-1]
        if isinstance(last, Pipeline) and (steps := _working_steps(last)):
            parts.append(steps[-1][1])
        elif isinstance(last, FrozenEstimator):
            parts.append(last.estimator)
        elif hasattr(last, "best_estimator_"):
            parts.append(last.best_estimator_)
        else:
            return parts


def is_multilabel(classifier: Any) -> bool:
    """Return whether a classifier predicts several labels per row."""
    kind: str = classifier._label_binarizer.y_type_
    return kind == "multilabel-indicator"
