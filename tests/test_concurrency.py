"""Threads, workers and forks give the sequential results, and nothing is left behind."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import skorch
import torch
from conftest import output
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._hardware import memory_maps, pace
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

N_THREADS = 8
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, "device": "cpu"}
NETWORKS = {
    "classifier": DeepMLPClassifier(**QUICK),
    "regressor": DeepMLPRegressor(**QUICK),
    "autoencoder": AutoencoderTransformer(2, **QUICK),
    "ensemble": DeepMLPClassifier(**QUICK, n_networks=3),
    "dropout": DeepMLPClassifier(**QUICK, dropout=0.3, normalization="batch"),
    "sgd": DeepMLPRegressor(**QUICK, solver="sgd", learning_rate="cosine"),
    "early stopping": DeepMLPClassifier(**QUICK, early_stopping=True),
    "lbfgs": DeepMLPRegressor(**QUICK, solver="lbfgs"),
    "variational": AutoencoderTransformer(2, **QUICK, variational=True),
    "callbacks": DeepMLPClassifier(**QUICK, callbacks=[skorch.callbacks.EpochScoring("accuracy")]),
}
METHODS = [
    (name, method)
    for name, network in NETWORKS.items()
    for method in (
        "predict", "predict_proba", "predict_log_proba",
        "transform", "reconstruction_error", "score_samples",
    )
    if hasattr(network, method)
]  # fmt: skip


def at_once(functions):
    """Return what functions answer that threads call at the same moment."""
    start = threading.Barrier(len(functions))

    def call(function):
        start.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


@pytest.fixture
def one_torch_thread(torch_threads):
    """Give torch one thread: then every bit is the same each time."""
    torch_threads(1)


# --------------------------------------------------------------------------------------
# threads


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), METHODS)
def test_eight_threads_predict_what_one_does(name, method, digits, one_torch_thread):
    network = clone(NETWORKS[name]).fit(digits.X, digits.y)
    predict = getattr(network, method)
    parts = [digits.X[i : i + 200 + i] for i in range(N_THREADS)]
    expected = [predict(part) for part in parts]
    for _ in range(5):
        found = at_once([lambda part=part: predict(part) for part in parts])
        for one, other in zip(found, expected, strict=True):
            assert_array_equal(one, other)


@pytest.mark.parametrize("container", ["array", "csr", "map"])
def test_eight_threads_predict_many_rows_on_several_threads_each(
    container, tmp_path, monkeypatch, two_threads
):
    X = np.random.RandomState(0).normal(size=(4000, 64))
    network = DeepMLPClassifier(**{**QUICK, "max_iter": 1, "hidden_layer_sizes": (400, 200)})
    network.fit(X[:300], X[:300, 0] > 0)
    work = len(X) * network.module_.weights.numel()
    assert pace.Pace(2).threads_for(multiply_adds=work) == 2
    expected = network.predict_proba(X)
    if container == "csr":
        X = sp.csr_array(X)
    elif container == "map":
        np.save(tmp_path / "X.npy", X)
        monkeypatch.setattr(memory_maps, "_LARGE", 0)
        monkeypatch.setattr(memory_maps, "_HELD", 0)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    for found in at_once([lambda: network.predict_proba(X)] * N_THREADS):
        assert_allclose(found, expected, rtol=1e-10)
    assert torch.get_num_threads() == 2


def test_eight_threads_fit_what_one_does(digits, one_torch_thread):
    def fits():
        return [
            lambda network=network: output(clone(network).fit(digits.X, digits.y), digits.X)
            for network in NETWORKS.values()
        ]

    expected = [fit() for fit in fits()]
    for one, other in zip(at_once(fits()), expected, strict=True):
        assert_array_equal(one, other)


def test_fits_and_partial_fits_do_not_disturb_who_predicts_and_saves(
    digits, tmp_path, one_torch_thread
):
    network = clone(NETWORKS["classifier"]).fit(digits.X, digits.y)
    expected = network.predict_proba(digits.X)
    other = clone(NETWORKS["dropout"]).fit(digits.X, digits.y)
    goes_on = copy.deepcopy(other)
    goes_on.partial_fit(digits.X, digits.y).partial_fit(digits.X, digits.y)

    def saved():
        sknn_deep.save(network, tmp_path / "saved")
        return sknn_deep.load(tmp_path / "saved").predict_proba(digits.X)

    def trained():
        other.partial_fit(digits.X, digits.y).partial_fit(digits.X, digits.y)
        return other.predict_proba(digits.X)

    *found, by_partial_fit = at_once(
        [
            lambda: network.predict_proba(digits.X),
            lambda: pickle.loads(pickle.dumps(network)).predict_proba(digits.X),
            lambda: clone(network).fit(digits.X, digits.y).predict_proba(digits.X),
            saved,
            trained,
        ]
    )
    for probabilities in found:
        assert_array_equal(probabilities, expected)
    assert_array_equal(by_partial_fit, goes_on.predict_proba(digits.X))


def test_searches_run_side_by_side(digits, one_torch_thread):
    def search(alpha):
        grid = {"alpha": [alpha, 10 * alpha]}
        return FusedGridSearchCV(NETWORKS["classifier"], grid, cv=2).fit(digits.X, digits.y)

    alphas = (1e-4, 1e-2, 1.0)
    expected = [search(alpha) for alpha in alphas]
    found = at_once([lambda alpha=alpha: search(alpha) for alpha in alphas])
    for one, other in zip(found, expected, strict=True):
        for key in ("split0_test_score", "split1_test_score"):
            assert_array_equal(one.cv_results_[key], other.cv_results_[key])


# --------------------------------------------------------------------------------------
# workers of joblib


def _predict_in_a_worker(network, X):
    return output(network, X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:joblib")
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_workers_of_joblib_predict_what_one_process_does(backend, digits, two_threads):
    names = ("classifier", "ensemble", "autoencoder")
    networks = [clone(NETWORKS[name]).fit(digits.X, digits.y) for name in names]
    found = joblib.Parallel(n_jobs=2, backend=backend)(
        joblib.delayed(_predict_in_a_worker)(network, digits.X) for network in networks
    )
    for one, network in zip(found, networks, strict=True):
        assert_allclose(one, output(network, digits.X), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:joblib")
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_scores_of_scikit_learn_do_not_depend_on_the_backend(backend, digits, one_torch_thread):
    network = NETWORKS["dropout"]
    expected = cross_val_score(network, digits.X, digits.y, cv=2)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        scores = cross_val_score(network, digits.X, digits.y, cv=2)
        search = GridSearchCV(network, {"alpha": [1e-4]}, cv=2).fit(digits.X, digits.y)
    assert_array_equal(scores, expected)
    assert_array_equal([search.cv_results_[f"split{i}_test_score"][0] for i in (0, 1)], expected)


# --------------------------------------------------------------------------------------
# forks


FORK = """
import os, sys, threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
import numpy as np
import torch
import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.threads import _lock, allowed_threads, one_thread

