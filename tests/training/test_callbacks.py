"""scikit-learn's callbacks, skorch's callbacks, and what is said and recorded on the way."""

import copy
import re

import numpy as np
import pandas as pd
import pytest
import rich.console
import skorch.callbacks
from conftest import KINDS, Recorder
from numpy.testing import assert_array_equal
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import accuracy_score, mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor, callbacks

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}


def quick_classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    """Offer each of the three estimators, ready for a quick fit."""
    return request.param(**QUICK)


# scikit-learn's own callbacks


class PropagatedRecorder(Recorder):
    """The same, handed on by meta-estimators to what they fit."""

    max_propagation_depth = None

    def __init__(self):
        super().__init__()
        self.paths = []

    def on_fit_task_begin(self, estimator, context):
        path = []
        while context is not None:
            path.insert(0, (context.estimator_name, context.task_name))
            context = context.parent
        self.paths.append(path)


def test_each_epoch_is_one_task_inside_the_fit(network, digits):
    recorder = Recorder()
    network.set_callbacks(recorder).fit(digits.X, digits.y)
    epochs = [f"{what} epoch {i}" for i in range(4) for what in ("begin", "end")]
    assert recorder.events == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_lbfgs_is_one_task_without_epochs(kind, digits):
    recorder = Recorder()
    network = kind(hidden_layer_sizes=(4,), solver="lbfgs", tol=10.0)
    network.set_callbacks(recorder).fit(digits.X[:100], digits.y[:100])
    assert recorder.events == ["setup", "begin fit 0", "end fit 0", "teardown"]


def test_epochs_are_numbered_anew_by_a_warm_start(digits):
    recorder = Recorder()
    classifier = quick_classifier(max_iter=1, warm_start=True).set_callbacks(recorder)
    for _ in range(2):
        classifier.fit(digits.X, digits.y)
    assert recorder.events.count("begin epoch 0") == 2


@pytest.mark.parametrize("stop_after", [1, 3])
def test_callback_that_returns_true_stops_after_that_epoch(stop_after, network, digits):
    recorder = Recorder(stop_after=stop_after)
    network.set_callbacks(recorder).fit(digits.X, digits.y)
    assert network.n_iter_ == len(network.loss_curve_) == stop_after
    assert recorder.events[-2:] == ["end fit 0", "teardown"]
    expected = type(network)(**{**QUICK, "max_iter": stop_after}).fit(digits.X, digits.y)
    assert_array_equal(network.module_.flat, expected.module_.flat)


def test_stopping_callback_keeps_the_best_weights_of_early_stopping(cancer):
    classifier = quick_classifier(max_iter=20).set_callbacks(Recorder(stop_after=8))
    classifier.fit(cancer.X, cancer.y, X_val=cancer.X_test, y_val=cancer.y_test)
    assert len(classifier.validation_scores_) == 8
    assert classifier.score(cancer.X_test, cancer.y_test) == max(classifier.validation_scores_)


def test_fitted_estimator_has_the_weights_of_its_epoch(network, digits):
    recorder = Recorder()
    network.set_callbacks(recorder).fit(digits.X, digits.y)
    for epoch, snapshot in enumerate(recorder.estimators, start=1):
        expected = type(network)(**{**QUICK, "max_iter": epoch}).fit(digits.X, digits.y)
        assert_array_equal(snapshot.module_.flat, expected.module_.flat)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "score"])
def test_fitted_estimator_of_an_epoch_can_do_all_that_the_final_one_can(method, digits):
    recorder = Recorder()
    final = quick_classifier(normalization="batch").set_callbacks(recorder)
    final.fit(digits.X, digits.y)
    last, y = recorder.estimators[-1], [digits.y_test] if method == "score" else []
    assert_array_equal(
        getattr(last, method)(digits.X_test, *y), getattr(final, method)(digits.X_test, *y)
    )


