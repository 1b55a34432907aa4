"""What an error for want of memory tells is what the training takes."""

import json
import os
import re
import subprocess
import sys

import pytest

# A fit whose peak is measured, and another that runs out of memory in its second step.
MEASURED = r"""
import gc, json, re, sys, warnings
from pathlib import Path
import numpy as np
import scipy.sparse as sp
import torch
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.engine import Engine
from sknn_deep._training.stack import Stack

warnings.simplefilter("ignore")
kind, (n_rows, n_features, n_classes), dtype, params = json.loads(sys.argv[1])
rng = np.random.RandomState(0)
if n_features > 10_000:
    columns = np.sort(rng.randint(n_features, size=(n_rows, 10)), axis=1)
    starts = np.arange(0, 10 * n_rows + 1, 10)
    X = sp.csr_matrix((np.ones(10 * n_rows, dtype), columns.ravel(), starts), (n_rows, n_features))
    X.sum_duplicates()
else:
    X = rng.uniform(size=(n_rows, n_features)).astype(dtype)
y = np.arange(n_rows) % n_classes
kinds = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}
if "hidden_layer_sizes" in params:
    params["hidden_layer_sizes"] = tuple(params["hidden_layer_sizes"])
params = {"max_iter": 2, "random_state": 0, "device": "cpu", **params}
network = kinds[kind](**params)

def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\s+(\d+)", text).group(1)) * 1024

# what is imported and started with the first fit belongs to no fit
few = {**params, "hidden_layer_sizes": (4,), "batch_size": "auto"}
kinds[kind](**few).fit(X[:60, :9].copy(), y[:60] % 3)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
network.fit(X, y)
peak = status("VmHWM") - before

def no_room(*args):
    raise torch.OutOfMemoryError("no room")

Engine._write_gradient = Stack.train_epoch = no_room
import sknn_deep._training.whole_set as whole_set
whole_set.fit_lbfgs = lambda *args, **options: no_room()
try:
    network.fit(X, y)
except MemoryError as error:
    print(json.dumps([peak, str(error)]))
"""
WIDE = {"hidden_layer_sizes": [2000, 2000]}
LONG = {"hidden_layer_sizes": [256, 256], "batch_size": 30_000}
FITS = {
    "many classes": ("classifier", (10_000, 20, 10_000), "float32", {}),
    "best weights": ("classifier", (2000, 100, 2), "float32", {**WIDE, "early_stopping": True}),
    "L-BFGS": (
        "classifier",
        (2000, 100, 2),
        "float32",
        {"hidden_layer_sizes": [1000, 1000], "solver": "lbfgs", "max_iter": 12},
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
        (4000, 2000, 2),
        "float32",
        {
            "hidden_layer_sizes": [512],
            "n_components": 4,
            "batch_size": 4000,
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
        (2000, 200, 2),
        "float32",
        {"hidden_layer_sizes": [300], "n_networks": 128},
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("name", FITS)
def test_the_memory_that_an_error_tells_is_that_of_the_peak(name):
    command = [sys.executable, "-c", MEASURED, json.dumps(FITS[name])]
    # else the C library keeps what was freed, by chance more or less of it
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True, env=environment
    )
    peak, message = json.loads(done.stdout)
    told = re.search(r"which take about ([\d.e+-]+) GB together", message)
    if told is None:
        told = re.search(r"It takes about ([\d.e+-]+) GB", message)
    ratio = peak / (1e9 * float(told.group(1)))
    assert 0.5 <= ratio <= 2
