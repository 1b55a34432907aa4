"""Ctrl-C at any moment: a usable estimator, or what there was before it."""

import contextlib
import dis
import gc
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
import skorch.callbacks
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._estimators.code_statistics import code_moments
from sknn_deep._files.atomic import atomic_write
from sknn_deep._hardware import pace, threads
from sknn_deep._training.sklearn_callbacks import StopTraining
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV, cross_validate

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
INTERRUPTED = re.escape("Training interrupted by user.")
X, Y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
PARAMS = {"hidden_layer_sizes": (6,), "batch_size": 20, "max_iter": 3, "random_state": 0}


def classifier(**params):
    return DeepMLPClassifier(**{**PARAMS, **params})


def regressor(**params):
    return DeepMLPRegressor(**{**PARAMS, **params})


def autoencoder(**params):
    return AutoencoderTransformer(2, **{**PARAMS, **params})


NETWORKS = {"classifier": classifier, "regressor": regressor, "autoencoder": autoencoder}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def make(request):
    """Offer what makes each of the three estimators."""
    return request.param


def predict(estimator, rows=X):
    names = ("predict_proba", "transform", "predict")
    return next(getattr(estimator, name) for name in names if hasattr(estimator, name))(rows)


def press_ctrl_c():
    """Send this process what the terminal sends; Python raises in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)  # the signal comes before this ends


class CtrlC(skorch.callbacks.Callback):
    """Presses Ctrl-C at an event of an epoch."""

    def __init__(self, event, epoch):
        self.event, self.epoch = event, epoch

    def _press(self, event, net):
        if event == self.event and len(net.history) == self.epoch:
            press_ctrl_c()

    def on_train_begin(self, net, **kwargs):
        self._press("on_train_begin", net)

    def on_epoch_begin(self, net, **kwargs):
        self._press("on_epoch_begin", net)

    def on_batch_end(self, net, **kwargs):
        self._press("on_batch_end", net)

    def on_epoch_end(self, net, **kwargs):
        self._press("on_epoch_end", net)

    def on_train_end(self, net, **kwargs):
        self._press("on_train_end", net)


# A signal


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("held_out", [False, True], ids=["loss", "score"])
def test_signal_warns_and_leaves_a_usable_network(event, held_out, make):
    network = make(early_stopping=held_out, max_iter=30, callbacks=[CtrlC(event, epoch=5)])
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.fit(X, Y)
    assert network.interrupted_ is True
    assert network.n_iter_ == len(network.loss_curve_) == len(network.history_) == 4
    assert not network.module_.training
    assert np.isfinite(predict(network)).all()
    if held_out:
        assert len(network.validation_scores_) == 4
        assert network.best_validation_score_ == max(network.validation_scores_)


@pytest.mark.parametrize("n_seconds", [0.05, 0.2])
def test_signal_from_elsewhere_ends_a_long_training(n_seconds, make):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    network = make(max_iter=10**6, n_iter_no_change=np.inf)
    timer = threading.Timer(n_seconds, os.kill, (os.getpid(), signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):  # before the first step
        timer.start()
        with pytest.warns(UserWarning, match=INTERRUPTED):
            network.fit(X, Y)
        assert network.interrupted_
        assert np.isfinite(predict(network)).all()
    timer.join()


def test_best_weights_are_kept():
    params = {"early_stopping": True, "n_iter_no_change": np.inf}
    network = classifier(max_iter=30, callbacks=[CtrlC("on_batch_end", 20)], **params)
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.fit(X, Y)
    expected = classifier(max_iter=19, **params).fit(X, Y)
    assert expected.best_iter_ < 19
    assert_array_equal(predict(network), predict(expected))
    assert network.best_iter_ == expected.best_iter_


def test_first_epoch_that_is_interrupted_leaves_its_weights(make):
    network = make(callbacks=[CtrlC("on_batch_end", epoch=1)])
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.fit(X, Y)
    assert network.n_iter_ == len(network.loss_curve_) == 0
    assert np.isfinite(predict(network)).all()


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin"])
def test_interruption_before_the_first_step_leaves_what_there_was(event, make):
    network = make(callbacks=[CtrlC(event, epoch=int(event == "on_epoch_begin"))])
    with pytest.raises(KeyboardInterrupt):
        clone(network).fit(X, Y)
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, Y)
    assert not hasattr(network, "module_")
    network.set_params(callbacks=None).fit(X, Y)
    before, weights = predict(network), network.module_.flat
    network.set_params(callbacks=[CtrlC(event, epoch=int(event == "on_epoch_begin"))])
    with pytest.raises(KeyboardInterrupt):
        network.fit(2 * X, Y)
    assert_array_equal(predict(network), before)
    assert network.module_.flat is weights


def test_interruption_of_the_end_loses_nothing(make):
    network = make(callbacks=[CtrlC("on_train_end", epoch=3)], n_iter_no_change=np.inf)
    with pytest.raises(KeyboardInterrupt):  # the callback presses it again
        network.fit(X, Y)
    quiet = make(callbacks=[OnceAtTheEnd()], early_stopping=True)
    with pytest.warns(UserWarning, match=INTERRUPTED):
        quiet.fit(X, Y)
    assert_array_equal(predict(quiet), predict(make(early_stopping=True).fit(X, Y)))


class OnceAtTheEnd(skorch.callbacks.Callback):
    """Presses Ctrl-C when the training has ended, once."""

    def on_train_end(self, net, **kwargs):
        if not hasattr(self, "pressed_"):
            self.pressed_ = True
            press_ctrl_c()


def test_interruption_while_the_code_is_described(monkeypatch):
    pressed = []

    def moments(*args, **kwargs):
        if not pressed:
            pressed.append(True)
            press_ctrl_c()
        return code_moments(*args, **kwargs)

    monkeypatch.setattr("sknn_deep._estimators.code_description.code_moments", moments)
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network = autoencoder().fit(X)
    assert pressed
    assert network.interrupted_
    assert_array_equal(network.code_std_, autoencoder().fit(X).code_std_)


def test_a_handler_of_the_user_s_own_is_ctrl_c_too():
    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        network = classifier(callbacks=[CtrlC("on_batch_end", epoch=3)])
        with pytest.warns(UserWarning, match=INTERRUPTED):
            network.fit(X, Y)
        assert network.interrupted_
        with pytest.raises(KeyboardInterrupt):
            GridSearchCV(network, {"alpha": [0.0]}, cv=2).fit(X, Y)
    finally:
        signal.signal(signal.SIGINT, before)


def test_partial_fit_is_interrupted_likewise(make):
    network = make()
    classes = {"classes": np.arange(3)} if make is classifier else {}
    network.partial_fit(X, Y, **classes)
    assert network.interrupted_ is False
    network.set_params(callbacks=[CtrlC("on_batch_end", epoch=2)])
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.partial_fit(X, Y)
    assert network.interrupted_
    assert len(network.loss_curve_) == 1
    network.set_params(callbacks=None).partial_fit(X, Y)
    assert network.interrupted_ is False
    assert len(network.loss_curve_) == len(network.history_) == 2


@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_undisturbed_fit_was_not_interrupted(make):
    for params in ({}, {"solver": "lbfgs"}, {"early_stopping": True}):
        assert make(**params).fit(X, Y).interrupted_ is False
    if make is not autoencoder:
        assert make(n_networks=2).fit(X, Y).interrupted_ is False


def test_training_that_was_interrupted_can_be_taken_up_again():
    network = classifier(warm_start=True, callbacks=[CtrlC("on_batch_end", epoch=3)])
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.fit(X, Y)
    network.set_params(callbacks=None).fit(X, Y)
    assert len(network.loss_curve_) == 2 + 3
    assert network.interrupted_ is False


def test_pipeline_is_usable():
    network = classifier(callbacks=[CtrlC("on_batch_end", epoch=2)])
    pipeline = make_pipeline(StandardScaler(), network)
    with pytest.warns(UserWarning, match=INTERRUPTED):
        pipeline.fit(X, Y)
    assert np.isfinite(pipeline.predict_proba(X)).all()


# Callbacks that ask to stop


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopTraining])
def test_callback_that_asks_to_stop_is_no_interruption(error, make):
    class Stop(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            raise error

    network = make(callbacks=[Stop()]).fit(X, Y)
    assert network.interrupted_ is False
    assert network.n_iter_ == 1


# L-BFGS


def interrupting(n_calls):
    """Return a scorer's stand-in that presses Ctrl-C in one of the calls of a product."""
    calls = []

    def call(*args):
        calls.append(args)
        if len(calls) == n_calls:
            press_ctrl_c()

    return call


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_lbfgs_keeps_the_last_iterate(normalization, make, monkeypatch):
    press = interrupting(12)
    monkeypatch.setattr(pace.Pace, "step_done", lambda self: press())
    network = make(solver="lbfgs", max_iter=100, normalization=normalization)
    with pytest.warns(UserWarning, match=INTERRUPTED):
        network.fit(X, Y)
    assert network.interrupted_
    assert not network.module_.training
    assert np.isfinite(predict(network)).all()
    monkeypatch.undo()
    expected = make(solver="lbfgs", max_iter=network.n_iter_, normalization=normalization)
    with pytest.warns(UserWarning, match="lbfgs failed to converge"):
        expected.fit(X, Y)
    assert network.loss_ == pytest.approx(expected.loss_)