def test_callback_is_given_the_data_and_the_weights(digits):
    weight = np.arange(1.0, len(digits.y) + 1)
    recorder = Recorder()
    quick_classifier().set_callbacks(recorder).fit(digits.X, digits.y, weight)
    for X, y, metadata in recorder.passed:
        assert X is digits.X
        assert y is digits.y
        assert list(metadata) == ["sample_weight"]
        assert_array_equal(metadata["sample_weight"], weight)


def test_idle_callback_changes_nothing(network, digits):
    expected = copy.deepcopy(network).fit(digits.X, digits.y)
    network.set_callbacks(Recorder()).fit(digits.X, digits.y)
    assert network.loss_curve_ == expected.loss_curve_
    assert_array_equal(network.module_.flat, expected.module_.flat)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_teardown_comes_also_when_the_data_are_refused(solver, digits):
    X = digits.X.copy()
    X[3, 5] = np.nan
    recorder = Recorder()
    with pytest.raises(ValueError, match="contains NaN"):
        quick_classifier(solver=solver).set_callbacks(recorder).fit(X, digits.y)
    assert recorder.events.count("setup") == recorder.events.count("teardown")


def test_teardown_comes_also_when_training_diverges(diabetes):
    recorder = Recorder()
    regressor = DeepMLPRegressor(**{**QUICK, "solver": "sgd", "learning_rate_init": 1e300})
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        regressor.set_callbacks(recorder).fit(diabetes.X, diabetes.y)
    assert recorder.events[0] == "setup"
    assert recorder.events[-1] == "teardown"


def test_teardown_comes_also_when_the_callback_fails(network, digits):
    recorder = Recorder(fail_after=2)
    with pytest.raises(RuntimeError, match="this callback gives up"):
        network.set_callbacks(recorder).fit(digits.X, digits.y)
    assert recorder.events[-2:] == ["end epoch 1", "teardown"]


def test_partial_fit_does_not_call_scikit_learns_callbacks(digits):
    recorder = Recorder()
    classifier = quick_classifier().set_callbacks(recorder)
    classifier.partial_fit(digits.X, digits.y, classes=np.arange(10))
    assert recorder.events == []


def test_epochs_are_nested_in_the_tasks_of_a_pipeline(wine):
    recorder = PropagatedRecorder()
    pipeline = make_pipeline(StandardScaler(), quick_classifier(max_iter=3))
    pipeline.set_callbacks(recorder).fit(wine.X, wine.y)
    epochs = [path for path in recorder.paths if path[-1] == ("DeepMLPClassifier", "epoch")]
    assert len(epochs) == 3
    assert {path[0] for path in epochs} == {("Pipeline", "fit")}


def test_epochs_are_nested_in_the_tasks_of_a_search(wine):
    recorder = PropagatedRecorder()
    search = GridSearchCV(quick_classifier(max_iter=3), {"alpha": [0.1, 0.2]}, cv=2)
    search.set_callbacks(recorder).fit(wine.X, wine.y)
    epochs = [path for path in recorder.paths if path[-1] == ("DeepMLPClassifier", "epoch")]
    assert len(epochs) == 3 * (2 * 2 + 1)  # candidates times folds, and the final fit
    assert {path[0] for path in epochs} == {("GridSearchCV", "fit")}


@pytest.fixture
def shown(monkeypatch, capsys):
    """Return what has been shown since the last call, on a terminal of a width of its own."""
    monkeypatch.setattr(rich, "_console", rich.console.Console(width=200, height=50))
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_progress_bar_reaches_the_end(kind, solver, digits, shown):
    network = kind(hidden_layer_sizes=(4,), max_iter=3, solver=solver, tol=10.0)
    network.set_callbacks(ProgressBar()).fit(digits.X[:50], digits.y[:50])
    assert "100%" in shown()


def test_progress_bar_shows_the_network_inside_a_pipeline(wine, shown):
    pipeline = make_pipeline(quick_classifier(max_iter=3)).set_callbacks(ProgressBar())
    pipeline.fit(wine.X, wine.y)
    output = shown()
    assert "DeepMLPClassifier" in output
    assert "100%" in output


