"""Quick scores are scikit-learn's numbers, and what is unusual is left to scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import check_scoring, get_scorer, log_loss, make_scorer

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection import FusedGridSearchCV, _evaluation
from sknn_deep.model_selection._scores import ScoredRows, quick_score

BOTH = ["accuracy", "neg_log_loss"]
NAMES = ("ash", "box", "elm", "fir", "oak")


class Oracle(ClassifierMixin, BaseEstimator):
    """Predicts the probabilities that it was given as X."""

    def __init__(self, classes):
        self.classes = classes
        self.classes_ = np.array(classes)

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


class Echo(RegressorMixin, BaseEstimator):
    """Predicts what it was given as X."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X


def probabilities(n_classes, dtype, n_rows=101):
    drawn = np.random.default_rng(n_classes).exponential(size=(n_rows, n_classes)) ** 4
    drawn[0] = np.eye(n_classes)[0]  # as sure as can be
    return (drawn / drawn.sum(axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [(0, 1), (-3, 5, 9), NAMES[:2], NAMES, (False, True)])
@pytest.mark.parametrize(
    "scoring", ["accuracy", "neg_log_loss", None, ["accuracy", "neg_log_loss"]]
)
def test_scores_of_a_classifier_are_those_of_scikit_learn(scoring, classes, dtype):
    oracle, X = Oracle(classes), probabilities(len(classes), dtype)
    y = np.random.default_rng(0).choice(oracle.classes_, len(X))
    scorer = check_scoring(oracle, scoring)
    assert quick_score(scorer, oracle, ScoredRows(X, y)) == scorer(oracle, X, y)
    assert quick_score(scorer, oracle, ScoredRows(X, pd.Series(y).to_numpy(y.dtype))) is not None


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("f8", "i8")])
@pytest.mark.parametrize("shape", [(101,), (101, 1), (101, 3)])
@pytest.mark.parametrize("scoring", ["r2", "neg_mean_squared_error", None])
def test_scores_of_a_regressor_are_those_of_scikit_learn(scoring, shape, dtypes):
    rng = np.random.default_rng(0)
    X = (rng.normal(1000, 10, shape)).astype(dtypes[0])
    y = (X + rng.normal(size=shape)).astype(dtypes[1])
    scorer = check_scoring(Echo(), scoring)
    assert quick_score(scorer, Echo(), ScoredRows(X, y)) == scorer(Echo(), X, y)
    if y.ndim == 1:
        assert quick_score(scorer, Echo(), ScoredRows(X, pd.Series(y))) == scorer(Echo(), X, y)


def own_log_loss(y, probabilities):
    return log_loss(y, probabilities)


UNUSUAL = {
    "a class that the rows lack": ("neg_log_loss", (0, 1, 2), np.resize([0, 1], 101)),
    "other classes": ("neg_log_loss", (0, 1), np.resize([0, 2], 101)),
    "one class": ("neg_log_loss", (0,), np.zeros(101, dtype=int)),
    "a metric of the user's": (make_scorer(own_log_loss), (0, 1), np.resize([0, 1], 101)),
    "arguments": (
        make_scorer(log_loss, response_method="predict_proba", labels=[0, 1]),
        (0, 1),
        np.resize([0, 1], 101),
    ),
    "another metric": ("balanced_accuracy", (0, 1), np.resize([0, 1], 101)),
    "another method": (make_scorer(log_loss), (0, 1), np.resize([0, 1], 101)),
    "objects": ("accuracy", NAMES[:2], np.resize(np.array(NAMES[:2], dtype=object), 101)),
    "numbers for names": ("accuracy", NAMES[:2], np.resize([0, 1], 101)),
    "labels that are no integers": ("accuracy", (0.5, 1.5), np.resize([0.5, 1.5], 101)),
    "several labels": ("accuracy", (0, 1), np.resize([0, 1], (101, 2))),
    "a list": ("accuracy", (0, 1), [0, 1] * 50 + [0]),
    "no targets": ("accuracy", (0, 1), None),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_is_unusual_is_left_to_scikit_learn(what):
    scoring, classes, y = UNUSUAL[what]
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    rows = ScoredRows(probabilities(len(classes), np.float64), y)
    assert quick_score(scorer, Oracle(classes), rows) is None


class Broken(Oracle):
    """Raises an error where it is to predict."""

    def predict_proba(self, X):
        raise ZeroDivisionError("no probabilities")


@pytest.mark.parametrize("n_columns", [1, 3])
def test_estimators_of_others_may_return_anything(n_columns):
    scorer, y = get_scorer("neg_log_loss"), np.resize([0, 1], 9)
    assert quick_score(scorer, Oracle((0, 1)), ScoredRows(np.ones((9, n_columns)), y)) is None
    assert quick_score(scorer, Oracle((0, 1)), ScoredRows(np.ones((5, 2)), y)) is None
    assert quick_score(scorer, Broken((0, 1)), ScoredRows(np.ones((9, 2)), y)) is None
    without_classes = Oracle((0, 1))
    del without_classes.classes_
    assert quick_score(scorer, without_classes, ScoredRows(np.ones((9, 2)), y)) is None


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.array([1.0, np.nan, 2.0]), np.arange(3.0)),
        (np.arange(3.0), np.arange(3.0)),  # nothing left unexplained
        (np.arange(3.0), np.ones(3)),  # nothing to explain
        (np.ones(1), np.ones(1)),
        (np.ones((3, 2)), np.ones(3)),
    ],
)
def test_r2_of_unusual_numbers_is_left_to_scikit_learn(X, y):
    assert quick_score(get_scorer("r2"), Echo(), ScoredRows(X, y)) is None


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    ("estimator", "scoring"),
    [
        (DeepMLPClassifier, "neg_log_loss"),
        (DeepMLPClassifier, "accuracy"),
        (DeepMLPRegressor, None),
        (DeepMLPRegressor, "neg_mean_squared_error"),
    ],
)
def test_a_search_scores_its_networks_quickly(estimator, scoring, monkeypatch):
    def never(*args):
        raise AssertionError(f"scikit-learn's scorer was asked for {scoring!r}")

    monkeypatch.setattr(_evaluation, "score_or_error", never)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.resize([0, 1], 40)
    network = estimator(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
    search = FusedGridSearchCV(
        network, {"alpha": [0.0, 1.0]}, cv=2, scoring=scoring, refit=False, return_train_score=True
    )
    search.fit(X, y if estimator is DeepMLPClassifier else rng.normal(size=40))
    assert np.isfinite(search.cv_results_["mean_train_score"]).all()
