"""Features: the same rows, statistics and messages whatever holds the numbers."""

import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep._engine import columns, features
from sknn_deep._engine.columns import ColumnRows
from sknn_deep._engine.features import ArrayRows, MappedRows, SparseRows, features_of, joined
from sknn_deep._engine.streamed_rows import StreamedRows
from sknn_deep._hardware.memory_maps import Mapped
from sknn_deep.streams import stream_array

CPU, N_ROWS, N_FEATURES = torch.device("cpu"), 211, 6
VALUES = np.round(np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES)), 2)
VALUES[VALUES < -0.5] = 0.0
ROWS = np.random.default_rng(1).integers(0, N_ROWS, 150)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def mapped(X, folder):
    np.save(folder / "X.npy", X)
    return MappedRows(Mapped(np.load(folder / "X.npy", mmap_mode="r"), X.dtype))


def by_column(X):
    return ColumnRows([X.T], X.dtype)


def apart(X):
    """Return columns of their own, of which none lies next to another."""
    blocks = np.split(np.repeat(X.T, 2, axis=0), [2, 8])
    return ColumnRows([block[::2] for block in blocks], X.dtype)


def streamed(X):
    """Return rows that come in chunks of 40, of which 160 are shuffled together."""
    table = stream_array(X, chunk=40, window=160).X
    return StreamedRows(table, lambda chunk: chunk, X.dtype)


HOLDERS = {
    "array": lambda X, _: features_of(X.copy()),
    "read-only array": lambda X, _: features_of(read_only(X)),
    "backwards": lambda X, _: features_of(X[::-1].copy()[::-1]),
    "Fortran order": lambda X, _: by_column(np.asfortranarray(X)),
    "rows of Fortran order": lambda X, _: ColumnRows(
        [np.asfortranarray(np.tile(X, (3, 1)))[N_ROWS : 2 * N_ROWS].T], X.dtype
    ),
    "columns": lambda X, _: apart(X),
    "CSR": lambda X, _: features_of(sp.csr_array(X)),
    "memory map": mapped,
    "streamed": lambda X, _: streamed(X),
}


@pytest.fixture(params=HOLDERS.values(), ids=HOLDERS)
def holder(request, tmp_path):
    """Offer a function that makes features of an array of two dimensions."""
    return lambda X=VALUES: request.param(X, tmp_path)


@pytest.fixture(autouse=True)
def little_at_once(monkeypatch):
    """Let every piece, tile and block be short, so that rows come from several."""
    row_bytes = N_FEATURES * VALUES.itemsize
    monkeypatch.setattr(features, "_NUMBERS", 50 * N_FEATURES)
    for name, value in {
        "_NUMBERS": 100,
        "_TILE_ROWS": 1,
        "_TILE_BYTES": 7 * row_bytes,
        "_AHEAD_BYTES": 60 * row_bytes,
    }.items():
        monkeypatch.setattr(columns, name, value)


