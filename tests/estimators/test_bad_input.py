"""Input that is wrong or odd: scikit-learn's result, or an error that says what to do."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from conftest import KINDS
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils._param_validation import InvalidParameterError, StrOptions
from skorch.callbacks import EpochTimer

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.solvers import STOCHASTIC_SOLVERS
from sknn_deep._estimators import rows
from sknn_deep._training.training import DivergenceError
from sknn_deep._wording import counted

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

# With this solver a fit follows scikit-learn's to rounding.
QUICK = {
    "hidden_layer_sizes": (8,),
    "solver": "sgd",
    "learning_rate_init": 0.01,
    "max_iter": 3,
    "random_state": 0,
}
PAIRS = {
    "classifier": (DeepMLPClassifier, MLPClassifier),
    "regressor": (DeepMLPRegressor, MLPRegressor),
}
OUTPUTS = {
    DeepMLPClassifier: ["predict", "predict_proba", "predict_log_proba"],
    DeepMLPRegressor: ["predict"],
    AutoencoderTransformer: ["transform", "reconstruction_error", "score_samples", "score"],
}
ALL_OUTPUTS = [(kind, name) for kind, names in OUTPUTS.items() for name in names]


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    """Offer one of our estimators and scikit-learn's, alike."""
    return [network(**QUICK) for network in request.param]


@pytest.fixture
def data(digits):
    return digits.X[:120].copy(), digits.y[:120].copy()


def learn(network, method, X, y, **options):
    if method == "partial_fit" and isinstance(network, DeepMLPClassifier | MLPClassifier):
        options = {"classes": np.arange(10), **options}
    return getattr(network, method)(X, y, **options)


LEARN = pytest.mark.parametrize("method", ["fit", "partial_fit"])


# Values that are no numbers


@pytest.fixture(params=["few numbers", "many numbers"])
def _any_size(request, monkeypatch):
    """Take the rows for few, or for so many that their sum is looked at first."""
    if request.param == "many numbers":
        monkeypatch.setattr(rows, "_MANY_NUMBERS", 1)


any_size = pytest.mark.usefixtures("_any_size")


@any_size
@LEARN
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, sp.csr_array])
def test_training_refuses_values_that_are_not_finite(kind, method, value, make, data):
    X, y = data
    X[3, 5] = value
    with pytest.raises(ValueError, match="NaN" if np.isnan(value) else "infinity"):
        learn(kind(**QUICK), method, make(X), y)


