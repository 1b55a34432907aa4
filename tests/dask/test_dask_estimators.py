"""The estimators on Dask's collections learn what those without Dask do on all rows."""

import importlib
import pickle
import re
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit
from skorch.callbacks import Callback

from sknn_deep import DeepMLPRegressor, load, save

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pytest.importorskip("distributed")

from sknn_deep import dask as on_dask  # noqa: E402
from sknn_deep.dask import _estimators  # noqa: E402
from tests.trained_together import (  # noqa: E402
    LABELS,
    SMALL,
    SMALL_CODE,
    WEIGHT,
    X,
    Y,
    assert_same,
    learned,
)

# a partition without rows, and one that has most of them; the second worker has 30 rows
LENGTHS = (70, 0, 13, 30, 20)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**options):
    return on_dask.DaskDeepMLPClassifier(**SMALL | options)


def regressor(**options):
    return on_dask.DaskDeepMLPRegressor(**SMALL | options)


def autoencoder(**options):
    return on_dask.DaskAutoencoderTransformer(**SMALL_CODE | options)


def divided(array, lengths=LENGTHS):
    """Return an array of Dask in partitions of these lengths."""
    array = np.asarray(array)
    return da.from_array(array, chunks=(lengths, *array.shape[1:]))


CASES = {
    "weights, class weights, adam": (
        classifier(class_weight="balanced"), {"y": LABELS, "sample_weight": WEIGHT},
    ),
    "muon, batch normalisation, dropout": (
        classifier(solver="muon", normalization="batch", dropout=0.3, learning_rate="one_cycle"),
        {"y": LABELS},
    ),
    "early stopping, stratified, averages, calibrated, robust": (
        classifier(solver="adamw", normalization="layer", early_stopping=True, ema_decay=0.9,
                   validation_splitter="stratified", calibration="temperature", scaling="robust"),
        {"y": LABELS},
    ),
    "scorer, target scaling": (
        regressor(scoring="r2", early_stopping=True, target_scaling="standard"),
        {"y": Y, "sample_weight": WEIGHT},
    ),
    "l-bfgs": (regressor(solver="lbfgs"), {"y": Y, "sample_weight": WEIGHT}),
    "quantiles, ensemble": (
        regressor(loss="quantile", quantiles=[0.1, 0.5, 0.9], n_networks=2, early_stopping=True),
        {"y": Y},
    ),
    # the matrix of the second layer is sent while the first is computed
    "several outputs, wide": (
        regressor(hidden_layer_sizes=(370, 370), max_iter=2), {"y": np.stack([Y, -Y], axis=1)},
    ),
    "tabular, bins": (
        on_dask.DaskTabularMLPRegressor(**SMALL, n_networks=2), {"y": Y},
    ),
    "autoencoder, noise, scaled, ordered": (
        autoencoder(noise=0.2, noise_kind="salt_pepper", order_code=True, scaling="standard"), {},
    ),
    "autoencoder, outliers, weights": (
        autoencoder(noise=0.2, contamination=0.1, sparsity=0.01), {"sample_weight": WEIGHT},
    ),
    "variational": (autoencoder(variational=True, contractive=0.1, dropout=0.1), {}),
}  # fmt: skip


@pytest.mark.parametrize(("estimator", "given"), list(CASES.values()), ids=CASES)
def test_workers_learn_what_one_process_does(placed, estimator, given):
    one = estimator.to_local().fit(X, **given)
    parts = {name: placed(rows, LENGTHS) for name, rows in given.items()}
    two = estimator.fit(placed(X, LENGTHS), **parts)
    assert_same(one, two)


