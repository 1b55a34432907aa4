"""``to_onnx``: converts an estimator, or a pipeline that contains one, to a graph."""

import re
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from sknn_deep._estimators.array_api import as_numpy
from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.not_numbers import refuse_not_numbers
from sknn_deep._estimators.table_columns import feature_names, is_frame, named_columns
from sknn_deep._estimators.types import MatrixLike
from sknn_deep._sklearn import BaseSearchCV
from sknn_deep._wording import counted
from sknn_deep.onnx._autoencoders import METHODS, Method
from sknn_deep.onnx._converters import ends, register
from sknn_deep.onnx._operators import tensor_type

# Versions of ONNX's operators, supported by ONNX Runtime since 1.18.
_OPSETS = {"": 21, "ai.onnx.ml": 3}
# Input types that skl2onnx's converters accept.
_INPUTS = ["float32", "float64", "int64", "int32", "int8", "uint8", "bool"]
# skl2onnx's graphs for older versions lack inputs.
_OLDEST_OPSET = 9

# Messages of ONNX and skl2onnx for float32 (1) where float64 (11) is expected, or the reverse.
_TWO_PRECISIONS = (
    r"\(11?\) vs \(11?\)|inconsistent type tensor\((double|float)\)"
    r"|Conflicted constraint.*(Double.*Float|Float.*Double)TensorType"
)


def to_onnx(
    estimator: Any,
    X: "MatrixLike",
    *,
    method: Method = "transform",
    target_opset: int | None = None,
) -> Any:
    """Convert a fitted estimator to an ONNX graph.

    The graph computes the estimator's predictions: for a classifier "label" and "probabilities",
    for a regressor "variable" of shape (n, n_outputs), for an autoencoder "variable", the code.
    They agree up to rounding, in the network's floating-point type. scikit-learn's estimators
    around a network are converted by skl2onnx [1]_; those that combine several estimators, such as
    ``BaggingClassifier``, use the networks' predictions in the type of X.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of this package, or one that contains such estimators and that skl2onnx
        can convert, such as a pipeline or a search.

    X : {array-like, sparse matrix, frame} of shape (n_samples, n_features)
        Some rows, which determine the types of the inputs. An array, or a frame whose columns have
        the same numeric type, becomes one input "X"; any other frame becomes one input of shape
        (n, 1) per column, with the name and type of the column.

    method : str, default="transform"
        The method that the graph of an :class:`AutoencoderTransformer`, or of a pipeline that ends
        in one, computes: "transform", "score_samples", "decision_function", "predict"; or, for an
        autoencoder alone, "inverse_transform", with codes as X. A table with categories is
        reconstructed as one output of shape (n, 1) per column, with its name; a missing category
        is the empty string or NaN.

    target_opset : int, default=None
        Version of ONNX's operators. None is 21, which ONNX Runtime supports since 1.18.

    Returns
    -------
    graph : onnx.ModelProto
        ``graph.SerializeToString()`` gives the bytes to write to a file or pass to ONNX Runtime.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.
    ValueError
        If a part cannot be converted. The message names it.

    See Also
    --------
    sknn_deep.onnx.register : Register this package's estimators with skl2onnx.

    References
    ----------
    .. [1] https://onnx.ai/sklearn-onnx

    Examples
    --------
    >>> import numpy as np
    >>> import onnxruntime
    >>> import sknn_deep
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = sknn_deep.DeepMLPClassifier(random_state=0, solver="lbfgs").fit(X, y)
    >>> graph = sknn_deep.to_onnx(classifier, X)
    >>> session = onnxruntime.InferenceSession(graph.SerializeToString())
    >>> label, probabilities = session.run(None, {"X": X})
    >>> bool(np.abs(probabilities - classifier.predict_proba(X)).max() < 1e-12)
    True
    """
    register()
    from skl2onnx import convert_sklearn

    check_is_fitted(estimator)
    if method not in METHODS:
        raise ValueError(f"method must be among {list(METHODS)}, got {method!r}.")
    _check_opset(target_opset)
    X = as_numpy(X)
    _check_matrix(X)
    opsets = _OPSETS if target_opset is None else {**_OPSETS, "": target_opset}
    name = type(estimator).__name__
    options: dict[int, dict[str, Any]] = {
        id(part): {"zipmap": False} for part in ends(estimator) if is_classifier(part)
    }
    if method == "inverse_transform":
        _check_codes(_with_codes(estimator, method), X)
        options[id(estimator)] = {"method": method}
    else:
        if method != "transform":
            options[id(_with_codes(estimator, method))] = {"method": method}
        validate_data(estimator, X, reset=False, skip_check_array=True)
    _refuse_wrong_graphs(estimator)
    inputs = _initial_types(estimator, X)
    try:
        graph = convert_sklearn(
            estimator, name=name, initial_types=inputs, target_opset=opsets, options=options
        )
    except ValueError:  # raised by this package's converters; it names the part
        raise
    except Exception as error:  # skl2onnx's converters may raise anything
        raise _cannot_be_converted(name, inputs, error) from error
    columns: list[str] = []
    if method == "inverse_transform" and estimator._columns is not None:
        columns = feature_names(estimator)
    _check_types(name, graph, inputs)
    _rename(graph.graph, [name for name, _ in inputs], columns)
    return graph


