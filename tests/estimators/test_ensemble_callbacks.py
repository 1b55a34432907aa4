"""scikit-learn's callbacks and the networks of an ensemble."""

import copy
import re

import joblib
import numpy as np
import pytest
import rich.console
from conftest import Recorder
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor, TabularMLPClassifier, callbacks
from sknn_deep._estimators import fused

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {
    "n_networks": 3,
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.01,
    "max_iter": 4,
    "random_state": 0,
}


def classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


class PathRecorder(Recorder):
    """Notes tasks with the names of those that they are part of; may stop some of them."""

    def __init__(self, stop=None, fail_at=None):
        super().__init__()
        self.stop, self.fail_at, self.scored = stop, fail_at, {}

    def _note(self, what, context):
        path = []
        while context is not None:
            of_epoch = f" {context.task_id}" if context.task_name == "epoch" else ""
            path.insert(0, f"{context.task_name}{of_epoch}")
            context = context.parent
        event = f"{what} {' / '.join(path)}"
        self.events.append(event)
        if event == self.fail_at:
            raise RuntimeError("this callback gives up")
        return event

    def on_fit_task_begin(self, estimator, context):
        self._note("begin", context)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        event = self._note("end", context)
        self.scored[event] = fitted_estimator
        return event == self.stop


def epochs_of(events, number, n_networks=3):
    """Return which epochs of a network have begun and ended."""
    pattern = f"(begin|end) fit / Network {number} of {n_networks} / (epoch .*)"
    matches = [re.fullmatch(pattern, event) for event in events]
    return [" ".join(match.groups()) for match in matches if match]


# where networks form a stack, train alone, or one in a stack and two alone
ARRANGEMENTS = {
    "stack": {},
    "alone": {"solver": "adamw"},
    "batch normalisation": {"normalization": "batch", "dropout": 0.2},
    "early stopping": {"early_stopping": True},
}


