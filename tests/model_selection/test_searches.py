"""Fused searches and fused cross-validation give what scikit-learn's give."""

import copy
import io
import itertools
import pickle
import re
import warnings
from contextlib import redirect_stdout
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from conftest import CONTAINERS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform, uniform
from sklearn import config_context
from sklearn import model_selection as theirs
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import FitFailedWarning, UnsetMetadataPassedError
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, log_loss, make_scorer
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, ShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    HiddenActivations,
    model_selection,
)
from sknn_deep._estimators.jobs import FASTER_ALONE
from sknn_deep.model_selection import (
    FusedGridSearchCV,
    FusedHalvingGridSearchCV,
    FusedRandomizedSearchCV,
    _evaluation,
    _pipelines,
    _routes,
    cross_validate,
)
from tests.sklearn_checks import SAME_FOR_ALL_VALUES, with_checks

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

SMALL = {
    "hidden_layer_sizes": (6,),
    "learning_rate_init": 0.02,
    "max_iter": 3,
    "batch_size": 16,
    "random_state": 0,
    "device": "cpu",
}
RATES = {"learning_rate_init": [0.01, 0.05]}
N_ROWS = 60


def classifier(**params):
    return DeepMLPClassifier(**SMALL | params)


def regressor(**params):
    return DeepMLPRegressor(**SMALL | params)


def autoencoder(**params):
    return AutoencoderTransformer(n_components=2, **SMALL | params)


def pipeline(network=None, **params):
    return Pipeline([("scale", StandardScaler()), ("mlp", network or classifier(**params))])


def classes(n_classes=3):
    return make_classification(
        N_ROWS, 6, n_informative=4, n_redundant=0, n_classes=n_classes, random_state=0
    )


def labels():
    return make_multilabel_classification(N_ROWS, 6, n_classes=4, random_state=0)


def numbers(n_targets=1):
    X, y = make_regression(N_ROWS, 6, n_targets=n_targets, noise=1.0, random_state=0)
    return X, y / np.abs(y).max()


def search_both(estimator, grid, X, y=None, fit_params=None, **params):
    """Fit scikit-learn's search and ours alike; return both."""
    fit_params = fit_params or {}
    pair = [
        cls(clone(estimator), grid, **{"cv": 3, **params})
        for cls in (theirs.GridSearchCV, FusedGridSearchCV)
    ]
    return [search.fit(X, y, **fit_params) for search in pair]


def assert_same_results(expected, actual):
    """Compare two `cv_results_`: keys, order, types, masks and all values but the times."""
    assert list(actual) == list(expected)
    for key, value in expected.items():
        other = actual[key]
        assert type(other) is type(value), key
        if key == "params":
            assert list(map(str, other)) == list(map(str, value))
            continue
        assert other.dtype == value.dtype, key
        assert other.shape == value.shape, key
        if key.endswith("_time"):
            assert (np.isfinite(other) & (other >= 0)).all(), key
        elif isinstance(value, np.ma.MaskedArray):
            assert_array_equal(np.ma.getmaskarray(other), np.ma.getmaskarray(value))
            assert list(map(str, other)) == list(map(str, value))
        else:
            assert_allclose(other, value, rtol=1e-6, atol=1e-9, err_msg=key)


def assert_same_search(expected, actual):
    """Compare all that a search has learned."""
    assert_same_results(expected.cv_results_, actual.cv_results_)
    fitted = {name for name in vars(expected) if name.endswith("_")}
    added = {"fused_", "not_fused_reasons_"}
    assert {name for name in vars(actual) if name.endswith("_")} == fitted | added
    for name in fitted & {"best_index_", "n_splits_", "multimetric_"}:
        assert getattr(actual, name) == getattr(expected, name)
    assert str(getattr(actual, "best_params_", 0)) == str(getattr(expected, "best_params_", 0))
    shape = (len(expected.cv_results_["params"]), expected.n_splits_)
    assert actual.fused_.shape == actual.not_fused_reasons_.shape == shape
    assert_array_equal(actual.fused_, actual.not_fused_reasons_ == "")


def assert_same(estimator, grid, X, y=None, fit_params=None, **params):
    """Search both ways and compare; return our search."""
    expected, actual = search_both(estimator, grid, X, y, fit_params, **params)
    assert_same_search(expected, actual)
    return actual


GRIDS = {
    "learning rate and penalty": {"learning_rate_init": [1e-3, 1e-2], "alpha": [0.0, 0.1]},
    "shapes": {"hidden_layer_sizes": [(6,), (8,), (6, 4), ()], "alpha": [0.0, 0.1]},
    "momentum": {
        "solver": ["sgd"],
        "momentum": [0.0, 0.5, 0.9],
        "nesterovs_momentum": [True, False],
    },
    "betas": {"beta_1": [0.8, 0.9], "beta_2": [0.99, 0.999], "epsilon": [1e-8, 1e-4]},
    "seeds": {"random_state": [0, 1, 2]},
    "dropout": {"dropout": [0.0, 0.2, 0.5, [0.1]]},
    "weight decay": {"weight_decay": [None, 0.0, 0.1, 10.0]},
    "adamw": {"solver": ["adamw"], "weight_decay": [None, 0.1]},
    "solvers": {"solver": ["adam", "sgd", "lbfgs", "rmsprop", "nadam", "muon"]},
    "a user's solver": {"solver": ["adam", torch.optim.ASGD]},
    "schedules": {
        "solver": ["sgd"],
        "learning_rate": ["constant", "invscaling", "adaptive", "cosine", "one_cycle"],
    },
    "epochs": {"max_iter": [1, 2, 5]},
    "early stopping": {"early_stopping": [True, False], "random_state": [0, 1]},
    "stopping at different epochs": {
        "max_iter": [30],
        "tol": [0.0, 0.02],
        "n_iter_no_change": [1, 2],
        "learning_rate_init": [0.01, 0.1],
    },
    "early stopping at different epochs": {
        "early_stopping": [True],
        "scoring": [None, "loss"],
        "max_iter": [20],
        "n_iter_no_change": [1, 3],
        "validation_fraction": [0.1, 0.3],
    },
    "batches": {"batch_size": ["auto", 7, 16, 40], "shuffle": [True, False]},
    "activations": {"activation": ["relu", "tanh", "gelu", ["selu"]]},
    "normalization": {"normalization": [None, "batch", "layer"]},
    "gradient clipping": {"max_grad_norm": [None, 0.1]},
    "types": {"dtype": ["auto", "float32", "float64"]},
    "class weights": {"class_weight": [None, "balanced", {0: 2.0}], "label_smoothing": [0, 0.1]},
    "several grids": [
        {"alpha": [0.0, 0.1]},
        {"solver": ["sgd"], "momentum": [0.5], "alpha": [0.1]},
        {"hidden_layer_sizes": [(4,)]},
    ],
    "one candidate": {"alpha": [0.1]},
    "nothing": {},
}


alone_or_not = pytest.mark.filterwarnings("ignore:No fits could be trained together")


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@alone_or_not
def test_same_answer_for_every_kind_of_grid(grid):
    X, y = classes()
    assert_same(classifier(), grid, X, y)


@pytest.mark.parametrize(
    ("estimator", "grid", "data"),
    [
        (classifier(), RATES, classes(2)),
        (classifier(), RATES, labels()),
        (classifier(early_stopping=True), RATES, classes(2)),
        (regressor(), RATES, numbers()),
        (regressor(), RATES, numbers(n_targets=3)),
        (regressor(), {"loss": ["squared_error", "absolute_error", "huber"]}, numbers()),
        (autoencoder(), RATES, (numbers()[0], None)),
        (autoencoder(), {"n_components": [1, 3], "code_activation": ["tanh"]}, numbers()),
        (autoencoder(early_stopping=True), RATES, numbers()),
    ],
    ids=[
        "two classes",
        "multilabel",
        "stratified early stopping",
        "regressor",
        "three targets",
        "losses",
        "autoencoder without y",
        "codes",
        "autoencoder stopping early",
    ],
)
def test_same_answer_for_every_task(estimator, grid, data):
    search = assert_same(estimator, grid, *data, return_train_score=True)
    check_is_fitted(search.best_estimator_)