@pytest.mark.parametrize("held_out", [True, False])
def test_our_progress_bar_shows_the_figures_of_each_epoch(held_out, wine, shown):
    network = quick_classifier(early_stopping=held_out).set_callbacks(callbacks.ProgressBar())
    network.fit(wine.X, wine.y)
    figures = f"epoch 4, loss {network.loss_:.4g}"
    if held_out:
        figures += f", score {network.validation_scores_[-1]:.4g}"
    assert f"DeepMLPClassifier - fit: {figures} " in shown()


def test_our_progress_bar_shows_the_figures_within_a_search(wine, shown):
    search = GridSearchCV(quick_classifier(max_iter=2), {"alpha": [0.1, 0.2]}, cv=2)
    search.set_callbacks(callbacks.ProgressBar()).fit(wine.X, wine.y)
    refit = search.best_estimator_
    lines = [line for line in shown().splitlines() if ": epoch 2, loss " in line]
    assert len(lines) == 2 * 2 + 1  # candidates times folds, and the final fit
    assert f"epoch 2, loss {refit.loss_:.4g} " in lines[-1]
    search.set_callbacks(callbacks.ProgressBar(max_propagation_depth=0)).fit(wine.X, wine.y)
    assert "epoch" not in shown()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_in_a_narrow_terminal_a_name_loses_its_beginning_before_a_figure(width, wine, shown):
    rich.get_console().width = width
    search = GridSearchCV(quick_classifier(max_iter=2, early_stopping=True), {"alpha": [0.1]}, cv=2)
    search.set_callbacks(callbacks.ProgressBar()).fit(wine.X, wine.y)
    lines = [line.rstrip() for line in shown().splitlines() if "epoch 2, loss " in line]
    assert len(lines) == 2 + 1
    for line in lines:
        assert re.fullmatch(r" *….*: epoch 2, loss \S+, score \S+ +\S+ 100% 0:00:0\d", line)
        assert len(line) <= width


@pytest.mark.slow
def test_progress_bar_shows_a_search_in_two_processes(wine, shown):
    search = GridSearchCV(quick_classifier(max_iter=3), {"alpha": [0.1, 0.2]}, cv=2, n_jobs=2)
    search.set_callbacks(ProgressBar()).fit(wine.X, wine.y)
    output = shown()
    assert "GridSearchCV" in output
    assert "DeepMLPClassifier" in output


def scores_of_epochs(monitor):
    rows = monitor.get_logs().data_as_pandas
    return rows[rows["task_name"] == "epoch"]


@pytest.mark.parametrize("frame", [False, True], ids=["array", "frame"])
def test_monitor_logs_the_right_score_of_each_epoch(frame, digits):
    X = pd.DataFrame(digits.X).add_prefix("pixel ") if frame else digits.X
    monitor = ScoringMonitor(scoring="accuracy")
    quick_classifier().set_callbacks(monitor).fit(X, digits.y)
    expected = [
        quick_classifier(max_iter=epochs).fit(X, digits.y).score(X, digits.y)
        for epochs in (1, 2, 3, 4)
    ]
    assert_array_equal(scores_of_epochs(monitor)["accuracy"], expected)


def test_monitor_weighs_the_samples(digits):
    weight = np.random.RandomState(0).uniform(size=len(digits.y))
    monitor = ScoringMonitor(scoring="accuracy")
    classifier = quick_classifier().set_callbacks(monitor).fit(digits.X, digits.y, weight)
    expected = accuracy_score(digits.y, classifier.predict(digits.X), sample_weight=weight)
    assert scores_of_epochs(monitor)["accuracy"].iloc[-1] == pytest.approx(expected, rel=1e-12)


