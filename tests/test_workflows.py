"""Whole workflows on real data: the results must be good, not only come out."""

from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform
from sklearn import config_context, datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, StackingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import TSNE
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

# An annealed rate runs its whole course and ends without a word.
QUICK = {
    "learning_rate": "one_cycle",
    "learning_rate_init": 0.02,
    "max_iter": 12,
    "batch_size": 100,
    "random_state": 0,
}
# What scikit-learn's networks can do too, and with the same result to rounding.
SGD = {
    "solver": "sgd",
    "learning_rate_init": 0.1,
    "max_iter": 25,
    "batch_size": 64,
    "random_state": 0,
}

ignore_max_iter = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


def quick_classifier(hidden_layer_sizes=(64,), **params):
    return DeepMLPClassifier(hidden_layer_sizes, **{**QUICK, **params})


def quick_regressor(hidden_layer_sizes=(32,), **params):
    return DeepMLPRegressor(hidden_layer_sizes=hidden_layer_sizes, **{**QUICK, **params})


def quick_autoencoder(n_components=8, **params):
    params = {**QUICK, "hidden_layer_sizes": (64,), "max_iter": 25, **params}
    return AutoencoderTransformer(n_components, **params)


@pytest.fixture
def metadata_routing():
    with config_context(enable_metadata_routing=True):
        yield


# Searches


@pytest.mark.slow
def test_grid_search_in_two_processes_finds_the_larger_network(digits):
    pipeline = Pipeline([("scale", StandardScaler()), ("mlp", quick_classifier())])
    grid = {"mlp__hidden_layer_sizes": [(1,), (2,), (64, 32)]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(digits.X, digits.y)
    assert search.best_params_ == {"mlp__hidden_layer_sizes": (64, 32)}
    assert search.score(digits.X_test, digits.y_test) > 0.96


def test_grid_search_over_the_code_size_prefers_more_than_one_unit(digits):
    pipeline = Pipeline(
        [("code", quick_autoencoder()), ("classify", LogisticRegression(max_iter=1000))]
    )
    search = GridSearchCV(pipeline, {"code__n_components": [1, 16]}, cv=2)
    search.fit(digits.X[:700], digits.y[:700])
    assert search.best_params_ == {"code__n_components": 16}
    assert search.score(digits.X_test, digits.y_test) > 0.9


def test_autoencoder_is_tuned_by_its_own_score(digits):
    search = GridSearchCV(quick_autoencoder(max_iter=15), {"n_components": [1, 8]}, cv=2)
    search.fit(digits.X)
    assert search.best_params_ == {"n_components": 8}
    assert search.best_score_ > 0.5


def test_randomized_search_avoids_the_useless_learning_rates(cancer):
    draws = {"learning_rate_init": loguniform(1e-7, 1e-1), "hidden_layer_sizes": [(8,), (16, 8)]}
    search = RandomizedSearchCV(quick_classifier(), draws, n_iter=8, cv=3, random_state=0)
    search.fit(cancer.X, cancer.y)
    assert search.cv_results_["mean_test_score"].min() < 0.9
    assert search.best_params_["learning_rate_init"] > 1e-3
    assert search.score(cancer.X_test, cancer.y_test) > 0.94


def test_halving_search_can_spend_epochs(digits):
    search = HalvingGridSearchCV(
        quick_classifier(),
        {"hidden_layer_sizes": [(1,), (2,), (3,), (64,)]},
        resource="max_iter",
        min_resources=3,
        max_resources=12,
        factor=2,
        cv=2,
        random_state=0,
    ).fit(digits.X, digits.y)
    assert search.n_resources_ == [3, 6, 12]
    assert search.best_params_ == {"hidden_layer_sizes": (64,), "max_iter": 12}
    assert search.score(digits.X_test, digits.y_test) > 0.95


# Meta-estimators give what they give around scikit-learn's own networks


@pytest.fixture
def pair_of_regressors():
    params = {**SGD, "learning_rate_init": 0.02}
    return [
        network(hidden_layer_sizes=(8,), **params) for network in (DeepMLPRegressor, MLPRegressor)
    ]


class MLPWithLogits(MLPClassifier):
    """scikit-learn's network with one hidden layer, and with what ours has besides."""

    def decision_function(self, X):
        hidden = np.maximum(X @ self.coefs_[0] + self.intercepts_[0], 0)
        logits = hidden @ self.coefs_[1] + self.intercepts_[1]
        return logits[:, 0] if self.n_outputs_ == 1 else logits


@ignore_max_iter
@pytest.mark.parametrize(
    "wrap",
    [partial(CalibratedClassifierCV, method="isotonic", cv=3), OneVsRestClassifier],
    ids=["calibration", "one against the rest"],
)
def test_meta_estimators_go_by_the_logits(wrap, digits):
    X, y = digits.X[:300], digits.y[:300] % 4
    ours, theirs = (
        wrap(network((16,), **{**SGD, "max_iter": 10})).fit(X, y)
        for network in (DeepMLPClassifier, MLPWithLogits)
    )
    for method in ("predict_proba", "decision_function", "predict"):
        if hasattr(theirs, method):
            outputs = [getattr(model, method)(digits.X_test) for model in (ours, theirs)]
            assert_allclose(*outputs, rtol=0, atol=1e-6)


def test_calibration_improves_an_overconfident_network(digits):
    X, y = digits.X[:300], digits.y[:300]
    network = quick_classifier((16,), max_iter=100, alpha=0, activation="tanh")
    overconfident = clone(network).fit(10 * X[:200], y[:200])
    calibrated = CalibratedClassifierCV(network, method="temperature", cv=3).fit(10 * X, y)
    losses = [
        log_loss(digits.y_test, classifier.predict_proba(10 * digits.X_test))
        for classifier in (overconfident, calibrated)
    ]
    assert losses[1] < losses[0]


@ignore_max_iter
def test_boosting_weighs_the_samples_as_with_scikit_learn(cancer):
    X, y = cancer.X[:, :3], cancer.y
    params = {**SGD, "max_iter": 5, "learning_rate_init": 0.02}
    ours, theirs = (
        AdaBoostClassifier(network((2,), **params), n_estimators=6, random_state=0).fit(X, y)
        for network in (DeepMLPClassifier, MLPClassifier)
    )
    assert len(ours.estimators_) == len(theirs.estimators_) > 3
    assert_allclose(ours.estimator_weights_, theirs.estimator_weights_, rtol=1e-7)
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, y) > 0.85