@pytest.mark.parametrize("params", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_each_epoch_of_each_network_is_a_task(params, digits):
    recorder = PathRecorder()
    classifier(**params).set_callbacks(recorder).fit(digits.X, digits.y)
    events = recorder.events
    assert events[:2] == ["setup", "begin fit"]
    assert events[-2:] == ["end fit", "teardown"]
    for number in (1, 2, 3):
        expected = [f"{what} epoch {i}" for i in range(4) for what in ("begin", "end")]
        assert epochs_of(events, number) == expected
        own = [event for event in events if f"fit / Network {number} of 3" in event]
        assert own[0] == f"begin fit / Network {number} of 3"
        assert own[-1] == f"end fit / Network {number} of 3"


@pytest.mark.parametrize("params", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_callbacks_change_nothing_in_an_ensemble(params, digits):
    ensemble = classifier(**params)
    expected = copy.deepcopy(ensemble).fit(digits.X, digits.y)
    ensemble.set_callbacks(Recorder()).fit(digits.X, digits.y)
    for network, other in zip(ensemble.estimators_, expected.estimators_, strict=True):
        assert_array_equal(network.module_.flat, other.module_.flat)
        assert network.loss_curve_ == other.loss_curve_
        assert vars(network).keys() == vars(other).keys()


@pytest.mark.parametrize("params", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_an_epoch_is_scored_by_its_network_and_a_network_by_the_mean_so_far(params, digits):
    recorder = PathRecorder()
    ensemble = classifier(**params).set_callbacks(recorder).fit(digits.X, digits.y)
    X, scored = digits.X_test, recorder.scored
    for number, network in enumerate(ensemble.estimators_, start=1):
        after = [scored[f"end fit / Network {number} of 3 / epoch {i}"] for i in range(4)]
        assert all(len(seen.estimators_) == 1 for seen in after)
        losses = [seen.estimators_[0].module_.flat for seen in after]
        assert not any(np.array_equal(*pair) for pair in zip(losses, losses[1:], strict=False))
        best = 3 if not ensemble.early_stopping else network.best_iter_ - 1
        assert_array_equal(after[best].predict_proba(X), network.predict_proba(X))
    ends = [event for event in recorder.events if re.fullmatch("end fit / Network . of 3", event)]
    for n_done, event in enumerate(ends, start=1):
        done = sorted(int(other.split()[4]) for other in ends[:n_done])
        mean = sum(ensemble.estimators_[number - 1].predict_proba(X) for number in done) / n_done
        assert_array_equal(scored[event].predict_proba(X), mean)
    assert_array_equal(scored["end fit"].predict_proba(X), ensemble.predict_proba(X))


def test_the_mean_so_far_is_calibrated_and_knows_the_columns(wine):
    monitor = ScoringMonitor(scoring="neg_log_loss")
    ensemble = TabularMLPClassifier(max_iter=2, random_state=0).set_callbacks(monitor)
    ensemble.fit(wine.X, wine.y)
    rows = monitor.get_logs().data_as_pandas
    of_networks = rows[rows["task_name"].str.startswith("Network")]
    assert len(of_networks) == 4
    whole = rows.loc[rows["task_name"] == "fit", "neg_log_loss"].item()
    assert of_networks["neg_log_loss"].iloc[-1] == whole


BEFORE = {
    "ensemble": {"n_networks": 3},
    "candidates": {"n_candidates": 2, "early_stopping": True},
    "one network": {"n_networks": 1},
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("n_networks", [1, 3])
def test_scores_know_nothing_of_a_fit_before(before, n_networks, wine):
    monitor = ScoringMonitor(scoring="neg_log_loss")
    first = {"n_networks": 1, "n_candidates": 1, "early_stopping": True, "calibration": "auto"}
    second = {"n_candidates": 1, "n_networks": n_networks, "calibration": None}
    classifier = TabularMLPClassifier(max_iter=2, random_state=0, **first | before)
    classifier.fit(wine.X, wine.y).set_params(**second)
    classifier.set_callbacks(monitor).fit(wine.X, wine.y)
    scores = monitor.get_logs().data_as_pandas["neg_log_loss"]
    clone(classifier).set_callbacks(monitor).fit(wine.X, wine.y)
    assert_array_equal(scores, monitor.get_logs().data_as_pandas["neg_log_loss"])
    assert len(scores) == (3 if n_networks == 1 else 1 + 3 * 3)


def test_a_callback_stops_one_network_or_none(digits):
    recorder = PathRecorder(stop="end fit / Network 2 of 3 / epoch 1")
    ensemble = classifier().set_callbacks(recorder).fit(digits.X, digits.y)
    assert [network.n_iter_ for network in ensemble.estimators_] == [4, 2, 4]
    recorder = PathRecorder(stop="end fit / Network 1 of 3")
    ensemble.set_callbacks(recorder).fit(digits.X, digits.y)
    assert [network.n_iter_ for network in ensemble.estimators_] == [4, 4, 4]


@pytest.mark.parametrize("solver", ["adam", "adamw"], ids=["stack", "alone"])
@pytest.mark.parametrize("event", ["begin {}", "begin {} / epoch 0", "end {} / epoch 2", "end {}"])
def test_a_callback_that_fails_ends_the_fit_and_leaves_the_one_before(event, solver, digits):
    ensemble = classifier(solver=solver).fit(digits.X, digits.y)
    expected = ensemble.predict_proba(digits.X_test)
    recorder = PathRecorder(fail_at=event.format("fit / Network 2 of 3"))
    with pytest.raises(RuntimeError, match="this callback gives up"):
        ensemble.set_callbacks(recorder).fit(2 * digits.X, digits.y)
    assert recorder.events[-1] == "teardown"
    assert_array_equal(ensemble.predict_proba(digits.X_test), expected)


def test_epochs_of_a_stack_that_failed_are_told_once(monkeypatch, digits):
    train_epoch = fused.Stack.train_epoch

    def failing(stack, rates):
        if stack.n_steps > 20:
            raise ArithmeticError("this stack gives up")
        return train_epoch(stack, rates)

    monkeypatch.setattr(fused.Stack, "train_epoch", failing)
    recorder = PathRecorder()
    with pytest.warns(UserWarning, match="A stack of 3 networks failed with Arith"):
        classifier().set_callbacks(recorder).fit(digits.X, digits.y)
    for number in (1, 2, 3):
        expected = [f"{what} epoch {i}" for i in range(4) for what in ("begin", "end")]
        assert epochs_of(recorder.events, number) == expected


def test_networks_without_epochs_are_tasks_without_parts(digits):
    recorder = PathRecorder()
    ensemble = classifier(solver="lbfgs", max_iter=3, tol=10.0).set_callbacks(recorder)
    ensemble.fit(digits.X[:100], digits.y[:100])
    own = [f"{what} fit / Network {i} of 3" for i in (1, 2, 3) for what in ("begin", "end")]
    assert recorder.events == ["setup", "begin fit", *own, "end fit", "teardown"]


def test_a_warm_start_tells_of_its_own_epochs(digits):
    ensemble = classifier(max_iter=1, warm_start=True).fit(digits.X, digits.y)
    recorder = PathRecorder()
    ensemble.set_params(max_iter=2).set_callbacks(recorder).fit(digits.X, digits.y)
    assert epochs_of(recorder.events, 3) == [
        "begin epoch 0", "end epoch 0", "begin epoch 1", "end epoch 1",
    ]  # fmt: skip


@pytest.fixture
def shown(monkeypatch, capsys):
    """Return what has been shown since the last call, on a terminal of a width of its own."""
    monkeypatch.setattr(rich, "_console", rich.console.Console(width=200, height=50))
    return lambda: capsys.readouterr().out


def test_progress_bar_names_the_networks_and_shows_their_epochs(diabetes, shown):
    regressor = DeepMLPRegressor(**QUICK).set_callbacks(callbacks.ProgressBar())
    regressor.fit(diabetes.X, diabetes.y)
    output = shown()
    assert re.search(r"DeepMLPRegressor - fit +\S+ 100%", output)
    for number, network in enumerate(regressor.estimators_, start=1):
        figures = f"epoch 4, loss {network.loss_:.4g} "
        assert f"DeepMLPRegressor - Network {number} of 3 #{number - 1}: {figures}" in output


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_tell_of_their_networks(backend, wine, shown):
    monitor = ScoringMonitor(scoring="accuracy")
    ensemble = TabularMLPClassifier(max_iter=3, random_state=0, n_jobs=2)
    expected = copy.deepcopy(ensemble)
    with joblib.parallel_config(backend):
        ensemble.set_callbacks(callbacks.ProgressBar(), monitor).fit(wine.X, wine.y)
        expected.fit(wine.X, wine.y)
    for network, other in zip(ensemble.estimators_, expected.estimators_, strict=True):
        assert_array_equal(network.module_.flat, other.module_.flat)
    rows = monitor.get_logs().data_as_pandas
    epochs = rows[rows["task_name"] == "epoch"]
    assert len(epochs) == sum(network.n_iter_ for network in ensemble.estimators_)
    for number, network in enumerate(ensemble.estimators_):
        own = epochs.loc[epochs["parent_task_id_path"] == (0, number), "accuracy"]
        assert own.iloc[network.best_iter_ - 1] == network.score(wine.X, wine.y)
    assert "Network 4 of 4 #3: epoch" in shown()


class Unpicklable(Recorder):
    def __getstate__(self):
        raise TypeError("this callback stays here")


def test_callbacks_that_workers_cannot_have_are_named(wine):
    ensemble = TabularMLPClassifier(max_iter=2, n_jobs=2).set_callbacks(Unpicklable())
    match = r"Unpicklable.* cannot be sent to the processes that train: this callback stays here"
    with pytest.raises(TypeError, match=match):
        ensemble.fit(wine.X, wine.y)
