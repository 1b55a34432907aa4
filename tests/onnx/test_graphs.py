"""What ONNX Runtime computes from our graphs is what the estimators predict."""

import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

import sknn_deep.onnx
from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    HiddenActivations,
    TabularMLPClassifier,
    TabularMLPRegressor,
    to_onnx,
)
from sknn_deep._networks.layers import ACTIVATIONS
from sknn_deep.model_selection import (
    FusedGridSearchCV,
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
    FusedRandomizedSearchCV,
)
from tests.onnx.graphs import (
    FAST,
    TOLERANCE,
    assert_close,
    feed,
    make_table,
    new_session,
    run_graph,
)

both_types = pytest.mark.parametrize("dtype", list(TOLERANCE))

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def _assert_classifies_alike(classifier, X):
    label, probabilities = run_graph(classifier, X)
    expected = classifier.predict(X)
    np.testing.assert_array_equal(label, expected)
    assert label.dtype == (object if expected.dtype.kind == "U" else expected.dtype)
    assert_close(probabilities, classifier.predict_proba(X))
    return probabilities


# ------------------------------------------------------------------ networks


@both_types
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, dtype, iris):
    X, y = iris[0].astype(dtype), iris[1]
    network = DeepMLPRegressor(hidden_layer_sizes=(8, 4), activation=activation, **FAST).fit(X, y)
    for factor in np.array([1.0, 1e-6, 1e3, -1e5], dtype):  # at the last ones many saturate
        (actual,) = run_graph(network, X * factor)
        assert_close(actual[:, 0], network.predict(X * factor), largest=max(1.0, abs(factor)))


@both_types
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalization(normalization, dtype, iris):
    X, y = iris[0].astype(dtype), iris[1]
    network = DeepMLPClassifier((8, 4), normalization=normalization, dropout=0.1, **FAST).fit(X, y)
    _assert_classifies_alike(network, X)


@both_types
@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize(
    "names",
    [
        [0, 1, 2],
        np.int32([-1, 5, 7]),
        np.uint64([0, 1, 2**64 - 1]),
        np.float32([1, 2, 3]),
        ["a", "bb", "ü"],
        np.array(["a", "bb", "ü"], dtype=object),
        [False, True, True],
        ["no", "yes", "yes"],
        ["one", "one", "one"],
    ],
    ids=str,
)
def test_labels_of_every_type(names, n_networks, dtype, iris):
    X, y = iris[0].astype(dtype), np.asarray(names)[iris[1]]
    _assert_classifies_alike(DeepMLPClassifier((8,), n_networks=n_networks, **FAST).fit(X, y), X)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_one_class_is_told_by_networks_that_have_not_learned_it(n_networks):
    X = np.random.RandomState(0).normal(0, 9, size=(40, 4))
    network = DeepMLPClassifier((8,), n_networks=n_networks, random_state=0, max_iter=1)
    network.set_params(learning_rate="one_cycle", learning_rate_init=1e-9)
    network.fit(X, np.full(40, "one"))
    assert (_assert_classifies_alike(network, X)[:, 1] > 0.5).any()


@both_types
@pytest.mark.parametrize("n_networks", [1, 2])
def test_several_labels_and_several_targets(n_networks, dtype):
    X, y = make_multilabel_classification(40, n_features=4, n_classes=3, random_state=0)
    X = X.astype(dtype)
    options = {"n_networks": n_networks, **FAST}
    classifier = DeepMLPClassifier((8,), **options).fit(X, y)
    _assert_classifies_alike(classifier, X)
    for own in ({"loss": "poisson"}, {"target_scaling": "standard"}):
        regressor = DeepMLPRegressor(hidden_layer_sizes=(8,), **own, **options)
        assert_close(run_graph(regressor.fit(X, y), X)[0], regressor.predict(X))


@both_types
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_are_never_zero(n_classes, dtype, iris):
    X, y, factor = iris[0].astype(dtype), iris[1] % n_classes, dtype(1e4)
    classifier = DeepMLPClassifier((8,), **FAST).fit(X, y)
    _, probabilities = run_graph(classifier, X * factor)
    expected = classifier.predict_proba(X * factor)
    assert probabilities.min() == expected.min() == np.finfo(dtype).tiny
    assert_close(probabilities, expected, largest=factor)


