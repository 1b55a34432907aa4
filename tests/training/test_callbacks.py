"""scikit-learn's callbacks, skorch's callbacks, and what is said and recorded on the way."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import skorch.callbacks
import torch
from conftest import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import accuracy_score, mean_squared_error, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

NETWORKS = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}


def quick_classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
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


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
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


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_progress_bar_reaches_the_end(kind, solver, digits, capsys):
    network = kind(hidden_layer_sizes=(4,), max_iter=3, solver=solver, tol=10.0)
    network.set_callbacks(ProgressBar()).fit(digits.X[:50], digits.y[:50])
    assert "100%" in capsys.readouterr().out


def test_progress_bar_shows_the_network_inside_a_pipeline(wine, capsys):
    pipeline = make_pipeline(quick_classifier(max_iter=3)).set_callbacks(ProgressBar())
    pipeline.fit(wine.X, wine.y)
    output = capsys.readouterr().out
    assert "DeepMLPClassifier" in output
    assert "100%" in output


@pytest.mark.slow
def test_progress_bar_shows_a_search_in_two_processes(wine, capsys):
    search = GridSearchCV(quick_classifier(max_iter=3), {"alpha": [0.1, 0.2]}, cv=2, n_jobs=2)
    search.set_callbacks(ProgressBar()).fit(wine.X, wine.y)
    output = capsys.readouterr().out
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


# skorch's callbacks


def column(network, name):
    return network.history_[:, name]


def test_skorch_early_stopping_goes_by_the_training_loss(digits):
    stop = skorch.callbacks.EarlyStopping(
        monitor="train_loss", patience=2, threshold=10.0, threshold_mode="abs", sink=lambda _: None
    )
    classifier = quick_classifier(max_iter=50, callbacks=[stop]).fit(digits.X, digits.y)
    assert classifier.n_iter_ == 3


@pytest.mark.parametrize("own_set", [False, True])
def test_skorch_early_stopping_goes_by_the_validation_loss(own_set, digits):
    stop = skorch.callbacks.EarlyStopping(
        monitor="valid_loss", patience=2, threshold=10.0, threshold_mode="abs", sink=lambda _: None
    )
    classifier = quick_classifier(max_iter=50, early_stopping=not own_set, callbacks=[stop])
    held_out = {"X_val": digits.X_test, "y_val": digits.y_test} if own_set else {}
    classifier.fit(digits.X, digits.y, **held_out)
    assert classifier.n_iter_ == 3


def test_checkpoint_saves_weights_that_the_network_can_load(digits, tmp_path):
    checkpoint = skorch.callbacks.Checkpoint(
        monitor="train_loss_best",
        dirname=tmp_path,
        f_criterion=None,
        f_optimizer="optimizer.pt",
        f_history="history.json",
    )
    classifier = quick_classifier(callbacks=[checkpoint]).fit(digits.X, digits.y)
    assert {path.name for path in tmp_path.iterdir()} == {
        "params.pt",
        "optimizer.pt",
        "history.json",
    }
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    expected = classifier.predict_proba(digits.X_test)
    other = quick_classifier(random_state=1, max_iter=1).fit(digits.X, digits.y)
    other.module_.load_state_dict(saved)
    assert_array_equal(other.predict_proba(digits.X_test), expected)


def test_checkpoint_keeps_the_epoch_of_the_best_validation_loss(digits, tmp_path):
    checkpoint = skorch.callbacks.Checkpoint(
        monitor="valid_loss_best",
        dirname=tmp_path,
        f_params="params_{last_epoch[epoch]}.pt",
        f_criterion=None,
        f_optimizer=None,
        f_history=None,
    )
    classifier = quick_classifier(
        max_iter=15, learning_rate_init=0.05, n_iter_no_change=np.inf, callbacks=[checkpoint]
    )
    classifier.fit(digits.X, digits.y, X_val=digits.X_test, y_val=digits.y_test)
    losses = classifier.validation_loss_curve_
    best_so_far = [i + 1 for i in range(15) if losses[i] == min(losses[: i + 1])]
    assert 1 < len(best_so_far) < 15
    assert {path.name for path in tmp_path.iterdir()} == {f"params_{i}.pt" for i in best_so_far}


def test_train_end_checkpoint_loads_at_the_beginning_of_another_fit(digits, tmp_path):
    checkpoint = skorch.callbacks.Checkpoint(
        dirname=tmp_path, monitor="train_loss_best", f_criterion=None
    )
    first = quick_classifier(callbacks=[checkpoint]).fit(digits.X, digits.y)
    load = skorch.callbacks.LoadInitState(checkpoint)
    second = quick_classifier(callbacks=[load], max_iter=1, random_state=1)
    second.fit(digits.X, digits.y)
    assert second.loss_ < first.loss_


def test_checkpoint_saves_a_pickle_that_predicts(digits, tmp_path):
    checkpoint = skorch.callbacks.Checkpoint(
        monitor="train_loss_best", f_pickle="net.pkl", dirname=tmp_path
    )
    classifier = quick_classifier(callbacks=[checkpoint]).fit(digits.X, digits.y)
    net = pickle.loads((tmp_path / "net.pkl").read_bytes())
    expected = classifier.predict_proba(digits.X_test)
    assert_array_equal(net.predict_proba(digits.X_test), expected)


class RateRecorder(skorch.callbacks.Callback):
    """Notes the learning rate with which each epoch begins and each batch is done."""

    def __init__(self):
        self.epochs, self.batches = [], []

    def on_epoch_begin(self, net, **kwargs):
        self.epochs.append(net.optimizer_.param_groups[0]["lr"])

    def on_batch_end(self, net, **kwargs):
        self.batches.append(net.optimizer_.param_groups[0]["lr"])


def test_step_schedule_of_torch_lowers_the_rate(digits):
    recorder = RateRecorder()
    schedule = skorch.callbacks.LRScheduler("StepLR", step_size=2, gamma=0.1)
    classifier = quick_classifier(learning_rate_init=0.01, callbacks=[recorder, schedule])
    classifier.fit(digits.X, digits.y)
    assert_allclose(recorder.epochs, [0.01, 0.01, 0.001, 0.001])


def test_one_cycle_schedule_of_torch_moves_with_every_batch(digits):
    recorder = RateRecorder()
    schedule = skorch.callbacks.LRScheduler(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=0.01,
        total_steps=4 * 7 + 1,
        cycle_momentum=False,
        step_every="batch",
    )
    classifier = quick_classifier(callbacks=[recorder, schedule]).fit(digits.X, digits.y)
    assert len(recorder.batches) == 4 * 7
    assert len(set(recorder.batches)) > 20
    assert max(recorder.batches) == pytest.approx(0.01, rel=1e-2)
    assert recorder.batches[-1] < 1e-4
    assert classifier.loss_ < classifier.loss_curve_[0]


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "muon"])
def test_plateau_schedule_of_torch_goes_by_the_history(solver, digits):
    recorder = RateRecorder()
    schedule = skorch.callbacks.LRScheduler(
        "ReduceLROnPlateau", monitor="train_loss", patience=0, factor=0.5, threshold=10.0,
        threshold_mode="abs",
    )  # fmt: skip
    classifier = quick_classifier(
        solver=solver, learning_rate_init=0.01, callbacks=[recorder, schedule]
    )
    classifier.fit(digits.X, digits.y)
    assert_allclose(recorder.epochs, [0.01, 0.01, 0.005, 0.0025])


def test_epoch_scoring_scores_the_training_set(digits):
    scoring = skorch.callbacks.EpochScoring("accuracy", on_train=True, name="train_accuracy")
    classifier = quick_classifier(callbacks=[scoring]).fit(digits.X, digits.y)
    expected = [
        quick_classifier(max_iter=epochs).fit(digits.X, digits.y).score(digits.X, digits.y)
        for epochs in (1, 2, 3, 4)
    ]
    assert_array_equal(column(classifier, "train_accuracy"), expected)


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc_ovr"])
def test_epoch_scoring_scores_the_validation_set(scoring, digits):
    callback = skorch.callbacks.EpochScoring(scoring, lower_is_better=False)
    classifier = quick_classifier(callbacks=[callback])
    classifier.fit(digits.X, digits.y, X_val=digits.X_test, y_val=digits.y_test)
    best = column(classifier, scoring)[classifier.best_iter_ - 1]
    if scoring == "accuracy":
        assert column(classifier, scoring) == classifier.validation_scores_
        expected = classifier.score(digits.X_test, digits.y_test)
    else:
        probabilities = classifier.predict_proba(digits.X_test)
        expected = roc_auc_score(digits.y_test, probabilities, multi_class="ovr")
    assert best == pytest.approx(expected, rel=1e-12)


def test_epoch_scoring_of_a_frame_gives_no_warning(cancer):
    callbacks = [
        skorch.callbacks.EpochScoring("roc_auc", on_train=on_train, name=f"auc {on_train}")
        for on_train in (True, False)
    ]
    X = pd.DataFrame(cancer.X).add_prefix("measure ")
    classifier = quick_classifier(
        max_iter=10, learning_rate_init=0.02, early_stopping=True, callbacks=callbacks
    )
    classifier.fit(X, cancer.y)
    assert min(column(classifier, "auc True")[-1], column(classifier, "auc False")[-1]) > 0.9


def test_epoch_scoring_scores_a_regressor(diabetes):
    callback = skorch.callbacks.EpochScoring("r2", on_train=True, name="train_r2")
    regressor = DeepMLPRegressor(**QUICK, callbacks=[callback]).fit(diabetes.X, diabetes.y)
    expected = regressor.score(diabetes.X, diabetes.y)
    assert column(regressor, "train_r2")[-1] == pytest.approx(expected, rel=1e-12)


class GradientRecorder(skorch.callbacks.Callback):
    """Notes the norm of the gradient before each step."""

    def __init__(self):
        self.norms = []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        gradients = [parameter.grad.reshape(-1) for _, parameter in named_parameters]
        self.norms.append(torch.cat(gradients).norm().item())


def test_gradient_norm_clipping_cuts_the_gradient_before_the_step(digits):
    before, after = GradientRecorder(), GradientRecorder()
    clip = skorch.callbacks.GradientNormClipping(gradient_clip_value=0.05)
    callbacks = [("before", before), ("clip", clip), ("after", after)]
    classifier = quick_classifier(callbacks=callbacks, max_iter=1)
    classifier.fit(digits.X, digits.y)
    assert min(before.norms) > 0.05
    assert_allclose(after.norms, 0.05, rtol=1e-3)


def test_gradient_norm_clipping_agrees_with_max_grad_norm(digits):
    clip = skorch.callbacks.GradientNormClipping(gradient_clip_value=0.05)
    by_callback = quick_classifier(callbacks=[clip]).fit(digits.X, digits.y)
    by_parameter = quick_classifier(max_grad_norm=0.05).fit(digits.X, digits.y)
    # torch adds 1e-6 to the norm
    assert_allclose(by_callback.loss_curve_, by_parameter.loss_curve_, rtol=1e-4)


def frozen_layers(**params):
    callbacks = [skorch.callbacks.Freezer("layers.0*")]
    return quick_classifier(**params, callbacks=callbacks)


@pytest.mark.parametrize(
    "params",
    [
        *({"solver": solver} for solver in ("adam", "sgd", "adamw", "muon")),
        {"solver": torch.optim.AdamW},
        {"solver": torch.optim.SGD, "solver_params": {"weight_decay": 0.1, "momentum": 0.9}},
        {"solver": torch.optim.LBFGS},
        {"weight_decay": 0.1, "alpha": 1.0},
        {"normalization": "layer", "dropout": 0.1},
    ],
    ids=str,
)
def test_frozen_layer_stays_as_initialised(params, digits):
    params = {"max_iter": 2, "learning_rate_init": 0.01, **params}
    frozen = frozen_layers(**params).fit(digits.X, digits.y)
    initial = quick_classifier(max_iter=1, solver="sgd", learning_rate_init=1e-300)
    initial.fit(digits.X, digits.y)
    assert_array_equal(frozen.coefs_[0], initial.coefs_[0])
    assert_array_equal(frozen.intercepts_[0], initial.intercepts_[0])
    assert np.abs(frozen.coefs_[1] - initial.coefs_[1]).min() > 0


class BatchRecorder(skorch.callbacks.Callback):
    """Notes what each batch was and what came of it."""

    def __init__(self):
        self.rows, self.losses, self.begun = [], [], 0

    def on_batch_begin(self, net, batch, training):
        self.begun += 1
        assert training

    def on_batch_end(self, net, batch, training, loss, y_pred):
        X, y = batch
        assert len(X) == len(y) == len(y_pred)
        expected = torch.nn.functional.cross_entropy(y_pred, y)
        assert_allclose(loss, expected, rtol=1e-10)
        self.rows.append(X.clone())
        self.losses.append(float(loss))


def test_batch_callback_hears_of_every_batch(digits):
    recorder = BatchRecorder()
    classifier = quick_classifier(batch_size=100, alpha=0, max_iter=1, callbacks=[recorder])
    classifier.fit(digits.X, digits.y)
    assert recorder.begun == len(recorder.rows) == 14  # of 1347 rows, the last one short
    seen = torch.cat(recorder.rows).numpy()
    assert_array_equal(np.unique(seen, axis=0), np.unique(digits.X, axis=0))
    assert len(seen) == len(digits.X)


def test_batch_callback_finds_every_batch_in_the_history(digits):
    recorder = BatchRecorder()
    classifier = quick_classifier(batch_size=100, alpha=0, max_iter=2, callbacks=[recorder])
    classifier.fit(digits.X, digits.y)
    batches = classifier.history_[:, "batches", :, "train_loss"]
    assert_allclose(np.ravel(batches), recorder.losses)
    sizes = classifier.history_[0, "batches", :, "train_batch_size"]
    assert sizes == [100] * 13 + [47]
    assert np.average(batches[0], weights=sizes) == pytest.approx(classifier.loss_curve_[0])


class Quiet(skorch.callbacks.Callback):
    """Listens to nothing."""


@pytest.mark.parametrize("own", [None, [Quiet()]], ids=["none", "skorch"])
@pytest.mark.parametrize("scikit_learn", [False, True])
def test_history_keeps_batches_only_for_the_callbacks_of_skorch(own, scikit_learn, network, digits):
    network.set_params(callbacks=own, batch_size=500)
    if scikit_learn:
        network.set_callbacks(Recorder())
    network.fit(digits.X, digits.y)
    assert [len(row["batches"]) for row in network.history_] == [3 if own else 0] * 4


EVENTS_OF_BATCHES = {"on_batch_begin", "on_grad_computed", "on_batch_end"}


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (BatchRecorder(), EVENTS_OF_BATCHES),
        (skorch.callbacks.LRScheduler("StepLR", step_size=2), set()),
        (skorch.callbacks.EpochScoring("accuracy", on_train=True), set()),
        (skorch.callbacks.EpochScoring("accuracy", use_caching=False), set()),
        (skorch.callbacks.EarlyStopping("train_loss"), set()),
    ],
    ids=lambda value: "" if isinstance(value, set) else type(value).__name__,
)
def test_callback_of_epochs_is_not_told_of_batches(callback, expected, digits, monkeypatch):
    told, notify = set(), skorch.NeuralNet.notify

    def spy(net, event, **kwargs):
        told.add(event)
        notify(net, event, **kwargs)

    monkeypatch.setattr(skorch.NeuralNet, "notify", spy)
    classifier = quick_classifier(alpha=0, early_stopping=True, callbacks=[callback])
    classifier.fit(digits.X, digits.y)
    assert told & EVENTS_OF_BATCHES == expected


@pytest.mark.parametrize("validation", [False, True])
def test_history_has_one_row_per_epoch_under_skorchs_names(validation, network, digits):
    network.set_params(early_stopping=validation).fit(digits.X, digits.y)
    history = network.history_
    assert column(network, "epoch") == [1, 2, 3, 4]
    assert column(network, "train_loss") == network.loss_curve_
    assert min(column(network, "dur")) > 0
    assert ("valid_loss" in history[0]) == validation
    if validation:
        assert column(network, "valid_loss") == network.validation_loss_curve_
        assert column(network, "valid_score") == network.validation_scores_


def test_history_goes_on_with_a_warm_start_and_partial_fit(digits):
    classifier = quick_classifier(warm_start=True, max_iter=2)
    classifier.fit(digits.X, digits.y).fit(digits.X, digits.y)
    classifier.partial_fit(digits.X, digits.y)
    assert column(classifier, "epoch") == [1, 2, 3, 4, 5]
    assert column(classifier, "train_loss") == classifier.loss_curve_


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_best_losses_in_the_history_are_the_best_of_all_calls(method, digits):
    classifier = quick_classifier(warm_start=True).fit(digits.X, digits.y)
    getattr(classifier, method)(digits.X, 9 - digits.y)  # what was learned is wrong now
    losses = classifier.loss_curve_
    assert losses[4] > min(losses[:4])
    expected = [loss == min(losses[: i + 1]) for i, loss in enumerate(losses)]
    assert column(classifier, "train_loss_best") == expected


class Idle(skorch.callbacks.Callback):
    """Listens to all and does nothing."""

    def on_batch_begin(self, net, **kwargs):
        pass

    def on_batch_end(self, net, **kwargs):
        pass

    def on_grad_computed(self, net, **kwargs):
        pass


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd"},
        {"solver": "muon"},
        {"dropout": 0.2},
        {"normalization": "batch"},
        {"early_stopping": True},
        {"max_grad_norm": 0.1},
    ],
    ids=str,
)
def test_idle_skorch_callback_changes_nothing(params, network, digits):
    network.set_params(**params)
    expected = copy.deepcopy(network).fit(digits.X, digits.y)
    network.set_params(callbacks=[Idle()]).fit(digits.X, digits.y)
    assert_allclose(network.loss_curve_, expected.loss_curve_, rtol=1e-12)
    assert_array_equal(network.module_.flat, expected.module_.flat)


@pytest.mark.parametrize(
    "callbacks", [["stop"], [("name", 3)], [ProgressBar()]], ids=["str", "int", "sklearn"]
)
def test_what_is_no_callback_is_refused(callbacks, digits):
    with pytest.raises((TypeError, ValueError), match="callbacks"):
        quick_classifier(callbacks=callbacks).fit(digits.X, digits.y)


def test_callbacks_of_skorch_are_called_by_partial_fit(digits):
    recorder = BatchRecorder()
    classifier = quick_classifier(batch_size=100, alpha=0, callbacks=[recorder])
    classifier.partial_fit(digits.X, digits.y, classes=np.arange(10))
    assert recorder.begun == 14


# What is printed, and an interruption


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}], ids=["loss", "score"])
def test_verbose_prints_the_lines_of_scikit_learn(params, digits, capsys):
    params = {**QUICK, "solver": "sgd", "verbose": True, **params}
    DeepMLPClassifier(**params).fit(digits.X, digits.y)
    ours = capsys.readouterr().out
    MLPClassifier(**params).fit(digits.X, digits.y)
    theirs = capsys.readouterr().out
    assert re.sub(r"\d{4}\n", "\n", ours) == re.sub(r"\d{4}\n", "\n", theirs)
    assert "Iteration 4, loss = " in ours


def test_nothing_is_printed_by_default(network, digits, capsys):
    network.fit(digits.X, digits.y)
    output = capsys.readouterr()
    assert output.out == output.err == ""


class Interrupt(skorch.callbacks.Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("held_out", [False, True])
def test_interrupted_training_warns_and_leaves_a_usable_network(held_out, network, digits):
    network.set_params(
        max_iter=30, dropout=0.1, early_stopping=held_out, callbacks=[Interrupt(epoch=5)]
    )
    with pytest.warns(UserWarning, match=re.escape("Training interrupted by user.")):
        network.fit(digits.X, digits.y)
    assert network.n_iter_ == len(network.loss_curve_) == len(column(network, "train_loss")) == 4
    assert not network.module_.training
    method = network.predict if hasattr(network, "predict") else network.transform
    assert np.isfinite(method(digits.X_test)).all()
    assert_array_equal(method(digits.X_test), method(digits.X_test))


def test_interrupted_training_can_be_taken_up_again(digits):
    interrupt = Interrupt(epoch=3)
    classifier = quick_classifier(callbacks=[interrupt], warm_start=True)
    with pytest.warns(UserWarning, match="interrupted"):
        classifier.fit(digits.X, digits.y)
    classifier.set_params(callbacks=None).fit(digits.X, digits.y)
    assert classifier.n_iter_ == 4
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]
    assert column(classifier, "train_loss") == classifier.loss_curve_


def test_interruption_counts_the_epochs_that_were_finished(digits):
    classifier = quick_classifier(callbacks=[Interrupt(epoch=2)])
    with pytest.warns(UserWarning, match="interrupted"):
        classifier.fit(digits.X, digits.y)
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 1


def failing(event, from_epoch=2):
    """Return a skorch callback that raises at an event from an epoch on."""

    def fail(self, net, **kwargs):
        if len(net.history) >= from_epoch:
            raise RuntimeError("this callback gives up")

    return type("Failing", (skorch.callbacks.Callback,), {event: fail})()


def break_off(network, event, X, y):
    network.set_params(
        dropout=0.5, warm_start=True, early_stopping=True, callbacks=[failing(event)]
    )
    with pytest.raises(RuntimeError, match="this callback gives up"):
        network.fit(X, y)


FAILURES = pytest.mark.parametrize(
    "event", ["on_batch_begin", "on_grad_computed", "on_batch_end", "on_epoch_end", "on_train_end"]
)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("event", ["on_train_begin", "on_batch_begin", "on_epoch_end"])
def test_error_in_the_first_epoch_leaves_the_fit_before(event, method, network, digits):
    network.fit(digits.X, digits.y)
    predict = getattr(network, "predict_proba", getattr(network, "predict", None))
    predict = predict or network.transform
    before = predict(digits.X_test)
    broken = failing(event, from_epoch=0 if method == "fit" else 4)
    with pytest.raises(RuntimeError, match="this callback gives up"):
        getattr(network.set_params(callbacks=[broken]), method)(2 * digits.X, digits.y)
    assert_array_equal(predict(digits.X_test), before)
    assert len(network.loss_curve_) == len(network.history_) == network.n_iter_ == 4


@FAILURES
def test_failing_callback_leaves_a_network_that_predicts(event, network, digits):
    break_off(network, event, digits.X, digits.y)
    assert not network.module_.training
    names = ("predict_proba", "predict", "transform")
    method = next(getattr(network, name) for name in names if hasattr(network, name))
    assert_array_equal(method(digits.X_test), method(digits.X_test))


@FAILURES
def test_fit_that_a_callback_broke_off_can_be_taken_up_again(event, network, digits):
    break_off(network, event, digits.X, digits.y)
    finished = len(network.loss_curve_)
    network.set_params(callbacks=None, early_stopping=False).fit(digits.X, digits.y)
    assert network.n_iter_ == 4
    assert len(network.loss_curve_) == finished + 4
    assert network.loss_ < network.loss_curve_[0]


@FAILURES
def test_epoch_that_was_broken_off_leaves_no_row_in_the_history(event, digits):
    classifier = quick_classifier()
    break_off(classifier, event, digits.X, digits.y)
    assert [row.get("train_loss") for row in classifier.history_] == classifier.loss_curve_


class Collector(skorch.callbacks.Callback):
    """Keeps what it is told of batches."""

    def initialize(self):
        self.outputs, self.batches = [], []
        return self

    def on_grad_computed(self, net, named_parameters, batch, **kwargs):
        self.batches.append(batch)

    def on_batch_end(self, net, y_pred, **kwargs):
        self.outputs.append(y_pred)


def test_outputs_that_a_callback_keeps_are_not_written_to_later(digits):
    collector = Collector()
    quick_classifier(batch_size=100, max_iter=2, callbacks=[collector]).fit(digits.X, digits.y)
    assert len(collector.outputs) == len(collector.batches) == 28
    assert len({output.data_ptr() for output in collector.outputs}) == 28


@pytest.mark.parametrize("listener", [[Quiet()], [Collector()]], ids=["quiet", "listening"])
def test_batches_without_weight_are_not_in_the_history(listener, digits):
    weight = np.ones(len(digits.X))
    weight[:200] = 0.0
    classifier = quick_classifier(batch_size=100, shuffle=False, max_iter=1, callbacks=listener)
    classifier.fit(digits.X, digits.y, weight)
    assert len(classifier.history_[0, "batches"]) == 12
