"""What an error for want of memory tells is what the training takes."""

import json
import os
import re
import subprocess
import sys

import pytest

# Each fit has a process of its own, a copy of one that has imported everything: there its peak is
# measured, and another fit runs out of memory in its second step.
MEASURED = r"""
import gc, json, os, re, sys, warnings
from pathlib import Path
import numpy as np
import scipy.sparse as sp
import torch
import sknn_deep._training.whole_set as whole_set
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.engine import Engine
from sknn_deep._training.stack import Stack

warnings.simplefilter("ignore")
KINDS = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}

def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\s+(\d+)", text).group(1)) * 1024

def no_room(*args, **options):
    raise torch.OutOfMemoryError("no room")

def measured(kind, shape, dtype, params):
    n_rows, n_features, n_classes = shape
    rng = np.random.RandomState(0)
    if n_features > 10_000:
        columns = np.sort(rng.randint(n_features, size=(n_rows, 10)), axis=1)
        starts = np.arange(0, 10 * n_rows + 1, 10)
        ones = np.ones(10 * n_rows, dtype)
        X = sp.csr_matrix((ones, columns.ravel(), starts), (n_rows, n_features))
        X.sum_duplicates()
    else:
        X = rng.uniform(size=(n_rows, n_features)).astype(dtype)
    y = np.arange(n_rows) % n_classes
    if "hidden_layer_sizes" in params:
        params["hidden_layer_sizes"] = tuple(params["hidden_layer_sizes"])
    params = {"max_iter": 2, "random_state": 0, "device": "cpu", **params}
    network = KINDS[kind](**params)
    # what is imported and started with the first fit belongs to no fit
    few = {**params, "hidden_layer_sizes": (4,), "batch_size": "auto"}
    KINDS[kind](**few).fit(X[:60, :9].copy(), y[:60] % 3)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    network.fit(X, y)
    peak = status("VmHWM") - before
    Engine._write_gradient = Stack.train_epoch = whole_set.fit_lbfgs = no_room
    try:
        network.fit(X, y)
    except MemoryError as error:
        return [peak, str(error)]

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(json.dumps(measured(*json.loads(line))), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        print("null", flush=True)  # it has said on stderr why
"""
WIDE = {"hidden_layer_sizes": [1200, 1200]}
LONG = {"hidden_layer_sizes": [256, 256], "batch_size": 30_000}
FITS = {
    "many classes": ("classifier", (5000, 20, 5000), "float32", {}),
    "best weights": ("classifier", (1000, 100, 2), "float32", {**WIDE, "early_stopping": True}),
    "L-BFGS": (
        "classifier",
        (2000, 100, 2),
        "float32",
        {"hidden_layer_sizes": [500, 500], "solver": "lbfgs", "max_iter": 12},
    ),
    "long batches, GELU": (
        "classifier",
        (30_000, 50, 2),
        "float32",
        {**LONG, "activation": "gelu"},
    ),
    "normalised, dropout": (
        "classifier",
        (30_000, 50, 2),
        "float32",
        {**LONG, "normalization": "batch", "dropout": 0.2},
    ),
    "many features": (
        "classifier",
        (1000, 1_000_000, 2),
        "float32",
        {"hidden_layer_sizes": [4], "batch_size": 1000},
    ),
    "autoencoder, which makes sparse rows dense": (
        "autoencoder",
        (1000, 10_001, 2),
        "float32",
        {"hidden_layer_sizes": [16], "n_components": 4, "batch_size": 1000},
    ),
    "contractive": (
        "autoencoder",
        (2000, 2000, 2),
        "float32",
        {
            "hidden_layer_sizes": [256],
            "n_components": 4,
            "batch_size": 2000,
            "contractive": 0.1,
        },
    ),
    "embedded numbers": (
        "regressor",
        (8000, 100, 2),
        "float32",
        {"hidden_layer_sizes": [16], "numeric_embedding": "piecewise_linear", "batch_size": 4000},
    ),
    "a copy of X": (
        "classifier",
        (50_000, 200, 2),
        "float64",
        {"hidden_layer_sizes": [32], "dtype": "float32"},
    ),
    "ensemble in a stack": (
        "classifier",
        (1000, 200, 2),
        "float32",
        {"hidden_layer_sizes": [300], "n_networks": 128},
    ),
}


@pytest.fixture(scope="module")
def measure():
    """Offer what measures one of the fits, and returns its peak and what the error said."""
    # else the C library keeps what was freed, by chance more or less of it
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", MEASURED],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def answer(fit):
            print(json.dumps(fit), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield answer


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("name", FITS)
def test_the_memory_that_an_error_tells_is_that_of_the_peak(name, measure):
    peak, message = measure(FITS[name])
    told = re.search(r"which take about ([\d.e+-]+) GB together", message)
    if told is None:
        told = re.search(r"It takes about ([\d.e+-]+) GB", message)
    ratio = peak / (1e9 * float(told.group(1)))
    assert 0.5 <= ratio <= 2