@pytest.mark.parametrize("name", CONTAINERS)
def test_same_answer_for_every_container(name, tmp_path):
    X, y = classes()
    assert_same(classifier(), RATES, CONTAINERS[name](X, tmp_path), y)


@pytest.mark.parametrize("make", [pd.Series, list, lambda y: np.array(list("abc"))[y]])
def test_same_answer_for_labels_of_any_kind(make):
    X, y = classes()
    search = assert_same(classifier(), RATES, X, make(y))
    assert set(search.predict(X)) <= set(make(y))


def test_single_precision_data_train_in_single_precision():
    X, y = classes()
    expected, actual = search_both(classifier(), RATES, X.astype(np.float32), y)
    assert actual.predict_proba(X).dtype == expected.predict_proba(X).dtype
    assert_array_equal(actual.cv_results_["mean_test_score"].shape, (2,))


def test_the_refitted_model_is_the_one_that_fit_gives():
    X, y = classes()
    expected, actual = search_both(classifier(), GRIDS["learning rate and penalty"], X, y)
    alone = classifier(**actual.best_params_).fit(X, y)
    assert_array_equal(actual.predict_proba(X), alone.predict_proba(X))
    assert_array_equal(actual.predict_proba(X), expected.predict_proba(X))
    assert_array_equal(actual.classes_, expected.classes_)
    assert actual.score(X, y) == expected.score(X, y)
    assert actual.n_features_in_ == 6


def test_names_of_features_are_kept():
    X, y = classes()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    search = FusedGridSearchCV(pipeline(), {"mlp__alpha": [0.0, 0.1]}, cv=3).fit(frame, y)
    assert_array_equal(search.feature_names_in_, frame.columns)


def worst(results):
    return int(np.argmin(results["mean_test_score"]))


def brier_and_accuracy(estimator, X, y):
    probabilities = estimator.predict_proba(X)
    return {"top": probabilities.max(), "accuracy": accuracy_score(y, estimator.predict(X))}


def own_score(estimator, X, y):
    assert isinstance(estimator, DeepMLPClassifier)
    return -log_loss(y, estimator.predict_proba(X), labels=[0, 1, 2])


@pytest.mark.parametrize(
    "params",
    [
        {"scoring": "neg_log_loss"},
        {"scoring": own_score},
        {"scoring": make_scorer(f1_score, average="macro")},
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": ("accuracy", "neg_log_loss"), "refit": False},
        {"scoring": {"first": "accuracy", "second": own_score}, "refit": "second"},
        {"scoring": brier_and_accuracy, "refit": "accuracy"},
        {"scoring": brier_and_accuracy, "refit": False},
        {"refit": False},
        {"refit": worst},
        {"return_train_score": True},
        {"scoring": ["accuracy"], "refit": "accuracy", "return_train_score": True},
    ],
    ids=lambda params: " ".join(params),  # an address would differ between the workers
)
def test_same_answer_for_every_way_to_judge(params):
    X, y = classes()
    search = assert_same(classifier(), GRIDS["learning rate and penalty"], X, y, **params)
    assert hasattr(search, "best_estimator_") == (params.get("refit", True) is not False)


def most_accurate(results):
    return int(np.argmax(results["mean_test_accuracy"]))


@pytest.mark.parametrize(
    ("scoring", "names", "remedy"),
    [
        (
            ["accuracy", "neg_log_loss"],
            "['accuracy', 'neg_log_loss']",
            "search.scorer_['accuracy'](search.best_estimator_, X, y), or pass refit='accuracy'.",
        ),
        (
            brier_and_accuracy,
            "['top', 'accuracy']",
            "search.scorer_(search.best_estimator_, X, y)['top'], or pass refit='top'.",
        ),
    ],
)
def test_a_function_for_refit_leaves_open_which_of_several_scores_to_return(scoring, names, remedy):
    X, y = classes()
    search = FusedGridSearchCV(classifier(), RATES, cv=2, scoring=scoring, refit=most_accurate)
    search.fit(X, y)
    with pytest.raises(ValueError, match=re.escape(f"names none of the metrics {names}")) as raised:
        search.score(X, y)
    assert str(raised.value).endswith(remedy)
    call = remedy.partition(", or pass")[0]
    assert isinstance(eval(call, {"search": search, "X": X, "y": y}), float)


def test_a_function_for_refit_scores_by_the_only_metric():
    X, y = classes()
    search = FusedGridSearchCV(classifier(), RATES, cv=2, scoring="accuracy", refit=worst)
    assert 0 <= search.fit(X, y).score(X, y) <= 1


GROUPS = np.repeat(np.arange(6), N_ROWS // 6)


@pytest.mark.parametrize(
    ("cv", "groups"),
    [
        (None, None),
        (2, None),
        (theirs.StratifiedKFold(4, shuffle=True, random_state=1), None),
        (theirs.RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0), None),
        (ShuffleSplit(2, test_size=0.3, random_state=0), None),
        (GroupKFold(3), GROUPS),
        (theirs.LeaveOneGroupOut(), GROUPS),
        (PredefinedSplit(GROUPS % 3 - 1), None),
        ([(np.arange(40), np.arange(40, 60)), (np.arange(30, 60), np.arange(30))], None),
        ([(np.arange(N_ROWS) < 40, np.arange(N_ROWS) >= 40)], None),
        ([(list(range(20, 60)), list(range(20)))], None),
    ],
    ids=str,
)
def test_same_answer_for_every_splitter(cv, groups):
    X, y = classes()
    fit_params = {} if groups is None else {"groups": groups}
    assert_same(classifier(), RATES, X, y, fit_params, cv=cv)


def test_wrong_number_of_splits_is_refused_as_by_scikit_learn():
    class Liar(KFold):
        def get_n_splits(self, X=None, y=None, groups=None):
            return 7

    X, y = classes()
    with pytest.raises(ValueError, match="inconsistent results. Expected 7 splits, got 3"):
        FusedGridSearchCV(classifier(), RATES, cv=Liar(3)).fit(X, y)


def test_an_empty_splitter_is_refused():
    class Empty(KFold):
        def get_n_splits(self, X=None, y=None, groups=None):
            return 0

        def split(self, X, y=None, groups=None):
            return iter(())

    X, y = classes()
    with pytest.raises(ValueError, match="No fits were performed"):
        FusedGridSearchCV(classifier(), RATES, cv=Empty()).fit(X, y)


@pytest.mark.parametrize("scoring", [None, ["accuracy"]])
def test_sample_weight_reaches_fit_and_scorer(scoring):
    X, y = classes()
    weight = np.random.default_rng(0).uniform(0.1, 2, N_ROWS)
    params = {"scoring": scoring, "refit": "accuracy" if scoring else True}
    assert_same(classifier(), RATES, X, y, {"sample_weight": weight}, **params)


def test_weights_reach_the_network_of_a_pipeline_by_its_name():
    X, y = classes()
    weight = np.random.default_rng(0).uniform(0.1, 2, N_ROWS)
    fit_params = {"mlp__sample_weight": weight, "scale__sample_weight": weight}
    assert_same(pipeline(), {"mlp__alpha": [0.0, 0.1]}, X, y, fit_params)


def test_a_validation_set_reaches_fit():
    X, y = classes()
    fit_params = {"X_val": X[:17], "y_val": y[:17]}
    assert_same(classifier(max_iter=6), RATES, X, y, fit_params)