@both_types
@pytest.mark.parametrize(
    "params",
    [
        {"code_activation": "tanh"},
        {"variational": True},
        {"tied_weights": True},
        {"noise": 0.1, "allow_nan": True},
        {"output_activation": "softplus"},
    ],
    ids=str,
)
def test_autoencoders_both_ways(params, dtype, iris):
    X = iris[0].astype(dtype)
    if "allow_nan" in params:
        X[::5, 1] = np.nan
    autoencoder = AutoencoderTransformer(2, (8,), contamination=0.1, **params, **FAST).fit(X)
    codes = autoencoder.transform(X)
    assert_close(run_graph(autoencoder, X)[0], codes)
    reconstructed = run_graph(autoencoder, codes, method="inverse_transform")[0]
    assert_close(reconstructed, autoencoder.inverse_transform(codes))
    for method in ("score_samples", "decision_function"):
        assert_close(run_graph(autoencoder, X, method=method)[0], getattr(autoencoder, method)(X))
    is_outlier = run_graph(autoencoder, X, method="predict")[0]
    np.testing.assert_array_equal(is_outlier, autoencoder.predict(X))
    assert is_outlier.dtype == np.int64


# ------------------------------------------------------------------ tables


@pytest.fixture(scope="module")
def tables():
    """Offer a table, its target, and other rows: unseen categories, gaps, outliers."""
    table, others = make_table(), make_table(60, seed=1)
    others.loc[:9, "kind"] = "unseen"
    others.loc[10:19, "many"] = "unseen"
    others["numbers"] = pd.Categorical(np.resize([3, 99, 11], 60))
    others.loc[20:24, "length (cm)"] = np.nan
    others.loc[25:29, "length (cm)"] = -1e9
    y = table["length (cm)"] + table["count"] + 2 * (table["kind"] == "a")
    return table, y, others


@both_types
@pytest.mark.parametrize("embedding", [None, "piecewise_linear", "periodic"])
@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_every_input_layer(embedding, scaling, dtype, tables):
    table, y, others = tables
    regressor = DeepMLPRegressor(
        hidden_layer_sizes=(8,),
        numeric_embedding=embedding,
        scaling=scaling,
        allow_nan=True,
        max_one_hot=3,
        dtype=np.dtype(dtype).name,
        **FAST,
    ).fit(table, y)
    assert_close(run_graph(regressor, others)[0][:, 0], regressor.predict(others))


@both_types
@pytest.mark.parametrize("params", [{"n_networks": 2}, {"n_candidates": 3}], ids=str)
def test_estimators_for_tables(params, dtype, tables):
    table, y, others = tables
    params = {**params, "max_iter": 3, "random_state": 0, "dtype": np.dtype(dtype).name}
    regressor = TabularMLPRegressor(**params).fit(table, y)
    assert_close(run_graph(regressor, others)[0][:, 0], regressor.predict(others))
    classifier = TabularMLPClassifier(**params).fit(table, y > 2)
    _assert_classifies_alike(classifier, others)


def test_arrays_with_categories(iris):
    X, y = iris[0].copy(), iris[1]
    X[:, 1] = np.resize([1.0, 2.0, 4.5], len(X))
    classifier = DeepMLPClassifier((8,), categorical_features=[1], **FAST).fit(X, y)
    X[::7, 1] = 3.0  # unseen
    _assert_classifies_alike(classifier, X)


def test_objects_and_polars_have_an_input_for_each_column(tables):
    table = tables[0][["count", "kind"]]
    classifier = DeepMLPClassifier((4,), **FAST)
    for X, names in (
        (table.to_numpy(object), ["x0", "x1"]),
        (pl.from_pandas(table), ["count", "kind"]),
    ):
        session = new_session(to_onnx(classifier.fit(X, table["count"] > 2), X))
        assert [one.name for one in session.get_inputs()] == names
        is_double = session.get_inputs()[0].type == "tensor(double)"
        counts = table["count"].to_numpy(float if is_double else int)
        values = [counts[:, None], table["kind"].to_numpy(object)[:, None]]
        _, found = session.run(None, dict(zip(names, values, strict=True)))
        assert_close(found, classifier.predict_proba(X))


# ------------------------------------------------------------------ around our estimators