torch.set_num_threads(2)
X = np.random.RandomState(0).normal(size=(4000, 64))
y = (X[:, 0] > 0).astype(int)
options = dict(max_iter=2, random_state=0, device="cpu")
network = DeepMLPClassifier((400, 200), **options).fit(X[:400], y[:400])
expected = network.predict_proba(X)  # by two threads
autoencoder = AutoencoderTransformer(4, (256,), **options).fit(X[:400])
codes = autoencoder.transform(X[:400])
torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))

def in_child():
    assert allowed_threads() == 1
    for _ in range(100):
        pace.step_done()  # goes on with the steps of its parent
    assert torch.get_num_threads() == 1
    assert np.allclose(network.predict_proba(X), expected, rtol=1e-9)
    assert np.allclose(autoencoder.transform(X[:400]), codes, rtol=1e-9)
    path = Path(sys.argv[1])
    sknn_deep.save(network, path)
    assert np.allclose(sknn_deep.load(path).predict_proba(X), expected, rtol=1e-9)
    network.partial_fit(X[:400], y[:400])
    again = DeepMLPClassifier((400, 200), **options).fit(X[:400], y[:400])
    assert np.allclose(again.predict_proba(X), expected, rtol=1e-6)

def fork(moment):
    number = os.fork()
    if number == 0:
        try:
            in_child()
        except BaseException as error:
            print(moment, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(number, 0)[1] == 0, moment

@contextmanager
def another_thread_in(block):
    inside, leave = threading.Event(), threading.Event()
    def wait():
        with block:
            inside.set()
            leave.wait(60)
    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait(60)
    yield
    leave.set()
    thread.join()

pace = Pace(2)
for moment, block in {
    "idle": nullcontext(),
    "among steps": pace.steps(multiply_adds=10**9),
    "another thread trains": another_thread_in(one_thread()),
    "another thread begins to train": another_thread_in(_lock),
    "within a training": one_thread(),
}.items():
    with block:
        fork(moment)
assert torch.get_num_threads() == 2
assert np.allclose(network.predict_proba(X), expected, rtol=1e-9)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_predicts_trains_and_saves_whatever_other_threads_do(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "saved")]
    subprocess.run(command, timeout=600, check=True)


# --------------------------------------------------------------------------------------
# what is left behind


def _held():
    """Return threads and files that this process has."""
    held = Counter({"threads of Python": threading.active_count()})
    for name in ("fd", "task"):
        folder = Path("/proc/self", name)
        if folder.exists():
            held[name] = len(list(folder.iterdir()))
    return held