@pytest.mark.parametrize("requests", [True, False])
def test_metadata_are_routed(requests):
    X, y = classes()
    weight = np.random.default_rng(0).uniform(0.1, 2, N_ROWS)
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=requests)
        estimator = Pipeline(
            [
                ("scale", StandardScaler().set_fit_request(sample_weight=requests)),
                ("mlp", classifier().set_fit_request(sample_weight=True)),
            ]
        )
        fit_params = {"sample_weight": weight, "groups": GROUPS}
        assert_same(
            estimator,
            {"mlp__alpha": [0.0, 0.1], "scale__with_mean": [True, False]},
            X,
            y,
            fit_params,
            scoring=scorer,
            cv=GroupKFold(3),
        )


def test_networks_that_are_candidates_get_the_metadata_that_each_asks_for():
    X, y = classes()
    weight = np.random.default_rng(0).uniform(0.1, 2, N_ROWS)
    with config_context(enable_metadata_routing=True):
        networks = [classifier().set_fit_request(sample_weight=asks) for asks in (True, False)]
        estimator = Pipeline(
            [
                ("scale", StandardScaler().set_fit_request(sample_weight=True)),
                ("mlp", networks[0]),
            ]
        )
        scorer = make_scorer(log_loss, response_method="predict_proba", greater_is_better=False)
        scorer = scorer.set_score_request(sample_weight=False)
        search = assert_same(
            estimator, {"mlp": networks}, X, y, {"sample_weight": weight}, scoring=scorer
        )
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]


def test_metadata_that_nobody_asked_about_are_refused():
    X, y = classes()
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(UnsetMetadataPassedError, match="sample_weight"),
    ):
        FusedGridSearchCV(classifier(), RATES).fit(X, y, sample_weight=np.ones(N_ROWS))


def test_a_validation_set_goes_through_the_pipeline():
    X, y = classes()
    with config_context(enable_metadata_routing=True):
        network = classifier(max_iter=6).set_fit_request(X_val=True, y_val=True)
        estimator = make_pipeline(StandardScaler(), network, transform_input=["X_val"])
        fit_params = {"X_val": X[:17] + 1, "y_val": y[:17]}
        grid = {"deepmlpclassifier__alpha": [0.0, 0.1]}
        assert_same(estimator, grid, X, y, fit_params)


# pipelines

PIPELINE_GRIDS = {
    "network": {"mlp__alpha": [0.0, 0.1], "mlp__learning_rate_init": [0.01, 0.1]},
    "both": {"mlp__alpha": [0.0, 0.1], "scale__with_mean": [True, False]},
    "steps replaced": {
        "scale": [StandardScaler(), MinMaxScaler(), "passthrough", None],
        "mlp__alpha": [0.0, 0.1],
    },
    "networks replaced": {
        "mlp": [classifier(), classifier(hidden_layer_sizes=(4,)), LogisticRegression()],
        "scale__with_std": [True, False],
    },
    "several grids": [
        {"scale": [PCA(2, random_state=0)], "mlp__alpha": [0.0, 0.1]},
        {"scale": [PCA(random_state=0)], "scale__n_components": [2, 3], "mlp__dropout": [0.2]},
        {"scale": [SelectKBest(k=3)], "mlp__hidden_layer_sizes": [(4,), (5,)]},
    ],
    "all steps": {
        "steps": [
            [("a", MinMaxScaler()), ("b", classifier())],
            [("b", classifier())],
            [("a", StandardScaler()), ("b", LogisticRegression())],
        ]
    },
}


@pytest.mark.parametrize("grid", PIPELINE_GRIDS.values(), ids=PIPELINE_GRIDS)
def test_same_answer_for_pipelines(grid):
    X, y = classes()
    search = assert_same(pipeline(), grid, X, y, return_train_score=True)
    assert isinstance(search.best_estimator_, Pipeline)


def test_same_answer_for_nested_pipelines():
    X, y = classes()
    inner = Pipeline([("pca", PCA(random_state=0)), ("mlp", classifier())])
    estimator = Pipeline([("scale", StandardScaler()), ("rest", inner)])
    grid = {
        "scale__with_mean": [True, False],
        "rest__pca__n_components": [2, 3],
        "rest__mlp__alpha": [0.0, 0.1],
    }
    search = assert_same(estimator, grid, X, y)
    assert not any("is no deep network" in reason for reason in search.not_fused_reasons_.flat)


def test_same_answer_for_an_autoencoder_at_the_end_of_a_pipeline():
    X, _ = classes()
    estimator = Pipeline([("scale", MinMaxScaler()), ("code", autoencoder())])
    search = assert_same(estimator, {"code__n_components": [1, 3], "scale__clip": [True]}, X)
    assert search.transform(X).shape == (N_ROWS, search.best_params_["code__n_components"])


def test_same_answer_for_an_autoencoder_within_a_pipeline():
    X, y = classes()
    estimator = Pipeline([("code", autoencoder()), ("mlp", classifier())])
    assert_same(estimator, {"code__n_components": [1, 3], "mlp__alpha": [0.0, 0.1]}, X, y)


CODED = [
    ("scale", StandardScaler()),
    ("code", autoencoder(max_iter=3)),
    ("rescale", StandardScaler()),
]


@pytest.mark.parametrize("last", [LogisticRegression(), classifier()])
@pytest.mark.parametrize(
    "grid",
    [
        {"code__alpha": [0.0, 0.1], "code__learning_rate_init": [0.01, 0.02]},
        {"code__alpha": [0.0, 0.1], "scale__with_mean": [True, False], "last": None},
        {"code": [autoencoder(), autoencoder(alpha=0.1), "passthrough"]},
    ],
)
def test_autoencoders_within_a_pipeline_are_trained_together(grid, last, calls):
    X, y = classes()
    name, value = ("C", [0.1, 1.0]) if isinstance(last, LogisticRegression) else ("alpha", [0, 1])
    if "last" in grid:
        grid = {**grid, f"last__{name}": value}
        del grid["last"]
    search = assert_same(Pipeline([*CODED, ("last", last)]), grid, X, y, cv=2, refit=False)
    is_network = isinstance(last, DeepMLPClassifier)
    assert search.fused_[:2].all()
    # once for each fold and setting of theirs
    n_codes = 2 * (2 if "code" in grid else 4)
    n_jobs = [len(call.jobs) for call in calls]
    assert n_jobs == [n_codes] + is_network * [search.fused_.size]


def test_an_autoencoder_within_transformed_targets_is_trained_with_others():
    X, y = numbers()
    estimator = targets_scaled(Pipeline([*CODED, ("last", Ridge())]))
    grid = {"regressor__code__alpha": [0.0, 0.1], "regressor__last__alpha": [0.1, 1.0]}
    assert assert_same(estimator, grid, X, y, cv=2).fused_.all()