@ignore_max_iter
def test_stacked_regressor_is_that_of_scikit_learn(pair_of_regressors, diabetes):
    X, y = diabetes.X, diabetes.y
    ours, theirs = (
        StackingRegressor([("network", regressor), ("ridge", RidgeCV())], cv=3).fit(X, y)
        for regressor in pair_of_regressors
    )
    assert_allclose(ours.predict(diabetes.X_test), theirs.predict(diabetes.X_test), rtol=1e-6)
    assert ours.score(diabetes.X_test, diabetes.y_test) > 0.3


# Autoencoders in pipelines


@pytest.mark.slow
def test_codes_go_on_to_tsne_and_keep_the_classes_apart(digits):
    X, y = digits.X[:600], digits.y[:600]
    pipeline = make_pipeline(
        quick_autoencoder(16, max_iter=60), TSNE(n_iter_without_progress=100, random_state=0)
    )
    points = pipeline.fit_transform(X)
    assert points.shape == (600, 2)
    neighbours = KNeighborsClassifier(5).fit(points[:400], y[:400])
    assert neighbours.score(points[400:], y[400:]) > 0.85


def test_autoencoder_inside_a_pipeline_goes_back_to_the_features(cancer):
    X = 5 + 3 * cancer.X
    pipeline = make_pipeline(
        StandardScaler(), quick_autoencoder(10, max_iter=80, output_activation="identity")
    ).fit(X)
    reconstruction = pipeline.inverse_transform(pipeline.transform(X))
    assert r2_score(X, reconstruction) > 0.85


# Data frames


@pytest.fixture
def mixed_frame():
    """Offer the wine data with one column cut into names of its thirds, and a text target."""
    data = datasets.load_wine(as_frame=True)
    frame = data.data.drop(columns="proline")
    frame["price"] = pd.qcut(data.data["proline"], 3, labels=["cheap", "fair", "dear"]).astype(str)
    return frame, data.target.map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})


def mixed_pipeline():
    prepare = ColumnTransformer(
        [("names", OneHotEncoder(), ["price"])], remainder=StandardScaler(), sparse_threshold=0
    )
    return make_pipeline(prepare, quick_classifier((16,), max_iter=30, batch_size=32))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_mixed_data_frame_goes_through_a_column_transformer(library, mixed_frame):
    X, y = mixed_frame
    if library == "polars":
        X, y = pl.DataFrame({name: X[name].tolist() for name in X}), pl.Series(y.tolist())
    train, test = np.arange(0, 178, 2), np.arange(1, 178, 2)
    rows = (lambda part, which: part.iloc[which]) if library == "pandas" else lambda p, w: p[w]
    pipeline = mixed_pipeline().fit(rows(X, train), rows(y, train))
    predicted = pipeline.predict(rows(X, test))
    assert set(predicted) == {"Barolo", "Grignolino", "Barbera"}
    assert np.mean(predicted == np.asarray(y)[test]) > 0.93


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_codes_come_out_as_a_data_frame(library, digits):
    pipeline = make_pipeline(StandardScaler(), quick_autoencoder(3, max_iter=3))
    codes = pipeline.set_output(transform=library).fit_transform(digits.X)
    assert isinstance(codes, pd.DataFrame if library == "pandas" else pl.DataFrame)
    assert list(codes.columns) == [f"autoencodertransformer{i}" for i in range(3)]
    plain = clone(pipeline).set_output(transform="default").fit_transform(digits.X)
    assert_array_equal(codes.to_numpy(), plain)


# Metadata routing


