"""A training that was killed goes on from its checkpoint, and nothing else comes of the file."""

import errno
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import skorch.callbacks
import torch
from conftest import Explode
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

import sknn_deep
from fuzzing.kills import CASES, STAGES, Killer, differences, digits, outcome
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.engine import Engine
from sknn_deep._engine.features import MappedRows
from sknn_deep._files.atomic import _prefix
from sknn_deep._hardware import pace, threads
from sknn_deep._hardware.memory_maps import Mapped
from sknn_deep._training.checkpoint import read_state, write_state
from sknn_deep._training.fingerprint import described_call
from sknn_deep.callbacks import TrainingCheckpoint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
X, Y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
PARAMS = {"hidden_layer_sizes": (6,), "batch_size": 16, "max_iter": 6, "random_state": 0}


def classifier(path=None, every=1, **params):
    callbacks = None if path is None else [TrainingCheckpoint(path, every)]
    return DeepMLPClassifier(**{**PARAMS, "callbacks": callbacks, **params})


@pytest.fixture
def path(tmp_path):
    """Offer the path of a checkpoint in a directory of its own."""
    return tmp_path / "training.checkpoint"


class Broken(Exception):
    """Stands for a kill: nothing of the package catches it."""


@contextmanager
def broken_off(monkeypatch, n_epochs):
    """Break a fit off after some epochs, without a callback that the checkpoint would name."""
    train_epoch, n_begun = Engine.train_epoch, 0

    def breaking(*args):
        nonlocal n_begun
        n_begun += 1
        if n_begun > n_epochs:
            raise Broken
        return train_epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_epoch", breaking)
        with pytest.raises(Broken):
            yield


def break_off(monkeypatch, estimator, *data, n_epochs=3, **fit_params):
    with broken_off(monkeypatch, n_epochs):
        estimator.fit(*data, **fit_params)


def assert_same(one, other):
    assert differences(outcome(one, X), outcome(other, X)) == []


# Real kills, of some of the cases that `python -m fuzzing.kills` takes all of

KILLED = ("adam, dropout, early stopping", "autoencoder, noise", "two threads")


