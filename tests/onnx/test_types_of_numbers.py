"""Networks of one precision in graphs whose X has another."""

import re

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    HiddenActivations,
    TabularMLPClassifier,
    to_onnx,
)
from sknn_deep.model_selection import FusedGridSearchCV
from tests.onnx.graphs import FAST, new_session

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris()
GRID = {"cv": 2, "param_grid": {"alpha": [0.1]}}
FEW = {"n_estimators": 2, "random_state": 0}
# of a network in single precision, or of an X in it
TOLERANCE = 2e-6
mixed = pytest.mark.parametrize(
    ("network_dtype", "dtype"), [("float64", np.float32), ("float32", np.float64)]
)

CLASSIFIERS = {
    "alone": lambda network: network,
    "scaled": lambda network: make_pipeline(StandardScaler(), network),
    "BaggingClassifier": lambda network: BaggingClassifier(network, **FEW, max_features=3),
    "bagged pipeline": lambda network: BaggingClassifier(
        make_pipeline(StandardScaler(), network), **FEW
    ),
    "bagged search": lambda network: BaggingClassifier(FusedGridSearchCV(network, **GRID), **FEW),
    "ensemble": lambda network: BaggingClassifier(network.set_params(n_networks=2), **FEW),
    "CalibratedClassifierCV": lambda network: CalibratedClassifierCV(network, cv=2),
    "calibrated, scaled": lambda network: make_pipeline(
        StandardScaler(), CalibratedClassifierCV(network, cv=2)
    ),
    "VotingClassifier": lambda network: VotingClassifier(
        [("a", network), ("b", LogisticRegression())], voting="soft", flatten_transform=False
    ),
    "StackingClassifier": lambda network: StackingClassifier(
        [("a", network), ("b", LogisticRegression())], cv=2, passthrough=True
    ),
    "stacked below": lambda network: StackingClassifier([("b", LogisticRegression())], network),
    "OneVsRestClassifier": OneVsRestClassifier,
    "GridSearchCV": lambda network: GridSearchCV(network, **GRID),
    "FusedGridSearchCV": lambda network: FusedGridSearchCV(network, **GRID),
    "search of bags": lambda network: GridSearchCV(
        BaggingClassifier(network, **FEW), {"max_samples": [0.9]}, cv=2
    ),
    "activations in bags": lambda network: make_pipeline(
        HiddenActivations(network), BaggingClassifier(network, **FEW)
    ),
    "codes in bags": lambda network: BaggingClassifier(
        make_pipeline(
            AutoencoderTransformer(2, (8,), dtype=network.dtype, **FAST), LogisticRegression()
        ),
        **FEW,
    ),
}
REGRESSORS = {
    "alone": lambda network: network,
    "BaggingRegressor": lambda network: BaggingRegressor(network, **FEW),
    "AdaBoostRegressor": lambda network: AdaBoostRegressor(network, **FEW),
    "VotingRegressor": lambda network: VotingRegressor([("a", network), ("b", Ridge())]),
    "StackingRegressor": lambda network: StackingRegressor(
        [("a", network), ("b", Ridge())], cv=2, passthrough=True
    ),
    "MultiOutputRegressor": MultiOutputRegressor,
    "transformed target": lambda network: TransformedTargetRegressor(
        network, transformer=StandardScaler()
    ),
    "bags of transformed targets": lambda network: BaggingRegressor(
        TransformedTargetRegressor(network, transformer=StandardScaler()), **FEW
    ),
    "transformed target of bags": lambda network: TransformedTargetRegressor(
        BaggingRegressor(network, **FEW), transformer=StandardScaler()
    ),
    "GridSearchCV": lambda network: GridSearchCV(
        TransformedTargetRegressor(network, func=np.log1p, inverse_func=np.expm1),
        {"regressor__alpha": [0.1]},
        cv=2,
    ),
}
# Of these, graphs tell numbers in the type of the network; of the others in that of X.
IN_THE_TYPE_OF_THE_NETWORK = {
    "alone",
    "scaled",
    "GridSearchCV",
    "FusedGridSearchCV",
    "activations in bags",
    "transformed target",
}


def _expected_type(around, network_dtype, dtype):
    return np.dtype(network_dtype if around in IN_THE_TYPE_OF_THE_NETWORK else dtype)


@mixed
@pytest.mark.parametrize("around", list(CLASSIFIERS))
def test_classifiers(around, network_dtype, dtype):
    X, y = IRIS.data.astype(dtype), np.array(["a", "b", "c"])[IRIS.target]
    network = DeepMLPClassifier((8,), dtype=network_dtype, **FAST)
    estimator = CLASSIFIERS[around](network).fit(X, y)
    label, probabilities = new_session(to_onnx(estimator, X)).run(None, {"X": X})
    np.testing.assert_array_equal(label, estimator.predict(X))
    assert probabilities.dtype == _expected_type(around, network_dtype, dtype)
    expected = estimator.predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=TOLERANCE)