@any_size
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("kind", "name"), ALL_OUTPUTS)
def test_predicting_refuses_values_that_are_not_finite(kind, name, value, data):
    X, y = data
    network = kind(**QUICK).fit(X, y)
    X[3, 5] = value
    with pytest.raises(ValueError, match="NaN" if np.isnan(value) else "infinity"):
        getattr(network, name)(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_not_finite_are_refused(value, data):
    network = AutoencoderTransformer(2, **QUICK).fit(data[0])
    with pytest.raises(ValueError, match="NaN" if np.isnan(value) else "infinity"):
        network.inverse_transform([[0.0, value]])


@LEARN
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_targets_that_are_not_finite_are_refused(pair, method, value, data):
    X, y = data
    y = y.astype(float)
    y[7] = value
    messages = []
    for network in pair:
        with pytest.raises(ValueError, match="contains") as error:
            learn(network, method, X, y)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@any_size
def test_number_too_large_for_single_precision_is_refused(kind, data):
    X, y = data
    network = kind(**QUICK, dtype="float32").fit(X, y)
    X[0, 0] = 1e39
    with np.errstate(over="ignore"):
        with pytest.raises(ValueError, match="too large for dtype|infinity"):
            kind(**QUICK, dtype="float32").fit(X, y)
        with pytest.raises(ValueError, match="too large for dtype|infinity"):
            network.score(X, y)


@any_size
def test_finite_numbers_are_not_refused_though_their_sum_is_infinite(kind):
    X = np.full((120, 3), 1e308)
    X[::2] *= 0.9
    y = np.arange(120) % 10
    try:
        kind(**QUICK, activation="tanh").fit(X, y)
    except DivergenceError:  # the training's, not the validation's
        pass


@any_size
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_held_out_rows_that_are_not_finite_are_refused(kind, value, data):
    X, y = data
    X_val = X.copy()
    X_val[3, 5] = value
    held_out = {"X_val": X_val} | ({} if kind is AutoencoderTransformer else {"y_val": y})
    with pytest.raises(ValueError, match="NaN" if np.isnan(value) else "infinity"):
        kind(**QUICK).fit(X, y, **held_out)


@any_size
def test_missing_values_are_let_through_where_they_are_allowed(data):
    X, _ = data
    X[3, 5] = np.nan
    AutoencoderTransformer(2, **QUICK, allow_nan=True).fit(X).transform(X)
    X[3, 5] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        AutoencoderTransformer(2, **QUICK, allow_nan=True).fit(X)


@any_size
def test_nothing_is_looked_at_where_scikit_learn_is_told_that_all_is_finite(kind, data):
    X, y = data
    network = kind(**QUICK).fit(X, y)
    X[3, 5] = np.nan
    with config_context(assume_finite=True):
        name = "transform" if kind is AutoencoderTransformer else "predict"
        getattr(network, name)(X)


@LEARN
def test_text_in_the_features_is_refused(kind, method, data):
    X, y = data
    X = X.astype(object)
    X[2, 4] = "seven"
    with pytest.raises(ValueError, match="could not convert string to float"):
        learn(kind(**QUICK), method, X, y)


def test_complex_features_are_refused(kind, data):
    X, y = data
    with pytest.raises(ValueError, match="Complex data not supported"):
        kind(**QUICK).fit(X.astype(complex), y)


def test_text_as_a_regression_target_is_refused(data):
    X, _ = data
    with pytest.raises(ValueError, match="y must hold numbers, got .*'low'"):
        DeepMLPRegressor(**QUICK).fit(X, ["low", "high"] * 60)


def test_continuous_target_of_a_classifier_is_refused_in_a_line(data):
    X, y = data
    numbers = y + np.arange(len(y)) / 4
    network = DeepMLPClassifier(**QUICK, warm_start=True).fit(X, y)
    for target, kind in ((numbers, "continuous"), (np.column_stack([numbers] * 2), "continuous-m")):
        for estimator in (DeepMLPClassifier(**QUICK), network):
            with pytest.raises(ValueError, match=f"Unknown label type: {kind}.*such as ") as error:
                estimator.fit(X, target)
            assert "use DeepMLPRegressor" in str(error.value)
            assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "estimator",
    [DeepMLPClassifier(), DeepMLPRegressor(n_networks=2), AutoencoderTransformer(2)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_network_that_knows_no_gaps_is_given_none(estimator, data):
    X, y = data
    fitted = estimator.set_params(**QUICK).fit(X, y).set_params(allow_nan=True)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fitted.predict(np.full_like(X[:2], np.nan, dtype=float))


def test_objects_that_are_no_labels_are_refused_in_a_line(data):
    with pytest.raises(ValueError, match=r"Unknown label type: .* such as 1, a int; .*astype"):
        DeepMLPClassifier(**QUICK).fit(data[0], np.repeat(np.array([1, 2], dtype=object), 60))


# Shapes and names


@LEARN
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3), "0 sample(s)"),
        ((4, 0), "0 feature(s)"),
        ((4,), "Expected 2D array"),
        ((2, 3, 4), "dim 3"),
    ],
)
def test_arrays_of_another_shape_are_refused(kind, method, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        learn(kind(**QUICK), method, np.zeros(shape), np.zeros(shape[0]))


@pytest.mark.parametrize(("kind", "name"), ALL_OUTPUTS)
@pytest.mark.parametrize("n_features", [63, 65])
def test_another_number_of_features_is_refused_in_prediction(kind, name, n_features, data):
    network = kind(**QUICK).fit(*data)
    message = f"X has {n_features} features, but {kind.__name__} is expecting 64 features"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(network, name)(np.zeros((3, n_features)))


def test_another_number_of_features_is_refused_in_partial_fit(kind, data):
    X, y = data
    network = learn(kind(**QUICK), "partial_fit", X, y)
    with pytest.raises(ValueError, match="X has 5 features, but"):
        learn(network, "partial_fit", X[:, :5], y)


@pytest.mark.parametrize(("kind", "name"), ALL_OUTPUTS)
def test_nothing_can_be_predicted_from_no_rows(kind, name, data):
    network = kind(**QUICK).fit(*data)
    with pytest.raises(ValueError, match=re.escape("Found array with 0 sample(s)")):
        getattr(network, name)(np.zeros((0, 64)))


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda frame: frame.rename(columns={"pixel 3": "other"}), "Feature names unseen at fit"),
        (lambda frame: frame[frame.columns[::-1]], "must be in the same order"),
        (lambda frame: frame.drop(columns="pixel 3"), "Feature names seen at fit time, yet now"),
    ],
    ids=["renamed", "reordered", "missing"],
)
@pytest.mark.parametrize("method", ["partial_fit", "output"])
def test_other_feature_names_are_refused(kind, rename, message, method, data):
    X, y = data
    frame = pd.DataFrame(X).add_prefix("pixel ")
    network = learn(kind(**QUICK), "partial_fit", frame, y)
    other = rename(frame)
    call = {
        "partial_fit": lambda: network.partial_fit(other, y),
        "output": lambda: getattr(network, OUTPUTS[kind][0])(other),
    }[method]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("kind", "name"), ALL_OUTPUTS)