@pytest.fixture(scope="module")
def killer(tmp_path_factory, fork_server):
    return Killer(tmp_path_factory.mktemp("kills"), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", KILLED)
def test_training_that_is_killed_ends_as_if_nobody_had_disturbed_it(case, killer):
    number, before = KILLED.index(case), killer.kills.total()
    stages = [STAGES[number], STAGES[(number + 2) % len(STAGES)], "any moment"]
    assert differences(killer.expected(case), killer.disturbed(case, stages)) == []
    assert killer.kills.total() - before >= 2  # those in a write


# Going on in another process, without its costs


@pytest.mark.parametrize("case", [case for case in CASES if case != "two threads"])
def test_every_case_goes_on_as_if_nobody_had_disturbed_it(case, path, monkeypatch):
    features, labels, weight = digits()

    def fit(checkpoint):
        return CASES[case](features, labels, weight, checkpoint)

    expected = outcome(fit(None), features)
    with broken_off(monkeypatch, n_epochs=6):
        fit([TrainingCheckpoint(path)])
    epochs = len(read_state(path)["training"]["history"])
    assert 0 < epochs < expected["n_iter_"]
    assert differences(outcome(fit([TrainingCheckpoint(path)]), features), expected) == []


def test_difference_between_two_trainings_is_seen():
    one, other = (outcome(classifier(solver=s).fit(X, Y), X) for s in ("adam", "sgd"))
    assert "state" in differences(one, other)


def test_training_goes_on_after_the_last_epoch_that_was_kept(path, monkeypatch):
    break_off(monkeypatch, classifier(path), X, Y)
    epochs = []
    train_epoch = Engine.train_epoch
    monkeypatch.setattr(Engine, "train_epoch", lambda *a: epochs.append(1) or train_epoch(*a))
    assert_same(classifier(path).fit(X, Y), classifier().fit(X, Y))
    assert len(epochs) == 3 + 6


def test_steps_are_counted_on(path, monkeypatch):
    # now and then, by their number, negligible weights are set to zero
    close, n_steps = Engine.close, []
    monkeypatch.setattr(Engine, "close", lambda self: n_steps.append(self.n_steps) or close(self))
    break_off(monkeypatch, classifier(path), X, Y)
    classifier(path).fit(X, Y)
    assert n_steps == [3 * 4, 6 * 4]


def test_training_that_has_ended_is_not_repeated(path, monkeypatch):
    first = classifier(path, early_stopping=True).fit(X, Y)
    monkeypatch.setattr(Engine, "train_epoch", None)
    again = classifier(path, early_stopping=True).fit(X, Y)
    assert_same(again, first)
    assert [row["dur"] for row in again.history_] == [row["dur"] for row in first.history_]


def test_training_that_has_ended_warns_again(path):
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(6\) reached"):
            classifier(path).fit(X, Y)


def test_autoencoder_that_has_ended_has_the_same_code(path):
    def make():
        return AutoencoderTransformer(
            2, hidden_layer_sizes=(6,), max_iter=3, order_code=True, random_state=0,
            callbacks=[TrainingCheckpoint(path)],
        ).fit(X)  # fmt: skip

    first, again = make(), make()
    assert_array_equal(first.explained_variance_, again.explained_variance_)
    assert_array_equal(first.transform(X), again.transform(X))


@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_checkpoint_is_written_at_the_start_every_so_many_epochs_and_at_the_end(
    every, path, monkeypatch
):
    written = []

    def noted(path, state):
        written.append(len(state["training"]["progress"]["loss_curve"]))
        write_state(path, state)

    monkeypatch.setattr("sknn_deep._training.checkpoint.write_state", noted)
    classifier(path, every).fit(X, Y)
    assert written == {1: list(range(7)), 4: [0, 4, 6], 100: [0, 6]}[every]


def test_generator_of_the_user_goes_on_as_it_would_have_gone(path, monkeypatch):
    params = {"early_stopping": True, "dropout": 0.2}
    generators = [np.random.RandomState(seed) for seed in (3, 3, 9)]
    expected = classifier(random_state=generators[0], **params).fit(X, Y)
    break_off(monkeypatch, classifier(path, random_state=generators[1], **params), X, Y)
    resumed = classifier(path, random_state=generators[2], **params).fit(X, Y)
    assert_same(resumed, expected)
    assert generators[2].randint(2**31) == generators[0].randint(2**31)


def test_training_without_a_seed_goes_on_and_leaves_the_global_generator_alone(path, monkeypatch):
    params = {"random_state": None, "early_stopping": True}
    break_off(monkeypatch, classifier(path, **params), X, Y)
    shutil.copy(path, f"{path}.copy")
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        results.append(classifier(path, **params).fit(X, Y))
        assert_array_equal(np.random.get_state()[1], before)
        shutil.copy(f"{path}.copy", path)
    assert_same(*results)


def test_interrupted_training_goes_on(path, monkeypatch):
    train_epoch, n_begun = Engine.train_epoch, []

    def interrupted(*args):
        n_begun.append(1)
        if len(n_begun) == 4:
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(Engine, "train_epoch", interrupted)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        assert classifier(path).fit(X, Y).interrupted_
    monkeypatch.setattr(Engine, "train_epoch", train_epoch)
    assert_same(classifier(path).fit(X, Y), classifier().fit(X, Y))


def test_warm_start_goes_on_from_the_network_that_it_went_on_from(path, monkeypatch):
    def begun():
        return classifier().fit(X, Y).set_params(warm_start=True)

    expected = begun().fit(X, Y)
    checkpoint = [TrainingCheckpoint(path)]
    break_off(monkeypatch, begun().set_params(callbacks=checkpoint), X, Y)
    resumed = begun().set_params(callbacks=checkpoint).fit(X, Y)
    assert_same(resumed, expected)
    assert len(resumed.loss_curve_) == 12
    message = "the network that warm_start goes on with differs in its values"
    with pytest.raises(ValueError, match=message):
        resumed.fit(X, Y)  # another step of the same program, not the same again


def test_callbacks_go_on_with_what_they_have_learned(path, monkeypatch):
    def make(checkpoint):
        stop = skorch.callbacks.EarlyStopping(
            monitor="train_loss", patience=4, threshold=0.9, load_best=True
        )
        halve = skorch.callbacks.LRScheduler("MultiStepLR", milestones=[2, 4], gamma=0.5)
        return classifier(callbacks=[*checkpoint, ("stop", stop), halve], max_iter=9)

    expected = make([]).fit(X, Y)
    assert expected.n_iter_ == 5
    break_off(monkeypatch, make([TrainingCheckpoint(path)]), X, Y)
    assert_same(make([TrainingCheckpoint(path)]).fit(X, Y), expected)


class Counting(skorch.callbacks.Callback):
    """Keeps its state where no convention says."""

    def __init__(self):
        self.seen = []

    def get_params(self, deep=True):
        return {}

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = state["seen"]

    def on_epoch_end(self, net, **kwargs):
        self.seen.append(len(net.history))


def test_callback_may_say_what_its_state_is(path, monkeypatch):
    break_off(monkeypatch, classifier(callbacks=[TrainingCheckpoint(path), Counting()]), X, Y)
    counting = Counting()
    classifier(callbacks=[TrainingCheckpoint(path), counting]).fit(X, Y)
    assert counting.seen == [1, 2, 3, 4, 5, 6]


class Learning(skorch.callbacks.Callback):
    """Learns a value in each epoch, and writes it into the history."""

    def __init__(self, learn):
        self.learn = learn

    def get_params(self, deep=True):
        return {}

    def on_train_begin(self, net, **kwargs):
        self.learned_ = self.learn(0)

    def on_epoch_end(self, net, **kwargs):
        self.learned_ = self.learn(len(net.history))
        net.history.record("learned", self.learned_)


VALUES = {
    "keys are numbers": lambda n: {0: 0.5, n: "a", None: True, (0, n): 1},
    "tuples": lambda n: (n, [(1.0, n)], {"a": ((),)}),
    "strings": lambda n: np.array(["a", "b" * n]),
    "objects": lambda n: np.array(["a", n, 0.5], dtype=object),
    "numpy": lambda n: [np.float32(0.1), np.int8(n), np.bool_(True), np.float64(np.nan)],
    "containers": lambda n: [Counter(a=n), OrderedDict(b=n), {n, "a"}, frozenset([n])],
    "tensors": lambda n: [torch.full((2,), n, dtype=dtype) for dtype in (torch.uint8, torch.half)],
    "random state": lambda n: np.random.RandomState(n).get_state(legacy=False),
    "not finite": lambda n: [np.inf, -np.inf, 2**80, -0.0],
    "long": lambda n: [list(range(40)), [0.1] * 40, [np.float32(n)] * 40, [{}] * 40],
}


def exactly(value):
    """Return a text that tells values, and the types of their parts, to the last bit."""
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {exactly(value.tolist())}"
    if isinstance(value, torch.Tensor):
        return f"tensor {value.dtype} {exactly(value.numpy())}"
    if isinstance(value, dict):
        return f"{type(value)} {[(exactly(key), exactly(item)) for key, item in value.items()]}"
    if isinstance(value, set | frozenset):
        return f"{type(value)} {sorted(map(exactly, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value)} {[exactly(item) for item in value]}"
    return f"{type(value)} {value!r}"


@pytest.mark.parametrize("learn", VALUES.values(), ids=VALUES)
def test_what_callbacks_learn_and_record_comes_back_as_it_was(learn, path, monkeypatch):
    expected, callback = Learning(learn), Learning(learn)
    history = classifier(callbacks=[expected]).fit(X, Y).history_
    break_off(monkeypatch, classifier(callbacks=[TrainingCheckpoint(path), Learning(learn)]), X, Y)
    found = read_state(path)["training"]["callbacks"]["Learning"]["values"]["learned_"]
    assert exactly(found) == exactly(learn(3))
    resumed = classifier(callbacks=[TrainingCheckpoint(path), callback]).fit(X, Y).history_
    assert exactly([{**row, "dur": 0} for row in resumed]) == exactly(
        [{**row, "dur": 0} for row in history]
    )


UNKNOWN = {
    "complex": 1j,
    "complex array": np.array([1j]),
    "date": np.datetime64("2020-01-01"),
    "long double": np.longdouble(1),
    "complex tensor": torch.tensor([1j]),
    "bfloat16": torch.zeros(2, dtype=torch.bfloat16),
    "array of arrays": np.array([None, [1]], dtype=object),
    "three dimensions": np.full((1, 1, 1), None, dtype=object),
    "path": Path("a"),
    "class": Path,
}


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=UNKNOWN)
def test_what_a_callback_learns_and_no_file_can_hold_is_refused_by_name(value, path):
    callback = Learning(lambda n: value)
    message = "cannot keep what the callback 'named' has learned: learned_"
    with pytest.raises(ValueError, match=message) as raised:
        classifier(callbacks=[TrainingCheckpoint(path), ("named", callback)]).fit(X, Y)
    assert "Give the callback state_dict and load_state_dict" in str(raised.value)