def test_folds_get_the_autoencoder_that_was_trained_for_them_and_no_stand_in():
    X, y = classes()
    estimator = Pipeline([*CODED, ("last", LogisticRegression())])
    for fitted in cross_validate(estimator, X, y, cv=2, return_estimator=True)["estimator"]:
        assert list(map(type, fitted)) == [
            StandardScaler, AutoencoderTransformer, StandardScaler, LogisticRegression,
        ]  # fmt: skip
        assert check_is_fitted(fitted[1]) is None
        assert pickle.loads(pickle.dumps(fitted)).score(X, y) == fitted.score(X, y)


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores"
)
@pytest.mark.parametrize("last", [LogisticRegression(), classifier()])
def test_an_autoencoder_that_fails_fails_the_candidates_that_share_it(last):
    X, y = classes()
    estimator = Pipeline([*CODED, ("last", last)])
    search = assert_same(estimator, {"code__alpha": [0.0, -1.0]}, X, y, cv=2, refit=False)
    assert_array_equal(np.isnan(search.cv_results_["mean_test_score"]), [False, True])
    failing = FusedGridSearchCV(estimator, {"code__alpha": [-1.0]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="'alpha' parameter"):
        failing.fit(X, y)


def test_same_answer_for_columns_of_a_frame():
    X, y = classes()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    columns = ColumnTransformer([("first", StandardScaler(), ["a", "b"])], remainder="passthrough")
    estimator = make_pipeline(columns.set_output(transform="pandas"), classifier())
    assert_same(estimator, {"deepmlpclassifier__alpha": [0.0, 0.1]}, frame, y)


def test_same_answer_for_texts():
    texts = np.array(["a b", "b c", "c a a", "b b"] * 15, dtype=object)
    y = np.array([0, 1, 0, 1] * 15)
    from sklearn.feature_extraction.text import TfidfVectorizer

    estimator = make_pipeline(TfidfVectorizer(token_pattern=r"\w"), classifier())
    for X in (texts, texts.tolist()):
        assert_same(estimator, {"deepmlpclassifier__alpha": [0.0, 0.1]}, X, y)


def test_same_answer_for_a_step_that_makes_sparse_rows():
    X, y = classes()
    estimator = make_pipeline(FunctionTransformer(sp.csr_matrix), classifier())
    assert_same(estimator, {"deepmlpclassifier__alpha": [0.0, 0.1]}, X, y)


def test_same_answer_for_a_precomputed_kernel():
    from sklearn.decomposition import KernelPCA

    X, y = classes()
    estimator = make_pipeline(
        KernelPCA(2, kernel="precomputed", eigen_solver="dense"), classifier()
    )
    grid = {"deepmlpclassifier__alpha": [0.0, 0.1]}
    assert_same(estimator, grid, X @ X.T, y, return_train_score=True)


# joblib warns where it takes long to write, as on a busy machine
@pytest.mark.filterwarnings("ignore:Persisting input arguments took")
def test_the_pipeline_s_memory_is_used(tmp_path):
    X, y = classes()
    estimator = pipeline().set_params(memory=str(tmp_path / "steps"))
    assert_same(estimator, PIPELINE_GRIDS["both"], X, y)
    assert (tmp_path / "steps").exists()


class Watcher(TransformerMixin, BaseEstimator):
    """Notes the rows of every fit in a list that its clones share."""

    seen: list = []

    def __init__(self, factor=1.0, broken=False):
        self.factor = factor
        self.broken = broken

    def fit(self, X, y=None):
        if self.broken:
            raise ArithmeticError("broken")
        self.seen.append((self.factor, frozenset(X[:, 0].tolist())))
        self.fitted_ = True
        return self

    def transform(self, X):
        return X * self.factor


@pytest.fixture
def seen():
    Watcher.seen.clear()
    return Watcher.seen


def test_steps_are_fitted_once_for_each_fold_and_setting(seen):
    X, y = classes()
    estimator = make_pipeline(Watcher(), StandardScaler(), classifier())
    grid = {
        "watcher__factor": [1.0, 2.0],
        "standardscaler": ["passthrough"],
        "deepmlpclassifier__alpha": [0.0, 0.1, 0.2],
        "deepmlpclassifier__hidden_layer_sizes": [(4,), (5,)],
    }
    FusedGridSearchCV(estimator, grid, cv=3, refit=False).fit(X, y)
    assert len(seen) == 3 * 2
    assert len(set(seen)) == len(seen)


def test_a_step_that_is_a_candidate_is_fitted_once_for_each_fold(seen):
    X, y = classes()
    grid = {"scale": [Watcher(2.0), "passthrough"], "mlp__alpha": [0.0, 0.1, 0.2]}
    FusedGridSearchCV(pipeline(), grid, cv=3, refit=False).fit(X, y)
    assert len(seen) == 3


def test_steps_never_see_the_test_fold(seen):
    X, y = classes()
    X[:, 0] = np.arange(N_ROWS)
    cv = KFold(4, shuffle=True, random_state=0)
    estimator = make_pipeline(Watcher(), classifier())
    grid = {"deepmlpclassifier__alpha": [0.0, 0.1]}
    FusedGridSearchCV(estimator, grid, cv=cv, refit=False).fit(X, y)
    assert [rows for _, rows in seen] == [frozenset(X[train, 0]) for train, _ in cv.split(X)]


def test_numbers_that_are_equal_but_of_other_types_are_other_settings(seen):
    X, y = classes()
    estimator = make_pipeline(Watcher(), classifier())
    FusedGridSearchCV(estimator, {"watcher__factor": [1, 1.0, True]}, cv=2, refit=False).fit(X, y)
    assert len(seen) == 6


def test_what_scorers_get_is_a_fitted_pipeline():
    X, y = classes()
    given = []

    def scoring(estimator, X, y):
        check_is_fitted(estimator)
        given.append(estimator)
        return estimator.score(X, y)

    estimator = pipeline()
    grid = {"mlp__alpha": [0.0, 0.1], "scale__with_mean": [True, False]}
    FusedGridSearchCV(estimator, grid, cv=2, scoring=scoring, refit=False).fit(X, y)
    assert {type(each) for each in given} == {Pipeline}
    train, _ = next(theirs.StratifiedKFold(2).split(X, y))
    alone = pipeline(alpha=0.0).fit(X[train], y[train])
    assert given[0]["mlp"].alpha == 0.0
    assert_allclose(given[0].predict_proba(X), alone.predict_proba(X), rtol=1e-9)
    assert_array_equal(given[0]["scale"].mean_, alone["scale"].mean_)


def test_the_estimator_of_the_user_is_left_as_it_was():
    X, y = classes()
    estimator = pipeline()
    before = str(estimator.get_params())
    grid = {"scale": [StandardScaler()], "mlp": [classifier()], "mlp__alpha": [0.1]}
    FusedGridSearchCV(estimator, grid, cv=2).fit(X, y)
    assert str(estimator.get_params()) == before
    for part in (estimator["scale"], estimator["mlp"], grid["scale"][0], grid["mlp"][0]):
        assert not any(name.endswith("_") for name in vars(part))


# failures


@pytest.mark.parametrize("scoring", [None, ["accuracy", "neg_log_loss"], brier_and_accuracy])
@pytest.mark.parametrize(("error_score", "return_train_score"), [(np.nan, True), (-1.0, False)])
def test_fits_that_fail_get_the_error_score(scoring, error_score, return_train_score):
    X, y = classes()
    params = {
        "scoring": scoring,
        "refit": "accuracy" if scoring else True,
        "error_score": error_score,
        "return_train_score": return_train_score,
    }
    results = []
    for cls in (theirs.GridSearchCV, FusedGridSearchCV):
        with pytest.warns() as warned:
            search = cls(classifier(), {"alpha": [-1.0, 0.1]}, cv=3, **params).fit(X, y)
        (failed,) = [each for each in warned if each.category is FitFailedWarning]
        assert "3 fits failed out of a total of 6" in str(failed.message)
        results.append((search, {each.category for each in warned}))
    assert_same_search(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


# Most parameters refuse most of these.
ODD = (-1, 0, 0.5, 1.0, 2.5, np.nan, "no such", None, (), [-1], {"no": 1})
# What draws anew each time.
UNLIKE = {"random_state": (None,)}


def _parameters_of(*makers):
    """Return an estimator, a parameter and what it is by default; each parameter once."""
    found = {}
    for make in makers:
        for name, value in make(max_iter=1).get_params().items():
            found.setdefault(name, pytest.param(make, name, value, id=f"{make.__name__}-{name}"))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name", "default"), _parameters_of(classifier, regressor, autoencoder)
)
def test_whatever_value_a_parameter_has_both_searches_fail_alike(make, name, default):
    X, y = classes() if make is classifier else numbers()
    odd = [value for value in ODD if value not in UNLIKE.get(name, ())]
    one_split = ShuffleSplit(1, random_state=0)
    results, reasons = [], []
    for cls in (theirs.GridSearchCV, FusedGridSearchCV):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search = cls(make(max_iter=1), {name: [default, *odd]}, cv=one_split, refit=False)
            search.fit(X, None if make is autoencoder else y)
        results.append(search.cv_results_)
        told = [str(each.message) for each in caught if each.category is FitFailedWarning]
        reasons.append(sorted(re.findall(r"^\w*(?:Error|Exception): .*", "".join(told), re.M)))
    assert_same_results(*results)
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize("n_broken", [1, 2])
def test_a_step_that_fails_fails_the_candidates_that_share_it(n_broken, seen):
    X, y = classes()
    estimator = make_pipeline(Watcher(), classifier())
    grid = {"watcher__broken": [True, False][:n_broken], "deepmlpclassifier__alpha": [0.0, 0.1]}
    if n_broken == 1:
        with pytest.raises(ValueError, match="(?s)All the 6 fits failed.*6 fits.*broken"):
            FusedGridSearchCV(estimator, grid, cv=3).fit(X, y)
        return
    with pytest.warns() as warned:
        search = FusedGridSearchCV(estimator, grid, cv=3).fit(X, y)
    assert any("ArithmeticError: broken" in str(each.message) for each in warned)
    assert_array_equal(np.isnan(search.cv_results_["mean_test_score"]), [True, False] * 2)
    assert set(search.not_fused_reasons_[0]) == {"a step before the network failed"}


def test_all_fits_failing_is_an_error():
    X, y = classes()
    with pytest.raises(ValueError, match="(?s)All the 3 fits failed.*'alpha' parameter"):
        FusedGridSearchCV(classifier(), {"alpha": [-1.0]}, cv=3).fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "grid", "error"),
    [
        (classifier(), {"alpha": [0.1, -1.0]}, ValueError),
        (make_pipeline(Watcher(), classifier()), {"watcher__broken": [True]}, ArithmeticError),
        (pipeline(), {"mlp": [classifier(), LogisticRegression(C=-1)]}, ValueError),
    ],
)
def test_errors_are_raised_where_asked(estimator, grid, error):
    X, y = classes()
    with pytest.raises(error):
        FusedGridSearchCV(estimator, grid, error_score="raise", cv=2).fit(X, y)


