"""scikit-learn's own checks, for every kind of configuration.

Networks are small and epochs few where the checks allow it; the defaults run as they are.
"""

from functools import partial
from itertools import cycle
from unittest import SkipTest

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.estimator_checks import estimator_checks_generator

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.losses import REGRESSION_LOSSES
from tests.sklearn_checks import OUTLIER_CHECKS, SAME_FOR_ALL_VALUES, with_checks

ESTIMATORS = (DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer)
SMALL = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.05,
    "max_iter": 20,
    "n_iter_no_change": 5,
    "device": "cpu",
}

# The checks fit data far from zero (a mean of 100): plain gradient descent at this rate needs the
# norm of its steps bounded.
BOUNDED = {"max_grad_norm": 1.0}
# Each value of a parameter with all others at their defaults, as users try them.
ONE_VALUE = [
    {name: value}
    for name in ("solver", "activation", "learning_rate", "normalization")
    for item in DeepMLPClassifier._parameter_constraints[name]
    if isinstance(item, StrOptions)
    for value in sorted(item.options - {getattr(DeepMLPClassifier(), name)})
] + [{"hidden_layer_sizes": (), "learning_rate_init": 0.05}]
OTHERS = [
    {"dtype": "float64"},
    {"solver": torch.optim.SGD, "solver_params": {"momentum": 0.9}, **BOUNDED},
    {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "power_t": 0.1,
        "learning_rate_init": 0.1,
        "max_iter": 40,
        **BOUNDED,
    },
]

# What cannot hold, and why. That a check fails is demanded as strictly as that others pass.
WEIGHT_CHECKS = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)
PARTIAL_FIT_CHECKS = (
    "check_fit_score_takes_y",
    "check_n_features_in_after_fitting",
    "check_estimators_partial_fit_n_features",
)


def _reasons(checks, reason):
    return dict.fromkeys(checks, reason)


DROPOUT = _reasons(WEIGHT_CHECKS, "a row that is repeated gets as many masks")
DRAWS = _reasons(WEIGHT_CHECKS, "a row that is repeated gets as many draws")
BATCH_STATISTICS = _reasons(WEIGHT_CHECKS, "the statistics of a batch count rows, not weights")
SINGLE_PRECISION = _reasons(WEIGHT_CHECKS, "the check allows 1e-7, float32 rounds at 6e-8")
SAMPLES_SEEN = _reasons(WEIGHT_CHECKS, "as in scikit-learn the rate falls with the rows seen")
BALANCED = _reasons(PARTIAL_FIT_CHECKS, "partial_fit cannot know how often each class will come")
EARLY_STOPPING = {
    **_reasons(WEIGHT_CHECKS, "the split draws rows, not weights"),
    **_reasons(PARTIAL_FIT_CHECKS, "partial_fit does not support early_stopping"),
    "check_estimators_nan_inf": "of its ten rows one would be held out",
    "check_fit2d_1feature": "of its ten rows one would be held out",
}
CLASSIFIER_EARLY_STOPPING = {
    **EARLY_STOPPING,
    "check_classifiers_one_label": "of its ten rows one would be held out",
    "check_class_weight_classifiers": "accuracy on five rows is perfect after the first epoch",
}
REGRESSOR_EARLY_STOPPING = {
    **EARLY_STOPPING,
    "check_regressors_no_decision_function": "of its ten rows one would be held out",
}
DIVERGES = _reasons(
    ("check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in"),
    "gradient descent at the default rate diverges on features of size 100 that are the target",
)
POISSON = {"check_regressors_train": "as scikit-learn's, it has not converged after 200 epochs"}
SINGLE_SCORES = {"check_outliers_train": "scores have the network's type, not always double"}
COSINE = _reasons(
    OUTLIER_CHECKS, "what learns directions alone is off by more than any of these rows stands out"
)
# the one check that scikit-learn's MLPClassifier is not put to: it has no class_weight
NOT_ASKED_OF_SCIKIT_LEARN = {"check_class_weight_classifiers"}


