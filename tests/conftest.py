"""Data, containers and the real data sets that several files of tests share."""

import contextlib
import gc
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from multiprocessing import forkserver, get_all_start_methods, get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from joblib._parallel_backends import LokyBackend
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._hardware import bfloat16, pace
from sknn_deep._networks import numpy_pass
from sknn_deep.datasets import fetch_california_housing, fetch_mnist

try:
    import polars as pl
except ImportError:  # as on a machine with a GPU and no more than torch
    pl = None

# The tests are of the CPU even where there is a GPU, in processes that they start, too: torch looks
# for one when it is first asked. `make gpu` has its tests run on it.
if os.environ.get("SKNN_DEEP_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = "-1"


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
]


def pytest_ignore_collect(collection_path, config):
    """Leave out the tests on a simulated device, which need a process of their own."""
    is_simulated = "simulated_cuda" in collection_path.parts
    if is_simulated and not config.pluginmanager.has_plugin("tests.simulated_cuda.plugin"):
        return True
    return None


def pytest_collection_finish():
    """Spare the garbage collector the tests and the libraries: it sees what is made from now on."""
    gc.collect()
    gc.freeze()


# A worker of Dask may take minutes to start on a machine that others use, too.
PATIENT = {
    "distributed.comm.timeouts.connect": "600s",
    "distributed.comm.timeouts.tcp": "600s",
}


@pytest.fixture(scope="session")
def fork_server():
    """Have processes of multiprocessing's "forkserver" start in a moment: it imports once."""
    if "forkserver" in get_all_start_methods():
        forkserver.set_forkserver_preload(["sknn_deep.dask", "torch._dynamo", "benchmarks.memory"])
        forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _workers_stay():
    """Let joblib's idle workers wait for later tests: new ones import torch anew."""
    configure = LokyBackend.configure

    def patiently(self, *args, idle_worker_timeout=None, **options):
        return configure(self, *args, idle_worker_timeout=3600, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LokyBackend, "configure", patiently)
        yield


@pytest.fixture(scope="session")
def in_new_process(fork_server):
    """Return a function that calls another in a process of its own, which has computed nothing.

    As in each fork of a process that has imported torch, networks train on one thread there.
    """
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"

    def call(function, *arguments):
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as process:
            return process.submit(function, *arguments).result()

    return call


@pytest.fixture(scope="session")
def client(fork_server):
    """Return the client of a cluster of two processes, which serves all tests of the session."""
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    # workers start, and start anew, in a moment
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    with dask.config.set(PATIENT | {"distributed.worker.multiprocessing-method": method}):
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@pytest.fixture
def placed(client):
    """Return a function that makes a collection of Dask, its partitions in turn on both workers."""
    da, dd = pytest.importorskip("dask.array"), pytest.importorskip("dask.dataframe")

    def place(rows, lengths, *, may_move=False):
        ends = np.cumsum(lengths)
        parts = [rows[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        if not isinstance(rows, np.ndarray):
            parts = [own_categories(part) for part in parts]
        futures = [
            client.submit(
                copy, part, workers=[number % 2], allow_other_workers=may_move, pure=False
            )
            for number, part in enumerate(parts)
        ]
        if not isinstance(rows, np.ndarray):
            table = dd.from_delayed(futures, meta=parts[0].iloc[:0], verify_meta=False)
            return client.persist(table)  # Dask cannot make arrays of frames of futures
        arrays = [
            da.from_delayed(future, part.shape, part.dtype)
            for future, part in zip(futures, parts, strict=True)
        ]
        return da.concatenate(arrays)

    return place


def own_categories(part):
    """Return a part of a frame or a series, whose categories are those that it has."""
    if part.ndim == 1:
        return part
    chosen = part.select_dtypes("category")
    return part.assign(**{name: chosen[name].cat.remove_unused_categories() for name in chosen})


@pytest.fixture(autouse=True)
def _no_neighbours(monkeypatch):
    """Let no test's number of threads depend on what runs beside it or before it."""
    monkeypatch.setattr(pace, "busy_cores", lambda: 0)
    monkeypatch.setattr(pace, "_outcomes", {})


@pytest.fixture(autouse=True)
def _multiplies_bfloat16(monkeypatch):
    """Let ``dtype="bfloat16"`` compute the same on every processor, if slowly on some."""
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)


@pytest.fixture
def small_layers_are_rounded(monkeypatch):
    """Let ``dtype="bfloat16"`` round the factors of small products, too."""
    monkeypatch.setattr(bfloat16, "FEWEST_TO_ROUND", 0)


@pytest.fixture
def torch_predicts(monkeypatch):
    """Let a network's modules predict, where NumPy would."""
    monkeypatch.setattr(numpy_pass, "ON_ONE_THREAD", -1)
    monkeypatch.setattr(numpy_pass, "wants_the_same_bits", lambda: True)


KINDS = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    """Offer the three classes in turn."""
    return request.param


def output(network, X):
    """Return what a fitted network of any kind answers, the finest there is."""
    names = ("predict_proba", "transform", "predict")
    return getattr(network, next(name for name in names if hasattr(network, name)))(X)


class Explode(torch.optim.SGD):
    """Takes larger and larger steps."""

    def step(self, closure):
        loss = super().step(closure)
        self.param_groups[0]["lr"] *= 1e6
        return loss


class Recorder:
    """A callback for scikit-learn that notes all that it is told."""

    def __init__(self, stop_after=None, fail_after=None):
        self.events, self.estimators, self.passed = [], [], []
        self.stop_after, self.fail_after = stop_after, fail_after

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.events.append(f"end {context.task_name} {context.task_id}")
        self.passed.append((X, y, metadata))
        if context.task_name != "epoch":
            return False
        self.estimators.append(fitted_estimator)
        if context.task_id + 1 == self.fail_after:
            raise RuntimeError("this callback gives up")
        return context.task_id + 1 == self.stop_after


def _split(X, y, **options):
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, **options)
    return SimpleNamespace(X=X_train, y=y_train, X_test=X_test, y_test=y_test)