@both_types
def test_pipelines_and_searches(dtype, iris):
    X, y = iris[0].astype(dtype), np.array(["a", "b", "c"])[iris[1]]
    network = DeepMLPClassifier((8,), **FAST)
    pipeline = make_pipeline(StandardScaler(), network)
    search = FusedRandomizedSearchCV(network, {"alpha": [1.0]}, n_iter=1, cv=2)
    for estimator in (
        pipeline,
        FusedGridSearchCV(pipeline, {"deepmlpclassifier__alpha": [0.1, 1.0]}, cv=2),
        make_pipeline(StandardScaler(), search),
        FusedHalvingGridSearchCV(network, {"alpha": [1.0]}, cv=2),
        FusedHalvingRandomSearchCV(network, {"alpha": [1.0]}, n_candidates=1, cv=2),
    ):
        _assert_classifies_alike(clone(estimator).fit(X, y), X)
    # the labels of scikit-learn's own classifiers need a row
    for estimator, target in (
        (make_pipeline(AutoencoderTransformer(2, (8,), **FAST), LogisticRegression()), y),
        (make_pipeline(HiddenActivations(network), LogisticRegression()), y),
        (CalibratedClassifierCV(network, cv=2), y),
        # these two ask for logits
        (CalibratedClassifierCV(clone(network).set_params(n_networks=2), cv=2), y == "a"),
        (OneVsRestClassifier(network), y),
    ):
        estimator.fit(X, target)
        _, probabilities = new_session(to_onnx(estimator, X)).run(None, {"X": X})
        expected = estimator.predict_proba(X).astype(dtype)
        assert_close(probabilities.astype(dtype), expected, largest=10)


@pytest.mark.parametrize("nothing", ["passthrough", None])
def test_steps_that_do_nothing(nothing, iris):
    X, y = iris
    network = DeepMLPClassifier((8,), **FAST)
    pipeline = Pipeline([("scale", nothing), ("network", network)])
    for estimator in (
        clone(pipeline),
        GridSearchCV(make_pipeline(MaxAbsScaler(), pipeline), {"maxabsscaler": [nothing]}, cv=2),
    ):
        estimator.fit(X, y)
        _, probabilities = new_session(to_onnx(estimator, X)).run(None, {"X": X})
        assert_close(probabilities, estimator.predict_proba(X))
    codes = Pipeline([("code", AutoencoderTransformer(2, (8,), **FAST)), ("scale", nothing)])
    assert_close(run_graph(codes.fit(X), X)[0], codes.transform(X))


def test_frozen_estimators(iris):
    X, y = iris
    codes = FrozenEstimator(AutoencoderTransformer(2, (8,), **FAST).fit(X))
    pipeline = make_pipeline(codes, DeepMLPClassifier((8,), **FAST)).fit(X, y)
    _assert_classifies_alike(pipeline, X)
    _assert_classifies_alike(FrozenEstimator(pipeline), X)
    _assert_classifies_alike(make_pipeline(FrozenEstimator(pipeline)).fit(X), X)
    (scores,) = run_graph(codes, X, method="score_samples")
    assert_close(scores, codes.score_samples(X), largest=10)


def test_a_step_behind_activations_of_another_precision(iris):
    network = HiddenActivations(DeepMLPClassifier((8,), **FAST, dtype="float32"))
    pipeline = make_pipeline(network, LogisticRegression()).fit(*iris)
    _, probabilities = new_session(to_onnx(pipeline, iris[0])).run(None, {"X": iris[0]})
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(iris[0]), atol=1e-5)


def test_columns_by_name_before_a_network(tables):
    table, y, _ = tables
    table = table[["length (cm)", "single", "kind"]].rename(columns={"length (cm)": "length"})
    table = table.astype({"length": np.float32})
    pipeline = make_pipeline(
        make_column_transformer(
            (StandardScaler(), ["length", "single"]),
            (OneHotEncoder(sparse_output=False, dtype=np.float32), ["kind"]),
        ),
        DeepMLPRegressor(hidden_layer_sizes=(8,), **FAST),
    ).fit(table, y.astype(np.float32))
    session = new_session(to_onnx(pipeline, table))
    (found,) = session.run(None, feed(session, table))
    assert_close(found[:, 0], pipeline.predict(table))