def test_what_contains_itself_is_refused(path):
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="cannot keep what the callback 'Learning' has learned"):
        classifier(callbacks=[TrainingCheckpoint(path), Learning(lambda n: endless)]).fit(X, Y)


class Recording(skorch.callbacks.Callback):
    """Writes into the history what no file can hold."""

    def on_epoch_end(self, net, **kwargs):
        net.history.record("where", Path("a"))


def test_what_is_recorded_and_no_file_can_hold_is_refused_by_name(path):
    message = r"cannot keep this training: training\.history\.0\.where=PosixPath\('a'\)"
    with pytest.raises(ValueError, match=message):
        classifier(callbacks=[TrainingCheckpoint(path), Recording()]).fit(X, Y)


class Late(skorch.callbacks.Callback):
    """Makes what keeps a state of its own in the first epoch only."""

    def on_epoch_end(self, net, **kwargs):
        self.module_ = torch.nn.Linear(1, 1)


def test_state_that_nothing_takes_back_is_refused(path, monkeypatch):
    break_off(monkeypatch, classifier(callbacks=[TrainingCheckpoint(path), Late()]), X, Y)
    with pytest.raises(ValueError, match="The callback 'Late' has no module_ that could take back"):
        classifier(callbacks=[TrainingCheckpoint(path), Late()]).fit(X, Y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [skorch.callbacks.PrintLog(sink=lambda line: None)],
        lambda: [skorch.callbacks.LRScheduler("CosineAnnealingLR", T_max=6)],
        lambda: [skorch.callbacks.EpochScoring("accuracy", on_train=True, use_caching=False)],
        lambda: [skorch.callbacks.Freezer("*weight", at=2)],
        lambda: [skorch.callbacks.Freezer("0.*"), skorch.callbacks.Unfreezer("0.*", at=5)],
    ],
    ids=["PrintLog", "LRScheduler", "EpochScoring", "Freezer", "Unfreezer"],
)
def test_callbacks_of_skorch_go_on(make, path, monkeypatch):
    expected = classifier(callbacks=make()).fit(X, Y)
    break_off(monkeypatch, classifier(callbacks=[*make(), TrainingCheckpoint(path)]), X, Y)
    resumed = classifier(callbacks=[*make(), TrainingCheckpoint(path)]).fit(X, Y)
    assert_same(resumed, expected)
    frozen = [[p.requires_grad for p in net.module_.parameters()] for net in (resumed, expected)]
    assert frozen[0] == frozen[1]