def _expected_failures(estimator):
    """Return the checks that a configuration cannot pass, each with its reason."""
    expected = {}
    if getattr(estimator, "class_weight", None) == "balanced":
        expected |= BALANCED
    if np.any(estimator.dropout):
        expected |= DROPOUT
    if getattr(estimator, "noise", 0) or getattr(estimator, "variational", False):
        expected |= DRAWS
    if estimator.normalization == "batch":
        expected |= BATCH_STATISTICS
    if estimator.dtype == "float32":
        expected |= SINGLE_PRECISION
    if (estimator.solver, estimator.learning_rate) == ("sgd", "invscaling"):
        expected |= SAMPLES_SEEN
    is_autoencoder = isinstance(estimator, AutoencoderTransformer)
    if is_autoencoder and estimator.dtype == "float32":
        expected |= SINGLE_SCORES
    if is_autoencoder and estimator.loss == "cosine" and estimator.hidden_layer_sizes == (128, 64):
        expected |= COSINE
    if is_autoencoder and estimator.solver == "sgd" and not estimator.max_grad_norm:
        expected |= DIVERGES
    if getattr(estimator, "loss", None) == "poisson":
        expected |= POISSON
    if estimator.early_stopping:
        expected |= {
            DeepMLPClassifier: CLASSIFIER_EARLY_STOPPING,
            DeepMLPRegressor: REGRESSOR_EARLY_STOPPING,
            AutoencoderTransformer: {
                name: reason
                for name, reason in EARLY_STOPPING.items()
                if name != "check_estimators_partial_fit_n_features"  # not put to transformers
            },
        }[type(estimator)]
        if estimator.scoring == "loss":
            expected.pop("check_class_weight_classifiers", None)
    return expected


def _small(options, classes=ESTIMATORS):
    return [cls(**{**SMALL, **option}) for option in options for cls in classes]


def _check(estimator, check):
    """Run a check; the array API check must not be skipped, the others may be for a reason."""
    try:
        check(estimator)
    except SkipTest as reason:
        if "array_api" in getattr(check, "func", check).__name__:
            pytest.fail(f"skipped: {reason}")
        raise


_with_checks = partial(with_checks, expected_failures=_expected_failures)
converging_or_not = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@converging_or_not
@_with_checks(_small([{}]))
def test_small_networks_comply(estimator, check):
    _check(estimator, check)


# The README promises all of them.
@pytest.mark.slow
@converging_or_not
@_with_checks([cls() for cls in ESTIMATORS])
def test_defaults_comply(estimator, check):
    _check(estimator, check)


def _in_turn(options):
    """Return for each of the options one of the three estimators."""
    kinds = cycle((DeepMLPRegressor, AutoencoderTransformer, DeepMLPClassifier))
    return [kind(**option) for kind, option in zip(kinds, options, strict=False)]


# All values of all three estimators take three times as long as each of one of them.
@pytest.mark.slow
@converging_or_not
@_with_checks(
    [
        *_in_turn(ONE_VALUE),
        *(DeepMLPRegressor(loss) for loss in REGRESSION_LOSSES[1:]),
        *(AutoencoderTransformer(loss=loss) for loss in ("absolute_error", "huber")),
    ],
    but=SAME_FOR_ALL_VALUES,
)
def test_one_value_with_all_others_at_their_defaults_complies(estimator, check):
    _check(estimator, check)


@pytest.mark.slow
@converging_or_not
@_with_checks([AutoencoderTransformer(loss="cosine")], but=SAME_FOR_ALL_VALUES - {*OUTLIER_CHECKS})
def test_directions_alone_do_not_tell_outliers(estimator, check):
    _check(estimator, check)


def test_checks_that_values_are_spared_are_put_to_small_networks():
    put = {
        getattr(check, "func", check).__name__
        for estimator in _small([{}])
        for _, check in estimator_checks_generator(estimator)
    }
    assert put >= SAME_FOR_ALL_VALUES
    assert len(put - SAME_FOR_ALL_VALUES) > 12


def test_the_values_leave_nothing_out():
    values = {(name, value) for option in ONE_VALUE for name, value in option.items()}
    assert {("solver", "lbfgs"), ("activation", "tanh"), ("normalization", "batch")} <= values
    assert len(values) == 8 + 10 + 6 + 2 + 2
    # the classifier's probabilities saturate with L-BFGS
    (of_lbfgs,) = (kind for kind in _in_turn(ONE_VALUE) if kind.solver == "lbfgs")
    assert isinstance(of_lbfgs, DeepMLPClassifier)


