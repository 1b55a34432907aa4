"""The same numbers give the same network, whatever holds them."""

import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
NETWORKS = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def network(request):
    """Offer each of the three estimators, ready for a quick fit."""
    return request.param(**QUICK)


def output(network, X):
    names = ("predict_proba", "predict", "transform")
    return getattr(network, next(name for name in names if hasattr(network, name)))(X)


@pytest.fixture(scope="module")
def rows(digits):
    return digits.X[:250], digits.y[:250], digits.X_test[:60], digits.y_test[:60]


def reference(network, X, y):
    return type(network)(**network.get_params()).fit(X, y)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"dropout": 0.2}], ids=str)
def test_any_container_gives_the_same_fit(params, network, container, rows):
    X, y, X_test, _ = rows
    network.set_params(**params)
    expected = output(reference(network, X, y), X_test)
    network.fit(container(X), y)
    assert_allclose(output(network, container(X_test)), expected, rtol=1e-10, atol=1e-12)


def test_any_container_gives_the_same_lbfgs_fit(network, container, rows):
    X, y, X_test, _ = rows
    network.set_params(solver="lbfgs", tol=0.1, max_iter=1000)
    expected = output(reference(network, X, y), X_test)
    network.fit(container(X), y)
    assert_allclose(output(network, container(X_test)), expected, rtol=1e-8, atol=1e-10)


def test_any_container_can_be_learned_from_incrementally(network, container, rows):
    X, y, X_test, _ = rows
    classes = {"classes": np.arange(10)} if isinstance(network, DeepMLPClassifier) else {}
    twin = type(network)(**network.get_params())
    for _ in range(2):
        network.partial_fit(container(X), y, **classes)
        twin.partial_fit(X, y, **classes)
    assert_allclose(
        output(network, container(X_test)), output(twin, X_test), rtol=1e-10, atol=1e-12
    )


def test_any_container_can_hold_the_validation_set(network, container, rows):
    X, y, X_test, y_test = rows
    held_out = {} if isinstance(network, AutoencoderTransformer) else {"y_val": y_test}
    expected = reference(network, X, y)
    expected.fit(X, y, X_val=X_test, **held_out)
    network.fit(container(X), y, X_val=container(X_test), **held_out)
    assert_allclose(network.validation_loss_curve_, expected.validation_loss_curve_, rtol=1e-10)


@pytest.mark.parametrize("name", ["reconstruction_error", "score_samples", "score"])
def test_any_container_can_be_judged_by_an_autoencoder(name, container, rows):
    X, _, X_test, _ = rows
    network = AutoencoderTransformer(**QUICK).fit(container(X))
    expected = getattr(AutoencoderTransformer(**QUICK).fit(X), name)(X_test)
    assert_allclose(getattr(network, name)(container(X_test)), expected, rtol=1e-10)


def test_single_precision_is_kept_where_scikit_learn_keeps_it(container, rows):
    X, y, X_test, _ = rows
    held = container(X.astype(np.float32))
    theirs = MLPClassifier(**QUICK).fit(held, y)
    network = DeepMLPClassifier(**QUICK).fit(held, y)
    assert network.predict_proba(container(X_test)).dtype == theirs.coefs_[0].dtype


TARGETS = {
    "list": list,
    "pandas": pd.Series,
    "polars": pl.Series,
    "torch": torch.tensor,
    "column": lambda y: np.reshape(y, (-1, 1)),
    "int8": lambda y: np.asarray(y, np.int8),
    "big-endian": lambda y: np.asarray(y, ">i4"),
}


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_any_container_can_hold_the_targets(kind, make, rows):
    X, y, X_test, _ = rows
    network = kind(**QUICK).fit(X, make(y))
    assert_array_equal(output(network, X_test), output(kind(**QUICK).fit(X, y), X_test))


@pytest.mark.parametrize(
    "make",
    [list, pd.Series, pl.Series, lambda names: np.array(names, object), pd.Categorical],
    ids=["list", "pandas", "polars", "object", "categorical"],
)
def test_classes_may_be_text(make, rows):
    X, y, X_test, _ = rows
    names = np.array([f"digit {value}" for value in y])
    network = DeepMLPClassifier(**QUICK).fit(X, make(list(names)))
    assert list(network.classes_) == [f"digit {i}" for i in range(10)]
    expected = DeepMLPClassifier(**QUICK).fit(X, y).predict(X_test)
    assert list(network.predict(X_test)) == [f"digit {value}" for value in expected]


# Memory


@pytest.fixture(scope="module")
def wide():
    """Offer 40,000 sparse rows of 1,000 features: 2.4 MB as they are, 320 MB if dense."""
    X = sp.random_array((40_000, 1_000), density=0.005, format="csr", rng=np.random.default_rng(0))
    return X, np.asarray(X[:, [3]].sum(axis=1) > 0).ravel().astype(int)


def peak_of(call):
    """Return the largest number of bytes that Python and NumPy held at a time."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.fixture(scope="module", autouse=True)
def warm_up():
    """Let torch import on its first optimiser step what it imports, before memory is measured."""
    DeepMLPClassifier(**LEAN).fit(np.eye(4), [0, 1, 0, 1])


LEAN = {"hidden_layer_sizes": (4,), "max_iter": 1, "solver": "sgd", "random_state": 0}


@pytest.mark.parametrize("format", ["csr", "csc"])
@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_training_densifies_only_a_batch_of_sparse_rows(kind, format, wide):
    X, y = wide[0].asformat(format), wide[1]
    network = kind(**LEAN)
    assert peak_of(lambda: network.fit(X, y)) < 0.1 * 8 * X.shape[0] * X.shape[1]


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_predicting_densifies_only_a_chunk_of_sparse_rows(kind, wide):
    X, y = wide
    network = kind(**LEAN).fit(X[:200], np.arange(200) % 2)
    # two chunks of 32 MiB: while the next is made the last is still held
    assert peak_of(lambda: output(network, X)) < 90e6 < 0.3 * 8 * X.shape[0] * X.shape[1]


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_memory_map_is_read_and_not_copied_whole(kind, tmp_path):
    X = np.random.RandomState(0).uniform(size=(120_000, 100))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    network = kind(**LEAN)
    y = np.arange(len(X)) % 2
    assert peak_of(lambda: network.fit(mapped, y)) < 0.5 * X.nbytes
    # two chunks of 32 MiB, as above
    assert peak_of(lambda: output(network, mapped)) < 0.9 * X.nbytes


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_array_in_memory_is_not_copied_whole(kind):
    X = np.random.RandomState(0).uniform(size=(60_000, 100))
    y = np.arange(len(X)) % 2
    assert peak_of(lambda: kind(**LEAN).fit(X, y)) < 0.5 * X.nbytes


def test_data_are_left_as_they_were(network, container, rows):
    X, y, _, _ = rows
    held = container(X)
    weight = np.linspace(0.5, 2, len(y))
    copies = X.copy(), y.copy(), weight.copy()
    network.set_params(early_stopping=True).fit(held, y, weight)
    output(network, held)
    dense = held.toarray() if sp.issparse(held) else np.asarray(held)
    for now, before in zip((dense, y, weight), copies, strict=True):
        assert_array_equal(now, before)