def _check_opset(target_opset: Any) -> None:
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    is_opset = isinstance(target_opset, Integral) and _OLDEST_OPSET <= int(target_opset) <= newest
    if not (target_opset is None or is_opset):
        raise ValueError(
            f"target_opset must be an integer of at least {_OLDEST_OPSET} and, with the onnx that "
            f"is installed, at most {newest}, got {target_opset!r}; leave it at None."
        )


def _check_matrix(X: Any) -> None:
    if np.ndim(X) != 2:
        raise ValueError(
            f"X must be rows and columns, got {type(X).__name__} of shape {np.shape(X)}; pass one "
            "row as X.reshape(1, -1), one column as X.reshape(-1, 1)."
        )


def _refuse_wrong_graphs(estimator: Any) -> None:
    """Raise an error for classifiers whose graphs from skl2onnx 1.20 give wrong predictions."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import TunedThresholdClassifierCV

    for part in (estimator, *estimator.get_params(deep=True).values()):
        if isinstance(part, TunedThresholdClassifierCV):
            raise ValueError(
                "TunedThresholdClassifierCV cannot be converted: skl2onnx ignores its threshold "
                "and predicts with 0.5. Convert its estimator_, and compare the probabilities "
                "with its best_threshold_."
            )
        if not isinstance(part, CalibratedClassifierCV):
            continue
        if part.method != "sigmoid":
            raise ValueError(
                f"CalibratedClassifierCV with method={part.method!r} has no right ONNX nodes in "
                "skl2onnx; choose method='sigmoid'."
            )
        if isinstance(part.estimator, Pipeline | BaseSearchCV):
            raise ValueError(
                f"CalibratedClassifierCV around a {type(part.estimator).__name__} has no right "
                "ONNX nodes in skl2onnx; put it around the classifier alone, as the last step of "
                "a pipeline, with what a search has found."
            )


def _check_types(name: str, graph: Any, inputs: list[tuple[str, Any]]) -> None:
    """Raise an error if a node has inputs of two types, as no runtime loads such a graph."""
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        infer_shapes(graph, check_type=True, strict_mode=True)
    except InferenceError as error:
        # some of skl2onnx's graphs declare wrong shapes, which the runtime ignores
        if re.search(_TWO_PRECISIONS, str(error)):
            raise _two_precisions(name, inputs) from error


def _two_precisions(name: str, inputs: list[tuple[str, Any]]) -> ValueError:
    is_double = any(type(kind).__name__ == "DoubleTensorType" for _, kind in inputs)
    given, other = ("float64", "float32") if is_double else ("float32", "float64")
    return ValueError(
        f"{name} cannot be converted: X holds {given}, a part computes in {other}, and "
        f"skl2onnx's nodes behind it expect {given}. Convert it with an X of {other}, for "
        f"example X.astype(numpy.{other}), and give the graph such numbers."
    )


def _cannot_be_converted(name: str, inputs: list[tuple[str, Any]], error: Exception) -> ValueError:
    """Return the error to raise in place of one from skl2onnx."""
    if re.search(_TWO_PRECISIONS, str(error)):
        return _two_precisions(name, inputs)
    first_line, *_ = str(error).splitlines() or [""]
    if not isinstance(error, RuntimeError):  # such as an IndexError, which names no part
        first_line = f"skl2onnx fails with {type(error).__name__}: {first_line}"
    return ValueError(
        f"{name} cannot be converted: {first_line.rstrip('.')}. Leave that part out, or register a "
        "converter for it with skl2onnx.update_registered_converter; where it is not named, "
        "convert the parts by themselves to find it."
    )


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """Restore the column names of inputs and outputs, in which skl2onnx replaces characters.

    Outputs are unchanged if no names are given for them.
    """
    side = "inputs" if outputs else "outputs"
    outputs = outputs or [one.name for one in graph.output]
    if taken := sorted(set(inputs) & set(outputs)):
        raise ValueError(
            f"X has columns {taken}, as the {side} of the graph are called; rename them, and fit "
            "again."
        )
    new_name: dict[str, str] = {}
    for those, names in ((graph.input, inputs), (graph.output, outputs)):
        for one, name in zip(those, names, strict=True):
            new_name[one.name], one.name = name, name
    for node in graph.node:
        node.input[:] = [new_name.get(name, name) for name in node.input]
        node.output[:] = [new_name.get(name, name) for name in node.output]


def _with_codes(estimator: Any, method: str) -> AutoencoderTransformer:
    """Return the autoencoder that the method belongs to, or raise an error."""
    last = ends(estimator)[-1]
    is_alone = last is estimator or method != "inverse_transform"
    if not (isinstance(last, AutoencoderTransformer) and is_alone):
        raise ValueError(
            f"method={method!r} needs an AutoencoderTransformer, got {type(estimator).__name__}; "
            "convert that step by itself."
        )
    return last


def _check_codes(estimator: Any, X: Any) -> None:
    if np.shape(X)[1:] != (estimator._n_features_out,):
        raise ValueError(
            "method='inverse_transform' needs codes of "
            f"{counted(estimator._n_features_out, 'column')}, got X of shape "
            f"{np.shape(X)}; pass what transform returns."
        )


def _initial_types(estimator: Any, X: Any) -> list[tuple[str, Any]]:
    """Return names and types of a graph's inputs."""
    if not hasattr(X, "dtype") and not is_frame(X):
        X = np.asarray(X)
    if hasattr(X, "dtype") and np.dtype(X.dtype).kind != "O":
        return [("X", _input_type(np.dtype(X.dtype), X.shape[1], "X"))]
    refuse_not_numbers(estimator, X)
    named = [(_input_name(name), _column_dtype(name, column)) for name, column in named_columns(X)]
    names, dtypes = [name for name, _ in named], {dtype for _, dtype in named}
    repeated = sorted({name for name in names if names.count(name) > 1})
    if len(dtypes) == 1 and dtypes != {np.dtype(object)} and not _selects_columns(estimator):
        return [("X", _input_type(dtypes.pop(), len(names), "X"))]
    if repeated:
        raise ValueError(
            f"X has several columns {repeated}, but a graph's inputs need distinct names."
        )
    return [(name, _input_type(dtype, 1, f"Column {name!r} of X")) for name, dtype in named]