def test_monitor_takes_several_scores_of_a_regressor(diabetes):
    monitor = ScoringMonitor(scoring=["r2", "neg_mean_squared_error"])
    regressor = DeepMLPRegressor(**QUICK).set_callbacks(monitor).fit(diabetes.X, diabetes.y)
    last = scores_of_epochs(monitor).iloc[-1]
    predicted = regressor.predict(diabetes.X)
    assert last["r2"] == pytest.approx(regressor.score(diabetes.X, diabetes.y), rel=1e-12)
    assert last["neg_mean_squared_error"] == -mean_squared_error(diabetes.y, predicted)


@pytest.mark.parametrize("patience", [2, 3])
def test_monitor_scores_the_last_epoch_also_when_skorch_stops_the_training(patience, digits):
    monitor = ScoringMonitor(scoring="accuracy")
    stop = skorch.callbacks.EarlyStopping(
        monitor="train_loss",
        patience=patience,
        threshold=10.0,
        threshold_mode="abs",
        sink=lambda _: None,
    )
    classifier = quick_classifier(max_iter=50, callbacks=[stop]).set_callbacks(monitor)
    classifier.fit(digits.X, digits.y)
    scores = scores_of_epochs(monitor)["accuracy"]
    assert len(scores) == classifier.n_iter_ == patience + 1
    assert scores.iloc[-1] == classifier.score(digits.X, digits.y)


@pytest.mark.slow
def test_monitor_collects_the_scores_of_a_search_in_two_processes(wine):
    monitor = ScoringMonitor(scoring="accuracy")
    classifier = quick_classifier(max_iter=3).set_callbacks(monitor)
    GridSearchCV(classifier, {"alpha": [0.1, 0.2]}, cv=2, n_jobs=2).fit(wine.X, wine.y)
    scores = scores_of_epochs(monitor)["accuracy"]
    assert len(scores) == 3 * (2 * 2 + 1)
    assert scores.between(0, 1).all()


# What is printed, and an interruption


def test_nothing_is_printed_by_default(network, digits, capsys):
    network.fit(digits.X, digits.y)
    output = capsys.readouterr()
    assert output.out == output.err == ""


def failing(event, from_epoch=2):
    """Return a skorch callback that raises at an event from an epoch on."""

    def fail(self, net, **kwargs):
        if len(net.history) >= from_epoch:
            raise RuntimeError("this callback gives up")

    return type("Failing", (skorch.callbacks.Callback,), {event: fail})()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("event", ["on_train_begin", "on_batch_begin", "on_epoch_end"])
def test_error_in_the_first_epoch_leaves_the_fit_before(event, method, network, digits):
    network.fit(digits.X, digits.y)
    predict = getattr(network, "transform", None) or network.predict
    predict = getattr(network, "predict_proba", predict)
    before = predict(digits.X_test)
    broken = failing(event, from_epoch=0 if method == "fit" else 4)
    with pytest.raises(RuntimeError, match="this callback gives up"):
        getattr(network.set_params(callbacks=[broken]), method)(2 * digits.X, digits.y)
    assert_array_equal(predict(digits.X_test), before)
    assert len(network.loss_curve_) == len(network.history_) == network.n_iter_ == 4


@pytest.mark.parametrize(
    "event", ["on_batch_begin", "on_grad_computed", "on_batch_end", "on_epoch_end", "on_train_end"]
)
def test_fit_that_a_callback_broke_off_predicts_and_can_be_taken_up_again(event, network, digits):
    network.set_params(
        dropout=0.5, warm_start=True, early_stopping=True, callbacks=[failing(event)]
    )
    with pytest.raises(RuntimeError, match="this callback gives up"):
        network.fit(digits.X, digits.y)
    assert not network.module_.training
    names = ("predict_proba", "transform", "predict")
    method = next(getattr(network, name) for name in names if hasattr(network, name))
    assert_array_equal(method(digits.X_test), method(digits.X_test))
    assert [row.get("train_loss") for row in network.history_] == network.loss_curve_
    finished = len(network.loss_curve_)
    network.set_params(callbacks=None, early_stopping=False).fit(digits.X, digits.y)
    assert network.n_iter_ == 4
    assert len(network.loss_curve_) == finished + 4
    assert network.loss_ < network.loss_curve_[0]