def test_names_that_went_missing_are_warned_of(kind, name, data):
    X, y = data
    network = kind(**QUICK).fit(pd.DataFrame(X).add_prefix("pixel "), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        getattr(network, name)(X)


@LEARN
@pytest.mark.parametrize("what", ["y", "sample_weight"])
def test_lengths_that_do_not_match_are_refused(pair, method, what, data):
    X, y = data
    messages = []
    for network in pair:
        given = {"y": y, "sample_weight": np.ones(120)}
        given[what] = given[what][:-1]
        with pytest.raises(ValueError, match="inconsistent|shape") as error:
            learn(network, method, X, **given)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(("kind", "name"), ALL_OUTPUTS)
def test_nothing_can_be_predicted_before_a_fit(kind, name, data):
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        getattr(kind(), name)(data[0])


@pytest.mark.parametrize(
    "name",
    ["coefs_", "intercepts_", "device_", "encoder_", "decoder_", "module_"],
)
def test_fitted_attributes_are_absent_before_a_fit(kind, name):
    assert not hasattr(kind(), name)


def test_codes_cannot_be_decoded_before_a_fit():
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        AutoencoderTransformer().inverse_transform(np.zeros((2, 32)))


# Few rows, few classes


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_one_row_gives_what_scikit_learn_gives(pair, solver, data):
    X, y = data
    outputs = [
        network.set_params(solver=solver, max_iter=200).fit(X[:1], y[:1]).predict(X)
        for network in pair
    ]
    assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def test_one_row_can_be_encoded(data):
    X, _ = data
    network = AutoencoderTransformer(2, **{**QUICK, "max_iter": 50, "tol": 0}).fit(X[:1])
    assert network.loss_curve_[-1] < network.loss_curve_[0]
    assert network.transform(X[:1]).shape == (1, 2)


def test_score_of_an_autoencoder_on_constant_rows_is_no_number(data):
    X = np.repeat(data[0][:1], 5, axis=0)
    assert np.isnan(AutoencoderTransformer(2, **QUICK).fit(X).score(X))


@pytest.mark.parametrize("label", [0, 1, 7, "only"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_one_class_gives_what_scikit_learn_gives(label, solver, data):
    X, _ = data
    y = np.full(len(X), label)
    ours, theirs = (
        kind(**{**QUICK, "solver": solver, "tol": 1e-3}).fit(X, y)
        for kind in (DeepMLPClassifier, MLPClassifier)
    )
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-3)


def test_early_stopping_needs_two_rows_to_hold_out(kind, data):
    X, y = data
    message = "The validation set is too small. Increase 'validation_fraction'"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**QUICK, early_stopping=True).fit(X[:8], np.arange(8) % 3)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_batch_larger_than_the_data_is_clipped_with_scikit_learns_warning(pair, method, data):
    X, y = data
    outputs, messages = [], []
    for network in pair:
        network.set_params(batch_size=121)
        with pytest.warns(UserWarning, match="It is going to be clipped") as warnings:
            learn(network, method, X, y)
        messages.append([str(w.message) for w in warnings if "clipped" in str(w.message)])
        outputs.append(network.predict(X))
    assert set(messages[0]) == set(messages[1])
    assert_allclose(*outputs, rtol=1e-8)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_batch_normalization_needs_two_rows(kind, solver, data):
    X, y = data
    message = "normalization='batch' needs at least two samples, got n_samples=1"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{**QUICK, "solver": solver}, normalization="batch").fit(X[:1], y[:1])


# Classes in partial_fit


def test_first_partial_fit_needs_the_classes(data):
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        DeepMLPClassifier(**QUICK).partial_fit(*data)


def test_other_classes_in_a_later_partial_fit_are_refused(data):
    X, y = data
    messages = []
    for kind in (DeepMLPClassifier, MLPClassifier):
        network = kind(**QUICK).partial_fit(X, y, classes=np.arange(10))
        with pytest.raises(ValueError, match="is not the same as on last call") as error:
            network.partial_fit(X, y, classes=np.arange(11))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("first", [True, False])