def test_lbfgs_interrupted_before_an_iterate_leaves_what_there_was(make, monkeypatch):
    press = interrupting(1)
    monkeypatch.setattr(pace.Pace, "step_done", lambda self: press())
    network = make(solver="lbfgs")
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, Y)
    assert not hasattr(network, "module_")


# Searches


SEARCHES = {
    "GridSearchCV": lambda network: GridSearchCV(network, {"alpha": [0.1, 1.0]}, cv=2).fit(X, Y),
    "FusedGridSearchCV": lambda network: FusedGridSearchCV(
        network, {"alpha": [0.1, 1.0]}, cv=2
    ).fit(X, Y),
    "cross_val_score": lambda network: cross_val_score(network, X, Y, cv=2),
    "cross_validate": lambda network: cross_validate(network, X, Y, cv=2),
    "joblib": lambda network: joblib.Parallel(n_jobs=1)(
        joblib.delayed(clone(network).fit)(X, Y) for _ in range(2)
    ),
    "pipeline in a search": lambda network: GridSearchCV(
        make_pipeline(StandardScaler(), network), {}, cv=2
    ).fit(X, Y),
}


class CountingCtrlC(skorch.callbacks.Callback):
    """Presses Ctrl-C in the second epoch, and counts in how many fits."""

    presses = Counter()

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.presses["all"] += 1
            press_ctrl_c()


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_searches_end(search, monkeypatch):
    monkeypatch.setattr(CountingCtrlC, "presses", Counter())
    with pytest.raises(KeyboardInterrupt):
        search(classifier(callbacks=[CountingCtrlC()]))
    assert CountingCtrlC.presses["all"] == 1