def test_a_parameter_that_does_not_exist_is_an_error():
    X, y = classes()
    with pytest.raises(ValueError, match="Invalid parameter 'no'"):
        FusedGridSearchCV(classifier(), {"no": [1]}).fit(X, y)


def test_scorers_that_fail_get_the_error_score():
    X, y = classes()

    def scoring(estimator, X, y):
        if estimator.alpha:
            raise ArithmeticError("no score")
        return 1.0

    with pytest.warns(UserWarning, match="Scoring failed|non-finite") as warned:
        search = FusedGridSearchCV(
            classifier(), {"alpha": [0.0, 0.1]}, cv=2, scoring=scoring, refit=False
        ).fit(X, y)
    assert sum("no score" in str(each.message) for each in warned) == 2
    assert_array_equal(search.cv_results_["mean_test_score"], [1.0, np.nan])


def test_a_nan_in_a_test_row_is_no_error_of_the_fit():
    X, y = classes()
    X[0, 0] = np.nan
    cv = [(np.arange(20, 60), np.arange(1, 20)), (np.arange(10, 60), np.arange(1, 10))]
    assert_same(classifier(), RATES, X, y, cv=cv, refit=False)


# what is not fused


def test_what_is_not_ours_is_fitted_as_by_scikit_learn():
    X, y = classes()
    search = assert_same(LogisticRegression(), {"C": [0.1, 1.0]}, X, y)
    reasons = set(search.not_fused_reasons_.flat)
    assert reasons == {"LogisticRegression is no deep network of this package"}
    expected = theirs.cross_validate(LogisticRegression(), X, y)["test_score"]
    assert_array_equal(cross_validate(LogisticRegression(), X, y)["test_score"], expected)


def test_a_network_among_the_candidates_is_enough():
    X, y = classes()
    estimator = Pipeline([("last", LogisticRegression())])
    search = assert_same(estimator, {"last": [LogisticRegression(), classifier()]}, X, y)
    reasons = set(search.not_fused_reasons_[0])
    assert reasons == {"LogisticRegression is no deep network of this package"}


def targets_scaled(network):
    return TransformedTargetRegressor(network, transformer=StandardScaler())


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize(
    ("estimator", "path"),
    [
        (targets_scaled(regressor()), "regressor"),
        (targets_scaled(pipeline(regressor())), "regressor__mlp"),
        (
            Pipeline([("scale", StandardScaler()), ("y", targets_scaled(regressor()))]),
            "y__regressor",
        ),
    ],
)
def test_networks_behind_transformed_targets_are_trained_together(estimator, path, n_targets):
    X, y = numbers(n_targets)
    frame = pd.DataFrame(X).add_prefix("x")
    search = assert_same(estimator, {f"{path}__alpha": [0.0, 0.1]}, frame, y, refit=False)
    assert search.fused_.all()
    scores = cross_validate(estimator, frame, y, cv=2, return_estimator=True)
    expected = clone(estimator).fit(frame, y).get_params()
    for fitted in scores["estimator"]:
        assert list(fitted.feature_names_in_) == list(frame)
        assert str(fitted.get_params()) == str(expected)


def test_a_default_regressor_behind_transformed_targets_is_no_network():
    X, y = numbers()
    reasons = assert_same(TransformedTargetRegressor(), {"check_inverse": [True]}, X, y)
    assert not reasons.fused_.any()


@alone_or_not
def test_wrappers_are_fitted_one_by_one():
    X, y = numbers()
    estimator = BaggingRegressor(regressor(), n_estimators=1, random_state=0)
    search = assert_same(estimator, {"estimator__alpha": [0.0, 0.1]}, X, y)
    assert not search.fused_.any()
    assert set(search.not_fused_reasons_.flat) == {
        "BaggingRegressor is no deep network of this package"
    }


@alone_or_not
def test_a_network_inside_a_step_is_named_where_no_network_follows():
    X, y = classes()
    features = HiddenActivations(classifier())
    estimator = make_pipeline(StandardScaler(), make_pipeline(features), LogisticRegression())
    search = assert_same(estimator, {"logisticregression__C": [0.1, 1.0]}, X, y, cv=2)
    assert set(search.not_fused_reasons_.flat) == {
        "the network inside HiddenActivations is followed by LogisticRegression, which is no deep "
        "network of this package"
    }
    assert not search.fused_.any()


class OwnFit(DeepMLPClassifier):
    def fit(self, X, y):
        self.was_here_ = True
        return super().fit(X, y)


class OwnMethod(DeepMLPClassifier):
    def surprise(self, X):
        return -np.log(self.predict_proba(X))


@pytest.mark.parametrize(("cls", "has_own_fit"), [(OwnFit, True), (OwnMethod, False)])
@alone_or_not
def test_a_subclass_with_a_fit_of_its_own_is_fitted_by_it(cls, has_own_fit):
    X, y = classes()
    search = assert_same(cls(**SMALL), RATES, X, y)
    told = "OwnFit is no deep network of this package"
    assert ({told} == set(search.not_fused_reasons_.flat)) == has_own_fit