class PerBatch(skorch.callbacks.Callback):
    """Records NumPy's numbers for each batch and each epoch."""

    def on_batch_end(self, net, **kwargs):
        net.history.record_batch("half", np.float32(0.5))
        if len(net.history) % 2:
            net.history.record_batch("odd", np.float64(0.1))

    def on_epoch_end(self, net, **kwargs):
        net.history.record("score", np.float64(0.1) * len(net.history))


def test_long_history_is_one_text(path):
    params = {"callbacks": [TrainingCheckpoint(path), PerBatch()], "batch_size": 2, "max_iter": 35}
    history = classifier(**params).fit(X, Y).history_
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) < 20
    again = classifier(**{**params, "callbacks": [TrainingCheckpoint(path), PerBatch()]}).fit(X, Y)
    assert exactly(list(again.history_)) == exactly(list(history))


def test_checkpoint_alone_asks_for_no_net_of_skorch(path, monkeypatch):
    monkeypatch.setattr("sknn_deep._estimators.fitting.Net", None)
    assert classifier(path).fit(X, Y).history_[0]["batches"] == []


# Another call


OTHERS = {
    "alpha": ({"alpha": 0.5}, {}, "alpha was 0.0001 and is 0.5"),
    "layers": (
        {"hidden_layer_sizes": (7,)},
        {},
        "hidden_layer_sizes was [6] and is [7]",
    ),
    "solver": (
        {"solver": torch.optim.SGD},
        {},
        "solver was 'adam' and is 'torch.optim.sgd.SGD'",
    ),
    "seed": ({"random_state": None}, {}, "random_state was 0 and is None"),
    "X": ({}, {"X": X + 1}, "X differs in its values"),
    "shape": (
        {},
        {"X": X[:, :4]},
        "X differs: it was float64 of shape (60, 5) and is float64 of shape (60, 4)",
    ),
    "y": ({}, {"y": Y[::-1]}, "y differs in its values"),
    "weight": (
        {},
        {"sample_weight": np.ones(60)},
        "sample_weight differs: it was not passed and is float64 of shape (60,)",
    ),
    "validation set": ({}, {"X_val": X, "y_val": Y}, "X_val differs: it was not passed"),
    "callback": (
        {"callbacks": [skorch.callbacks.EarlyStopping()]},
        {},
        "callbacks was [] and is [['skorch.callbacks.training.EarlyStopping'",
    ),
    "class of a callback": (
        {"callbacks": [skorch.callbacks.PrintLog]},
        {},
        "callbacks was [] and is [['skorch.callbacks.logging.PrintLog']]",
    ),
}