@pytest.mark.parametrize("search", [SEARCHES["FusedGridSearchCV"], SEARCHES["cross_validate"]])
def test_searches_end_while_they_train_a_stack(search, monkeypatch):
    press = interrupting(5)
    monkeypatch.setattr(pace.Pace, "step_done", lambda self: press())
    with pytest.raises(KeyboardInterrupt):
        search(classifier())
    assert threads._n_entered == 0


def test_ensemble_is_what_it_was(monkeypatch):
    ensemble = classifier(n_networks=3).fit(X, Y)
    before, networks = predict(ensemble), ensemble.estimators_
    for params in ({}, {"solver": "adamw"}):  # a stack, and one by one
        press = interrupting(5)
        monkeypatch.setattr(pace.Pace, "step_done", lambda self, press=press: press())
        with pytest.raises(KeyboardInterrupt):
            ensemble.set_params(**params).fit(2 * X, Y)
        monkeypatch.undo()
        assert ensemble.estimators_ is networks
        assert_array_equal(predict(ensemble), before)


# Any moment


class Interrupter:
    """A trace function that raises at the n-th point where the interpreter looks for signals.

    It looks after calls, on jumps backwards and where a function begins (CPython,
    ``CHECK_EVAL_BREAKER``).
    """

    FILES = (str(Path(sknn_deep.__file__).parent), contextlib.__file__)
    SOURCES = {
        number
        for name, number in dis.opmap.items()
        if name.startswith("CALL") or name == "JUMP_BACKWARD"
    }

    def __init__(self, n: int):
        self.n, self.n_seen = n, 0
        self._before, self._code = {}, {}

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(self.FILES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call" or (event == "opcode" and self._before[id(frame)] in self.SOURCES):
            self.n_seen += 1
            if self.n_seen == self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        if event == "opcode":
            code = self._code.setdefault(frame.f_code, frame.f_code.co_code)
            self._before[id(frame)] = code[frame.f_lasti]
        else:
            self._before[id(frame)] = None
        return self


def interrupted_at(n, network):
    """Fit, interrupted at the n-th point; return how that ended and how many points there were."""
    was_raised, n_points = call_interrupted_at(n, network.fit, X, Y)
    if was_raised:
        return "raised", n_points
    return "kept" if network.interrupted_ else "finished", n_points


def call_interrupted_at(n, function, *args):
    """Return whether ``KeyboardInterrupt`` came of it, and how many points there were."""
    interrupter, before = Interrupter(n), sys.gettrace()
    sys.settrace(interrupter)
    try:
        function(*args)
    except KeyboardInterrupt:
        return True, interrupter.n_seen
    finally:
        sys.settrace(before)
    return False, interrupter.n_seen


class AnotherFile(TrainingCheckpoint):
    """Keeps each training in a file of its own, in the present directory."""

    def __init__(self):
        super().__init__(None)

    def open(self):
        self.path = secrets.token_hex(8)
        return super().open()


SHORT = {"max_iter": 2, "batch_size": 30}
MOMENTS = {
    "classifier": lambda **params: classifier(
        **SHORT, early_stopping=True, dropout=0.2, normalization="batch", **params
    ),
    "regressor": lambda **params: regressor(**SHORT, solver="sgd", **params),
    "autoencoder": lambda **params: autoencoder(**SHORT, order_code=True, noise=0.1, **params),
    "lbfgs": lambda **params: regressor(max_iter=3, solver="lbfgs", **params),
    "checkpoint": lambda **params: classifier(
        **SHORT, callbacks=[AnotherFile(), skorch.callbacks.Freezer("0.*")], **params
    ),
}
BEFORE = ["nothing", "a fit", "a warm start"]
CASES = [(make, before) for make in MOMENTS.values() for before in BEFORE]
N_MOMENTS = 10
# The interpreter swallows what is raised while it closes a generator that nobody exhausted, and
# warns of a file that it closes because the interruption came between `open` and `with`.
SWALLOWED = "ignore:Exception ignored .*<(generator|_io):pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def swallowed():
    """Have the garbage that an interruption leaves collected while its warnings are expected."""
    yield
    gc.collect()


ONLY_CPYTHON = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="it is about its interpreter"
)