@both_types
@pytest.mark.parametrize(
    "target",
    [
        {"transformer": StandardScaler()},
        {"transformer": StandardScaler(with_mean=False)},
        {"transformer": StandardScaler(with_std=False)},
        {"transformer": MinMaxScaler((1, 2))},
        {"transformer": make_pipeline(RobustScaler(), "passthrough", MaxAbsScaler())},
        {"func": np.log1p, "inverse_func": np.expm1},
        {"func": np.sqrt, "inverse_func": np.square},
        {},
    ],
    ids=str,
)
def test_targets_that_are_transformed(target, dtype, iris):
    X, y = iris[0].astype(dtype), iris[0][:, 2].astype(dtype)
    network = DeepMLPRegressor(hidden_layer_sizes=(8,), **FAST)
    target = {**target, "check_inverse": False}  # in single precision they are nearly inverse
    for estimator in (
        TransformedTargetRegressor(network, **target),
        TransformedTargetRegressor(make_pipeline(StandardScaler(), network), **target),
        make_pipeline(StandardScaler(), TransformedTargetRegressor(network, **target)),
    ):
        estimator.fit(X, y)
        (found,) = run_graph(estimator, X)
        assert_close(found[:, 0], estimator.predict(X).astype(dtype), largest=20)


@both_types
@pytest.mark.parametrize("function", [np.expm1, np.log1p])
def test_small_predictions_are_transformed_back_without_a_loss(function, dtype, iris):
    X, y = iris[0].astype(dtype), iris[0][:, 2].astype(dtype)
    network = DeepMLPRegressor(hidden_layer_sizes=(), **FAST)
    inverse = {"inverse_func": function, "check_inverse": False}
    estimator = TransformedTargetRegressor(network, func=np.positive, **inverse).fit(X, y)
    (layer,) = estimator.regressor_.module_.linear_layers()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(1, 4))
        layer.bias.zero_()
    values = np.array([1e-12, 1e-7, -1e-5, 3e-3, -0.4, 0.99, 1.01, 5.0, 0.0])
    rows = np.outer(values, [1, 0, 0, 0]).astype(dtype)
    (found,) = run_graph(estimator, rows)
    expected = function(rows[:, 0])
    assert_allclose(found[:, 0], expected, rtol=1e-12 if dtype is np.float64 else 1e-6)


def test_an_array_of_texts_is_a_text_input():
    X, y = np.array([["a", "b"], ["b", "b"], ["a", "c"]] * 10), [0, 1, 1] * 10
    encoder = OneHotEncoder(sparse_output=False, dtype=np.float32)
    pipeline = make_pipeline(encoder, DeepMLPClassifier((4,), **FAST)).fit(X, y)
    session = new_session(to_onnx(pipeline, X))
    found = session.run(["probabilities"], {"X": X.astype(object)})[0]
    assert_close(found, pipeline.predict_proba(X))


def test_searches_over_targets_that_are_transformed(iris):
    X, targets = iris[0], iris[0][:, 2:]
    network = DeepMLPRegressor(hidden_layer_sizes=(8,), **FAST)
    inner = FusedGridSearchCV(network, {"alpha": [0.1]}, cv=2)
    outer = TransformedTargetRegressor(network, func=np.log, inverse_func=np.exp)
    for estimator in (
        TransformedTargetRegressor(inner, transformer=StandardScaler()),
        FusedGridSearchCV(outer, {"regressor__alpha": [0.1]}, cv=2),
        GridSearchCV(outer, {"regressor__alpha": [0.1]}, cv=2),
    ):
        estimator.fit(X, targets)
        (found,) = run_graph(estimator, X)
        assert_close(found, estimator.predict(X), largest=20)


def test_frames_and_other_regressors_with_a_transformed_target(tables):
    table, y, _ = tables
    table = table[["length (cm)", "kind"]]
    regressor = TransformedTargetRegressor(
        TabularMLPRegressor(hidden_layer_sizes=(8,), n_networks=1, **FAST),
        transformer=StandardScaler(),
    ).fit(table, y)
    session = new_session(to_onnx(regressor, table))
    (found,) = session.run(["variable"], feed(session, table))
    assert_close(found[:, 0], regressor.predict(table).astype(found.dtype), largest=20)
    X, y = load_iris(return_X_y=True)
    ridge = TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=np.square).fit(X, y)
    (found,) = run_graph(ridge, X)
    np.testing.assert_allclose(found[:, 0], ridge.predict(X), atol=1e-5)


