"""skorch's callbacks and the net that they are given."""

import copy
import pickle
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import skorch.callbacks
import torch
from conftest import KINDS, Recorder
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.metrics import roc_auc_score

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._training.skorch_net import Net
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}


def quick_classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    """Offer each of the three estimators, ready for a quick fit."""
    return request.param(**QUICK)


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


class Experiment:
    """Stands in for the objects of other packages that loggers write to."""

    dir = "."

    def __init__(self):
        self.logged = []

    @property
    def info(self):
        return SimpleNamespace(run_id=0)

    def note(self, *args, **kwargs):
        self.logged.append((*args, kwargs))

    watch = log = log_scalar = add_scalar = log_metric = log_artifact = set_terminated = note

    def close(self):
        self.logged.append("closed")

    def __deepcopy__(self, memo):
        return self  # a search copies callbacks, not the place where they write


# Arguments for callbacks that have none by default, and packages without which they cannot be.
ARGUMENTS = {
    "BatchScoring": lambda: (None,),
    "EpochScoring": lambda: (None,),
    "Freezer": lambda: ("*",),
    "Initializer": lambda: ("*",),
    "LoadInitState": lambda: (skorch.callbacks.TrainEndCheckpoint(),),
    "NeptuneLogger": lambda: (Experiment(),),
    "ParamMapper": lambda: ("*",),
    "PassthroughScoring": lambda: ("valid_loss",),
    "SacredLogger": lambda: (Experiment(),),
    "TensorBoard": lambda: (Experiment(),),
    "Unfreezer": lambda: ("*",),
    "WandbLogger": lambda: (Experiment(),),
}
PACKAGES = {"MlflowLogger": "mlflow", "NeptuneLogger": "neptune"}
REFUSED = {
    "BatchScoring": "Use EpochScoring(scoring) for the validation set",
    "InputShapeSetter": "Set the estimator's own parameters instead",
}
GO_BY_VALIDATION = {"Checkpoint", "EarlyStopping", "WandbLogger"}