@pytest.mark.slow
@ONLY_CPYTHON
@pytest.mark.filterwarnings("ignore:Training interrupted", "ignore:lbfgs failed", SWALLOWED)
@pytest.mark.usefixtures("swallowed")
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
def test_interruption_at_any_moment(make, before, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = predict(make().fit(X, Y))
    fitted = None if before == "nothing" else make(warm_start=before == "a warm start").fit(X, Y)
    _, n_points = interrupted_at(0, make())
    n_threads, outcomes = torch.get_num_threads(), Counter()
    # some moments, spread over the whole fit; each case has others
    distance = n_points // N_MOMENTS
    first = 1 + distance * CASES.index((make, before)) // len(CASES)
    for n in range(first, n_points, distance):
        network = make()
        if fitted is not None:
            network.set_params(warm_start=fitted.warm_start).fit(X, Y)
        ending, _ = interrupted_at(n, network)
        outcomes[ending] += 1
        assert torch.get_num_threads() == n_threads
        assert threads._n_entered == 0
        if not hasattr(network, "module_"):
            assert (ending, fitted) == ("raised", None)
            continue
        assert not network.module_.training
        assert np.isfinite(predict(network)).all()
        if hasattr(network, "loss_curve_"):
            assert len(network.loss_curve_) == len(network.history_)
        if getattr(network, "validation_scores_", None):
            assert len(network.validation_scores_) == len(network.loss_curve_)
            assert network.best_validation_score_ == max(network.validation_scores_)
    assert_array_equal(predict(make().fit(X, Y)), expected)  # nothing of it has remained
    assert outcomes["raised"] > 0
    assert outcomes["kept"] > 0


@pytest.mark.slow
@ONLY_CPYTHON
@pytest.mark.filterwarnings("ignore:Training interrupted", SWALLOWED)
@pytest.mark.usefixtures("swallowed")
def test_checkpointed_training_that_is_interrupted_at_any_moment_goes_on(tmp_path):
    def make(name):
        return classifier(**SHORT, dropout=0.2, callbacks=[TrainingCheckpoint(tmp_path / name)])

    expected = make("expected").fit(X, Y)
    _, n_points = interrupted_at(0, make("counted"))
    for n in range(1, n_points, n_points // 15):
        for k in range(2):  # and while it goes on from what the first has left
            interrupted_at(n // (k + 1), make(str(n)))
        network = make(str(n)).fit(X, Y)
        assert_array_equal(predict(network), predict(expected))
        assert network.loss_curve_ == expected.loss_curve_
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@ONLY_CPYTHON
@pytest.mark.filterwarnings(SWALLOWED)
@pytest.mark.usefixtures("swallowed")
def test_write_that_is_interrupted_at_any_moment_leaves_one_whole_file(tmp_path):
    def write(file):
        file.write(b"new")

    path, contents = tmp_path / "file", Counter()
    _, n_points = call_interrupted_at(0, atomic_write, path, write)
    for n in range(1, n_points + 1):
        path.write_bytes(b"old")
        was_raised, _ = call_interrupted_at(n, atomic_write, path, write)
        assert was_raised
        assert os.listdir(tmp_path) == [path.name]
        contents[path.read_bytes()] += 1
    assert set(contents) == {b"old", b"new"}