def _input_type(dtype: np.dtype, n_columns: int, what: str) -> Any:
    """Return skl2onnx's type of an input; raises an error if its converters do not support it."""
    if dtype.kind not in "OU" and dtype.name not in _INPUTS:
        raise ValueError(
            f"{what} holds {dtype}, of which skl2onnx makes no graph; it does of {_INPUTS}. "
            "Convert it first, for example by X.astype(numpy.float32)."
        )
    return tensor_type(dtype, [None, n_columns])


def _selects_columns(estimator: Any) -> bool:
    """Return whether a step selects columns, perhaps by name."""
    params = estimator.get_params(deep=True).values()
    return any(isinstance(part, ColumnTransformer) for part in (estimator, *params))


def _input_name(name: Any) -> str:
    return name if isinstance(name, str) else f"x{name}"


def _column_dtype(name: Any, column: pd.Series) -> np.dtype:
    """Return the NumPy type of a graph's input for a column; object stands for strings."""
    given = column.dtype
    if isinstance(given, np.dtype) and given.kind in "biuf":
        return given
    is_categorical = isinstance(given, pd.CategoricalDtype)
    values = pd.Series(np.asarray(given.categories)) if is_categorical else column
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in ("string", "empty"):
        return np.dtype(object)
    if kind in ("boolean", "integer", "floating", "mixed-integer-float"):
        # such a column may have missing values, which need a floating-point type
        is_single = getattr(given, "numpy_dtype", None) == np.float32
        return np.dtype(np.float32 if is_single else np.float64)
    raise ValueError(
        f"Column {name!r} of X holds {kind} values; an input of a graph is of numbers or of texts."
    )