@mixed
@pytest.mark.parametrize("around", list(REGRESSORS))
def test_regressors(around, network_dtype, dtype):
    X, y = IRIS.data.astype(dtype), IRIS.data[:, 2]
    y = IRIS.data[:, 2:] if around == "MultiOutputRegressor" else y
    network = DeepMLPRegressor(hidden_layer_sizes=(8,), dtype=network_dtype, **FAST)
    estimator = REGRESSORS[around](network).fit(X, y)
    (found,) = new_session(to_onnx(estimator, X)).run(None, {"X": X})
    assert found.dtype == _expected_type(around, network_dtype, dtype)
    expected = estimator.predict(X).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * TOLERANCE)


@mixed
def test_several_targets_and_pairs_of_classes(network_dtype, dtype):
    X, y = IRIS.data.astype(dtype), IRIS.target
    network = DeepMLPClassifier((8,), dtype=network_dtype, **FAST)
    several = MultiOutputClassifier(network).fit(X, np.stack([y == 1, y == 2], axis=1).astype(int))
    label, probabilities = new_session(to_onnx(several, X)).run(None, {"X": X})
    np.testing.assert_array_equal(label, several.predict(X))
    expected = several.predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=TOLERANCE)
    pairs = OneVsOneClassifier(network).fit(X, y)
    (label,) = new_session(to_onnx(pairs, X)).run(["label"], {"X": X})
    np.testing.assert_array_equal(label[:, 0], pairs.predict(X))


def test_integers_are_single_precision_to_the_estimators_around():
    X, y = (IRIS.data * 10).astype(np.int64), IRIS.target
    network = TabularMLPClassifier((8,), n_networks=1, dtype="float64", max_iter=2)
    estimator = CalibratedClassifierCV(network, cv=2).fit(X, y)
    _, found = new_session(to_onnx(estimator, X)).run(None, {"X": X})
    np.testing.assert_allclose(found, estimator.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "side_by_side",
    [
        lambda codes: make_union(StandardScaler(), codes),
        lambda codes: make_column_transformer((StandardScaler(), [0, 1]), (codes, [2, 3])),
    ],
    ids=["union", "columns"],
)
def test_codes_beside_features_need_an_x_of_their_type(side_by_side):
    X, y = IRIS.data, IRIS.target
    codes = AutoencoderTransformer(2, (8,), dtype="float64", **FAST)
    pipeline = make_pipeline(side_by_side(codes), LogisticRegression()).fit(X, y)
    _, found = new_session(to_onnx(pipeline, X)).run(None, {"X": X})
    np.testing.assert_allclose(found, pipeline.predict_proba(X), rtol=0, atol=1e-12)
    message = "Pipeline cannot be converted: X holds float32, a part computes in float64, and"
    with pytest.raises(ValueError, match=re.escape(message) + r".* X\.astype\(numpy\.float64\)"):
        to_onnx(pipeline, X.astype(np.float32))


@pytest.mark.parametrize("around", [lambda tuned: tuned, lambda tuned: make_pipeline(tuned)])
def test_thresholds_that_skl2onnx_leaves_out_are_refused(around):
    X, y = IRIS.data, IRIS.target == 1
    tuned = TunedThresholdClassifierCV(DeepMLPClassifier((8,), **FAST), cv=2).fit(X, y)
    with pytest.raises(ValueError, match=r"Convert its estimator_, .* with its best_threshold_\."):
        to_onnx(around(tuned), X)
    _, probabilities = new_session(to_onnx(tuned.estimator_, X)).run(None, {"X": X})
    labels = probabilities[:, 1] >= tuned.best_threshold_
    np.testing.assert_array_equal(labels, tuned.predict(X))


def test_nodes_of_skl2onnx_that_mix_types_are_refused():
    X, y = IRIS.data, IRIS.target
    boosted = AdaBoostClassifier(LogisticRegression(), n_estimators=2).fit(X, y)
    with pytest.raises(ValueError, match=r"X holds float64, .* Convert it with an X of float32"):
        to_onnx(boosted, X)
    X = X.astype(np.float32)
    _, found = new_session(to_onnx(boosted, X)).run(None, {"X": X})
    np.testing.assert_allclose(found, boosted.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: CalibratedClassifierCV(n, method="isotonic"), "method='isotonic' has no right"),
        (
            lambda n: make_pipeline(CalibratedClassifierCV(n, method="temperature")),
            "method='temperature' has no right",
        ),
        (
            lambda n: CalibratedClassifierCV(make_pipeline(StandardScaler(), n)),
            "around a Pipeline has no right ONNX nodes in skl2onnx; put it around",
        ),
        (lambda n: CalibratedClassifierCV(FusedGridSearchCV(n, **GRID)), "a FusedGridSearchCV"),
    ],
)
def test_calibrations_of_which_skl2onnx_makes_others_are_refused(make, message):
    estimator = make(DeepMLPClassifier((8,), **FAST)).fit(IRIS.data, IRIS.target)
    with pytest.raises(ValueError, match=message):
        to_onnx(estimator, IRIS.data)