def test_unseen_classes_in_partial_fit_are_refused(first, data):
    X, y = data
    messages = []
    for kind in (DeepMLPClassifier, MLPClassifier):
        network, few = kind(**QUICK), y < 5
        if not first:
            network.partial_fit(X[few], y[few], classes=np.arange(5))
        with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`") as error:
            network.partial_fit(X, y, classes=np.arange(5))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_classes_missing_from_a_batch_of_partial_fit_are_no_problem(data):
    X, y = data
    outputs = []
    for kind in (DeepMLPClassifier, MLPClassifier):
        network = kind(**QUICK)
        for digit in (3, 8):
            network.partial_fit(X[y == digit], y[y == digit], classes=np.arange(10))
        outputs.append(network.predict_proba(X))
    assert_allclose(*outputs, rtol=1e-8)


def test_partial_fit_survives_a_refused_batch(kind, data):
    X, y = data
    network = learn(kind(**QUICK), "partial_fit", X, y)
    expected = learn(learn(kind(**QUICK), "partial_fit", X, y), "partial_fit", X, y)
    bad = X.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        learn(network, "partial_fit", bad, y)
    assert_array_equal(learn(network, "partial_fit", X, y).module_.flat, expected.module_.flat)


def test_another_number_of_outputs_in_partial_fit_is_refused(data):
    X, y = data
    network = DeepMLPRegressor(**QUICK).partial_fit(X, y)
    with pytest.raises(ValueError, match="outputs|shape"):
        network.partial_fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_a_refused_number_of_outputs_leaves_the_regressor_usable(n_outputs, data):
    X, y = data
    network = DeepMLPRegressor(**QUICK).partial_fit(X, np.column_stack([y, y]))
    before = network.predict(X)
    with pytest.raises(
        ValueError, match=rf"y has {n_outputs} outputs? but the network was trained"
    ):
        network.partial_fit(X, np.column_stack([y] * n_outputs).squeeze())
    assert_array_equal(network.predict(X), before)


# Weights


@LEARN
def test_negative_weights_are_refused(kind, method, data):
    X, y = data
    weight = np.ones(len(y))
    weight[4] = -1
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        learn(kind(**QUICK), method, X, y, sample_weight=weight)


@pytest.mark.parametrize(
    ("solver", "method"), [("sgd", "fit"), ("sgd", "partial_fit"), ("lbfgs", "fit")]
)
def test_weights_that_are_all_zero_are_refused(kind, method, solver, data):
    X, y = data
    network = kind(**{**QUICK, "solver": solver})
    with pytest.raises(ValueError, match="sample_weight|Sample weights"):
        learn(network, method, X, y, sample_weight=np.zeros(len(y)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(kind, value, data):
    X, y = data
    weight = np.ones(len(y))
    weight[4] = value
    with pytest.raises(ValueError, match="sample_weight contains"):
        kind(**QUICK).fit(X, y, weight)


def test_weights_of_zero_leave_their_rows_out(kind, data):
    X, y = data
    weight = np.ones(len(y))
    weight[60:] = 0
    far = X.copy()
    far[60:] = 1 - X[60:]
    params = {**QUICK, "batch_size": 10, "output_activation": "identity"}
    if kind is not AutoencoderTransformer:
        del params["output_activation"]
    first, second = (kind(**params).fit(part, y, weight) for part in (X, far))
    # a batch may hold none but rows without weight
    assert_array_equal(first.module_.flat, second.module_.flat)


@pytest.mark.parametrize("scalar", [2.0, 1])
def test_one_number_as_the_weight_of_all_rows_changes_nothing_but_the_penalty(scalar, pair, data):
    X, y = data
    outputs = [network.fit(X, y, sample_weight=scalar).predict(X) for network in pair]
    assert_allclose(*outputs, rtol=1e-8)


@pytest.mark.parametrize(
    "weights",
    [{0: -3.0}, {0: np.nan}, dict.fromkeys(range(10), 0.0)],
    ids=["negative", "nan", "all zero"],
)
def test_class_weights_that_make_no_sense_are_refused(weights, data):
    X, y = data
    with pytest.raises(ValueError, match="class_weight|All sample weights"):
        DeepMLPClassifier(**QUICK, class_weight=weights).fit(X, y)


@LEARN
@pytest.mark.parametrize("key", [11, "zero"])
def test_class_weight_of_what_is_no_class_is_refused(key, method, data):
    with pytest.raises(ValueError, match="class_weight") as error:
        learn(DeepMLPClassifier(**QUICK, class_weight={0: 3.0, key: 2.0}), method, *data)
    assert repr(key) in str(error.value)


@pytest.mark.parametrize(
    "weight", [np.r_[-1.0, np.ones(119)], np.zeros(120)], ids=["negative", "all zero"]
)
def test_score_of_an_autoencoder_refuses_weights_that_make_no_sense(weight, data):
    X, _ = data
    with pytest.raises(ValueError, match="sample_weight|[Ss]ample weights"):
        AutoencoderTransformer(2, **QUICK).fit(X).score(X, sample_weight=weight)


# Parameters


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "device='cuda:99' is not available: torch finds"),
        ("tpu", "device='tpu' is not a device that torch knows; choose 'auto', 'cpu', 'cuda'"),
        ("meta", "device='meta' is not available: torch finds 0 meta device(s) here"),
        ("cuda:x", "device='cuda:x' is not a device that torch knows"),
        ("", "device='' is not a device that torch knows"),
    ],
)
def test_device_that_is_not_there_is_refused(kind, device, message, data):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**QUICK, device=device).fit(*data)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (DeepMLPRegressor, "loss", "squared"),
        (AutoencoderTransformer, "loss", "poisson"),
        (DeepMLPRegressor, "quantile", 1.0),
        (DeepMLPRegressor, "huber_delta", 0.0),
        (DeepMLPClassifier, "label_smoothing", 1.0),
        (DeepMLPClassifier, "class_weight", "even"),
        (AutoencoderTransformer, "n_components", 0),
        (AutoencoderTransformer, "code_activation", "softmax"),
        (AutoencoderTransformer, "output_activation", "softmax"),
        *(
            (kind, name, value)
            for kind in KINDS.values()
            for name, value in [
                ("activation", "swish"),
                ("solver", "lion"),
                ("learning_rate", "step"),
                ("normalization", "group"),
                ("dropout", 1.0),
                ("dropout", -0.1),
                ("dtype", "float16"),
                ("weight_decay", -1.0),
                ("max_grad_norm", 0.0),
                ("scoring", "accurate"),
                ("batch_size", 0),
                ("max_iter", 0),
                ("callbacks", "EarlyStopping"),
                ("solver_params", [("amsgrad", True)]),
                ("hidden_layer_sizes", 0),
                ("device", 0),
            ]
        ),
    ],
)
def test_parameter_out_of_range_is_named(kind, name, value, data):
    message = f"The {name!r} parameter of {kind.__name__} must be"
    with pytest.raises(InvalidParameterError, match=re.escape(message)) as error:
        kind(**{**QUICK, name: value}).fit(*data)
    assert f"Got {value!r} instead" in str(error.value)


@pytest.mark.parametrize("sizes", [(8, 0), (0,), (4, -2)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, "hidden_layer_sizes") for kind in KINDS.values()),
        (AutoencoderTransformer, "decoder_hidden_layer_sizes"),
    ],
)
def test_layer_of_size_zero_is_refused(kind, sizes, name, data):
    message = f"{name} must be > 0, got {list(sizes)}."
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{**QUICK, name: sizes}).fit(*data)


@pytest.mark.parametrize("sizes", [(8, 2.5), ("8",), (8, None), ((8, 4),)], ids=str)
def test_layer_sizes_that_are_no_integers_are_refused(kind, sizes, data):
    with pytest.raises(ValueError, match="hidden_layer_sizes must be"):
        kind(**{**QUICK, "hidden_layer_sizes": sizes}).fit(*data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activation", ["relu"]),
        ("activation", ["relu"] * 3),
        ("dropout", [0.1]),
        ("dropout", np.array([0.1, 0.2, 0.3])),
    ],
)
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_lists_of_another_length_than_the_layers_are_refused(kind, name, value, data):
    message = f"{name} must be one value or one per hidden layer (2), got {len(value)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{**QUICK, "hidden_layer_sizes": (8, 4), name: value}).fit(*data)


def test_lists_of_an_autoencoder_count_both_halves(data):
    message = "activation must be one value or one per hidden layer (4), got 2"
    with pytest.raises(ValueError, match=re.escape(message)):
        AutoencoderTransformer(2, (8, 4), activation=["relu", "tanh"]).fit(data[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("activation", ["relu", "swish"], "activation must be among"),
        ("activation", ["relu", 3], "activation must be among"),
        ("activation", [["relu"], ["tanh"]], "activation must be among"),
        ("dropout", [0.1, 1.0], "dropout must be numbers in [0, 1), got [0.1, 1.0]"),
        ("dropout", [0.1, -0.5], "dropout must be numbers in [0, 1), got [0.1, -0.5]"),
        ("dropout", [0.1, "half"], "dropout"),
        ("dropout", [0.1, np.nan], "dropout must be numbers in [0, 1), got [0.1, nan]"),
    ],
)
def test_one_wrong_entry_of_a_list_is_refused(name, value, message, data):
    params = {**QUICK, "hidden_layer_sizes": (8, 4), name: value}
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPClassifier(**params).fit(*data)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"solver": dict}, "solver=<class 'dict'> is not a torch.optim.Optimizer class"),
        ({"solver": torch.nn.Linear}, "is not a torch.optim.Optimizer class"),
        ({"solver": torch.optim.Optimizer}, "solver="),
        ({"normalization": "batch", "batch_size": 1}, "needs at least two samples per batch"),
        ({"solver": "lbfgs", "callbacks": [EpochTimer()]}, "does not support callbacks"),
        ({"solver": "lbfgs", "dropout": 0.1}, "solver='lbfgs' does not support dropout"),
        ({"solver": "lbfgs", "dropout": [0.1]}, "solver='lbfgs' does not support dropout"),
        ({"solver": "adamw", "solver_params": {"speed": 9}}, "refused solver_params={'speed': 9}"),
        ({"solver": "adam", "solver_params": {"amsgrad": True}}, "refused solver_params="),
        ({"solver": "adamw", "solver_params": {"betas": (2.0, 0.9)}}, "refused solver_params="),
        # these two fail only when they are asked for a step
        ({"solver": torch.optim.SparseAdam}, "solver="),
        ({"solver": "adamw", "solver_params": {"capturable": True}, "device": "cpu"}, "solver="),
        ({"solver": "lbfgs", "dropout": ["a"]}, "dropout"),
        ({"activation": [["relu"]]}, "activation must be"),
        ({"solver": torch.optim.SGD, "solver_params": {"nesterov": True}}, "solver_params="),
        ({"device": "mps", "dtype": "float64"}, "mps"),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, dict) else "",
)
def test_parameters_that_do_not_go_together_are_refused(kind, params, message, data):
    if isinstance(params.get("dropout"), list) and kind is AutoencoderTransformer:
        params = {**params, "dropout": [0.1, 0.1]}
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{**QUICK, **params}).fit(*data)


@LEARN
@pytest.mark.parametrize(
    ("solver", "option", "name"),
    [
        *((solver, "weight_decay", "weight_decay") for solver in STOCHASTIC_SOLVERS),
        *((solver, "lr", "learning_rate_init") for solver in STOCHASTIC_SOLVERS),
        (torch.optim.SGD, "lr", "learning_rate_init"),
    ],
)
def test_what_is_a_parameter_is_refused_in_solver_params(solver, option, name, method, data):
    network = DeepMLPClassifier(**{**QUICK, "solver": solver, "solver_params": {option: 0.1}})
    with pytest.raises(ValueError, match=rf"solver_params.*\b{name}\b"):
        learn(network, method, *data)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_partial_fit_with_early_stopping_is_refused(kind, data):
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        learn(kind(**QUICK, early_stopping=True), "partial_fit", *data)


def test_partial_fit_with_lbfgs_is_absent(kind):
    network = kind(solver="lbfgs")
    assert not hasattr(network, "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        network.partial_fit  # noqa: B018


def test_negative_target_of_poisson_is_refused(data):
    X, y = data
    message = "loss='poisson' needs y >= 0, got a smallest value of -1"
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPRegressor(**QUICK, loss="poisson").fit(X, y - 1)


# A validation set of the user's own


@pytest.mark.parametrize("missing", ["X_val", "y_val"])
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_half_a_validation_set_is_refused(kind, missing, data):
    X, y = data
    held_out = {"X_val": X, "y_val": y}
    del held_out[missing]
    with pytest.raises(ValueError, match="X_val and y_val must be passed together"):
        kind(**QUICK).fit(X, y, **held_out)


def test_weights_without_a_validation_set_are_refused(kind, data):
    X, y = data
    with pytest.raises(ValueError, match="sample_weight_val"):
        kind(**QUICK).fit(X, y, sample_weight_val=np.ones(len(X)))


def held_out(kind, X, y):
    return {"X_val": X} if kind is AutoencoderTransformer else {"X_val": X, "y_val": y}


def test_validation_set_with_other_features_is_refused(kind, data):
    X, y = data
    with pytest.raises(ValueError, match="X has 63 features, but"):
        kind(**QUICK).fit(X, y, **held_out(kind, X[:, 1:], y))


def test_empty_validation_set_is_refused(kind, data):
    X, y = data
    with pytest.raises(ValueError, match=re.escape("0 sample(s)")):
        kind(**QUICK).fit(X, y, **held_out(kind, X[:0], y[:0]))


def test_validation_set_of_one_row_has_no_r2(data):
    X, y = data
    with pytest.raises(ValueError, match="X_val"):
        DeepMLPRegressor(**QUICK).fit(X, y, X_val=X[:1], y_val=y[:1])


@pytest.mark.parametrize("scoring", ["loss", "neg_mean_squared_error"])
def test_validation_set_of_one_row_has_other_scores(scoring, data):
    X, y = data
    network = DeepMLPRegressor(**QUICK, scoring=scoring)
    network.fit(X, y, X_val=X[:1], y_val=y[:1])
    assert np.isfinite(network.best_validation_score_)


def output(network, X):
    return getattr(network, OUTPUTS[type(network)][0])(X)


def test_refused_validation_set_leaves_a_network_as_it_was(kind, data):
    X, y = data
    network = kind(**QUICK)
    with pytest.raises(ValueError, match="63 features"):
        network.fit(X, y, **held_out(kind, X[:, 1:], y))
    assert not hasattr(network, "module_")
    network.fit(X, y)
    before, losses = output(network, X), list(network.loss_curve_)
    with pytest.raises(ValueError, match="63 features"):
        network.fit(X, y, **held_out(kind, X[:, 1:], y))
    assert_array_equal(output(network, X), before)
    assert network.loss_curve_ == losses


def test_unseen_classes_in_the_validation_set_are_refused(data):
    X, y = data
    few = y < 8
    network = DeepMLPClassifier(**QUICK).fit(X, y)
    before = network.predict_proba(X)
    message = "y_val has classes that are not in y: [8 9]"
    with pytest.raises(ValueError, match=re.escape(message)):
        network.fit(X[few], y[few], X_val=X, y_val=y)
    assert_array_equal(network.predict_proba(X), before)  # it is what it was


def test_classes_missing_from_the_validation_set_are_no_problem(data):
    X, y = data
    few = y < 3
    network = DeepMLPClassifier(**QUICK).fit(X, y, X_val=X[few], y_val=y[few])
    assert network.best_validation_score_ == network.score(X[few], y[few])


def test_validation_set_of_another_kind_of_target_is_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="y_val"):
        DeepMLPClassifier(**QUICK).fit(X, y, X_val=X, y_val=np.eye(10, dtype=int)[y])


@pytest.mark.parametrize(("n_outputs", "n_val"), [(1, 2), (2, 1), (2, 3)])
def test_validation_set_with_another_number_of_outputs_is_refused(n_outputs, n_val, data):
    X, y = data
    Y = np.column_stack([y] * n_outputs).squeeze()
    message = f"y_val has {counted(n_val, 'output')} but y has {n_outputs}"
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPRegressor(**QUICK).fit(X, Y, X_val=X, y_val=np.column_stack([y] * n_val).squeeze())


def test_validation_set_with_other_lengths_is_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        DeepMLPClassifier(**QUICK).fit(X, y, X_val=X, y_val=y[:-1])


@pytest.mark.parametrize("weight", [-np.ones(120), np.zeros(120), np.ones(119)], ids=str)
def test_weights_of_the_validation_set_that_make_no_sense_are_refused(kind, weight, data):
    X, y = data
    with pytest.raises(ValueError, match="sample_weight|Sample weights"):
        kind(**QUICK).fit(X, y, **held_out(kind, X, y), sample_weight_val=weight)


def test_validation_set_with_lbfgs_is_refused(kind, data):
    X, y = data
    message = "solver='lbfgs' does not support X_val"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{**QUICK, "solver": "lbfgs"}).fit(X, y, **held_out(kind, X, y))


@pytest.mark.parametrize(
    ("kind", "scoring"),
    [
        (DeepMLPRegressor, "neg_log_loss"),
        (DeepMLPRegressor, "roc_auc"),
        (AutoencoderTransformer, "accuracy"),
        (AutoencoderTransformer, "neg_mean_squared_error"),
    ],
)
@pytest.mark.parametrize("own_set", [False, True])
def test_scorer_that_the_estimator_cannot_serve_is_refused(kind, scoring, own_set, data):
    X, y = data
    options = held_out(kind, X, y) if own_set else {}
    with pytest.raises(ValueError, match=f"scoring='{scoring}'"):
        kind(**QUICK, scoring=scoring, early_stopping=True).fit(X, y, **options)


@pytest.mark.parametrize(
    "score", [{"accuracy": 0.5}, None, [0.5, 0.6], "high"], ids=["dict", "None", "list", "text"]
)
def test_scorer_that_returns_no_number_is_refused(kind, score, data):
    network = kind(**QUICK, scoring=lambda *args, **kwargs: score, early_stopping=True)
    with pytest.raises(ValueError, match="scoring"):
        network.fit(*data)


def test_error_inside_a_scorer_is_not_hidden(data):
    def broken(estimator, X, y):
        return accuracy_score(y, estimator.predict(X)) / 0

    with pytest.raises((ZeroDivisionError, ValueError)) as error:
        DeepMLPClassifier(**QUICK, scoring=broken, early_stopping=True).fit(*data)
    assert "zero" in str(error.value)


# Arrays of other kinds


def negative_strides(X):
    return np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1]


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


ARRAYS = {
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "longdouble": lambda X: X.astype(np.longdouble),
    "int8": lambda X: (16 * X).astype(np.int8),
    "uint8": lambda X: (16 * X).astype(np.uint8),
    "int64": lambda X: (16 * X).astype(np.int64),
    "boolean": lambda X: X > 0.5,
    "object": lambda X: X.astype(object),
    "text": lambda X: (16 * X).astype(int).astype(object),
    "big-endian": lambda X: X.astype(">f8"),
    "big-endian float32": lambda X: X.astype(">f4"),
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
    "negative strides": negative_strides,
    "strided": strided,
}


@LEARN
@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_odd_arrays_give_what_scikit_learn_gives(pair, method, make, data):
    X, y = data
    X = make(X)
    ours, theirs = (learn(network, method, X, y) for network in pair)
    single = theirs.coefs_[0].dtype == np.float32
    assert ours.coefs_[0].dtype == theirs.coefs_[0].dtype
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if single else {"rtol": 1e-8, "atol": 1e-12}
    name = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    assert_allclose(getattr(ours, name)(X), getattr(theirs, name)(X), **tolerance)


@any_size
def test_a_single_feature_may_lie_backwards(kind, data):
    y = data[1]
    X = np.linspace(0, 1, len(y))[:, np.newaxis]
    odd = X[:, ::-1]  # the stride of one feature is anything
    name = "transform" if kind is AutoencoderTransformer else "predict"
    ours, expected = (kind(**{**QUICK, "hidden_layer_sizes": ()}).fit(x, y) for x in (odd, X))
    assert_array_equal(getattr(ours, name)(odd), getattr(expected, name)(X))
    assert_array_equal(getattr(ours, name)(odd[:1][::-1]), getattr(expected, name)(X[:1]))


def test_a_row_among_records_is_predicted(kind, data):
    X, y = data
    network = kind(**QUICK).fit(X, y)
    records = np.zeros(1, dtype=[("pixels", np.float64, (64,)), ("flag", np.int8)])
    records["pixels"] = X[0]
    name = "transform" if kind is AutoencoderTransformer else "predict"
    expected = getattr(network, name)(X[:1])
    assert_array_equal(getattr(network, name)(records["pixels"]), expected)


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_odd_arrays_go_through_an_autoencoder_like_plain_ones(make, data):
    X = make(data[0])
    plain = X.astype(np.float32 if X.dtype == np.dtype(">f4") else np.float64, order="C")
    if X.dtype == np.float32 or make is ARRAYS["big-endian float32"]:
        plain = plain.astype(np.float32)
    ours, expected = (AutoencoderTransformer(2, **QUICK).fit(part) for part in (X, plain))
    tolerance = 1e-4 if plain.dtype == np.float32 else 1e-10
    codes = expected.transform(plain)
    assert_allclose(ours.transform(X), codes, rtol=tolerance, atol=tolerance)
    assert_allclose(ours.score(X), expected.score(plain), rtol=1e-4)
    assert_allclose(ours.inverse_transform(make(codes)), expected.inverse_transform(
        np.asarray(make(codes), dtype=codes.dtype)), rtol=1e-4, atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_odd_arrays_can_be_weights(pair, make, data):
    X, y = data
    weight = make(np.linspace(0.5, 1, len(y)).reshape(-1, 1)).ravel()
    outputs = [network.fit(X, y, sample_weight=weight).predict(X) for network in pair]
    assert_allclose(*outputs, rtol=1e-8)


@pytest.mark.parametrize("make", [read_only, negative_strides, strided], ids=lambda f: f.__name__)
def test_odd_arrays_can_be_targets(pair, make, data):
    X, y = data
    outputs = [network.fit(X, make(y.reshape(-1, 1)).ravel()).predict(X) for network in pair]
    assert_allclose(*outputs, rtol=1e-8)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", ">f8"])
def test_memory_maps_are_learned_from_without_a_warning(pair, mode, dtype, data, tmp_path, recwarn):
    X, y = data
    X = (16 * X).astype(dtype)
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", dtype=dtype, mode=mode, shape=X.shape)
    ours, theirs = (learn(network, "partial_fit", mapped, y) for network in pair)
    tolerance = 1e-3 if dtype == "f4" else 1e-8
    assert_allclose(ours.predict(mapped), theirs.predict(mapped), rtol=tolerance, atol=1e-5)
    assert not recwarn.list


@pytest.mark.parametrize("make", [read_only, np.asfortranarray], ids=["read-only", "Fortran"])
def test_sparse_arrays_may_be_read_only(kind, make, data):
    X, y = data
    sparse = sp.csr_array(X)
    for part in (sparse.data, sparse.indices, sparse.indptr):
        part.flags.writeable = False
    network = kind(**QUICK).fit(sparse, y)
    assert_allclose(
        getattr(network, OUTPUTS[kind][0])(sparse), getattr(network, OUTPUTS[kind][0])(X)
    )


def test_unsorted_indices_of_a_sparse_matrix_make_no_difference(kind, data):
    X, y = data
    tidy = sp.csr_array(X)
    order = np.concatenate(
        [np.arange(b - 1, a - 1, -1) for a, b in zip(tidy.indptr, tidy.indptr[1:], strict=False)]
    )
    messy = sp.csr_array((tidy.data[order], tidy.indices[order], tidy.indptr), shape=X.shape)
    expected = kind(**QUICK).fit(X, y)
    assert_allclose(kind(**QUICK).fit(messy, y).module_.flat, expected.module_.flat, rtol=1e-10)


def test_duplicates_in_a_sparse_matrix_are_summed(kind, data):
    X, y = data
    rows, columns = X.nonzero()
    values = X[rows, columns]
    twice = sp.coo_array(
        (np.r_[values / 2, values / 2], (np.r_[rows, rows], np.r_[columns, columns])), X.shape
    )
    expected = kind(**QUICK).fit(X, y)
    assert_allclose(kind(**QUICK).fit(twice, y).module_.flat, expected.module_.flat, rtol=1e-10)


def test_wide_sparse_indices_are_accepted(kind, data):
    X, y = data
    sparse = sp.csr_array(X)
    sparse.indices = sparse.indices.astype(np.int64)
    sparse.indptr = sparse.indptr.astype(np.int64)
    expected = kind(**QUICK).fit(X, y)
    assert_allclose(kind(**QUICK).fit(sparse, y).module_.flat, expected.module_.flat, rtol=1e-10)


# --------------------------------------------------------------------------------------
# the short way of what needs no conversion


def _subclassed(base, **constraints):
    """Return a subclass with a required parameter, and other constraints."""

    class Own(base):
        _parameter_constraints = {**base._parameter_constraints, **constraints}

        def __init__(self, width, *, max_iter=2, solver="adam", random_state=None):
            super().__init__(max_iter=max_iter, solver=solver, random_state=random_state)
            self.width = width

    return Own


def test_subclass_with_a_required_parameter_is_fitted(data):
    X, y = data
    own = _subclassed(DeepMLPClassifier)(3).fit(X, y)
    assert own.n_iter_ == 2


def test_default_that_a_subclass_forbids_is_refused(data):
    own = _subclassed(DeepMLPClassifier, solver=[StrOptions({"sgd"})])
    with pytest.raises(ValueError, match="The 'solver' parameter of Own must be a str among"):
        own(3).fit(*data)
    own(3, solver="sgd").fit(*data)