@pytest.mark.parametrize(("params", "data", "message"), OTHERS.values(), ids=OTHERS)
def test_another_call_is_refused_with_the_difference_named(params, data, message, path):
    classifier(path).fit(X, Y)
    content = path.read_bytes()
    callbacks = [*params.get("callbacks", []), TrainingCheckpoint(path)]
    other = classifier().fit(X, Y)
    before = outcome(other, X) if "X" not in data else None
    other.set_params(**{**params, "callbacks": callbacks})
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        other.fit(**{"X": X, "y": Y, **data})
    assert str(path) in str(raised.value)
    assert "delete the file to train anew" in str(raised.value)
    assert path.read_bytes() == content
    if before is not None:  # and what was fitted before is fitted still
        assert differences(outcome(other, X), before) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [(Counting, PerBatch), (("one", PerBatch()), ("other", PerBatch()))],
    ids=["class", "name"],
)
def test_another_callback_is_refused(one, other, path):
    classifier(callbacks=[TrainingCheckpoint(path), one]).fit(X, Y)
    with pytest.raises(ValueError, match=r"belongs to another training: callbacks was \[\["):
        classifier(callbacks=[TrainingCheckpoint(path), other]).fit(X, Y)


@pytest.mark.parametrize("wrap", [lambda network: network, FrozenEstimator], ids=["bare", "frozen"])
def test_network_that_a_training_begins_from_is_known_by_what_it_has_learned(
    wrap, path, monkeypatch
):
    def make(checkpoint=path, **params):
        network = AutoencoderTransformer(2, **{**PARAMS, **params}, callbacks=[Counting()]).fit(X)
        return classifier(checkpoint, hidden_layer_sizes=(6, 2), init_from=wrap(network))

    break_off(monkeypatch, make(), X, Y)
    assert_same(make().fit(X, Y), make(None).fit(X, Y))
    for params, message in (({"random_state": 1}, "random_state"), ({"max_iter": 2}, "max_iter")):
        with pytest.raises(ValueError, match=f"init_from was .*{message}"):
            make(**params).fit(X, Y)
    other = make()
    network = getattr(other.init_from, "estimator", other.init_from)
    network.module_.flat.data[0] += 1.0
    with pytest.raises(ValueError, match="init_from was "):
        other.fit(X, Y)


def test_nan_among_the_parameters_of_a_callback_is_the_same_call(path):
    def make():
        stop = skorch.callbacks.EarlyStopping(monitor="train_loss", threshold=float("nan"))
        return classifier(callbacks=[TrainingCheckpoint(path), stop])

    make().fit(X, Y)
    assert make().fit(X, Y).n_iter_ == 6


def test_rows_of_a_large_file_are_hashed_some_at_a_time(tmp_path):
    shape = (2**17, 64)
    array = np.memmap(tmp_path / "rows", np.float32, mode="w+", shape=shape)
    array[:] = np.arange(shape[0])[:, None]
    estimator = classifier()
    tracemalloc.start()
    mapped = described_call(estimator, {"X": MappedRows(Mapped(array, np.float64))})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25  # a quarter of the file, an eighth of its numbers
    assert mapped == described_call(estimator, {"X": array.astype(np.float64)})
    assert mapped != described_call(estimator, {"X": array})


def test_rows_are_hashed_whatever_their_order_in_memory():
    array = np.random.default_rng(0).normal(size=(300_000, 5))
    calls = [
        described_call(classifier(), {"X": value})
        for value in (array, np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2])
    ]
    assert calls[0] == calls[1] == calls[2]
    array[-1, -1] += 1
    assert described_call(classifier(), {"X": array}) != calls[0]


def test_another_estimator_is_refused(path):
    classifier(path).fit(X, Y)
    regressor = DeepMLPRegressor(**PARAMS, callbacks=[TrainingCheckpoint(path)])
    with pytest.raises(ValueError, match="it is of a DeepMLPClassifier, not of a DeepMLPRegressor"):
        regressor.fit(X, Y)