def test_sample_weight_is_routed_through_a_pipeline_and_a_search(metadata_routing, cancer):
    weight = np.random.RandomState(0).uniform(0.1, 5, len(cancer.y))
    classifier = quick_classifier((8,)).set_fit_request(sample_weight=True)
    classifier.set_score_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    search = GridSearchCV(make_pipeline(scaler, classifier), {}, cv=3)
    search.fit(cancer.X, cancer.y, sample_weight=weight)
    direct = make_pipeline(scaler, classifier)
    direct.fit(cancer.X, cancer.y, sample_weight=weight)
    unweighted = clone(direct).fit(cancer.X, cancer.y)
    expected = direct.predict_proba(cancer.X_test)
    assert_array_equal(search.predict_proba(cancer.X_test), expected)
    assert np.abs(unweighted.predict_proba(cancer.X_test) - expected).max() > 1e-3


def test_sample_weight_is_not_passed_unless_asked_for(metadata_routing, cancer):
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    pipeline = make_pipeline(scaler, quick_classifier((8,)))
    with pytest.raises(ValueError, match="DeepMLPClassifier.fit"):
        pipeline.fit(cancer.X, cancer.y, sample_weight=np.ones(len(cancer.y)))


def test_validation_set_is_scaled_and_routed_by_a_pipeline(metadata_routing, cancer):
    raw, raw_test = 100 + 10 * cancer.X, 100 + 10 * cancer.X_test
    classifier = quick_classifier((8,)).set_fit_request(X_val=True, y_val=True)
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("mlp", classifier)], transform_input=["X_val"]
    )
    pipeline.fit(raw, cancer.y, X_val=raw_test, y_val=cancer.y_test)
    assert max(pipeline["mlp"].validation_scores_) == pipeline.score(raw_test, cancer.y_test)
    assert pipeline.score(raw_test, cancer.y_test) > 0.93


def test_validation_set_reaches_every_fit_of_a_search(metadata_routing, cancer):
    classifier = quick_classifier((8,)).set_fit_request(X_val=True, y_val=True)
    search = GridSearchCV(classifier, {"alpha": [1e-4, 1e-2]}, cv=3, error_score="raise")
    search.fit(cancer.X, cancer.y, X_val=cancer.X_test, y_val=cancer.y_test)
    best = search.best_estimator_
    assert max(best.validation_scores_) == best.score(cancer.X_test, cancer.y_test)


def test_validation_set_of_an_autoencoder_is_routed(metadata_routing, digits):
    autoencoder = quick_autoencoder().set_fit_request(X_val=True)
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("code", autoencoder)], transform_input=["X_val"]
    )
    pipeline.fit(digits.X, X_val=digits.X_test)
    code = pipeline["code"]
    scaled = pipeline["scale"].transform(digits.X_test)
    loss = code.reconstruction_error(scaled).mean()
    assert min(code.validation_loss_curve_) == pytest.approx(loss, rel=1e-10)


# Copies


NETWORKS = {
    "classifier": quick_classifier,
    "regressor": quick_regressor,
    "autoencoder": quick_autoencoder,
}


def output(estimator, X):
    names = ("predict_proba", "transform", "predict")
    method = next(name for name in names if hasattr(estimator, name))
    return getattr(estimator, method)(X)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_clone_has_the_parameters_and_nothing_learned(make, digits):
    estimator = make(callbacks=[], max_iter=2).fit(digits.X, digits.y)
    twin = clone(estimator)
    assert twin.get_params() == estimator.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]
    twin.fit(digits.X, digits.y)
    assert_array_equal(output(twin, digits.X_test), output(estimator, digits.X_test))


def test_a_layer_that_was_frozen_by_hand_stays(digits):
    classifier = DeepMLPClassifier((16,), random_state=0)
    classifier.partial_fit(digits.X, digits.y, classes=np.arange(10))
    first, last = classifier.module_.linear_layers()
    first.weight.requires_grad_(False)
    before = first.weight.detach().clone(), last.weight.detach().clone()
    classifier.partial_fit(digits.X, digits.y)
    assert torch.equal(first.weight, before[0])
    assert not torch.equal(last.weight, before[1])


@pytest.mark.parametrize(
    "move", [lambda m: m.to("cpu"), lambda m: m.double()], ids=["to", "double"]
)
@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw"])
def test_training_goes_on_after_the_network_was_moved(solver, move, digits):
    X = digits.X.astype(np.float32)
    moved, stayed = (
        DeepMLPClassifier((16,), solver=solver, random_state=0).partial_fit(
            X, digits.y, classes=np.arange(10)
        )
        for _ in range(2)
    )
    move(moved.module_)
    for classifier in (moved, stayed):
        classifier.set_params(random_state=1).partial_fit(X, digits.y)
    np.testing.assert_allclose(moved.coefs_[0], stayed.coefs_[0], rtol=1e-3, atol=1e-5)


def test_a_network_fitted_in_inference_mode_is_like_any_other(digits):
    with torch.inference_mode():
        classifier = DeepMLPClassifier((16,), random_state=0)
        classifier.partial_fit(digits.X, digits.y, classes=np.arange(10))
    classifier.module_(torch.from_numpy(digits.X)).sum().backward()
    assert classifier.module_.flat.grad.any()