@pytest.mark.parametrize("grid", [{"solver": ["adamw", "lbfgs"]}, {"warm_start": [False, True]}])
def test_a_search_says_so_where_nothing_is_trained_together(grid):
    X, y = classes()
    search = FusedGridSearchCV(classifier(solver="adamw", max_iter=3), grid, cv=2, refit=False)
    with pytest.warns(
        UserWarning, match="no faster than scikit-learn's: solver='adamw'"
    ) as records:
        search.fit(X, y)
    (told,) = [
        item
        for item in records
        if issubclass(item.category, UserWarning) and "trained together" in str(item.message)
    ]
    assert told.filename == __file__
    if "solver" in grid:
        assert "; solver='lbfgs' is not supported in stacks." in str(told.message)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_says_nothing_where_networks_are_as_fast_alone():
    X, y = classes()
    shapes = {"hidden_layer_sizes": [(3,), (4,)]}
    search = FusedGridSearchCV(classifier(), shapes, cv=[(range(20), range(20, 40))], refit=False)
    assert not search.fit(X, y).fused_.any()
    assert set(search.not_fused_reasons_.flat) == {FASTER_ALONE}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_of_which_a_part_is_trained_together_says_nothing():
    X, y = classes()
    grid = {"solver": ["adam", "adamw"]}
    FusedGridSearchCV(classifier(max_iter=3), grid, cv=2, refit=False).fit(X, y)


class Counter(Callback):
    epochs: list = []

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(net)


def test_skorch_callbacks_are_called():
    X, y = classes()
    Counter.epochs.clear()
    grid = {"callbacks": [None, [Counter()]], "alpha": [0.1]}
    search = FusedGridSearchCV(classifier(), grid, cv=2, refit=False).fit(X, y)
    assert len(Counter.epochs) == 2 * SMALL["max_iter"]
    assert not search.fused_[1].any()


# scikit-learn's callbacks


class Recorder:
    """A callback of scikit-learn that is not handed on to the estimators."""

    def __init__(self):
        self.events = []

    def __deepcopy__(self, memo):
        return self

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.events.append(("begin", context.task_name, context.task_id, type(estimator).__name__))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None):
        rows = None if X is None else len(X)
        self.events.append(("end", context.task_name, context.task_id, rows, metadata is None))


class HandedOn(Recorder):
    """A callback that searches hand on to their estimators."""

    max_propagation_depth = None


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("estimator", [classifier(), pipeline()])
def test_callbacks_hear_of_the_search_and_of_every_fit(estimator, weighted):
    X, y = classes()
    name = "mlp__" if isinstance(estimator, Pipeline) else ""
    fit_params = {f"{name}sample_weight": np.ones(N_ROWS)} if weighted and not name else {}
    heard = []
    for cls in (theirs.GridSearchCV, FusedGridSearchCV):
        recorder = Recorder()
        search = cls(clone(estimator), {f"{name}alpha": [0.0, 0.1]}, cv=2)
        search.set_callbacks(recorder).fit(X, y, **fit_params)
        heard.append([str(event).replace("Fused", "") for event in recorder.events])
    assert sorted(heard[0]) == sorted(heard[1])
    assert heard[0][:3] == heard[1][:3]
    assert heard[0][-4:] == heard[1][-4:]


def test_a_failed_fit_ends_its_task_too(seen):
    X, y = classes()
    recorder = Recorder()
    grid = {"watcher__broken": [True, False]}
    search = FusedGridSearchCV(make_pipeline(Watcher(), classifier()), grid, cv=2, refit=False)
    with pytest.warns():
        search.set_callbacks(recorder).fit(X, y)
    tasks = [event for event in recorder.events if "candidate-split-evaluation" in event]
    assert sorted(event[0] for event in tasks) == ["begin"] * 4 + ["end"] * 4


def test_callbacks_are_handed_on_to_what_is_fitted_by_itself():
    X, y = numbers()
    recorder = HandedOn()
    estimator = Pipeline([("last", BaggingRegressor(regressor(), n_estimators=1))])
    grid = {"last": [BaggingRegressor(regressor(), n_estimators=1), regressor()]}
    search = FusedGridSearchCV(estimator, grid, cv=2, refit=False)
    with pytest.warns(UserWarning, match="does not support callbacks"):
        search.set_callbacks(recorder).fit(X, y)
    named = [event[1] for event in recorder.events if event[0] == "begin"]
    # GridSearchCV's task and the pipeline's are one, whose name is then the pipeline's
    assert named.count("fit-final-estimator") == 2
    assert named.count("candidate-split-evaluation") == 2


@alone_or_not
def test_a_network_with_callbacks_of_its_own_is_fitted_by_itself():
    X, y = classes()
    recorder = Recorder()
    search = FusedGridSearchCV(classifier().set_callbacks(recorder), RATES, cv=2, refit=False)
    search.fit(X, y)
    reason = "scikit-learn's callbacks are registered on the estimator"
    assert set(search.not_fused_reasons_.flat) == {reason}
    assert sum(event[:2] == ("begin", "epoch") for event in recorder.events) == 12


@pytest.mark.parametrize("estimator", [classifier(), pipeline()])
def test_a_progress_bar_runs_over_the_whole_search(estimator):
    X, y = classes()
    name = "mlp__alpha" if isinstance(estimator, Pipeline) else "alpha"
    search = FusedGridSearchCV(estimator, {name: [0.0, 0.1]}, cv=2)
    with redirect_stdout(io.StringIO()) as printed:
        search.set_callbacks(ProgressBar(max_propagation_depth=0)).fit(X, y)
    assert "FusedGridSearchCV - search" in printed.getvalue()
    assert "100%" in printed.getvalue()


# messages


@pytest.mark.parametrize(
    ("verbose", "scoring", "return_train_score"),
    [
        (1, None, False),
        (2, None, True),
        (3, None, True),
        (3, ["accuracy", "neg_log_loss"], False),
        (10, ["accuracy", "neg_log_loss"], True),
    ],
)
def test_messages_are_those_of_scikit_learn(verbose, scoring, return_train_score):
    X, y = classes()
    printed = []
    for cls in (theirs.GridSearchCV, FusedGridSearchCV):
        search = cls(
            classifier(),
            {"alpha": [0.0, 0.1], "beta_1": [0.9]},
            cv=2,
            refit=False,
            verbose=verbose,
            scoring=scoring,
            return_train_score=return_train_score,
        )
        with redirect_stdout(io.StringIO()) as lines:
            search.fit(X, y)
        printed.append(sorted(re.sub(r"time= .*s", "", lines.getvalue()).splitlines()))
    assert printed[0] == printed[1]


# random search, other searches


@pytest.mark.parametrize(
    "candidates",
    [
        {"learning_rate_init": loguniform(1e-3, 1e-1), "dropout": uniform(0, 0.5)},
        {"alpha": [0.0, 0.1, 0.2], "hidden_layer_sizes": [(4,), (5,)]},
        [{"alpha": uniform(0, 1)}, {"momentum": uniform(0, 0.9), "solver": ["sgd"]}],
    ],
    ids=["distributions", "lists", "several"],
)
def test_random_search_draws_the_same_candidates(candidates):
    X, y = classes()
    params = {"n_iter": 4, "cv": 2, "random_state": 3, "return_train_score": True}
    expected, actual = (
        cls(classifier(), candidates, **params).fit(X, y)
        for cls in (theirs.RandomizedSearchCV, FusedRandomizedSearchCV)
    )
    assert_same_search(expected, actual)


def test_random_search_over_a_pipeline():
    X, y = classes()
    candidates = {"scale__with_mean": [True, False], "mlp__alpha": loguniform(1e-3, 1)}
    params = {"n_iter": 5, "cv": 2, "random_state": 0}
    expected, actual = (
        cls(pipeline(), candidates, **params).fit(X, y)
        for cls in (theirs.RandomizedSearchCV, FusedRandomizedSearchCV)
    )
    assert_same_search(expected, actual)