# What depends on the type of the numbers, on weights and on what partial_fit may see.
OF_TYPES_AND_WEIGHTS = {
    "check_array_api_input",
    "check_estimators_dtypes",
    "check_transformer_preserve_dtypes",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_class_weight_classifiers",
    *PARTIAL_FIT_CHECKS,
}


@pytest.mark.slow
@converging_or_not
@_with_checks(
    [
        *_in_turn({**SMALL, **option} for option in OTHERS),
        *_small([{"n_networks": 3}, {"loss": "quantile"}], [DeepMLPRegressor]),
        *_small(
            [
                {"n_components": 1, "hidden_layer_sizes": ()},
                {"decoder_hidden_layer_sizes": (5, 3), "code_activation": "tanh"},
            ],
            [AutoencoderTransformer],
        ),
        *_small(
            [
                {"class_weight": "balanced"},
                {"label_smoothing": 0.1, "activation": ["gelu"], "dropout": [0.0]},
            ],
            [DeepMLPClassifier],
        ),
    ],
    but=SAME_FOR_ALL_VALUES - OF_TYPES_AND_WEIGHTS,
)
def test_other_configurations_comply(estimator, check):
    _check(estimator, check)


# Several networks are fitted, and asked, by code of their own.
@pytest.mark.slow
@converging_or_not
@_with_checks(_small([{"n_networks": 3}], [DeepMLPClassifier]))
def test_ensembles_comply(estimator, check):
    _check(estimator, check)


@pytest.mark.slow
@converging_or_not
@_with_checks(
    _in_turn({**SMALL, **option} for option in ({"dropout": 0.2}, {"dtype": "float32"})),
    but=SAME_FOR_ALL_VALUES - OF_TYPES_AND_WEIGHTS,
)
def test_what_counts_rows_fails_the_equivalence_of_weights_only(estimator, check):
    _check(estimator, check)


@pytest.mark.slow
@converging_or_not
@_with_checks([DeepMLPClassifier(early_stopping=True)], but={"check_estimator_sparse_matrix"})
def test_early_stopping_fails_what_small_validation_sets_cannot_pass(estimator, check):
    _check(estimator, check)


@pytest.mark.slow
@converging_or_not
@_with_checks(
    [
        DeepMLPRegressor(early_stopping=True),
        AutoencoderTransformer(early_stopping=True),
        DeepMLPClassifier(early_stopping=True, scoring="loss"),
    ],
    but=SAME_FOR_ALL_VALUES - {"check_class_weight_classifiers"},
)
def test_early_stopping_of_the_others_fails_no_more(estimator, check):
    _check(estimator, check)


# "log_loss" is missing: it refuses what the checks fit, features outside of [0, 1]
VARIANTS = [
    {"loss": "huber", "huber_delta": 2.0, "sparsity": 0.01},
    {"loss": "cosine"},
    {"contractive": 1e-4},
    {"order_code": True},
    {"noise": 0.2, "noise_kind": "masking"},
    {"noise": 0.2, "noise_kind": "salt_pepper", "tied_weights": True, "allow_nan": True},
    {"variational": True, "beta": 0.01},
]


@pytest.mark.slow
@converging_or_not
@_with_checks(
    _small(VARIANTS, [AutoencoderTransformer]),
    but=SAME_FOR_ALL_VALUES - {"check_estimators_nan_inf"},
)
def test_variants_of_the_autoencoder_comply(estimator, check):
    _check(estimator, check)


def test_only_an_autoencoder_that_is_told_so_takes_missing_values():
    assert get_tags(AutoencoderTransformer(allow_nan=True)).input_tags.allow_nan


class OtherMLPClassifier(MLPClassifier):
    """scikit-learn's under a name for which its checks make no exception."""


