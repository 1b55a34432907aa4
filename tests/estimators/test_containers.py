"""The same numbers give the same network, whatever holds them."""

import re
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from conftest import KINDS, output
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier
from sklearn.utils import check_array
from skorch.callbacks import EpochTimer

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import columns
from sknn_deep._engine.columns import ColumnRows
from sknn_deep._estimators import rows as estimators_rows
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    """Offer each of the three estimators, ready for a quick fit."""
    return request.param(**QUICK)


@pytest.fixture(scope="module")
def rows(digits):
    return digits.X[:250], digits.y[:250], digits.X_test[:60], digits.y_test[:60]


def reference(network, X, y):
    return type(network)(**network.get_params(deep=False)).fit(X, y)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}], ids=str)
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
    twin = type(network)(**network.get_params(deep=False))
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


# Large data by columns: arrays in Fortran order, frames


def mapped(X, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"  # never over one that is mapped
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def rows_of_columns(X):
    return np.asfortranarray(np.tile(X, (3, 1)))[len(X) : 2 * len(X)]


BY_COLUMNS = {
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "its rows": lambda X, _: rows_of_columns(X),
    "read only": lambda X, _: np.frombuffer(X.tobytes("F"), X.dtype).reshape(X.shape, order="F"),
    "mapped": lambda X, folder: mapped(np.asfortranarray(X), folder),
    "pandas": lambda X, _: frame_of(pd.DataFrame, X),
    "polars": lambda X, _: frame_of(pl.DataFrame, X),
}


def frame_of(make, X):
    """Return a frame whose columns are apart, as those that are read from files are."""
    return make({f"feature {j}": X[:, j].copy() for j in range(X.shape[1])})


@pytest.fixture(params=BY_COLUMNS.values(), ids=BY_COLUMNS)
def by_columns(request, tmp_path, monkeypatch):
    """Offer what puts rows into columns, and have no copy made of these, however few there are."""
    monkeypatch.setattr(estimators_rows, "_MANY_NUMBERS", 1)
    monkeypatch.setattr(columns, "_COPIED_BYTES", 0)
    monkeypatch.setattr(columns, "_AHEAD_BYTES", 100 * 64 * 8)
    made, init = [], ColumnRows.__init__
    monkeypatch.setattr(
        ColumnRows, "__init__", lambda self, *args: made.append(self) or init(self, *args)
    )
    yield lambda X: request.param(X, tmp_path)
    assert made, "they were read by columns"


SCORED = {"early_stopping": True, "scoring": lambda network, X, y: float(np.mean(X))}
FITS = {
    "plain": (DeepMLPClassifier, {}),
    "of an autoencoder": (AutoencoderTransformer, {}),
    "in order": (DeepMLPRegressor, {"shuffle": False}),
    "small batches": (AutoencoderTransformer, {"batch_size": 7}),
    "large batches": (DeepMLPClassifier, {"batch_size": 150}),
    "early stopping": (DeepMLPRegressor, {"early_stopping": True}),
    "scored": (DeepMLPClassifier, SCORED),
    "heard": (DeepMLPRegressor, {"callbacks": [EpochTimer()]}),
    "lbfgs": (AutoencoderTransformer, {"solver": "lbfgs", "tol": 0.1, "max_iter": 1000}),
}


@pytest.mark.parametrize(("kind", "params"), FITS.values(), ids=FITS)
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_columns_give_the_same_fit(kind, params, by_columns, rows):
    X, y, X_test, y_test = rows
    network = kind(**{**QUICK, **params})
    expected = reference(network, X, y)
    network.fit(by_columns(X), y)
    tolerances = {"rtol": 1e-8, "atol": 1e-10} if network.solver == "lbfgs" else {"rtol": 1e-10}
    if network.solver != "lbfgs":
        assert_allclose(network.loss_curve_, expected.loss_curve_, **tolerances)
    found = output(network, by_columns(X_test))
    assert_allclose(found, output(expected, X_test), **{"atol": 1e-12, **tolerances})
    score = network.score(by_columns(X_test), y_test)
    assert score == pytest.approx(expected.score(X_test, y_test))


def test_columns_are_learned_from_incrementally(network, by_columns, rows):
    X, y, X_test, _ = rows
    classes = {"classes": np.arange(10)} if isinstance(network, DeepMLPClassifier) else {}
    twin = type(network)(**network.get_params(deep=False))
    for _ in range(2):
        network.partial_fit(by_columns(X), y, **classes)
        twin.partial_fit(X, y, **classes)
    assert_allclose(output(network, by_columns(X_test)), output(twin, X_test), rtol=1e-10)


def test_columns_can_hold_the_validation_set(network, by_columns, rows):
    X, y, X_test, y_test = rows
    held_out = {} if isinstance(network, AutoencoderTransformer) else {"y_val": y_test}
    expected = type(network)(**network.get_params(deep=False)).fit(X, y, X_val=X_test, **held_out)
    network.fit(by_columns(X), y, X_val=by_columns(X_test), **held_out)
    assert_allclose(network.validation_loss_curve_, expected.validation_loss_curve_, rtol=1e-10)


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_columns_train_an_ensemble(kind, by_columns, rows):
    X, y, X_test, _ = rows
    expected = kind(**QUICK, n_networks=2).fit(X, y)
    network = kind(**QUICK, n_networks=2).fit(by_columns(X), y)
    assert_allclose(output(network, by_columns(X_test)), output(expected, X_test), rtol=1e-9)
    assert all(member.n_features_in_ == X.shape[1] for member in network.estimators_)


def test_a_stack_gathers_rows_of_columns_from_a_copy(by_columns, rows, monkeypatch):
    """Its networks go through them in orders of their own, which are not read ahead."""
    monkeypatch.setattr(ColumnRows, "gather", None)
    network = DeepMLPRegressor(**QUICK, n_networks=3).fit(by_columns(rows[0]), rows[1])
    assert len(network.estimators_) == 3


@pytest.mark.parametrize(
    "options",
    [{"noise": 0.1, "noise_kind": "salt_pepper"}, {"allow_nan": True}, {"loss": "log_loss"}],
    ids=str,
)
def test_columns_tell_an_autoencoder_as_much_as_rows(options, by_columns, rows):
    X, _, X_test, _ = rows
    X = X.copy()
    if "allow_nan" in options:
        X[::7, 5] = np.nan
    expected = AutoencoderTransformer(**QUICK, **options).fit(X)
    network = AutoencoderTransformer(**QUICK, **options).fit(by_columns(X))
    assert_allclose(network.mean_, expected.mean_, rtol=1e-12, atol=1e-15)
    assert network.out_activation_ == expected.out_activation_
    found = network.reconstruction_error(by_columns(X_test))
    assert_allclose(found, expected.reconstruction_error(X_test), rtol=1e-9)


def test_a_search_takes_columns(by_columns, rows):
    X, y, X_test, _ = rows
    searches = [
        FusedGridSearchCV(DeepMLPClassifier(**QUICK), {"alpha": [1e-4, 1.0]}, cv=2).fit(held, y)
        for held in (X, by_columns(X))
    ]
    assert_allclose(*(search.cv_results_["mean_test_score"] for search in searches))
    assert_allclose(*(search.predict_proba(X_test) for search in map(unnamed, searches)), rtol=1e-9)


def unnamed(search):
    """Let a search that was fitted on a frame predict for an array without a warning."""
    vars(search.best_estimator_).pop("feature_names_in_", None)
    return search


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["fit", "output"])
def test_columns_with_what_is_no_number_are_refused_as_rows_are(method, value, by_columns, rows):
    X, y, _, _ = rows
    wrong, messages = X.copy(), []
    wrong[200, 63] = value
    network = DeepMLPRegressor(**QUICK).fit(by_columns(X), y)
    twin = reference(network, X, y)
    for fitted, held in ((network, by_columns(wrong)), (twin, wrong)):
        call = (lambda f, h: f.fit(h, y)) if method == "fit" else output
        with pytest.raises(ValueError, match="Input X contains") as error:
            call(fitted, held)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_columns_are_checked_by_scikit_learn(network, by_columns, rows):
    X, y, _, _ = rows
    held = by_columns(X)
    network.fit(held, y)
    assert network.n_features_in_ == X.shape[1]
    names = list(getattr(held, "columns", []))
    assert list(getattr(network, "feature_names_in_", [])) == names
    words = "yet now missing" if names else "X has 63 features, but"
    with pytest.raises(ValueError, match=words):
        output(network, by_columns(X[:, 1:]))
    if not isinstance(network, AutoencoderTransformer):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            network.fit(held, y[1:])
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            network.fit(held, None)