def _in_steps(self, evaluate_candidates):
    first = evaluate_candidates([{"alpha": 0.0}, {"alpha": 0.1}])
    better = first["params"][int(np.argmax(first["mean_test_score"]))]
    both = evaluate_candidates(
        [{"alpha": better["alpha"] + 0.5}], more_results={"step": [1]}, cv=KFold(3)
    )
    assert len(both["params"]) == 3


class TheirStepwiseSearch(theirs.GridSearchCV):
    _run_search = _in_steps


class StepwiseSearch(FusedGridSearchCV):
    _run_search = _in_steps


@pytest.mark.filterwarnings("ignore:.*callbacks")
def test_searches_that_go_in_steps():
    X, y = classes()
    expected, actual = (
        cls(classifier(), {}, cv=3).fit(X, y) for cls in (TheirStepwiseSearch, StepwiseSearch)
    )
    assert_same_search(expected, actual)
    assert actual.fused_.shape == (3, 3)


# workers


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_same_answer_with_other_joblib_backends(backend):
    X, y = classes()
    grid = PIPELINE_GRIDS["networks replaced"]
    alone = FusedGridSearchCV(pipeline(), grid, cv=3).fit(X, y)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        spread = FusedGridSearchCV(pipeline(), grid, cv=3).fit(X, y)
    assert_same_results(alone.cv_results_, spread.cv_results_)


@pytest.mark.slow
def test_same_answer_with_two_processes():
    X, y = classes()
    grid = {"scale": [StandardScaler(), "passthrough"], "mlp": [classifier(), LogisticRegression()]}
    alone = FusedGridSearchCV(pipeline(), grid, cv=3).fit(X, y)
    spread = FusedGridSearchCV(pipeline(), grid, cv=3, n_jobs=2).fit(X, y)
    assert_same_search_parts(alone, spread)
    X_big = np.random.default_rng(0).normal(size=(N_ROWS, 4000))  # joblib maps it into memory
    alone = FusedGridSearchCV(classifier(), RATES, cv=2, refit=False).fit(X_big, y)
    spread = FusedGridSearchCV(classifier(), RATES, cv=2, refit=False, n_jobs=2).fit(X_big, y)
    assert_same_search_parts(alone, spread)
    # what goes on comes back from one process and is sent to another
    alone, spread = (
        FusedHalvingGridSearchCV(
            pipeline(autoencoder()), {"mlp__alpha": [0.0, 0.1, 1.0]}, cv=2, n_jobs=n_jobs,
            resource="mlp__max_iter", max_resources=6,
        ).fit(X)
        for n_jobs in (1, 2)
    )  # fmt: skip
    assert_same_results(alone.cv_results_, spread.cv_results_)


def assert_same_search_parts(alone, spread):
    assert_same_results(alone.cv_results_, spread.cv_results_)
    assert_array_equal(alone.not_fused_reasons_ == "", spread.fused_)


# the engine's contract


@pytest.fixture
def calls(monkeypatch):
    """Offer what the engine is called with: how often each object stands in a call's jobs."""
    calls, fit_jobs = [], _evaluation.fit_jobs

    def spy(jobs, *, max_stack_memory=None, done):
        objects = {name: [getattr(job, name) for job in jobs] for name in ("X", "y", "rows")}
        calls.append(SimpleNamespace(jobs=jobs, max_stack_memory=max_stack_memory, **objects))
        fit_jobs(jobs, max_stack_memory=max_stack_memory, done=done)

    monkeypatch.setattr(_evaluation, "fit_jobs", spy)
    monkeypatch.setattr(_pipelines, "fit_jobs", spy)
    return calls


def n_different(objects):
    return len(set(map(id, objects)))


def test_a_search_is_one_call_of_the_engine_over_one_copy_of_the_data(calls):
    X, y = classes()
    grid = {"alpha": [0.0, 0.1], "hidden_layer_sizes": [(4,), (5,)]}
    search = FusedGridSearchCV(classifier(), grid, cv=3, refit=False, max_stack_memory=2**20)
    search.fit(X, y)
    (call,) = calls
    assert len(call.jobs) == 12
    assert call.max_stack_memory == 2**20
    assert {id(each) for each in call.X} == {id(X)}
    assert {id(each) for each in call.y} == {id(y)}
    assert n_different(call.rows) == 3


def test_pipelines_that_share_steps_share_their_data(calls):
    X, y = classes()
    grid = {"mlp__alpha": [0.0, 0.1, 0.2], "scale__with_mean": [True, False]}
    FusedGridSearchCV(pipeline(), grid, cv=2, refit=False).fit(X, y)
    (call,) = calls
    assert len(call.jobs) == 12
    assert set(call.rows) == {None}
    assert n_different(call.X) == 4


def test_networks_are_let_go_when_they_are_scored(calls):
    X, y = classes()
    search = FusedGridSearchCV(pipeline(), {"mlp__alpha": [0.0, 0.1]}, cv=2).fit(X, y)
    assert {job.estimator for call in calls for job in call.jobs} == {None}
    assert {job.X for call in calls for job in call.jobs} == {None}
    check_is_fitted(search.best_estimator_)


@pytest.mark.parametrize(("n_settings", "n_calls"), [(1, 4), (2, 2), (3, 2), (4, 1), (100, 1)])
def test_what_steps_hand_on_is_kept_within_bounds(n_settings, n_calls, calls, monkeypatch, seen):
    X, y = classes()
    monkeypatch.setattr(_routes, "MAX_PREPARED_BYTES", n_settings * 2 * X.nbytes + 1)
    estimator = make_pipeline(Watcher(), classifier())
    grid = {"watcher__factor": [1.0, 2.0, 3.0, 4.0], "deepmlpclassifier__alpha": [0.0, 0.1]}
    search = FusedGridSearchCV(estimator, grid, cv=2, refit=False).fit(X, y)
    assert len(calls) == n_calls
    assert len(seen) == 8
    monkeypatch.undo()
    whole = FusedGridSearchCV(estimator, grid, cv=2, refit=False).fit(X, y)
    assert_same_results(whole.cv_results_, search.cv_results_)


def test_times_add_up(monkeypatch):
    def fit_jobs(jobs, *, max_stack_memory=None, done):
        for job in jobs:
            job.estimator.fit(*job.take())
            job.seconds, job.fused = 10.0, True
            done(job)

    monkeypatch.setattr(_evaluation, "fit_jobs", fit_jobs)
    monkeypatch.setattr(_pipelines.time, "perf_counter", itertools.count(0, 100).__next__)
    X, y = classes()
    grid = {"mlp__alpha": [0.0, 0.1, 0.2, 0.3]}
    search = FusedGridSearchCV(pipeline(), grid, cv=2, refit=False).fit(X, y)
    # the scaler's hundred seconds are shared by four
    assert_array_equal(search.cv_results_["mean_fit_time"], 35)
    assert search.fused_.all()
    assert set(search.not_fused_reasons_.flat) == {""}


def test_max_stack_memory_must_be_a_number_of_bytes():
    X, y = classes()
    with pytest.raises(ValueError, match="max_stack_memory"):
        FusedGridSearchCV(classifier(), RATES, max_stack_memory=0).fit(X, y)


# the search as an estimator


@pytest.mark.parametrize("cls", [FusedGridSearchCV, FusedRandomizedSearchCV])
def test_searches_are_scikit_learn_s(cls):
    parent = getattr(theirs, cls.__name__.removeprefix("Fused"))
    assert issubclass(cls, parent)
    search = cls(classifier(), RATES)
    assert set(search.get_params(deep=False)) == {
        *parent(classifier(), RATES).get_params(deep=False),
        "max_stack_memory",
    }
    assert search._repr_html_()


def test_searches_clone_and_pickle():
    X, y = classes()
    search = FusedGridSearchCV(pipeline(), {"mlp__alpha": [0.0, 0.1]}, cv=2, max_stack_memory=2**30)
    assert clone(search).get_params()["max_stack_memory"] == 2**30
    search.fit(X, y)
    for twin in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search)):
        assert_array_equal(twin.predict_proba(X), search.predict_proba(X))
        assert_array_equal(twin.fused_, search.fused_)
    assert not hasattr(clone(search), "cv_results_")


