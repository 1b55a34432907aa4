"""Several processes train one network: to the weights of one, and to the same bits each time.

The two processes are this one and a worker of joblib's, which serves all tests of the session.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from skorch.callbacks import Callback

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sknn_deep._estimators import processes
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.streams import stream_array
from tests.trained_together import LABELS, SMALL, SMALL_CODE, WEIGHT, X, Y, assert_same, learned


class Rprop(torch.optim.Rprop):
    """A solver of torch's whose step asks for the loss, too."""

    def step(self, closure):
        with torch.enable_grad():
            closure()
        return super().step()


def classifier(**options):
    return DeepMLPClassifier(**SMALL | options)


def regressor(**options):
    return DeepMLPRegressor(**SMALL | options)


def autoencoder(**options):
    return AutoencoderTransformer(**SMALL_CODE | options)


CASES = {
    "adam, weights": (classifier(), LABELS, WEIGHT),
    "sgd, adaptive": (regressor(solver="sgd", learning_rate="adaptive"), Y),
    "muon, batch normalisation, dropout": (
        classifier(solver="muon", normalization="batch", dropout=0.3, learning_rate="one_cycle"),
        LABELS,
        WEIGHT,
    ),
    "adamw, layer normalisation, early stopping, averages": (
        classifier(solver="adamw", normalization="layer", early_stopping=True, ema_decay=0.9,
                   calibration="temperature"),
        LABELS,
    ),
    "of torch's, clipped": (
        regressor(solver=Rprop, max_grad_norm=0.5, scoring="r2", early_stopping=True), Y, WEIGHT,
    ),
    "l-bfgs": (regressor(solver="lbfgs"), Y, WEIGHT),
    "quantiles, ensemble": (
        regressor(loss="quantile", quantiles=[0.1, 0.5, 0.9], n_networks=2, early_stopping=True), Y,
    ),
    # the matrix of the second layer is sent while the first is computed
    "wide": (regressor(hidden_layer_sizes=(370, 370), max_iter=2), Y),
    "tabular": (TabularMLPRegressor(**SMALL, n_networks=1), Y),
    "autoencoder, noise": (
        autoencoder(noise=0.2, noise_kind="salt_pepper", order_code=True, scaling="standard"),
    ),
    "autoencoder, gaussian, batch normalisation": (
        autoencoder(noise=0.2, normalization="batch", tied_weights=True, sparsity=0.01),
    ),
    "variational": (autoencoder(variational=True, contractive=0.1, dropout=0.1),),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("estimator", "data"), [(c[0], c[1:]) for c in CASES.values()], ids=CASES)