def test_single_precision_of_columns_is_kept_as_it_is_of_rows(by_columns, rows):
    X, y, X_test, _ = rows
    held = by_columns(X.astype(np.float32))
    theirs = MLPClassifier(**QUICK).fit(held, y)
    network = DeepMLPClassifier(**QUICK).fit(held, y)
    assert network.coefs_[0].dtype == theirs.coefs_[0].dtype
    integers = DeepMLPClassifier(**QUICK).fit(by_columns((16 * X).astype(np.uint8)), y)
    assert integers.coefs_[0].dtype == np.float64


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_columns_of_several_types_are_numbers(make, rows, monkeypatch):
    monkeypatch.setattr(estimators_rows, "_MANY_NUMBERS", 1)
    X, y = (16 * rows[0]).astype(int), rows[1]
    kinds = ["f4", "f8", "u1", "i8", "?"] * 13
    table = {f"feature {j}": X[:, j].astype(kinds[j]) for j in range(64)}
    values = np.stack([column.astype(float) for column in table.values()], axis=1)
    network = DeepMLPClassifier(**QUICK).fit(make(table), y)
    expected = DeepMLPClassifier(**QUICK).fit(values, y)
    assert_allclose(network.predict_proba(make(table)), expected.predict_proba(values), rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda X: pd.DataFrame(X).astype({3: "Float64"}),
        lambda X: pd.DataFrame(X).astype({3: object}),
        lambda X: pl.DataFrame(X).with_columns(pl.col("column_3").cast(pl.Decimal(20, 8))),
        lambda X: pd.DataFrame(X, copy=False),
        lambda X: X[:, ::2],
    ],
    ids=["nullable", "objects", "decimals", "a frame of rows", "strided"],
)
def test_what_are_no_columns_of_numbers_is_left_to_scikit_learn(make, rows, monkeypatch):
    monkeypatch.setattr(estimators_rows, "_MANY_NUMBERS", 1)
    monkeypatch.setattr(estimators_rows, "ColumnRows", None)
    X, y = rows[:2]
    network = DeepMLPClassifier(**QUICK).fit(make(X), y)
    assert network.predict(make(X)).shape == y.shape


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
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_training_densifies_only_a_batch_of_sparse_rows(kind, format, wide):
    X, y = wide[0].asformat(format), wide[1]
    network = kind(**LEAN)
    assert peak_of(lambda: network.fit(X, y)) < 0.1 * 8 * X.shape[0] * X.shape[1]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_predicting_densifies_only_a_chunk_of_sparse_rows(kind, wide):
    X, y = wide
    network = kind(**LEAN).fit(X[:200], np.arange(200) % 2)
    # two chunks of 32 MiB: while the next is made the last is still held
    assert peak_of(lambda: output(network, X)) < 90e6 < 0.3 * 8 * X.shape[0] * X.shape[1]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_memory_map_is_read_and_not_copied_whole(kind, tmp_path):
    X = np.random.RandomState(0).uniform(size=(120_000, 100))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    network = kind(**LEAN)
    y = np.arange(len(X)) % 2
    assert peak_of(lambda: network.fit(mapped, y)) < 0.5 * X.nbytes
    # two chunks of 32 MiB, as above
    assert peak_of(lambda: output(network, mapped)) < 0.9 * X.nbytes


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_array_in_memory_is_not_copied_whole(kind):
    X = np.random.RandomState(0).uniform(size=(60_000, 100))
    y = np.arange(len(X)) % 2
    assert peak_of(lambda: kind(**LEAN).fit(X, y)) < 0.5 * X.nbytes


