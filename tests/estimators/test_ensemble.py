"""Ensembles: what several networks are together."""

import threading
import weakref

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from sknn_deep import DeepMLPClassifier, TabularMLPClassifier
from sknn_deep._estimators.ensemble import mean


def test_the_outputs_of_all_networks_are_not_in_memory_together():
    made, n_alive = [], []

    def outputs():
        for i in range(6):
            output = np.full((3, 2), float(i))
            made.append(weakref.ref(output))
            n_alive.append(sum(reference() is not None for reference in made))
            yield output

    assert_array_equal(mean(outputs()), np.full((3, 2), 2.5))
    assert max(n_alive) <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_networks", [1, 2, 9])
def test_the_mean_is_the_same_for_one_row_and_for_many(n_networks, dtype):
    outputs = list(np.random.default_rng(0).normal(size=(n_networks, 50, 1)).astype(dtype))
    together = mean(outputs)
    assert together.dtype == dtype
    assert_array_equal(together[:1], mean([output[:1] for output in outputs]))
    np.testing.assert_allclose(together, np.mean(outputs, axis=0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.parametrize("solver", ["adam", "adamw"])
def test_verbose_names_the_networks(solver, capsys):
    X, y = load_iris(return_X_y=True)
    ensemble = DeepMLPClassifier((4,), n_networks=2, solver=solver, max_iter=1, verbose=True)
    ensemble.fit(X, y).partial_fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(": Iteration 1, loss = ")[0] for line in lines]
    assert names == 2 * ["Network 1 of 2", "Network 2 of 2"]


@pytest.mark.parametrize("params", [{}, {"varied_networks": True}, {"warm_start": True}])
def test_an_ensemble_of_several_jobs_is_that_of_one(params):
    X, y = load_iris(return_X_y=True)
    params = params | {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
    ensembles = [TabularMLPClassifier(**params, n_jobs=n_jobs) for n_jobs in (None, 2)]
    for _ in range(2):  # with warm_start the second call goes on
        one, several = (ensemble.fit(X, y) for ensemble in ensembles)
        # networks of a smaller stack may be summed up in another order
        assert_allclose(several.predict_proba(X), one.predict_proba(X), atol=1e-5)
    assert [network.random_state for network in one.estimators_] == [
        network.random_state for network in several.estimators_
    ]


def test_what_fails_in_another_process_fails_the_ensemble():
    X, y = load_iris(return_X_y=True)
    classifier = TabularMLPClassifier(n_jobs=2, learning_rate_init=1e30, max_iter=2)
    with pytest.raises(ValueError, match="lower learning_rate_init"):
        classifier.fit(X, y)
    assert "estimators_" not in vars(classifier)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("params", [{"n_candidates": 4}, {"n_networks": 4}])
def test_warnings_of_several_jobs_are_given_once(n_jobs, params):
    X, y = load_iris(return_X_y=True)
    classifier = TabularMLPClassifier(**params, n_jobs=n_jobs, early_stopping=False)
    classifier.set_params(learning_rate="constant", max_iter=2)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations .* \(4 fits\)") as told:
        classifier.fit(X, y, X_val=X, y_val=y)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_threads_that_go_on_after_an_error_leave_the_fitted_networks_alone():
    X, y = load_iris(return_X_y=True)
    begun, may_end = threading.Event(), threading.Event()

    def score(estimator, X, y):
        if estimator.learning_rate_init == 2e-3:  # the first call
            return 0.5
        if begun.is_set():
            may_end.wait(10)
            return 0.5
        begun.set()
        raise ValueError("no score")

    params = {"n_networks": 2, "max_iter": 2, "random_state": 0, "warm_start": True}
    classifier = TabularMLPClassifier(**params, learning_rate_init=2e-3, scoring=score).fit(X, y)
    before, others = classifier.predict_proba(X), threading.enumerate()
    classifier.set_params(learning_rate_init=1e-2, n_jobs=2)
    with joblib.parallel_config("threading"), pytest.raises(ValueError, match="no score"):
        classifier.fit(X, y)
    may_end.set()
    for thread in set(threading.enumerate()) - set(others):
        thread.join(10)
    assert_array_equal(classifier.predict_proba(X), before)


def test_no_job_at_all_is_refused():
    with pytest.raises(ValueError, match="n_jobs=0 leaves nobody to train; pass None"):
        TabularMLPClassifier(n_jobs=0).fit(*load_iris(return_X_y=True))


def test_processes_for_the_rows_of_each_network_leave_none_for_the_networks():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="n_jobs=2 and n_processes=3 .* set one of them"):
        TabularMLPClassifier(n_jobs=2, n_processes=3).fit(X, y)
