"""Products of sparse rows agree with those of dense ones, whatever the rows look like."""

import re

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sknn_deep._hardware.sparse_products import SparseBatch, is_worth_it


def untidy_rows(dtype, n_columns=60, index=np.int32):
    """Return rows with duplicates, explicit zeros, indices in any order and nothing in a row."""
    rng = np.random.default_rng(0)
    indptr = np.array([0, 5, 5, 9, 29, 30], dtype=index)
    indices = rng.integers(0, n_columns, 30).astype(index)
    indices[1] = indices[0]
    values = rng.normal(size=30).astype(dtype)
    values[3] = 0
    return sp.csr_array((values, indices, indptr), shape=(5, n_columns))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("lies_by_column", [False, True])
def test_the_kernels_agree_with_dense_products(dtype, index, lies_by_column):
    rows = untidy_rows(dtype, index=index)
    batch, dense = SparseBatch(rows[:0]), torch.from_numpy(rows.toarray())
    weight, delta, gradient = torch.randn(7, 60), torch.randn(5, 7), torch.ones(7, 60)
    weight, delta, gradient = (t.to(dense.dtype) for t in (weight, delta, gradient))
    out = delta.new_empty(7, 5).mT if lies_by_column else delta.new_empty(5, 7)
    batch.load(rows)
    program = batch.forward(weight, out) + batch.gradient(delta, gradient)
    for others in (untidy_rows(dtype, index=index)[::-1], rows):  # a buffer is used again
        batch.load(others)
        for kernel in program:
            kernel()
    torch.testing.assert_close(out, dense @ weight.T)
    torch.testing.assert_close(gradient, delta.T @ dense)


@pytest.mark.parametrize("n_units", [1, 16, 37])
@pytest.mark.parametrize("n_columns", [10, 60])
def test_outputs_agree_with_dense_products(n_units, n_columns, monkeypatch):
    monkeypatch.setattr("sknn_deep._hardware.sparse_products._WORTH_A_THREAD", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    rows, weight = untidy_rows(np.float64, n_columns), torch.randn(n_units, n_columns).double()
    expected = torch.from_numpy(rows.toarray()) @ weight.T
    torch.testing.assert_close(SparseBatch(rows).times(weight), expected)


def test_a_matrix_that_does_not_fit_is_refused():
    batch = SparseBatch(untidy_rows(np.float64))
    with pytest.raises(ValueError, match=re.escape("got (7, 59) of torch.float64")):
        batch.forward(torch.ones(7, 59).double(), torch.empty(5, 7).double())
    with pytest.raises(ValueError, match=re.escape("(7, 60), got (7, 60) of torch.float32")):
        batch.gradient(torch.ones(5, 7), torch.empty(7, 60))


def test_dense_or_small_rows_are_not_worth_it(monkeypatch):
    assert is_worth_it(200, 20_000, 200 * 100, training=True)
    assert not is_worth_it(200, 20_000, 200 * 2000, training=True)
    assert not is_worth_it(200, 300, 200, training=True)
    # a release of SciPy without the kernel
    monkeypatch.setattr("sknn_deep._hardware.sparse_products._add_product", None)
    assert not is_worth_it(200, 20_000, 200 * 100, training=True)