def test_two_processes_learn_what_one_does(estimator, data):
    one = clone(estimator).fit(X, *data)
    two, again = (clone(estimator).set_params(n_processes=2).fit(X, *data) for _ in range(2))
    assert_same(one, two)
    two, again = learned(two), learned(again)
    assert two.keys() == again.keys()
    for name, value in two.items():
        assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_calls_that_go_on_and_streams_go_on_alike():
    two, one = regressor(n_processes=2, warm_start=True), regressor(warm_start=True)
    stream = stream_array(X, Y, chunk=20, window=40)
    for data in ((X, Y), stream):
        assert_allclose(two.fit(*data).module_.flat, one.fit(*data).module_.flat)
    for model in (one, two):
        model.partial_fit(X[:40], Y[:40])
    assert_allclose(two.module_.flat, one.module_.flat)
    assert one.t_ == two.t_ == 2 * 4 * 133 + 40


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["global", "own"])
def test_a_generator_is_drawn_from_as_by_one_process(kind):
    found = []
    for n_processes in (1, 2):
        np.random.seed(5)
        generator = None if kind == "global" else np.random.RandomState(5)
        model = regressor(random_state=generator, n_processes=n_processes, n_networks=2)
        model.fit(X, Y)
        found.append((learned(model)["tensor 1 0"], (generator or np.random).random_sample()))
    assert_allclose(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


class Recorder(Callback):
    """Keeps in which process it hears of an epoch; then does something."""

    do = staticmethod(lambda n_epochs: None)  # of the class: a checkpoint belongs to one callback

    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(os.getpid())
        self.do(len(self.epochs))


def fail(n_epochs):
    if n_epochs == 3:
        raise ArithmeticError("in the middle")


def stop(n_epochs):
    if n_epochs == 2:
        raise KeyboardInterrupt


def interrupt(n_epochs):
    if n_epochs == 2:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_callbacks_and_prints_are_of_this_process(capfd):
    recorder = Recorder()
    regressor(n_processes=2, callbacks=[recorder], verbose=True).fit(X, Y)
    assert recorder.epochs == [os.getpid()] * 4
    out, err = capfd.readouterr()
    assert out.count("Iteration ") == 4
    assert not err


def test_what_a_callback_or_the_user_ends_is_ended_everywhere(monkeypatch):
    model = regressor(n_processes=2, callbacks=[Recorder()])
    monkeypatch.setattr(Recorder, "do", staticmethod(stop))
    assert model.fit(X, Y).n_iter_ == 2
    monkeypatch.setattr(Recorder, "do", staticmethod(interrupt))
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.set_params(callbacks=[Recorder()]).fit(X, Y)
    assert model.interrupted_
    assert model.n_iter_ == 1  # the second was not at its end
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.set_params(callbacks=None).fit(np.full_like(X, np.nan), Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_checkpoint_is_gone_on_from(tmp_path, monkeypatch):
    whole = regressor(n_processes=2).fit(X, Y)
    model = regressor(n_processes=2, callbacks=[Recorder(), TrainingCheckpoint(tmp_path / "kept")])
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "do", staticmethod(fail))
        with pytest.raises(ArithmeticError, match="in the middle"):
            model.fit(X, Y)
    recorder = model.callbacks[0]
    recorder.epochs.clear()
    model.fit(X, Y)
    assert len(recorder.epochs) == 2
    assert_array_equal(model.module_.flat, whole.module_.flat)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_of_several_threads_take_turns():
    models = [regressor(n_processes=2, random_state=seed) for seed in (0, 1)]
    threads = [threading.Thread(target=model.fit, args=(X, Y), daemon=True) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    for model in models:
        assert_same(clone(model).set_params(n_processes=1).fit(X, Y), model)


class Locks(Callback):
    """Belongs to this process, as a score and as a callback."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, estimator, X, y):
        return 1.0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_only_what_the_others_are_given_must_pickle():
    model = regressor(n_processes=2, n_iter_no_change=np.inf, callbacks=[Locks()]).fit(X, Y)
    assert model.n_iter_ == 4
    with pytest.raises(TypeError, match="scoring=.* cannot be sent to the processes that train"):
        model.set_params(scoring=Locks(), early_stopping=True).fit(X, Y)


class Dies:
    """A score that ends the process that is not the test's."""

    def __init__(self):
        self.pid = os.getpid()

    def __call__(self, estimator, X, y):
        if os.getpid() != self.pid:
            os._exit(1)
        return 1.0


def test_a_process_that_is_lost_is_an_error_and_not_a_wait():
    model = regressor(n_processes=2, early_stopping=True, scoring=Dies())
    start = time.monotonic()
    with pytest.raises(Exception, match=r"terminated|Connection|peer"):
        model.fit(X, Y)
    assert time.monotonic() - start < 600  # torch would wait for half an hour
    assert not hasattr(model, "module_")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (regressor(n_processes="torchrun"), "This one has no rank"),
        (autoencoder(variational=True, normalization="batch", n_processes=2), "is not written for"),
        (TabularMLPClassifier(n_candidates=2, n_processes=2), "leave n_processes at 1"),
        (regressor(n_processes=0), "'n_processes' parameter of DeepMLPRegressor must be"),
    ],
    ids=["no torchrun", "variational", "candidates", "none"],
)
def test_what_does_not_go_together_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, LABELS)


@pytest.mark.parametrize(("device", "n_gpus"), [("auto", 1), ("cuda:0", 2)])
def test_processes_do_not_share_a_gpu(device, n_gpus, monkeypatch):
    monkeypatch.setattr(processes, "resolve_device", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    with pytest.raises(ValueError, match=f"needs a GPU for each, and there are {n_gpus}"):
        regressor(n_processes=2, device=device).fit(X, Y)


SCRIPT = """
import sys
import numpy as np
import torch.distributed as dist
from sknn_deep import DeepMLPRegressor

rng = np.random.default_rng(0)
X = rng.normal(size=(150, 4))
options = {"max_iter": 3, "learning_rate": "cosine", "random_state": 0}
model = DeepMLPRegressor(hidden_layer_sizes=(8,), **options)
one = model.fit(X, X[:, 0]).module_.flat.numpy()
two = model.set_params(n_processes="torchrun").fit(X, X[:, 0]).module_.flat.numpy()
assert dist.get_world_size() == 2
np.testing.assert_allclose(two, one, rtol=1e-10)
try:
    model.fit(X[dist.get_rank():], X[dist.get_rank():, 0])
except ValueError as error:
    print(error)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_scripts_that_torchrun_starts_train_together(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [*command, tmp_path / "script.py"], capture_output=True, text=True, timeout=300,
        env=environment,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("The shape of X differs between the processes") == 2