def make_callback(name):
    """Make a callback of skorch with its defaults, or skip where that needs another package."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{name} writes to {PACKAGES[name]}")
    made = getattr(skorch.callbacks, name)
    if not issubclass(made, skorch.callbacks.Callback):
        return skorch.callbacks.LRScheduler(made)  # a schedule of skorch's own
    return made(*ARGUMENTS.get(name, tuple)())


@pytest.mark.filterwarnings("ignore:No fits could be trained together")
@pytest.mark.parametrize(
    ("kind", "how"),
    # a search does the same for networks of every kind
    [*product(KINDS, ["fit", "validated"]), ("classifier", "search")],
)
@pytest.mark.parametrize("name", skorch.callbacks.__all__)
def test_every_callback_of_skorch_works_or_says_what_to_do(name, how, kind, wine, scratch):
    validated = how != "fit"
    network = KINDS[kind](**QUICK, early_stopping=validated, scoring="loss")
    network.set_params(callbacks=[make_callback(name)])
    fitted = network
    if how == "search":
        fitted = FusedGridSearchCV(network, {"alpha": [0.1, 0.2]}, cv=2, error_score="raise")
    remedy = REFUSED.get(name)
    if name in GO_BY_VALIDATION and not validated:
        remedy = "set early_stopping=True, pass X_val to fit, or let the callback go by the train"
    if remedy is not None:
        with pytest.raises(ValueError, match=re.escape(remedy)):
            fitted.fit(wine.X, wine.y)
        return
    fitted.fit(wine.X, wine.y)
    assert getattr(fitted, "best_estimator_", fitted).n_iter_ == 4
    assert np.isfinite(fitted.score(wine.X_test, wine.y_test))


def test_mlflow_is_given_every_file_of_the_network(digits):
    run, client = Experiment(), Experiment()
    logger = skorch.callbacks.MlflowLogger(run, client)
    quick_classifier(callbacks=[logger]).fit(digits.X, digits.y)
    files = [call[1].name for call in client.logged if isinstance(call[1], Path)]
    assert files == ["params.pth", "optimizer.pth", "criterion.pth", "history.json"]


class LossRecorder(skorch.callbacks.Callback):
    """Notes the loss of each batch, as reported and as the net computes it."""

    def __init__(self):
        self.reported, self.computed = [], []

    def on_batch_end(self, net, batch, loss, y_pred, **kwargs):
        self.reported.append(float(loss))
        self.computed.append(float(net.get_loss(y_pred, batch[1])))


def test_criterion_of_the_net_is_the_loss_of_the_training(network, digits):
    recorder = LossRecorder()
    params = {"label_smoothing": 0.1} if hasattr(network, "label_smoothing") else {}
    network.set_params(alpha=0, callbacks=[recorder], **params).fit(digits.X, digits.y)
    assert len(recorder.reported) == 28
    assert_allclose(recorder.computed, recorder.reported, rtol=1e-12)


class Inspector(skorch.callbacks.Callback):
    """Keeps what loggers write down of a net."""

    def on_train_begin(self, net, **kwargs):
        self.seen = net.lr, net.batch_size, net.max_epochs


def test_net_knows_how_the_estimator_trains(digits):
    inspector = Inspector()
    options = {"learning_rate_init": 0.02, "batch_size": 50, "max_iter": 3}
    quick_classifier(callbacks=[inspector], **options).fit(digits.X, digits.y)
    assert inspector.seen == (0.02, 50, 3)


class Predictor(skorch.callbacks.Callback):
    """Predicts in the middle of an epoch."""

    def __init__(self, X):
        self.X, self.differences = X, []

    def on_batch_end(self, net, **kwargs):
        assert net.module_.training
        first, second = net.predict_proba(self.X), net.predict_proba(self.X)
        assert net.module_.training
        self.differences.append(np.abs(first - second).max())


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"normalization": "batch"}], ids=str)
def test_prediction_in_the_middle_of_an_epoch_leaves_the_training_alone(options, digits):
    predictor = Predictor(digits.X_test)
    watched = quick_classifier(callbacks=[predictor], **options).fit(digits.X, digits.y)
    assert max(predictor.differences) == 0
    expected = quick_classifier(**options).fit(digits.X, digits.y)
    assert_allclose(watched.loss_curve_, expected.loss_curve_, rtol=1e-12)
    assert_array_equal(watched.module_.flat, expected.module_.flat)


def test_checkpoint_with_its_defaults_loads_the_best_epoch(digits, scratch):
    checkpoint = skorch.callbacks.Checkpoint(monitor="train_loss_best", load_best=True)
    classifier = quick_classifier(callbacks=[checkpoint, failing_rate(from_epoch=3)], max_iter=6)
    classifier.fit(digits.X, digits.y)
    assert {path.name for path in scratch.iterdir()} == {
        "params.pt", "optimizer.pt", "criterion.pt", "history.json",
    }  # fmt: skip
    best = int(np.argmin(classifier.loss_curve_)) + 1
    assert best < 6
    expected = quick_classifier(max_iter=best).fit(digits.X, digits.y)
    assert_array_equal(classifier.module_.flat, expected.module_.flat)
    assert column(classifier, "train_loss") == classifier.loss_curve_
    assert column(classifier, "event_cp") == [True] * best + [False] * (6 - best)


def failing_rate(from_epoch):
    """Return a callback that lets the training diverge slowly from an epoch on."""

    def raise_rate(self, net, **kwargs):
        if len(net.history) >= from_epoch:
            net.optimizer_.param_groups[0]["lr"] = 1.0

    return type("FailingRate", (skorch.callbacks.Callback,), {"on_epoch_begin": raise_rate})()


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "muon", torch.optim.RMSprop], ids=str)
@pytest.mark.parametrize("is_cloned", [False, True], ids=["", "cloned"])
def test_training_goes_on_from_a_train_end_checkpoint_with_its_defaults(
    solver, is_cloned, digits, scratch
):
    options = {"solver": solver, "shuffle": False}
    whole = quick_classifier(**options).fit(digits.X, digits.y)
    checkpoint = skorch.callbacks.TrainEndCheckpoint()
    callbacks = [checkpoint, skorch.callbacks.LoadInitState(checkpoint)]
    for _ in range(2):  # as a script that is started again
        half = quick_classifier(**options, max_iter=2, callbacks=callbacks)
        half = clone(half) if is_cloned else half
        half.fit(digits.X, digits.y)
    assert_allclose(half.module_.flat.detach(), whole.module_.flat.detach(), rtol=1e-12)
    assert column(half, "epoch") == [1, 2, 3, 4]
    assert_allclose(column(half, "train_loss"), whole.loss_curve_, rtol=1e-12)
    assert len(half.loss_curve_) == half.n_iter_ == 2


def test_callbacks_see_the_epochs_after_those_of_a_loaded_history(digits, scratch):
    checkpoint = skorch.callbacks.TrainEndCheckpoint()
    quick_classifier(callbacks=[checkpoint]).fit(digits.X, digits.y)
    stop = skorch.callbacks.EarlyStopping("train_loss", patience=2)
    load = skorch.callbacks.LoadInitState(checkpoint)
    classifier = quick_classifier(callbacks=[load, stop]).fit(digits.X, digits.y)
    assert classifier.n_iter_ == 4  # the loss falls in each of them
    assert column(classifier, "train_loss_best") == [True] * 8


def test_fit_that_fails_after_it_has_loaded_a_history_leaves_the_one_before(digits, scratch):
    quick_classifier(
        callbacks=[skorch.callbacks.TrainEndCheckpoint()], max_iter=6, random_state=1
    ).fit(digits.X, digits.y)
    classifier = quick_classifier(warm_start=True).fit(digits.X, digits.y)
    losses = column(classifier, "train_loss")
    load = skorch.callbacks.LoadInitState(skorch.callbacks.TrainEndCheckpoint())
    classifier.set_params(callbacks=[load, skorch.callbacks.EarlyStopping()])
    with pytest.raises(ValueError, match="no validation set"):
        classifier.fit(digits.X, digits.y)
    assert column(classifier, "train_loss") == losses == classifier.loss_curve_


def test_schedule_of_torch_goes_on_with_a_warm_start(digits):
    def rates(n_calls, **options):
        schedule = skorch.callbacks.LRScheduler("StepLR", step_size=3, gamma=0.1)
        classifier = quick_classifier(
            learning_rate_init=0.01, warm_start=True, callbacks=[schedule], **options
        )
        for _ in range(n_calls):
            classifier.fit(digits.X, digits.y)
        return column(classifier, "event_lr")

    assert_allclose(rates(1, max_iter=6), [0.01] * 3 + [0.001] * 3)
    assert_allclose(rates(2, max_iter=4)[4:], [0.01, 0.01, 0.001, 0.001])


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
    told, notify = set(), Net.notify

    def spy(net, event, **kwargs):
        told.add(event)
        notify(net, event, **kwargs)

    monkeypatch.setattr(Net, "notify", spy)
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
