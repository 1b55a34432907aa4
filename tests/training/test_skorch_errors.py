"""What a skorch callback is told that asks for what is not there."""

import re

import pytest
import skorch.callbacks
from skorch.callbacks import (
    BatchScoring,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    InputShapeSetter,
    LRScheduler,
    PassthroughScoring,
)

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}
NO_VALIDATION_SET = (
    "in the history, but there is no validation set: set early_stopping=True, pass X_val to fit, "
    "or let the callback go by the training loss (monitor='train_loss', of a Checkpoint "
    "monitor='train_loss_best'). The epoch has batches, dur, epoch,"
)


def callback_at(event, action):
    """Return a callback that does something at an event."""
    return type("Own", (skorch.callbacks.Callback,), {event: action})()


def reads(*keys):
    return callback_at("on_epoch_end", lambda self, net, **kwargs: net.history[-1, keys])


@pytest.mark.parametrize(
    ("callback", "keys"),
    [
        (EarlyStopping(), "'EarlyStopping' looks for 'valid_loss'"),
        (("es", EarlyStopping()), "'es' looks for 'valid_loss'"),
        (EarlyStopping("valid_score"), "'EarlyStopping' looks for 'valid_score'"),
        (Checkpoint(f_params=None), "'Checkpoint' looks for 'valid_loss_best'"),
        (LRScheduler("ReduceLROnPlateau", monitor="valid_loss"), "looks for 'valid_loss'"),
        (reads("train_loss", "valid_loss"), "'Own' looks for 'valid_loss'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_callback_that_wants_a_validation_set_says_how_to_get_one(callback, keys, kind, wine):
    network = kind(**QUICK, callbacks=[callback])
    with pytest.raises(ValueError, match=re.escape(f"{keys} {NO_VALIDATION_SET}")):
        network.fit(wine.X, wine.y)


@pytest.mark.parametrize("remedy", ["early_stopping", "X_val", "monitor"])
def test_each_remedy_that_the_message_names_works(remedy, wine):
    monitor = "train_loss" if remedy == "monitor" else "valid_loss"
    classifier = DeepMLPClassifier(
        **QUICK, callbacks=[EarlyStopping(monitor)], early_stopping=remedy == "early_stopping"
    )
    held_out = {"X_val": wine.X_test, "y_val": wine.y_test} if remedy == "X_val" else {}
    assert classifier.fit(wine.X, wine.y, **held_out).n_iter_ == 4


def test_score_that_nothing_records_is_named_with_what_would_record_it(wine):
    stop = EarlyStopping("f1", lower_is_better=False)
    score = EpochScoring("f1_macro", on_train=True, name="f1")
    message = (
        "The callback 'EarlyStopping' looks for 'f1' in the history, but nothing has written it: "
        "put what records it, such as EpochScoring(..., name='f1'), before this callback."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPClassifier(**QUICK, callbacks=[stop, score]).fit(wine.X, wine.y)
    DeepMLPClassifier(**QUICK, callbacks=[score, stop]).fit(wine.X, wine.y)


def test_schedule_by_batches_is_told_what_a_batch_has(wine):
    schedule = LRScheduler("ReduceLROnPlateau", monitor="valid_loss", step_every="batch")
    classifier = DeepMLPClassifier(**QUICK, early_stopping=True, callbacks=[schedule])
    message = "'valid_loss' in the history, but a batch has only train_loss and train_batch_size"
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier.fit(wine.X, wine.y)
    schedule.set_params(monitor="train_loss")
    classifier.fit(wine.X, wine.y)


def _look_up(self, net, **kwargs):
    {}["train"]


def _explain(self, net, **kwargs):
    try:
        net.history[-1, "valid_loss"]
    except KeyError as error:
        raise RuntimeError("no validation, no fun") from error


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [(_look_up, KeyError, "^'train'$"), (_explain, RuntimeError, "^no validation, no fun$")],
)
def test_errors_of_the_users_own_stay_as_they_are(action, error, message, wine):
    classifier = DeepMLPClassifier(**QUICK, callbacks=[callback_at("on_epoch_end", action)])
    with pytest.raises(error, match=message):
        classifier.fit(wine.X, wine.y)


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (BatchScoring("accuracy"), "evaluated as a whole"),
        (BatchScoring("accuracy", name="valid_loss"), "evaluated as a whole"),
        (BatchScoring("accuracy", on_train=True), "encoded for the network"),
        (PassthroughScoring("train_loss"), "evaluated as a whole"),
    ],
)
@pytest.mark.parametrize("validated", [False, True])
def test_scores_of_batches_are_refused_where_they_would_be_missing_or_wrong(
    callback, reason, validated, wine
):
    classifier = DeepMLPClassifier(**QUICK, early_stopping=validated, callbacks=[callback])
    with pytest.raises(ValueError, match=rf"{reason}\. Use EpochScoring\(scoring\) for"):
        classifier.fit(wine.X, wine.y)


def test_scores_of_batches_that_are_right_are_kept(diabetes):
    callbacks = [
        BatchScoring("r2", on_train=True, name="of_batch"),
        EpochScoring("r2", on_train=True, name="of_epoch"),
        PassthroughScoring("train_loss", on_train=True),
    ]
    regressor = DeepMLPRegressor(**QUICK, batch_size=len(diabetes.X), callbacks=callbacks)
    history = regressor.fit(diabetes.X, diabetes.y).history_
    assert history[:, "of_batch"] == pytest.approx(history[:, "of_epoch"], rel=1e-12)
    assert history[:, "train_loss"] == pytest.approx(regressor.loss_curve_, rel=1e-12)


def test_parameters_of_the_net_are_the_estimators(wine):
    message = "sets module__input_dim of the net, but DeepMLPClassifier makes network, loss and"
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPClassifier(**QUICK, callbacks=[InputShapeSetter()]).fit(wine.X, wine.y)
    quiet = callback_at("on_train_begin", lambda self, net, **kwargs: net.set_params(verbose=0))
    DeepMLPClassifier(**QUICK, callbacks=[quiet]).fit(wine.X, wine.y)


def test_score_that_an_autoencoder_cannot_have_names_those_that_it_can(wine):
    scored = AutoencoderTransformer(**QUICK, callbacks=[EpochScoring("r2", on_train=True)])
    with pytest.raises(AttributeError, match="learned at the end of fit.*score by scoring=None"):
        scored.fit(wine.X)
    scored.set_params(callbacks=[EpochScoring(None, on_train=True)]).fit(wine.X)
    assert len(scored.history_[:, "score"]) == 4