@pytest.fixture(scope="session")
def digits():
    """Offer images of digits, pixels in [0, 1], ten classes: 1347 to train, 450 to test."""
    X, y = datasets.load_digits(return_X_y=True)
    return _split(X / 16, y, stratify=y)


@pytest.fixture(scope="session")
def cancer():
    """Offer scaled breast cancer data, two classes."""
    X, y = datasets.load_breast_cancer(return_X_y=True)
    return _split(scale(X), y, stratify=y)


@pytest.fixture(scope="session")
def wine():
    """Offer scaled wine data, three classes."""
    X, y = datasets.load_wine(return_X_y=True)
    return _split(scale(X), y, stratify=y)


@pytest.fixture(scope="session")
def diabetes():
    """Offer scaled diabetes data, a scaled target."""
    X, y = datasets.load_diabetes(return_X_y=True)
    return _split(scale(X), scale(y))


def _need(file_name):
    folder = os.environ.get("SKNN_DEEP_DATA")
    if not folder or not (Path(folder) / file_name).exists():
        pytest.skip(f"SKNN_DEEP_DATA names no folder with {file_name}")


@pytest.fixture(scope="session")
def mnist():
    """Offer MNIST, pixels in [0, 1] in single precision; skip where it is not at hand."""
    _need("mnist.npz")
    return fetch_mnist()


@pytest.fixture(scope="session")
def housing():
    """Offer California housing; skip where it is not at hand."""
    _need("california_housing.csv.gz")
    return fetch_california_housing()


def _memmap(X, folder):
    path = folder / f"X_{len(list(folder.iterdir()))}.npy"  # never over one that is mapped
    np.save(path, X)
    return np.load(path, mmap_mode="r")


# The same numbers in everything that scikit-learn's users keep numbers in.
CONTAINERS = {
    "numpy": lambda X, folder: X,
    "list": lambda X, folder: X.tolist(),
    "pandas": lambda X, folder: pd.DataFrame(X, columns=_names(X)),
    "polars": lambda X, folder: pl.DataFrame(X, schema=_names(X)),
    "torch": lambda X, folder: torch.from_numpy(X.copy()),
    "memmap": _memmap,
    "csr_matrix": lambda X, folder: sp.csr_matrix(X),
    "csr_array": lambda X, folder: sp.csr_array(X),
    "csc_matrix": lambda X, folder: sp.csc_matrix(X),
    "csc_array": lambda X, folder: sp.csc_array(X),
    "coo_matrix": lambda X, folder: sp.coo_matrix(X),
}


def _names(X):
    return [f"feature {i}" for i in range(X.shape[1])]


@pytest.fixture(params=list(CONTAINERS))
def container(request, tmp_path):
    """Offer a function that puts an array of two dimensions into each container in turn."""
    return lambda X: CONTAINERS[request.param](X, tmp_path)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Run in an empty folder, and draw without a screen."""
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


@pytest.fixture(scope="session")
def browser():
    """Offer a Chromium without a window; skip where there is none (`.ci/run` installs it)."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def torch_threads():
    """Offer what sets the number of threads, torch's and NumPy's; give them back afterwards."""
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:

        def set_threads(n_threads):
            torch.set_num_threads(n_threads)
            stack.enter_context(threadpool_limits(n_threads, user_api="blas"))

        yield set_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(torch_threads):
    """Give torch and NumPy two threads, so that a change to one would be seen."""
    torch_threads(2)