def test_a_converter_of_the_user_is_kept(iris):
    skl2onnx = pytest.importorskip("skl2onnx")
    from skl2onnx._supported_operators import sklearn_operator_name_map

    sknn_deep.onnx.register()
    ours = sklearn_operator_name_map.pop(TransformedTargetRegressor)
    try:
        skl2onnx.update_registered_converter(
            TransformedTargetRegressor,
            "Mine",
            lambda operator: None,
            lambda scope, operator, container: None,
        )
        sknn_deep.onnx.register()
        assert sklearn_operator_name_map[TransformedTargetRegressor] == "Mine"
    finally:
        sklearn_operator_name_map[TransformedTargetRegressor] = ours


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"transformer": PowerTransformer()}, "PowerTransformer as the transformer of a target"),
        ({"func": abs, "inverse_func": abs}, "inverse_func=<built-in function abs> has no ONNX"),
        (
            {"transformer": FunctionTransformer(inverse_func=np.log, inv_kw_args={"where": True})},
            "without arguments",
        ),
    ],
    ids=str,
)
def test_other_transformers_of_targets_are_named(target, message, iris):
    X, y = iris
    network = DeepMLPRegressor(hidden_layer_sizes=(8,), **FAST)
    regressor = TransformedTargetRegressor(network, **target, check_inverse=False).fit(X, y + 1.0)
    with pytest.raises(ValueError, match=message):
        to_onnx(regressor, X)


def test_skl2onnx_itself_knows_registered_estimators(iris):
    skl2onnx = pytest.importorskip("skl2onnx")
    X, y = iris[0].astype(np.float32), iris[1]
    classifier = DeepMLPClassifier((8,), **FAST).fit(X, y)
    sknn_deep.onnx.register()
    graph = skl2onnx.to_onnx(classifier, X[:1], options={"zipmap": True})
    _, by_class = new_session(graph).run(None, {"X": X})
    expected = classifier.predict_proba(X)
    assert by_class[0] == pytest.approx(dict(enumerate(expected[0].tolist())), abs=1e-6)


# ------------------------------------------------------------------ what cannot be


class _Mine(DeepMLPClassifier):
    """A subclass may override anything."""


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (_Mine, {}, "_Mine"),
        (DeepMLPClassifier, {"method": "inverse_transform"}, "got DeepMLPClassifier"),
        (DeepMLPClassifier, {"method": "sample"}, "got 'sample'"),
        (DeepMLPClassifier, {"target_opset": 7}, "target_opset must be .*, got 7; leave"),
        (DeepMLPClassifier, {"target_opset": 999}, "at most .*, got 999; leave"),
        (
            AutoencoderTransformer,
            {"method": "inverse_transform"},
            "codes of 32 columns",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(make, options, message, iris):
    X, y = iris
    with pytest.raises(ValueError, match=message):
        to_onnx(make(**FAST).fit(X, y), X, **options)


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (
            lambda network: make_pipeline(FunctionTransformer(np.log1p), network),
            "cannot be converted: FunctionTransformer is not supported .* Leave that part out",
        ),
        (
            lambda network: make_pipeline(PowerTransformer(), network),
            "X holds float64, a part computes in float32, .* Convert it with an X of float32",
        ),
        (
            lambda network: VotingClassifier([("a", network)], voting="soft", weights=[1]),
            "VotingClassifier cannot be converted: .* Leave that part out",
        ),
    ],
    ids=["function", "two types", "weights"],
)
def test_errors_of_skl2onnx_say_what_to_do(around, message, iris):
    X, y = iris
    with pytest.raises(ValueError, match=message):
        to_onnx(around(DeepMLPClassifier((4,), **FAST)).fit(X, y), X)


def test_x_may_be_a_tensor_and_has_columns(iris):
    X, y = iris
    classifier = DeepMLPClassifier((4,), **FAST).fit(X, y)
    assert to_onnx(classifier, torch.from_numpy(X)) == to_onnx(classifier, X)
    with pytest.raises(ValueError, match=r"X must be rows and columns, got ndarray of shape \(4,"):
        to_onnx(classifier, X[0])