class OtherMLPRegressor(MLPRegressor):
    """scikit-learn's under a name for which its checks make no exception."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            OtherMLPClassifier(early_stopping=True),
            [DeepMLPClassifier(early_stopping=True)],
        ),
        (
            OtherMLPRegressor(early_stopping=True),
            [DeepMLPRegressor(early_stopping=True), AutoencoderTransformer(early_stopping=True)],
        ),
        (
            OtherMLPRegressor(
                solver="sgd", learning_rate="invscaling", power_t=0.1, learning_rate_init=0.05
            ),
            [DeepMLPRegressor(solver="sgd", learning_rate="invscaling")],  # the same for all three
        ),
        (OtherMLPRegressor(loss="poisson"), [DeepMLPRegressor("poisson")]),
    ],
    ids=["classifier", "regressor", "invscaling", "poisson"],
)
def test_scikit_learn_fails_the_same_checks(theirs, ours):
    expected = set().union(*map(_expected_failures, ours)) - NOT_ASKED_OF_SCIKIT_LEARN
    failed = set()
    for estimator, check in estimator_checks_generator(theirs):
        name = getattr(check, "func", check).__name__
        if name in expected:
            try:
                check(estimator)
            except (AssertionError, ValueError):
                failed.add(name)
    assert failed == expected


@pytest.mark.slow
@converging_or_not
def test_with_tanh_the_check_of_class_weights_fails_as_scikit_learns_would():
    X, y = make_blobs(centers=3, random_state=0, cluster_std=20)
    X_train, X_test, y_train, _ = train_test_split(X, y, test_size=0.5, random_state=0)
    options = {"activation": "tanh", "max_iter": 1000, "n_iter_no_change": 20, "random_state": 0}
    weights = {0: 1000, 1: 0.0001, 2: 0.0001}
    ours = DeepMLPClassifier(**options, class_weight=weights).fit(X_train, y_train)
    theirs = MLPClassifier(**options).fit(
        X_train, y_train, sample_weight=[weights[label] for label in y_train]
    )
    np.testing.assert_array_equal(ours.predict(X_test), theirs.predict(X_test))
    assert np.mean(theirs.predict(X_test) == 0) < 0.87  # which the check demands


@converging_or_not
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scikit_learn_diverges_on_the_same_features_as_targets():
    X = np.random.RandomState(0).normal(loc=100, size=(100, 2))  # as the checks make them
    options = {"solver": "sgd", "random_state": 0}
    layers = AutoencoderTransformer().hidden_layer_sizes
    network = MLPRegressor(hidden_layer_sizes=(*layers, 32, *layers[::-1]), **options)
    for estimator, data in ((network, (X, X)), (AutoencoderTransformer(**options), (X,))):
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            estimator.fit(*data)


NEVER_YIELDED = [
    estimator_checks.check_param_validation,
    estimator_checks.check_inplace_ensure_writeable,
    estimator_checks.check_dataframe_column_names_consistency,
]
NEVER_YIELDED_FOR_TRANSFORMERS = [
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
]


@converging_or_not
@pytest.mark.parametrize("check", NEVER_YIELDED, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", _small([{}]), ids=lambda est: type(est).__name__)
def test_checks_that_scikit_learn_does_not_yield(estimator, check):
    check(type(estimator).__name__, estimator)


@converging_or_not
# these checks fit a frame and transform an array
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("check", NEVER_YIELDED_FOR_TRANSFORMERS, ids=lambda check: check.__name__)
def test_checks_of_transformers_that_scikit_learn_does_not_yield(check):
    check("AutoencoderTransformer", AutoencoderTransformer(**SMALL, n_components=3))


@pytest.mark.parametrize(
    "estimator",
    _small([{}, {"dropout": 0.5}, {"normalization": "batch"}, {"early_stopping": True}]),
    ids=str,
)
def test_no_estimator_calls_itself_non_deterministic(estimator):
    assert not get_tags(estimator).non_deterministic


def test_regressor_of_counts_says_that_its_target_is_not_negative():
    assert get_tags(DeepMLPRegressor("poisson")).target_tags.positive_only
    assert not get_tags(DeepMLPRegressor()).target_tags.positive_only


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_no_tag_excuses_an_estimator(cls):
    tags = get_tags(cls())
    assert not tags.no_validation
    assert not tags._skip_test
    assert tags.requires_fit
    assert tags.input_tags.two_d_array
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    assert not tags.input_tags.positive_only
    if tags.classifier_tags is not None:
        assert not tags.classifier_tags.poor_score
        assert tags.classifier_tags.multi_class
        assert tags.classifier_tags.multi_label
    if tags.regressor_tags is not None:
        assert not tags.regressor_tags.poor_score