@alone_or_not
def test_searches_nest():
    X, y = classes()
    search = FusedGridSearchCV(classifier(batch_size=10), RATES, cv=2)
    scores = theirs.cross_val_score(search, X, y, cv=2)
    outer = FusedGridSearchCV(search, {"estimator__alpha": [0.0, 0.1]}, cv=2).fit(X, y)
    assert scores.shape == (2,)
    assert "FusedGridSearchCV is no deep network" in outer.not_fused_reasons_[0, 0]


CHECKED = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.05,
    "max_iter": 20,
    "random_state": 0,
}


def _search_of_networks():
    network = DeepMLPClassifier(**CHECKED)
    return FusedGridSearchCV(network, {"alpha": [0.0, 0.1]}, cv=2, error_score="raise")


def _search_of_pipelines():
    return FusedRandomizedSearchCV(
        Pipeline([("pca", PCA()), ("mlp", DeepMLPRegressor(**CHECKED))]),
        {"mlp__alpha": [0.0, 0.1]},
        n_iter=2,
        cv=2,
        error_score="raise",
        random_state=0,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@with_checks([_search_of_networks()])
@alone_or_not
def test_searches_comply(estimator, check):
    check(estimator)


@pytest.mark.slow
@with_checks([_search_of_pipelines()], but=SAME_FOR_ALL_VALUES)
@alone_or_not
def test_searches_of_pipelines_comply(estimator, check):
    check(estimator)


# cross_validate


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"scoring": "neg_log_loss", "return_train_score": True},
        {"scoring": ["accuracy", "neg_log_loss"], "cv": 4},
        {"scoring": brier_and_accuracy, "return_train_score": True},
        {"cv": GroupKFold(3), "groups": GROUPS},
        {"params": {"sample_weight": np.linspace(0.1, 1, N_ROWS)}},
        {"return_indices": True, "return_estimator": True},
        {"error_score": "raise"},
    ],
    ids=lambda params: " and ".join(params) or "defaults",
)
def test_cross_validate_gives_what_scikit_learn_s_gives(params):
    X, y = classes()
    expected = theirs.cross_validate(classifier(), X, y, **params)
    actual = cross_validate(classifier(), X, y, **params)
    assert list(actual) == list(expected)
    for key in expected:
        if key == "indices":
            for part in ("train", "test"):
                for rows, others in zip(expected[key][part], actual[key][part], strict=True):
                    assert_array_equal(rows, others)
        elif key == "estimator":
            for alone, stacked in zip(expected[key], actual[key], strict=True):
                assert_allclose(stacked.predict_proba(X), alone.predict_proba(X), rtol=1e-6)
        elif not key.endswith("_time"):
            assert_allclose(actual[key], expected[key], rtol=1e-6, err_msg=key)
        assert type(actual[key]) is type(expected[key])


def test_cross_validate_a_pipeline_of_a_regressor_and_an_autoencoder():
    X, y = numbers()
    for estimator, target in ((pipeline(regressor()), y), (pipeline(autoencoder()), None)):
        expected = theirs.cross_validate(estimator, X, target)["test_score"]
        actual = cross_validate(estimator, X, target, return_estimator=True)
        assert_allclose(actual["test_score"], expected, rtol=1e-6)
        assert all(isinstance(each, Pipeline) for each in actual["estimator"])


def test_cross_validate_routes_metadata():
    X, y = classes()
    weight = np.linspace(0.1, 1, N_ROWS)
    with config_context(enable_metadata_routing=True):
        estimator = classifier().set_fit_request(sample_weight=True)
        params = {"sample_weight": weight, "groups": GROUPS}
        scoring = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        results = [
            function(estimator, X, y, cv=GroupKFold(3), params=params, scoring=scoring)
            for function in (theirs.cross_validate, cross_validate)
        ]
        assert_allclose(results[1]["test_score"], results[0]["test_score"], rtol=1e-6)
        with pytest.raises(UnsetMetadataPassedError, match=re.escape("cross_validate")):
            cross_validate(classifier(), X, y, params={"sample_weight": weight})
        with pytest.raises(ValueError, match="groups"):
            cross_validate(classifier(), X, y, groups=GROUPS)


def test_cross_validate_warns_of_fits_that_fail():
    X, y = classes()
    with pytest.raises(ValueError, match="All the 5 fits failed"):
        cross_validate(classifier(alpha=-1), X, y)
    with pytest.raises(ValueError, match="'alpha' parameter"):
        cross_validate(classifier(alpha=-1), X, y, error_score="raise")


@pytest.mark.parametrize("verbose", [2, 3])
def test_messages_of_cross_validate_are_those_of_scikit_learn(verbose):
    X, y = classes()
    printed = []
    for function in (theirs.cross_validate, cross_validate):
        with redirect_stdout(io.StringIO()) as lines:
            function(classifier(), X, y, cv=2, verbose=verbose)
        text = "".join(line for line in lines.getvalue().splitlines() if line.startswith("[CV"))
        printed.append(re.sub(r"time= .*?s", "", text))
    assert printed[0] == printed[1]


@pytest.mark.filterwarnings("ignore:No fits could be trained together")  # ensembles
@pytest.mark.parametrize(
    "make", [lambda network: network, lambda n: make_pipeline(PCA(2), n)], ids=["alone", "pipeline"]
)
@pytest.mark.parametrize("n_networks", [1, 2])
def test_lines_of_a_training_name_candidate_split_and_network(make, n_networks, capsys):
    X, y = classes()
    network = classifier(max_iter=1, verbose=True, n_networks=n_networks)
    search = FusedGridSearchCV(make(network), {}, cv=2, refit=False)
    prefix = "" if make(network) is network else "deepmlpclassifier__"
    search.set_params(param_grid={f"{prefix}alpha": [0.1, 0.2]}).fit(X, y)
    cross_validate(make(network), X, y, cv=2)
    lines = capsys.readouterr().out.splitlines()
    of_networks = [f", network {i} of 2" for i in (1, 2)] if n_networks == 2 else [""]
    of_splits = [f"plit {i} of 2{name}" for i in (1, 2) for name in of_networks]
    expected = [f"Candidate {i} of 2, s{name}" for i in (1, 2) for name in of_splits]
    expected += [f"S{name}" for name in of_splits]
    assert sorted(line.partition(": Iteration 1, loss")[0] for line in lines) == sorted(expected)


def test_everything_public_is_listed():
    assert set(model_selection.__all__) == {
        "FusedGridSearchCV",
        "FusedHalvingGridSearchCV",
        "FusedHalvingRandomSearchCV",
        "FusedRandomizedSearchCV",
        "cross_validate",
    }


class PipelineOfCopies(Pipeline):
    """Fits copies of its steps, so that no step of its own sees what is handed on."""

    def fit(self, X, y=None, **params):
        """Fit copies."""
        twin = Pipeline(copy.deepcopy(self.steps)).fit(X, y, **params)
        self.steps = twin.steps
        return self


@pytest.mark.parametrize("backend", ["sequential", "threading"])
def test_folds_of_a_pipeline_that_keeps_its_data_have_estimators_of_their_own(backend):
    X, y = classes()
    estimator = PipelineOfCopies([("scale", StandardScaler()), ("mlp", classifier())])
    expected = theirs.cross_validate(estimator, X, y, cv=4)
    with joblib.parallel_config(backend, n_jobs=2):
        actual = cross_validate(estimator, X, y, cv=4, return_estimator=True)
    assert_allclose(actual["test_score"], expected["test_score"])
    assert len(set(map(id, actual["estimator"]))) == 4
