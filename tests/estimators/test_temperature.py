"""Probabilities that held-out rows have made as sure as they are right."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss

import sknn_deep
from sknn_deep import DeepMLPClassifier, TabularMLPClassifier
from sknn_deep._estimators.temperature import best_temperature, calibrated_loss
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
# So many epochs without a penalty that the network is far too sure of itself.
RECIPE = {
    "hidden_layer_sizes": (32,),
    "learning_rate_init": 0.03,
    "max_iter": 25,
    "batch_size": 32,
    "random_state": 0,
    "n_iter_no_change": np.inf,
    "tol": 0,
    "calibration": "temperature",
}
HELD_OUT = {"early_stopping": True, "validation_fraction": 0.3}
X, Y = make_classification(
    1400, n_features=12, n_informative=6, n_classes=3, flip_y=0.3, class_sep=0.7, random_state=0
)
TARGETS = {"multiclass": Y, "binary": Y > 0, "multilabel": np.stack([Y > 0, X[:, 0] > 0], axis=1)}
every_target = pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
TRAIN, TEST = slice(700), slice(700, None)


def loss_of(probabilities, y):
    if y.ndim == 1:
        return log_loss(y, probabilities)
    return sum(log_loss(y[:, k], probabilities[:, k]) for k in range(y.shape[1]))


@pytest.mark.parametrize("n_networks", [1, 3])
@every_target
def test_calibration_lowers_the_log_loss_and_keeps_the_labels(y, n_networks):
    params = RECIPE | {"n_networks": n_networks}
    held_out = {"X_val": X[500:700], "y_val": y[500:700]}
    calibrated, plain = (
        DeepMLPClassifier(**params | {"calibration": calibration}).fit(X[:500], y[:500], **held_out)
        for calibration in ("temperature", None)
    )
    assert calibrated.temperature_ > 1
    assert not hasattr(plain, "temperature_")
    losses = [loss_of(model.predict_proba(X[TEST]), y[TEST]) for model in (calibrated, plain)]
    assert losses[0] < losses[1]
    assert_array_equal(calibrated.predict(X[TEST]), plain.predict(X[TEST]))
    probabilities = calibrated.predict_proba(X[TEST])
    if y.ndim == 1:
        assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert_allclose(np.log(probabilities), calibrated.predict_log_proba(X[TEST]))


@pytest.mark.parametrize("weight", [None, np.random.RandomState(1).uniform(0, 2, 200)])
@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_temperature_has_the_smallest_log_loss_of_the_rows_and_one_unknown_row(kind, weight):
    rng = np.random.RandomState(0)
    logits = 3 * rng.normal(size=(200, 4))
    if kind == "softmax":
        labels = np.array([rng.choice(4, p=p) for p in softmax(logits / 2.5, axis=1)])
        targets = np.eye(4)[labels] * 200 / 201 + 1 / 201 / 4
    else:
        labels = (rng.uniform(size=logits.shape) < expit(logits / 2.5)).astype(float)
        targets = labels * 200 / 201 + 1 / 201 / 2

    def loss(temperature):
        if kind == "softmax":
            losses = -(targets * np.log(softmax(logits / temperature, axis=1))).sum(axis=1)
        else:
            p = expit(logits / temperature)
            losses = -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).sum(axis=1)
        return np.average(losses, weights=weight)

    expected = minimize_scalar(loss, bounds=(0.5, 10), method="bounded", options={"xatol": 1e-9}).x
    actual = best_temperature(logits, labels, weight)
    assert actual == pytest.approx(expected, rel=1e-5)
    assert actual == pytest.approx(2.5, rel=0.3)
    zeros = np.r_[np.ones(150), np.zeros(50)]
    without = best_temperature(logits[:150], labels[:150], None)
    assert best_temperature(logits, labels, zeros) == pytest.approx(without, rel=1e-12)


def test_temperature_of_a_network_that_is_right_on_all_rows_is_a_number():
    logits = np.array([[4.0], [-4.0]] * 50)
    targets = (logits > 0).astype(float)
    assert 0.5 < best_temperature(logits, targets, None) < 1
    assert best_temperature(logits, 1 - targets, None) == 100
    assert best_temperature(1e-4 * logits, targets, None) == pytest.approx(0.01)


@every_target
def test_the_calibrated_loss_is_the_log_loss_at_the_best_temperature(y):
    model = DeepMLPClassifier(**RECIPE).fit(X[:500], y[:500], X_val=X[500:700], y_val=y[500:700])
    logits = model._logits(model._validate_input(X[500:700]))
    targets = model._encode(y[500:700], np.dtype(float))
    expected = loss_of(model.predict_proba(X[500:700]), y[500:700])
    assert calibrated_loss(logits, targets, None) == pytest.approx(expected, rel=1e-5)
    assert calibrated_loss(7 * logits, targets, None) == pytest.approx(expected, rel=1e-5)


@every_target
def test_trainings_may_stop_by_the_calibrated_loss(y):
    params = RECIPE | {"scoring": "calibrated_loss", "max_iter": 40}
    rows = {"X_val": X[500:700], "y_val": y[500:700]}
    model = DeepMLPClassifier(**params).fit(X[:500], y[:500], **rows)
    expected = loss_of(model.predict_proba(X[500:700]), y[500:700])
    assert model.best_validation_score_ == pytest.approx(-expected, rel=1e-4)
    assert model.best_validation_score_ == max(model.validation_scores_)
    by_loss = DeepMLPClassifier(**params | {"scoring": "loss"}).fit(X[:500], y[:500], **rows)
    assert model.validation_loss_curve_ == by_loss.validation_loss_curve_
    assert model.best_iter_ >= by_loss.best_iter_
    if y.ndim == 1:
        assert model.best_iter_ > by_loss.best_iter_, "it goes on while the network grows too sure"


def test_weights_of_classes_count_in_the_calibrated_loss():
    params = RECIPE | {"scoring": "calibrated_loss", "max_iter": 2}
    weights = np.where(Y[500:700] == 1, 3.0, 1.0)
    rows = {"X_val": X[500:700], "y_val": Y[500:700]}
    weighted = DeepMLPClassifier(**params, class_weight={1: 3.0}).fit(X[:500], Y[:500], **rows)
    logits = weighted._logits(weighted._validate_input(X[500:700]))
    expected = calibrated_loss(logits, Y[500:700], weights)
    assert weighted.best_validation_score_ == pytest.approx(-expected)


def test_automatic_calibration_is_there_where_rows_are_held_out():
    params = RECIPE | {"calibration": "auto", "max_iter": 2}
    assert not hasattr(DeepMLPClassifier(**params).fit(X[TRAIN], Y[TRAIN]), "temperature_")
    automatic = DeepMLPClassifier(**params | HELD_OUT).fit(X[TRAIN], Y[TRAIN])
    asked_for = clone(automatic).set_params(calibration="temperature").fit(X[TRAIN], Y[TRAIN])
    assert automatic.temperature_ == asked_for.temperature_
    automatic.set_params(early_stopping=False).partial_fit(X[TRAIN], Y[TRAIN])
    assert not hasattr(automatic, "temperature_"), "it was that of another network"
    assert not hasattr(
        TabularMLPClassifier(early_stopping=False, max_iter=1).fit(X[TRAIN], Y[TRAIN]),
        "temperature_",
    )


def test_an_ensemble_holds_out_the_same_rows_for_all_networks():
    ensemble = DeepMLPClassifier(**RECIPE | HELD_OUT, n_networks=3).fit(X[TRAIN], Y[TRAIN])
    rows = DeepMLPClassifier(**RECIPE | HELD_OUT, n_networks=3)
    rows.set_params(calibration=None, validation_splitter="stratified").fit(X[TRAIN], Y[TRAIN])
    for model in (ensemble, rows):
        sizes = {network.t_ / network.n_iter_ for network in model.estimators_}
        assert sizes == {490}
    alone = [network.temperature_ for network in ensemble.estimators_]
    assert ensemble.temperature_ < np.mean(alone)  # the mean of them is less sure already


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_the_classifier_of_tables_is_calibrated_too(n_candidates):
    recipe = {"max_iter": 1, "hidden_layer_sizes": (8,), "random_state": 0}
    model = TabularMLPClassifier(**recipe, calibration="temperature", n_candidates=n_candidates)
    model.fit(X[:80], Y[:80])
    temperature = model.temperature_
    plain = np.log(model._outputs(model._validate_input(X[TEST]))) / temperature
    assert_allclose(model.predict_proba(X[TEST]), softmax(plain, axis=1), rtol=1e-3)


@pytest.mark.parametrize(
    ("params", "method", "remedy"),
    [
        ({}, "fit", "set early_stopping=True, or pass X_val and y_val to fit"),
        ({"early_stopping": True, "solver": "lbfgs"}, "fit", "with a stochastic solver"),
        ({}, "partial_fit", "pass X_val and y_val to partial_fit, or set calibration=None"),
    ],
)
def test_calibration_without_held_out_rows_is_refused(params, method, remedy):
    model = DeepMLPClassifier(**RECIPE | params)
    classes = {"classes": [0, 1, 2]} if method == "partial_fit" else {}
    with pytest.raises(ValueError, match=f"calibration='temperature' needs rows .*{remedy}"):
        getattr(model, method)(X, Y, **classes)


def test_partial_fit_calibrates_anew():
    model = DeepMLPClassifier(**RECIPE)
    temperatures = set()
    for _ in range(3):
        model.partial_fit(X[TRAIN], Y[TRAIN], classes=[0, 1, 2], X_val=X[TEST], y_val=Y[TEST])
        temperatures.add(model.temperature_)
    assert len(temperatures) == 3
    model.set_params(calibration=None).partial_fit(X[TRAIN], Y[TRAIN])
    assert not hasattr(model, "temperature_")


def test_searches_calibrate_each_fit_and_files_keep_the_temperature(tmp_path):
    model = DeepMLPClassifier(**RECIPE | HELD_OUT | {"max_iter": 5})
    grid = {"calibration": ["temperature", None], "alpha": [0.1, 1e-4]}
    search = FusedGridSearchCV(model, grid, scoring="neg_log_loss", cv=3, refit=False)
    search.fit(X[TRAIN], Y[TRAIN])
    assert search.fused_.all()
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[2]
    model.fit(X[TRAIN], Y[TRAIN])
    sknn_deep.save(model, tmp_path / "model.skops")
    for read in (sknn_deep.load(tmp_path / "model.skops"), pickle.loads(pickle.dumps(model))):
        assert read.temperature_ == model.temperature_
        assert_array_equal(read.predict_proba(X), model.predict_proba(X))
    model.temperature_ = -1.0
    with pytest.raises(ValueError, match="temperature_ should be a positive number"):
        sknn_deep.save(model, tmp_path / "model.skops")