def test_other_columns_are_refused(iris):
    X, y = iris
    classifier = DeepMLPClassifier((4,), **FAST).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features"):
        to_onnx(classifier, X[:, :3])
    table = pd.DataFrame({"a": ["x", "y"] * 10, "b": range(20)})
    classifier.fit(table, [0, 1] * 10)
    with pytest.raises(ValueError, match="'b' holds texts"):
        to_onnx(classifier, table.astype(str))
    with pytest.raises(ValueError, match="'b' of X holds mixed-integer"):
        to_onnx(classifier, table.astype(object).replace({"b": {3: "three"}}))


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.uint64, np.complex64, "M8[s]"])
def test_types_that_skl2onnx_does_not_know_are_refused(dtype, iris):
    X, y = iris
    classifier = DeepMLPClassifier((4,), **FAST).fit(X, y)
    message = f"X holds {np.dtype(dtype)}, of which skl2onnx makes no graph; it does of"
    with pytest.raises(ValueError, match=re.escape(message)):
        to_onnx(classifier, X.astype(np.int16).astype(dtype))
    table = pd.DataFrame({"a": ["x", "y"] * 10, "b": np.arange(20, dtype=np.int16)})
    classifier.fit(table, [0, 1] * 10)
    with pytest.raises(ValueError, match="Column 'b' of X holds int16"):
        to_onnx(classifier, table)


@pytest.mark.parametrize("classes", [[0, 1, 2], [1, 2, 3]])
def test_labels_that_count_from_zero_take_no_node(classes, iris):
    X, y = iris[0].astype(np.float32), np.array(classes)[iris[1]]
    graph = to_onnx(DeepMLPClassifier((8,), **FAST).fit(X, y), X).graph
    expected = ["Gemm", "Relu", "Gemm", "ArgMax", "Softmax", "Max"]
    expected += [] if classes[0] == 0 else ["Gather"]
    assert sorted(node.op_type for node in graph.node) == sorted(expected)


def test_empty_and_missing_texts_cannot_be_told_apart():
    table = pd.DataFrame({"text": ["", None, "a"] * 10})
    classifier = DeepMLPClassifier((4,), **FAST).fit(table, [0, 1, 0] * 10)
    with pytest.raises(ValueError, match="'text' has the empty text and missing values"):
        to_onnx(classifier, table)


def test_without_skl2onnx_the_error_says_how_to_install_it():
    code = """
import sys
import sknn_deep
assert not {"onnx", "skl2onnx", "onnxruntime"} & set(sys.modules)
sys.modules["skl2onnx"] = None  # as if it were not installed
try:
    sknn_deep.to_onnx(sknn_deep.DeepMLPClassifier(), [[0.0]])
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install sknn_deep[onnx]" in done.stdout


# ------------------------------------------------------------------ torch.export


@pytest.mark.parametrize(
    "estimator",
    [
        DeepMLPClassifier((8,), normalization="batch", dropout=0.1, **FAST),
        AutoencoderTransformer(2, (4,), tied_weights=True, allow_nan=True, **FAST),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_modules_can_be_exported_by_torch(estimator, iris):
    X, y = iris
    network, rows = clone(estimator).fit(X, y).module_, torch.from_numpy(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.export.export(
            network, (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    for n_rows in (1, 7):
        assert torch.equal(program.module()(rows[:n_rows]), network(rows[:n_rows]))


def test_a_column_with_the_name_of_an_output_is_refused():
    X = pd.DataFrame({"label": np.arange(40.0), "kind": list("ab") * 20})
    classifier = TabularMLPClassifier(max_iter=2, n_networks=1).fit(X, X["kind"] == "a")
    with pytest.raises(ValueError, match=r"columns \['label'\], as the outputs .* rename them"):
        to_onnx(classifier, X)


def test_numbers_beside_texts_in_one_matrix_are_refused():
    X = pd.DataFrame({"size": np.arange(40.0), "kind": list("ab") * 20})
    columns = make_column_transformer(
        (StandardScaler(), ["size"]), remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    pipeline = make_pipeline(columns, TabularMLPClassifier(max_iter=2, n_networks=1))
    pipeline.fit(X, X["kind"] == "a")
    with pytest.raises(ValueError, match="numbers and texts as one matrix.* OneHotEncoder"):
        to_onnx(pipeline, X)
