"""Warnings at the user's line, and one for a call that makes many fits."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._user_warnings import warn_user, warned_once
from sknn_deep.model_selection import FusedGridSearchCV, cross_validate

X, Y = make_classification(60, 5, random_state=0)
QUICK = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}

CALLS = {
    "fit": lambda: DeepMLPClassifier(**QUICK).fit(X, Y),
    "pipeline": lambda: make_pipeline(StandardScaler(), DeepMLPRegressor(**QUICK)).fit(X, Y),
    "ensemble": lambda: DeepMLPClassifier(**QUICK, n_networks=3).fit(X, Y),
    "search": lambda: FusedGridSearchCV(
        DeepMLPClassifier(**QUICK), {"alpha": [0.1, 1.0]}, cv=2
    ).fit(X, Y),
    "L-BFGS": lambda: DeepMLPClassifier(**QUICK, solver="lbfgs").fit(X, Y),
    "L-BFGS, ensemble": lambda: DeepMLPRegressor(**QUICK, solver="lbfgs", n_networks=3).fit(X, Y),
    "L-BFGS, search": lambda: FusedGridSearchCV(
        DeepMLPClassifier(**QUICK, solver="lbfgs"), {"alpha": [0.1, 1.0]}, cv=2
    ).fit(X, Y),
    "cross-validation": lambda: cross_validate(DeepMLPClassifier(**QUICK), X, Y, cv=3),
}


@pytest.mark.filterwarnings("ignore:No fits could be trained together")
@pytest.mark.parametrize("call", CALLS)
def test_a_call_warns_once_at_the_users_line(call):
    with pytest.warns(ConvergenceWarning, match="hasn't converged|failed to converge") as seen:
        CALLS[call]()
    categories = [warning.category for warning in seen]
    assert categories.count(ConvergenceWarning) == 1
    assert {warning.filename for warning in seen} == {__file__}


@pytest.mark.parametrize("params", [{}, {"n_networks": 2}], ids=str)
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_a_column_of_targets_is_told_at_the_users_line(kind, params):
    estimator = kind(**QUICK, n_iter_no_change=np.inf, **params)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed") as seen:
        estimator.fit(X, Y[:, np.newaxis])
    assert {warning.filename for warning in seen} == {__file__}


@pytest.mark.parametrize(
    "options", [{"n_iter_no_change": np.inf}, {"tol": 0.0}, {"learning_rate": "cosine"}]
)
def test_a_training_that_was_to_run_all_epochs_does_not_warn(options):
    DeepMLPClassifier(**QUICK, **options).fit(X, Y)


def test_different_warnings_of_a_block_are_all_given_and_equal_ones_counted():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with warned_once():
            for message in ("one", "two", "one"):
                warn_user(message)
            with warned_once():
                warn_user("one")
            assert seen == []
    assert [str(warning.message) for warning in seen] == ["one (3 fits)", "two"]


def test_what_was_collected_is_given_where_a_block_fails():
    @warned_once()
    def fail():
        warn_user("so far")
        raise RuntimeError

    with pytest.warns(UserWarning, match="^so far$"), pytest.raises(RuntimeError):
        fail()