@pytest.mark.parametrize("make", [np.asfortranarray, pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_columns_are_not_copied_whole(kind, make, monkeypatch):
    monkeypatch.setattr(columns, "_COPIED_BYTES", 2**22)
    monkeypatch.setattr(columns, "_AHEAD_BYTES", 2**22)
    values = np.random.RandomState(0).uniform(size=(60_000, 100))
    X = values if make is np.asfortranarray else {f"c{j}": values[:, j].copy() for j in range(100)}
    X, y = make(X), np.arange(len(values)) % 2
    # two chunks of 4 MiB and their columns for each of eight threads at most
    assert peak_of(lambda: kind(**LEAN).fit(X, y)) < 0.6 * values.nbytes
    network = kind(**LEAN).fit(X[:200], np.arange(200) % 2)
    assert peak_of(lambda: output(network, X)) < 0.9 * values.nbytes


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


OTHER_ARRAYS = {
    "single": lambda X: X.astype(np.float32),
    "half": lambda X: X.astype(np.float16),
    "integers": lambda X: X.astype(np.int8),
    "unsigned": lambda X: np.abs(X).astype(np.uint64),
    "other order of bytes": lambda X: X.astype(">f8"),
    "by column": np.asfortranarray,
    "every other": lambda X: np.repeat(X, 2, axis=0)[::2],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", OTHER_ARRAYS.values(), ids=OTHER_ARRAYS)
def test_arrays_to_predict_are_converted_as_by_scikit_learn(make, dtype, rows):
    X, y, X_test, _ = rows
    network = DeepMLPClassifier(**QUICK).fit(X.astype(dtype), y)
    other = make(X_test)
    converted = check_array(other, dtype=dtype, order="C")
    assert_array_equal(network.predict_proba(other), network.predict_proba(converted))
    assert_array_equal(other, make(X_test))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_conversion_makes_infinite_are_refused(value, rows):
    X, y, X_test, _ = rows
    network = DeepMLPClassifier(**QUICK).fit(X.astype(np.float32), y)
    other = X_test.astype(np.float64)
    other[1, 1] = value
    message = "contains NaN" if np.isnan(value) else "too large for dtype('float32')"
    for predict in (network.predict, network.predict_proba, network.hidden_activations):
        with np.errstate(over="ignore"), pytest.raises(ValueError, match=re.escape(message)):
            predict(other)
