"""Graphs of autoencoders that encode tables: categories, gaps and scaling."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, to_onnx
from tests.onnx.graphs import (
    FAST,
    TOLERANCE,
    assert_close,
    feed,
    make_table,
    new_session,
    run_graph,
)

both_types = pytest.mark.parametrize("dtype", list(TOLERANCE))
every_scaling = pytest.mark.parametrize("scaling", [None, "standard", "robust"])
SCORES = ("score_samples", "decision_function")
# Times the codes of rows, the second of which robust scaling would not have left.
both_sizes = pytest.mark.parametrize("factor", [1, 30])

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _table(n_rows=120, seed=0):
    """Return columns of every kind, also of booleans, identifiers and many numbers."""
    table = make_table(n_rows, seed)
    table["flag"] = pd.Categorical(np.resize([True, False], n_rows))
    table["code (2)"] = pd.Categorical(np.resize([-1, 0, 3, 2**40], n_rows))
    table["id"] = [f"{seed}-{number}" for number in range(n_rows)]
    return table


@pytest.fixture(scope="module")
def tables():
    """Offer a table, and other rows: unseen categories, gaps, outliers."""
    table, others = _table(), _table(60, seed=1)
    others.loc[:9, "kind"] = "unseen"
    others.loc[10:19, "many"] = "unseen"
    others["numbers"] = pd.Categorical(np.resize([3, 99, 11], 60))
    others.loc[20:24, "length (cm)"] = np.nan
    others.loc[25:29, "length (cm)"] = -1e4
    return table, others


def _fitted(X, dtype, **params):
    params = {"contamination": 0.1, "allow_nan": True, **FAST, **params}
    return AutoencoderTransformer(3, (8,), dtype=np.dtype(dtype).name, **params).fit(X)


def _magnified(scaling):
    """Return by how much rounding errors grow where clipped numbers get their own units again.

    The relative error of c / sqrt(1 - c²) is 1 / (1 - c²) times as large as that of c, which stays
    below 0.995.
    """
    return 100 if scaling == "robust" else 1


def _assert_same(autoencoder, X, largest=1.0):
    """Compare codes and scores."""
    assert_close(run_graph(autoencoder, X)[0], autoencoder.transform(X), largest)
    for method in SCORES:
        expected = getattr(autoencoder, method)(X)
        assert_close(run_graph(autoencoder, X, method=method)[0], expected)
    (is_inlier,) = run_graph(autoencoder, X, method="predict")
    np.testing.assert_array_equal(is_inlier, autoencoder.predict(X))


@both_types
@every_scaling
def test_codes_and_scores_of_a_table(scaling, dtype, tables):
    table, others = tables
    autoencoder = _fitted(table, dtype, scaling=scaling)
    _assert_same(autoencoder, others, largest=1e4)
    assert (autoencoder.predict(others) == -1).any()


@both_types
@every_scaling
@both_sizes
def test_a_table_is_reconstructed_as_a_table(factor, scaling, dtype, tables):
    table, others = tables
    autoencoder = _fitted(table, dtype, scaling=scaling)
    codes = autoencoder.transform(others) * dtype(factor)
    session = new_session(to_onnx(autoencoder, codes, method="inverse_transform"))
    assert [column.shape for column in session.run(None, {"X": codes[:0]})] == [(0, 1)] * 14
    for rows in (codes, codes[:1]):
        found = session.run(None, {"X": rows})
        expected = autoencoder.inverse_transform(rows)
        assert [one.name for one in session.get_outputs()] == list(expected)
        for name, column in zip(expected, found, strict=True):
            assert column.shape == (len(rows), 1)
            values = expected[name]
            if name in ("kind", "many", "text gap", "id"):
                np.testing.assert_array_equal(column[:, 0], values.astype(object).fillna(""))
            elif name in ("numbers", "parts", "flag", "code (2)"):
                kinds = {"numbers": np.int64, "flag": bool, "code (2)": np.int64}
                assert column.dtype == kinds.get(name, np.float64)
                np.testing.assert_array_equal(column[:, 0], values.astype(float))
            else:
                largest = np.abs(values).max() * _magnified(scaling)
                assert_close(column[:, 0], values.to_numpy(), largest)


@both_types
@pytest.mark.parametrize("params", [{"variational": True}, {"normalization": "batch"}], ids=str)
def test_variants_of_the_network(params, dtype, tables):
    table, others = tables
    _assert_same(_fitted(table, dtype, scaling="robust", **params), others)


@both_types
@pytest.mark.parametrize("scaling", ["standard", "robust"])
@pytest.mark.parametrize("allow_nan", [False, True])
@both_sizes
def test_scaled_numbers_alone_are_one_input_and_one_output(factor, allow_nan, scaling, dtype):
    X = load_iris().data.astype(dtype)
    if allow_nan:
        X[::5, 1] = np.nan
    autoencoder = _fitted(X, dtype, scaling=scaling, allow_nan=allow_nan)
    _assert_same(autoencoder, X)
    codes = autoencoder.transform(X) * dtype(factor)
    (found,) = run_graph(autoencoder, codes, method="inverse_transform")
    expected = autoencoder.inverse_transform(codes)
    assert_close(found, expected, np.abs(expected).max() * _magnified(scaling))


@both_types
def test_categories_alone(dtype):
    table = _table()[["kind", "flag", "text gap"]]
    autoencoder = _fitted(table, dtype, allow_nan=False)
    others = table.assign(kind="unseen")
    _assert_same(autoencoder, others)
    codes = autoencoder.transform(others)
    found = run_graph(autoencoder, codes, method="inverse_transform")
    for column, values in zip(
        found, autoencoder.inverse_transform(codes).to_numpy().T, strict=True
    ):
        np.testing.assert_array_equal(column[:, 0], ["" if v is None else v for v in values])


@both_types
def test_an_array_with_categories_is_reconstructed_by_number(dtype):
    X = load_iris().data.astype(dtype)
    X[:, 1] = np.resize([1.0, 2.0, np.nan], len(X))
    autoencoder = _fitted(X, dtype, categorical_features=[1])
    X[::7, 1] = 3.0  # unseen
    _assert_same(autoencoder, X)
    codes = autoencoder.transform(X)
    session = new_session(to_onnx(autoencoder, codes, method="inverse_transform"))
    assert [one.name for one in session.get_outputs()] == ["x0", "x1", "x2", "x3"]
    found = np.hstack(session.run(None, {"X": codes}))
    expected = autoencoder.inverse_transform(codes).astype(float)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(found, expected, atol=10 * TOLERANCE[dtype])


def test_steps_before_and_behind(tables):
    table, others = tables
    columns = ["length (cm)", "gap", "kind", "numbers"]
    table, others, y = table[columns], others[columns], table["kind"] == "a"
    autoencoder = AutoencoderTransformer(
        3, (8,), scaling="standard", allow_nan=True, contamination=0.1, **FAST
    )
    pipeline = make_pipeline(autoencoder, LogisticRegression()).fit(table, y)
    session = new_session(to_onnx(pipeline, table))
    _, found = session.run(None, feed(session, others))
    assert_close(found, pipeline.predict_proba(others))
    X = load_iris().data
    pipeline = make_pipeline(StandardScaler(), autoencoder).fit(X)
    for method in ("transform", *SCORES):
        assert_close(run_graph(pipeline, X, method=method)[0], getattr(pipeline, method)(X))
    np.testing.assert_array_equal(run_graph(pipeline, X, method="predict")[0], pipeline.predict(X))


def test_a_column_transformer_before_a_scaling_autoencoder():
    X, y = load_iris(return_X_y=True)
    before = make_column_transformer((StandardScaler(), [0, 1]), ("passthrough", [2, 3]))
    network = DeepMLPClassifier((8,), **FAST)
    pipeline = make_pipeline(before, AutoencoderTransformer(2, (8,), scaling="robust", **FAST))
    pipeline = make_pipeline(pipeline, network).fit(X, y)
    _, found = run_graph(pipeline, X)
    assert_close(found, pipeline.predict_proba(X))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "one"], "Column 'a' has the categories [1, 'one'], but an output of a graph is of"),
        (["", None], "Column 'a' has the empty text and missing values as two categories"),
    ],
    ids=str,
)
def test_categories_that_no_output_holds_are_refused_by_name(values, message):
    table = pd.DataFrame({"a": pd.Series(values * 10, dtype=object), "b": np.arange(20.0)})
    autoencoder = AutoencoderTransformer(1, (), categorical_features=["a"], **FAST).fit(table)
    with pytest.raises(ValueError, match=re.escape(message)):
        to_onnx(autoencoder, autoencoder.transform(table), method="inverse_transform")


def test_a_column_with_the_name_of_the_input_is_refused():
    table = pd.DataFrame({"X": ["a", "b"] * 10, "b": np.arange(20.0)})
    autoencoder = AutoencoderTransformer(1, (), **FAST).fit(table)
    with pytest.raises(ValueError, match=r"columns \['X'\], as the inputs .* rename them"):
        to_onnx(autoencoder, autoencoder.transform(table), method="inverse_transform")


@pytest.mark.parametrize("gap", [None, 7])
def test_categories_beyond_double_precision_are_told_apart_or_refused(gap):
    values = pd.array([2**60 + 1, 2**60 + 2, gap] * 10, dtype="Int64")
    table = pd.DataFrame({"a": pd.Categorical(values), "b": np.arange(30.0)})
    network = AutoencoderTransformer(1, (), **FAST).fit(table)
    message = f"The graph would read the category {2**60 + 2} in double precision, so that"
    with pytest.raises(ValueError, match=message):
        to_onnx(network, table)
    if gap is not None:
        table = pd.DataFrame({"a": values.astype("int64"), "b": np.arange(30)})
        network = AutoencoderTransformer(1, (), categorical_features=["a"], **FAST).fit(table)
        (found,) = run_graph(network, table)
        assert_close(found, network.transform(table))