def _use(network, X, y, folder):
    """Do everything with a network that opens files or starts threads."""
    network = clone(network).fit(X, y)
    output(network, X)
    if network.solver != "lbfgs":
        network.set_params(early_stopping=False).partial_fit(X, y)
    network.set_params(callbacks=None)
    sknn_deep.save(network, folder / "saved")
    sknn_deep.load(folder / "saved")
    pickle.loads(pickle.dumps(network))
    joblib.dump(network, folder / "dumped")
    joblib.load(folder / "dumped")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_thread_and_no_file_is_left_behind(name, digits, tmp_path, two_threads):
    X, y = digits.X, digits.y
    network = clone(NETWORKS[name]).set_params(hidden_layer_sizes=(256, 128), max_iter=1)
    _use(network, X, y, tmp_path)  # libraries open and start what they keep
    before = _held()
    _use(network, X, y, tmp_path)
    assert _held() == before


def _fit_with_checkpoint(X, y, folder):
    path = folder / "checkpoint"
    for _ in range(2):  # the second reads it
        clone(NETWORKS["classifier"]).set_params(callbacks=[TrainingCheckpoint(path)]).fit(X, y)
    path.unlink()


def _fit_a_map(X, y, folder):
    np.save(folder / "X.npy", X)
    mapped = np.load(folder / "X.npy", mmap_mode="r")
    clone(NETWORKS["early stopping"]).fit(mapped, y).predict(mapped)


def _search(X, y, folder):
    FusedGridSearchCV(NETWORKS["classifier"], {"alpha": [1e-4, 1e-2]}, cv=2).fit(X, y)


def _refused_file(X, y, folder):
    (folder / "wrong").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="wrong"):
        sknn_deep.load(folder / "wrong")


def _broken_fit(X, y, folder):
    path = folder / "checkpoint"
    with pytest.raises(ValueError, match="non-finite"):
        DeepMLPClassifier(
            **{**QUICK, "solver": "sgd", "learning_rate_init": 1e300},
            callbacks=[TrainingCheckpoint(path)],
        ).fit(1e3 * X, y)
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "use", [_fit_with_checkpoint, _fit_a_map, _search, _refused_file, _broken_fit]
)
def test_nothing_is_left_behind_by(use, digits, tmp_path, monkeypatch, two_threads):
    monkeypatch.setattr(memory_maps, "_LARGE", 0)
    use(digits.X, digits.y, tmp_path)
    before = _held()
    use(digits.X, digits.y, tmp_path)
    assert _held() == before
    assert not list(tmp_path.glob("*.tmp*"))


CIRCLES = {
    **NETWORKS,
    "torch's optimiser": DeepMLPClassifier(**QUICK, solver=torch.optim.RMSprop),
    "layer normalisation": DeepMLPRegressor(**QUICK, normalization="layer"),
    "noise and tied weights": AutoencoderTransformer(2, **QUICK, noise=0.1, tied_weights=True),
    "sparsity": AutoencoderTransformer(2, **QUICK, sparsity=0.1),
    "contractive": AutoencoderTransformer(2, **QUICK, contractive=0.1),
    "weights": DeepMLPClassifier(**QUICK, class_weight="balanced", max_grad_norm=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CIRCLES)
def test_the_buffers_of_a_fit_are_freed_without_the_garbage_collector(name, digits):
    """It runs after so many new objects, however large they are, and could come too late."""
    network = CIRCLES[name]
    clone(network).fit(digits.X, digits.y)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        fitted = clone(network).fit(digits.X, digits.y)
        output(fitted, digits.X)
        del fitted
        gc.collect()
        assert [thing for thing in gc.garbage if isinstance(thing, torch.Tensor | np.ndarray)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _growth():
    """Return by how many mebibytes this process grows while it does the same again and again."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X = np.random.RandomState(0).normal(size=(300, 10))
    y = (X[:, 0] > 0).astype(int)
    options = {"hidden_layer_sizes": (16,), "max_iter": 2, "random_state": 0, "device": "cpu"}
    classifier = DeepMLPClassifier(**options)
    grid = {"alpha": [1e-4, 1e-3]}
    runs = {
        "classifier": lambda: DeepMLPClassifier(**options).fit(X, y),
        "regressor": lambda: DeepMLPRegressor(**options, early_stopping=True).fit(X, y),
        "autoencoder": lambda: AutoencoderTransformer(3, **options).fit(X),
        "partial_fit": lambda: classifier.partial_fit(X, y, classes=[0, 1]),
        "predict": lambda: classifier.predict_proba(X),
        "search": lambda: FusedGridSearchCV(classifier, grid, cv=2).fit(X, y),
    }
    grown = {}
    for name, run in runs.items():
        n_runs = 5 if name == "search" else 40
        for _ in range(n_runs):
            run()
        before = resident()
        for _ in range(4 * n_runs):
            run()
        grown[name] = resident() - before
    return grown


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_over_two_hundred_fits(in_new_process):
    grown = in_new_process(_growth)
    assert {name: size for name, size in grown.items() if size > 1} == {}, "mebibytes"