def test_what_is_printed_makes_no_other_call(path, capsys):
    classifier(path).fit(X, Y)
    assert classifier(path, verbose=True).fit(X, Y).n_iter_ == 6


def test_fits_of_a_search_are_refused_a_path_that_they_share(path):
    search = GridSearchCV(classifier(path), {"alpha": [0.1]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="X differs in its values"):
        search.fit(X, Y)


def test_two_trainings_that_write_to_one_path_are_told(path, monkeypatch):
    train_epoch = Engine.train_epoch

    def disturbed(*args):
        content = path.read_bytes()
        path.unlink()
        path.with_name("new").write_bytes(content)
        path.with_name("new").rename(path)
        return train_epoch(*args)

    monkeypatch.setattr(Engine, "train_epoch", disturbed)
    with pytest.raises(ValueError, match="Another training has written to the checkpoint"):
        classifier(path).fit(X, Y)


# What the callback refuses


@pytest.mark.parametrize(
    ("callbacks", "error", "message"),
    [
        ([TrainingCheckpoint(None)], TypeError, "needs the path of a file, got path=None"),
        ([TrainingCheckpoint("")], ValueError, "needs the path of a file, got path=''"),
        ([TrainingCheckpoint("x", every=0)], ValueError, "at least 1, got every=0"),
        ([TrainingCheckpoint("x", every=1.5)], ValueError, "at least 1, got every=1.5"),
        ([TrainingCheckpoint("x")] * 2, ValueError, "callbacks holds 2 of TrainingCheckpoint"),
        ([TrainingCheckpoint], TypeError, "the class TrainingCheckpoint; pass an instance"),
    ],
    ids=["path", "empty", "every", "fraction", "two", "class"],
)
def test_wrong_use_is_refused(callbacks, error, message):
    with pytest.raises(error, match=re.escape(message)):
        classifier(callbacks=callbacks).fit(X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"solver": "lbfgs"}, "solver='lbfgs' does not support callbacks"),
        ({"n_networks": 3}, "n_networks=3 does not support callbacks"),
    ],
    ids=["lbfgs", "ensemble"],
)
def test_what_has_no_epochs_of_one_network_is_refused(params, message, path):
    with pytest.raises(ValueError, match=message):
        classifier(path, **params).fit(X, Y)


def test_partial_fit_is_refused(path):
    with pytest.raises(ValueError, match="partial_fit does not support TrainingCheckpoint"):
        classifier(path).partial_fit(X, Y, classes=np.arange(3))


class Odd(torch.optim.SGD):
    """Keeps what no file can hold."""

    def step(self, closure):
        super().step(closure)
        for group in self.param_groups:
            self.state[group["params"][0]]["odd"] = object()


def test_optimiser_whose_state_cannot_be_kept_is_refused(path):
    message = r"cannot keep this training: training\.optimizer\.state\.0\.odd=<object"
    with pytest.raises(ValueError, match=message):
        classifier(path, solver=Odd).fit(X, Y)


def test_it_clones_and_pickles_with_its_estimator(path):
    twin = clone(pickle.loads(pickle.dumps(classifier(path, every=3).fit(X, Y))))
    (callback,) = twin.callbacks
    assert (callback.path, callback.every) == (path, 3)
    assert repr(callback) == f"TrainingCheckpoint(path={path!r}, every=3)"


# The file


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "file"
    classifier(path, max_iter=1, hidden_layer_sizes=(2,)).fit(X, Y)
    return path.read_bytes()