def frame():
    rng, table = np.random.default_rng(0), pd.DataFrame(X, columns=list("abcde"))
    table["kind"] = np.where(rng.random(133) < 0.5, "red", "blue")
    table.loc[90:, "kind"] = None  # one worker has no text at all
    table["size"] = pd.Categorical(np.array(["s", "m", "l"])[rng.integers(0, 3, 133)])
    table["code"] = pd.Categorical(np.arange(133) // 30)  # each partition has some of them
    table.loc[3:9, "a"] = np.nan
    return table


@pytest.mark.parametrize(
    "estimator",
    [
        on_dask.DaskTabularMLPClassifier(**SMALL, n_networks=2, allow_nan=True),
        autoencoder(allow_nan=True, scaling="standard"),
    ],
    ids=["classifier", "autoencoder"],
)
def test_frames_with_texts_categories_and_gaps(placed, estimator):
    table, labels, lengths = frame(), pd.Series(LABELS), (34, 33, 33, 33)
    parts = placed(table, lengths)
    one = estimator.to_local().fit(table, labels)
    estimator.fit(parts, placed(labels, lengths))
    assert_same(one, estimator)
    method = "predict_proba" if hasattr(estimator, "predict_proba") else "transform"
    later = getattr(estimator, method)(parts)
    assert np.isnan(later.shape[0])
    assert_allclose(later.compute(), getattr(one, method)(table), rtol=1e-10)
    assert list(estimator.feature_names_in_) == list(table.columns)
    if method == "transform":  # codes to rows of the table
        back = estimator.inverse_transform(later)
        pd.testing.assert_frame_equal(
            back.compute().reset_index(drop=True), one.inverse_transform(one.transform(table)),
            check_dtype=False,
        )  # fmt: skip


def test_sparse_blocks(client):
    rows = sp.random(133, 20, density=0.2, format="csr", random_state=0)
    lengths = (50, 50, 33)
    blocks = divided(rows.toarray(), lengths).map_blocks(sp.csr_matrix)
    two = classifier().fit(blocks, divided(LABELS, lengths))
    one = two.to_local().fit(rows, LABELS)
    assert_same(one, two)
    assert_allclose(two.predict_proba(blocks).compute(), one.predict_proba(rows))


@pytest.mark.parametrize("lengths", [(31,), (0, 10, 21)], ids=["on one worker", "on all"])
def test_a_validation_set_of_the_user(client, lengths):
    held_out = {"X_val": X[:31] + 0.1, "y_val": LABELS[:31], "sample_weight_val": WEIGHT[:31]}
    one = classifier().to_local().fit(X, LABELS, **held_out)
    parts = {name: divided(rows, lengths) for name, rows in held_out.items()}
    assert_same(one, classifier().fit(divided(X), divided(LABELS), **parts))


def test_scorers_and_splitters_of_the_user(client):
    model = classifier(
        early_stopping=True, scoring=_mean_probability, validation_splitter=GroupShuffleSplit(1)
    )
    groups = np.arange(133) // 7
    one = model.to_local().fit(X, LABELS, groups=groups)
    assert_same(one, model.fit(divided(X), divided(LABELS), groups=divided(groups)))


def _mean_probability(estimator, X, y):
    return float(np.mean(estimator.predict_proba(X)[:, 0]))


def test_calls_that_go_on(client):
    two = regressor(warm_start=True)
    one = two.to_local()
    for _ in range(2):
        one.fit(X, Y)
        two.fit(divided(X), divided(Y))
    one.partial_fit(X[:40], Y[:40])
    two.partial_fit(divided(X[:40], (20, 20)), divided(Y[:40], (20, 20)))
    assert_same(one, two)


@pytest.mark.parametrize("kind", ["global", "own"])
def test_a_generator_is_drawn_from_as_by_one_process(client, kind):
    found = []
    for is_divided in (False, True):
        np.random.seed(5)
        generator = None if kind == "global" else np.random.RandomState(5)
        model = regressor(random_state=generator, n_networks=2)
        if is_divided:
            model.fit(divided(X), divided(Y))
        else:
            model = model.to_local().fit(X, Y)
        found.append((learned(model)["tensor 1 0"], (generator or np.random).random_sample()))
    assert_allclose(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_results_are_lazy_arrays_of_the_right_type(client):
    rows = X.astype(np.float32)
    x = divided(rows)
    model = regressor(loss="normal", dtype="auto", early_stopping=True).fit(x, divided(Y))
    local = model.to_local()
    assert isinstance(local, DeepMLPRegressor)
    for later, now in (
        (model.predict(x), local.predict(rows)),
        (model.predict(x, return_std=True)[1], local.predict(rows, return_std=True)[1]),
        (model.hidden_activations(x, 0), local.hidden_activations(rows, 0)),
        (model.predict_interval(x, 0.5), local.predict_interval(rows, 0.5)),
    ):
        da.utils.assert_eq(later, now, scheduler="sync", rtol=1e-4)
        assert later.chunks[0] == LENGTHS
    assert model.score(x, divided(Y)) == pytest.approx(local.score(rows, Y))
    assert_array_equal(model.predict(rows), local.predict(rows))
    labels = classifier().fit(divided(X), divided(LABELS)).predict(divided(X))
    assert labels.dtype == LABELS.dtype
    codes = autoencoder().set_output(transform="pandas")
    table = dd.from_pandas(pd.DataFrame(X, columns=list("abcde")), npartitions=3)
    columns = codes.fit_transform(table).columns
    assert list(columns) == list(codes.get_feature_names_out())


def test_what_is_fitted_needs_no_dask(client, tmp_path):
    model = regressor(client=client).fit(divided(X), divided(Y))
    assert clone(model).client is client
    assert pickle.loads(pickle.dumps(model)).client is None
    local = pickle.dumps(model.to_local())
    assert b"dask" not in local
    save(model.to_local(), tmp_path / "model.skops")
    for again in (pickle.loads(local), load(tmp_path / "model.skops")):
        assert_array_equal(again.predict(X), model.predict(X))
    assert "Client" in repr(model)
    assert not hasattr(model, "predict_quantiles")


def test_a_search_of_scikit_learn_cuts_arrays(client):
    search = GridSearchCV(regressor(), {"alpha": [0.0, 0.1]}, cv=2, error_score="raise")
    search.fit(divided(X), divided(Y))
    alone = GridSearchCV(search.estimator.to_local(), {"alpha": [0.0, 0.1]}, cv=2).fit(X, Y)
    name = "mean_test_score"
    assert_allclose(search.cv_results_[name], alone.cv_results_[name], rtol=1e-8)


class Lock(Callback):
    """Cannot be sent to another process."""

    def __init__(self):
        self.lock = threading.Lock()


def tables(*columns):
    """Return a frame of Dask whose partitions have these columns, the last of them texts."""
    parts = [
        pd.DataFrame(rows[:, : len(names)], columns=list(names)).assign(**{names[-1]: "text"})
        for names, rows in zip(columns, np.array_split(X, len(columns)), strict=True)
    ]
    later = [dask.delayed(part) for part in parts]
    return dd.from_delayed(later, meta=parts[0].iloc[:0], verify_meta=False)


REFUSED = {
    "arrays in memory": (lambda: regressor().fit(X, Y), "X must be an array or a DataFrame of D"),
    "targets in memory": (lambda: regressor().fit(divided(X), Y), "y must be an array or a DataFr"),
    "validation rows in memory": (
        lambda: regressor().fit(divided(X), divided(Y), X_val=X, y_val=Y), "X_val must be an array"
    ),
    "fewer validation targets": (
        lambda: regressor().fit(
            divided(X), divided(Y), X_val=divided(X), y_val=divided(Y[:9], (9,))
        ),
        "X_val has 133 rows, but y_val has 9",
    ),
    "delayed": (lambda: regressor().fit([dask.delayed(X)], divided(Y)), "or dask.dataframe.from_d"),
    "one dimension": (lambda: regressor().fit(divided(Y), divided(Y)), "X must have two dimension"),
    "fewer targets": (
        lambda: regressor().fit(divided(X), divided(Y[:9], (9,))), "X has 133 rows, but y has 9",
    ),
    "other partitions": (
        lambda: regressor().fit(dd.from_dask_array(divided(X)), divided(Y, (133,))),
        "X has 5 partitions, but y has 1: divide both alike",
    ),
    "blocks of other widths": (
        lambda: autoencoder().fit(
            divided(X).map_blocks(lambda block: block[:, len(block) == 13 :], dtype=float)
        ),
        "Partition 0 of X has rows of shape (5,), and partition 2 has rows of shape (4,); all must",
    ),
    "other columns": (
        lambda: regressor().fit(tables("abcde", "abcdx"), divided(Y, (67, 66))),
        "and partition 1 has the columns ['a', 'b', 'c', 'd', 'x']; all must have the same columns",
    ),
    "one column more": (
        lambda: regressor().fit(tables("abcd", "abcde"), divided(Y, (67, 66))),
        "and partition 1 has the columns ['a', 'b', 'c', 'd', 'e']; all must have the same columns",
    ),
    "partitions of other lengths": (
        lambda: regressor().fit(
            dd.from_pandas(pd.DataFrame(X), npartitions=2), divided(Y, (100, 33))
        ),
        "Partition 0 of X has 67 rows, and that of y has 100",
    ),
    "no rows": (lambda: autoencoder().fit(divided(X[:0], (0,))), "X has no rows in 1 partition"),
    "gaps": (lambda: autoencoder().fit(divided(X * np.nan)), "Input X contains NaN"),
    "texts and numbers": (
        lambda: autoencoder(batch_size=2).fit(
            divided(np.array([["red"], ["blue"], [1.5], [2.5]], dtype=object), (2, 2))
        ),
        "Column 0 of X holds texts in some partitions and in others 1.5",
    ),
    "processes": (lambda: regressor(n_processes=2).fit(divided(X), divided(Y)), "set n_processes"),
    "a lock": (
        lambda: regressor(callbacks=[Lock()]).fit(divided(X), divided(Y)), "Leave out what belongs"
    ),
    "candidates": (
        lambda: on_dask.DaskTabularMLPRegressor(n_candidates=2).fit(divided(X), divided(Y)),
        "set n_candidates=1",
    ),
    "jobs": (
        lambda: on_dask.DaskTabularMLPRegressor(n_jobs=2).fit(divided(X), divided(Y)),
        "set n_jobs=None",
    ),
    "l-bfgs": (lambda: autoencoder(solver="lbfgs").fit(divided(X)), "choose a stochastic solver"),
    "parameters": (lambda: regressor(alpha=-1).fit(divided(X), divided(Y)), "The 'alpha' param"),
    "score": (lambda: autoencoder().score(divided(X)), "score needs rows in memory"),
    "unfitted": (lambda: regressor().predict(divided(X)), "is not fitted yet"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(client, call, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


def test_a_client_is_asked_for(monkeypatch):
    def none():
        raise ValueError("No global client found and no address provided")

    monkeypatch.setattr(_estimators, "get_client", none)
    with pytest.raises(ValueError, match="There is no client of Dask: make one first"):
        regressor().fit(divided(X), divided(Y))


def test_without_dask_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "sknn_deep.dask")
    with pytest.raises(ImportError, match=re.escape("pip install sknn_deep[dask]")):
        importlib.import_module("sknn_deep.dask")