# --------------------------------------------------------------------------------------
# which rows


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: VALUES, ArrayRows),
        (lambda: VALUES[:, ::-1], ArrayRows),
        (lambda: np.asfortranarray(VALUES), ArrayRows),
        (lambda: sp.csr_matrix(VALUES), SparseRows),
        (lambda: sp.csr_array(VALUES), SparseRows),
    ],
    ids=["array", "backwards", "Fortran order", "CSR matrix", "CSR array"],
)
def test_each_container_has_its_features(make, kind):
    assert type(features_of(make())) is kind
    assert features_of(found := features_of(make())) is not None
    assert features_of(found) is found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_type_are_known(holder, dtype):
    own = holder(VALUES.astype(dtype))
    assert (own.shape, own.ndim, len(own)) == (VALUES.shape, 2, N_ROWS)
    assert own.dtype == dtype
    assert 0 < own.nbytes <= 2 * VALUES.nbytes
    assert_array_equal(np.asarray(own), VALUES.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_gathered_into_a_tensor(holder, dtype):
    values = VALUES.astype(dtype)
    out = torch.empty((len(ROWS), N_FEATURES), dtype=torch.from_numpy(values).dtype)
    holder(values).gather(ROWS, out)
    assert_array_equal(out, values[ROWS])


@pytest.mark.parametrize(
    "part",
    [slice(None), slice(0, 0), slice(3, 4), slice(10, 200), slice(190, 900), slice(None, None, 7)],
    ids=str,
)
def test_rows_are_read_in_their_order(holder, part):
    own = holder()
    assert_array_equal(own.read(part), VALUES[part])
    assert_array_equal(own[part], VALUES[part])
    assert_array_equal(own.to(part, CPU, torch.float64), VALUES[part])


@pytest.mark.parametrize("length", [1, 13, 60, 61, 150])
def test_an_order_is_read_part_by_part(holder, length):
    read = holder().reader(ROWS)
    for start in range(0, len(ROWS), length):
        part = slice(start, min(start + length, len(ROWS)))
        out = torch.empty((part.stop - part.start, N_FEATURES), dtype=torch.float64)
        read(part, out)
        assert_array_equal(out, VALUES[ROWS[part]])


def test_an_order_may_be_read_from_the_first_part_again():
    read, out = apart(VALUES).reader(ROWS), torch.empty((20, N_FEATURES), dtype=torch.float64)
    for start in (0, 100, 0, 50, 45):
        read(slice(start, start + 20), out)
        assert_array_equal(out, VALUES[ROWS[start : start + 20]])


def test_columns_are_read_once_for_many_batches(monkeypatch):
    cut, original = [], ColumnRows._cut
    monkeypatch.setattr(
        ColumnRows, "_cut", lambda self, rows, out: cut.extend(rows) or original(self, rows, out)
    )
    read, out = apart(VALUES).reader(ROWS), torch.empty((10, N_FEATURES), dtype=torch.float64)
    for start in range(0, 60, 10):
        read(slice(start, start + 10), out)
    assert cut == sorted(ROWS[:60]), "as they are stored"


def test_some_rows_are_features_again(holder):
    own = holder()
    for taken in (own.take(ROWS), own[ROWS]):
        assert taken.shape == (len(ROWS), N_FEATURES)
        assert taken.dtype == own.dtype
        assert_array_equal(taken, VALUES[ROWS])
        assert_array_equal(taken.take(np.array([5, 0])), VALUES[ROWS[[5, 0]]])
        assert_array_equal(taken.read(slice(3, 70)), VALUES[ROWS[3:70]])


@pytest.mark.parametrize(
    "dtypes", [("u1", "f4", "?"), ("i8", "f8", ">f8"), ("f2", "<i2", "f4")], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_of_any_type_are_converted(dtypes, dtype):
    table = np.abs(VALUES[:, :3]).round().astype(int) % 2
    blocks = [table.T[j : j + 1].astype(kind, order="C") for j, kind in enumerate(dtypes)]
    own = ColumnRows(blocks, dtype)
    assert own.read(slice(None)).dtype == own.dtype == dtype
    assert_array_equal(own, table)
    assert_array_equal(own.take(ROWS), table[ROWS])
    assert all(numbers.dtype == dtype for numbers in own.numbers())


def test_nothing_is_copied_of_an_array():
    own = features_of(VALUES)
    assert np.shares_memory(own.tensor.numpy(), VALUES)
    assert np.shares_memory(own.to(slice(3, 9), CPU, torch.float64).numpy(), VALUES)
    assert own.unwrapped() is own.in_memory() is VALUES
    assert own.in_rows() is own


def test_nothing_is_copied_of_a_whole_array_in_fortran_order():
    X = np.asfortranarray(VALUES)
    own = by_column(X)
    assert np.shares_memory(own.to(slice(None), CPU, torch.float64).numpy(), X)
    assert np.shares_memory(own.unwrapped(), X)
    assert np.shares_memory(own.in_memory(), X)


def test_columns_are_copied_into_rows_if_they_are_few(monkeypatch):
    own = by_column(np.asfortranarray(VALUES))
    assert type(own.in_rows()) is ArrayRows
    assert_array_equal(own.in_rows(), VALUES)
    monkeypatch.setattr(columns, "_COPIED_BYTES", VALUES.nbytes - 1)
    assert own.in_rows() is own
    assert_array_equal(own.in_rows(VALUES.nbytes).unwrapped(), VALUES)


def test_a_users_code_is_given_what_the_user_passed(tmp_path):
    matrix = sp.csr_matrix(VALUES)
    assert features_of(matrix).unwrapped() is features_of(matrix).in_memory() is matrix
    for own in (mapped(VALUES, tmp_path), apart(VALUES)):
        assert own.unwrapped() is own, "it reads like an array, and is not read yet"
        assert type(own.in_memory()) is np.ndarray
        assert_array_equal(own.in_memory(), VALUES)


# --------------------------------------------------------------------------------------
# statistics, looks, descriptions


def test_sums_are_those_of_the_rows_times_their_weights(holder):
    weight = np.random.default_rng(2).random(N_ROWS)
    assert_allclose(holder().weighted_sums(weight), weight @ VALUES, rtol=1e-12, atol=1e-12)
    assert_allclose(holder().weighted_sums(None), VALUES.sum(axis=0), rtol=1e-12, atol=1e-12)


def test_limits_are_the_smallest_and_the_largest_number(holder):
    low, high = holder().column_limits()
    assert_array_equal(low, VALUES.min(axis=0))
    assert_array_equal(high, VALUES.max(axis=0))
    assert holder().limits() == (VALUES.min(), VALUES.max())


def test_what_is_missing_has_no_limits(holder):
    values = VALUES.copy()
    values[::3, 2] = np.nan
    low, high = holder(values).column_limits()
    assert_array_equal(low, np.nanmin(values, axis=0))
    assert_array_equal(high, np.nanmax(values, axis=0))
    assert holder(values).limits() == (np.nanmin(values), np.nanmax(values))


def test_pieces_and_numbers_are_all_there_are(holder):
    own = holder()
    pieces = list(own.pieces())
    assert len(pieces) > 1
    assert_array_equal(np.concatenate(pieces), VALUES)
    numbers = np.concatenate([np.ravel(part) for part in own.numbers()])
    assert_array_equal(np.sort(numbers), np.sort(VALUES.ravel()))


def test_dense_rows_are_stored_alike_whatever_holds_them(holder):
    own = holder()
    parts = [np.ascontiguousarray(part) for part in own.stored()]
    if own.kind == SparseRows.kind:
        assert own.kind == "sparse "
        assert_array_equal(parts[0], sp.csr_array(VALUES).data)
    else:
        assert b"".join(part.tobytes() for part in parts) == VALUES.tobytes()


def test_sets_in_memory_are_joined_and_no_others(tmp_path):
    first, second = features_of(VALUES[:9].copy()), features_of(VALUES[9:].copy())
    assert_array_equal(joined([first, second]), VALUES)
    for other in (features_of(sp.csr_array(VALUES)), mapped(VALUES, tmp_path), apart(VALUES)):
        assert joined([first, other]) is None


# --------------------------------------------------------------------------------------
# on an accelerator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_resident_as_long_as_someone_holds_them(holder, dtype, monkeypatch):
    monkeypatch.setattr(features, "_UPLOADED_BYTES", 7 * N_FEATURES * dtype.itemsize)
    own = holder()
    if own.kind == SparseRows.kind:
        assert own.resident(CPU, dtype, np.inf) is None
        return
    resident = own.resident(CPU, dtype, np.inf)
    assert own.resident(CPU, dtype, np.inf) is resident
    assert_array_equal(resident, VALUES.astype(str(dtype).rpartition(".")[2]))
    reference = weakref.ref(resident)
    del resident
    assert reference() is None


def test_rows_are_resident_only_where_they_fit():
    own = features_of(VALUES)
    assert own.resident(CPU, torch.float64, VALUES.nbytes - 1) is None
    assert own.resident(CPU, torch.float32, VALUES.nbytes // 2) is not None


def test_resident_rows_belong_to_one_call_and_not_to_an_array():
    """A failed fit whose traceback lives holds its own; the numbers may have changed since."""
    X = VALUES.copy()
    before = features_of(X).resident(CPU, torch.float64, np.inf)
    X /= 2
    after = features_of(X).resident(CPU, torch.float64, np.inf)
    assert_array_equal(before, VALUES)
    assert_array_equal(after, VALUES / 2)