def refuses(path):
    message = f"The file {str(path)!r} cannot be read as a checkpoint of a training: "
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        classifier(path).fit(X, Y)
    assert "delete it to train anew" in str(raised.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_file_is_refused(share, content, path):
    path.write_bytes(content[: int(share * len(content))])
    refuses(path)


def test_flipped_byte_is_noticed_or_means_nothing(content, path):
    path.write_bytes(content)
    expected, n_refused = exactly(read_state(path)), 0
    positions = [*range(64), *range(64, len(content), 97)]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert exactly(read_state(path)) == expected
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_refused += 1
    assert n_refused > 0.8 * len(positions)


FORGERIES = {
    "no state": lambda state: state.pop("training"),
    "call": lambda state: state.update(call="[]"),
    "call of text": lambda state: state.update(call="x"),
    "threads": lambda state: state.update(n_threads=10**9),
    "generator": lambda state: state["first_random_state"]["state"].update(pos=10**6),
    "words": lambda state: state["training"]["random_state"]["state"].update(key=np.ones(3)),
    "curve": lambda state: state["training"]["progress"].update(loss_curve=["x"]),
    "count": lambda state: state["training"]["progress"].update(no_improvement_count="x"),
    "name": lambda state: state["training"]["progress"].update(step=1),
    "weights": lambda state: state["training"]["network"].__setitem__(0, torch.zeros(3, 3)),
    "no weights": lambda state: state["training"].update(network=[]),
    "frozen": lambda state: state["training"].update(requires_grad="x"),
    "rate": lambda state: state["training"]["optimizer"]["param_groups"][0].update(lr="x"),
    "step": lambda state: state["training"]["optimizer"]["state"][0].update(step=-1),
    "moments": lambda state: state["training"]["optimizer"]["state"][0].update(m=torch.zeros(2)),
    "steps": lambda state: state["training"].update(n_steps=0.5),
    "rows": lambda state: state["training"].update(order=np.zeros(60, int)),
    "fewer rows": lambda state: state["training"].update(order=np.arange(5)),
    "history": lambda state: state["training"].update(history=[{"train_loss": "x"}]),
    "callbacks": lambda state: state["training"].update(callbacks={}),
    "attribute": lambda state: state["training"]["callbacks"]["Learning"]["values"].update(
        on_epoch_end=1
    ),
    "another type": lambda state: state["training"].update(more=1, history=None),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_forged_checkpoint_is_refused(forge, path, monkeypatch):
    def make():
        return classifier(callbacks=[TrainingCheckpoint(path), Learning(lambda n: n)])

    break_off(monkeypatch, make(), X, Y)
    state = read_state(path)
    forge(state)
    write_state(path, state)
    fitted = classifier().fit(X, Y)
    before = outcome(fitted, X)
    with pytest.raises(
        ValueError, match=re.escape(f"{str(path)!r} cannot be read as a checkpoint")
    ):
        fitted.set_params(callbacks=make().callbacks).fit(X, Y)
    assert differences(outcome(fitted, X), before) == []  # what was fitted is fitted still


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_is_refused_and_not_executed(path, tmp_path):
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    refuses(path)
    assert not (tmp_path / "executed").exists()


def test_saved_estimator_is_no_checkpoint_and_a_checkpoint_no_saved_estimator(path):
    sknn_deep.save(classifier().fit(X, Y), path)
    with pytest.raises(
        ValueError, match="as a checkpoint of a training: it is another file, such as"
    ):
        classifier(path).fit(X, Y)
    path.unlink()
    classifier(path).fit(X, Y)
    with pytest.raises(
        ValueError, match="cannot be loaded: it holds a dict and no estimator. The checkpoint of"
    ):
        sknn_deep.load(path)


def test_directory_is_refused_and_not_to_be_deleted(tmp_path):
    with pytest.raises(ValueError, match="it is a directory. Name a file") as raised:
        classifier(tmp_path).fit(X, Y)
    assert str(tmp_path) in str(raised.value)
    assert "Delete" not in str(raised.value)


def test_pipe_is_refused_at_once(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="it is no regular file. Name a file"):
        classifier(path).fit(X, Y)


class ChangingDirectory(skorch.callbacks.Callback):
    """Changes the directory in the second epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            os.chdir("elsewhere")


def test_relative_path_is_of_the_directory_in_which_the_fit_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    callbacks = [TrainingCheckpoint("file"), ChangingDirectory()]
    classifier(callbacks=callbacks).fit(X, Y)
    assert os.listdir(tmp_path / "elsewhere") == []
    assert len(read_state(tmp_path / "file")["training"]["history"]) == 6


def test_directory_that_is_not_there_is_told_before_the_training(tmp_path):
    path = tmp_path / "missing" / "training.checkpoint"
    with pytest.raises(FileNotFoundError, match="no checkpoint was written before") as raised:
        classifier(path).fit(X, Y)
    assert raised.value.filename == str(path)


def test_what_killed_processes_have_left_is_removed(path, tmp_path):
    leftover = tmp_path / f"{_prefix(path)}{'0' * 16}.tmp"
    other = tmp_path / f"{_prefix(tmp_path / 'other')}{'0' * 16}.tmp"
    leftover.write_bytes(b"half of a file")
    other.write_bytes(b"half of a file")
    classifier(path).fit(X, Y)
    assert not leftover.exists()
    assert other.exists()


# A disk that is full


def test_full_disk_keeps_the_last_checkpoint_and_says_so(path, monkeypatch):
    fsync, n_calls = os.fsync, []

    def full(descriptor):
        n_calls.append(descriptor)
        if len(n_calls) == 9:  # of a file and of its directory for each checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = r"could not be written \(No space left on device\); the one before is kept"
        with pytest.raises(OSError, match=message) as raised:
            classifier(path).fit(X, Y)
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(path.parent) == [path.name]
    assert len(read_state(path)["training"]["history"]) == 3
    assert_same(classifier(path).fit(X, Y), classifier().fit(X, Y))


def test_full_disk_does_not_say_that_a_file_is_kept_that_somebody_deleted(path, monkeypatch):
    fsync, n_calls = os.fsync, []

    def full(descriptor):
        n_calls.append(descriptor)
        if len(n_calls) == 9:
            path.unlink()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the one before is gone"):
        classifier(path).fit(X, Y)


def test_file_that_may_not_grow_keeps_the_last_checkpoint(path):
    classifier(path, max_iter=1).fit(X, Y)
    size = path.stat().st_size
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300, before[1]))
        with pytest.raises(OSError, match=r"File too large.*the one before is kept"):
            classifier(path).fit(X, Y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_same(classifier(path).fit(X, Y), classifier().fit(X, Y))


# Threads


def test_training_goes_on_with_the_threads_that_it_began_with(path, monkeypatch, torch_threads):
    params = {"hidden_layer_sizes": (128, 128), "early_stopping": True, "batch_size": 200}
    features = np.random.default_rng(0).normal(size=(240, 100))
    labels = np.arange(240) % 3
    torch_threads(2)
    expected = classifier(path, **params).fit(features, labels)
    path.unlink()
    break_off(monkeypatch, classifier(path, **params), features, labels)
    torch_threads(1)
    resumed = classifier(path, **params).fit(features, labels)
    assert differences(outcome(resumed, features), outcome(expected, features)) == []
    assert torch.get_num_threads() == 1


def test_threads_are_fixed_within_the_block_only(torch_threads):
    torch_threads(3)
    with threads.fixed_threads(2):
        own = pace.Pace.of(torch.device("cpu"))
        assert (threads.allowed_threads(), own.n_threads) == (2, 2)
        with threads.one_thread():
            assert threads.allowed_threads() == 2
        with own.steps(multiply_adds=10**9, n_elements=0):
            own.step_done()
            assert not own.follows
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == threads.allowed_threads() == 3


def test_forked_process_refuses_more_threads_than_it_may_use(monkeypatch, torch_threads):
    torch_threads(1)
    monkeypatch.setattr(threads, "_is_forked", True)
    with (
        pytest.raises(RuntimeError, match="Go on in a process that was not forked"),
        threads.fixed_threads(2),
    ):
        pass


@pytest.mark.slow
def test_checkpoints_stacks_and_displays_import_neither_dynamo_nor_what_draws(path):
    """They take seconds; torch's own ``state_dict()`` of an optimiser imports the first."""
    program = (
        "import sys, numpy as np, sknn_deep.plotting\n"
        "from sknn_deep import DeepMLPRegressor\n"
        "stack = DeepMLPRegressor(n_networks=2, max_iter=1, learning_rate='cosine')\n"
        "stack.fit(np.eye(9), range(9))\n"
        "from sknn_deep.callbacks import TrainingCheckpoint\n"
        f"for _ in range(2): DeepMLPRegressor(max_iter=1, tol=1, learning_rate='cosine', "
        f"random_state=0, callbacks=[TrainingCheckpoint({str(path)!r})]).fit(np.eye(9), range(9))\n"
        "assert not {'torch._dynamo', 'matplotlib', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# Divergence


def test_training_that_diverges_keeps_the_checkpoint_before(path):
    messages = []
    for _ in range(2):
        with pytest.raises(ValueError, match="Solver produced non-finite") as raised:
            classifier(path, solver=Explode, batch_size=60, max_iter=50).fit(X, Y)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    weights = read_state(path)["training"]["network"][0]
    assert weights.isfinite().all()


def test_divergence_after_a_good_epoch_is_told_again(path):
    params = {"solver": Explode, "batch_size": 54, "max_iter": 50, "early_stopping": True}
    results = []
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="Training diverged in iteration"):
            results.append(classifier(path, **params).fit(X, Y))
    assert_same(*results)
