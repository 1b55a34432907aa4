"""Batches: their order, their rows however these lie in memory, their weights, their way."""

import numpy as np
import pytest
import scipy.sparse as sp
import skorch
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils import gen_batches, shuffle

from sknn_deep import DeepMLPRegressor
from sknn_deep._engine import batches
from sknn_deep._engine.batches import Batches, batch_slices
from sknn_deep._engine.chunk import whole
from sknn_deep._engine.columns import ColumnRows
from sknn_deep._engine.features import features_of
from sknn_deep._engine.samples import Samples
from sknn_deep._hardware.device import as_tensor

CPU, N_ROWS, N_FEATURES = torch.device("cpu"), 53, 5
# entry (i, j) is 100 i + j, so that a row that stands where another should is seen
VALUES = 100.0 * np.arange(N_ROWS)[:, None] + np.arange(N_FEATURES)
LABELS = np.arange(N_ROWS) % 7
WEIGHT = np.random.RandomState(0).uniform(0.1, 2.0, N_ROWS)


def _make(X=VALUES, targets=LABELS, weight=None, dtype=torch.float64, **options):
    samples = Samples(features_of(X), LABELS, targets, weight)
    return Batches(samples, **{"batch_size": 8, "device": CPU, "dtype": dtype, **options})


def _epoch(batches):
    """Return copies of the rows, targets, scales and sum of weights of each batch."""
    return [
        (
            chunk.X[part].clone(),
            chunk.target[part].clone(),
            None if chunk.scale is None else chunk.scale[part].clone(),
            weight_sum,
        )
        for chunk in batches
        for part, weight_sum in zip(chunk.parts, chunk.weight_sums, strict=True)
    ]


def _row_numbers(batches):
    """Return which rows each batch holds, by their first feature."""
    return [(X[:, 0] / 100).round().to(torch.int64).tolist() for X, *_ in _epoch(batches)]


@pytest.fixture(params=["together", "in threes", "one by one"])
def gathering(request, monkeypatch):
    """Gather all batches of a set at once, some at once, and each by itself."""
    if request.param == "in threes":
        monkeypatch.setattr(batches, "_MAX_TOGETHER", 3)
    elif request.param == "one by one":
        monkeypatch.setattr(batches, "_GATHER_BYTES", {"cpu": 1})
    return {"together": [7], "in threes": [3, 3, 1], "one by one": [1] * 7}[request.param]


# --------------------------------------------------------------------------------------
# the order


@pytest.mark.parametrize("rows", [None, np.arange(N_ROWS)[::-2]], ids=["all", "subset"])
def test_order_is_scikit_learns_over_several_epochs(rows, gathering):
    ours, theirs = (np.random.RandomState(3) for _ in range(2))
    batches = _make(rows=rows)
    order = np.arange(N_ROWS if rows is None else len(rows))
    for _ in range(4):
        batches.shuffle(ours)
        order = shuffle(order, random_state=theirs)
        expected = order if rows is None else rows[order]
        slices = gen_batches(len(order), 8)
        assert _row_numbers(batches) == [expected[part].tolist() for part in slices]


def test_without_shuffling_rows_come_in_their_order(gathering):
    for _ in range(2):
        assert np.concatenate(_row_numbers(_make())).tolist() == list(range(N_ROWS))


def test_small_batches_are_gathered_together(gathering):
    assert [len(chunk.parts) for chunk in _make()] == gathering


@pytest.mark.parametrize(
    ("n_bytes", "expected"), [(1, 1), (2 * 8 * 5 * 8, 2), (2 * 8 * 5 * 8 + 1, 2), (10**9, 4)]
)
def test_batches_are_gathered_together_up_to_a_size_and_a_number(n_bytes, expected, monkeypatch):
    monkeypatch.setattr(batches, "_GATHER_BYTES", {"cpu": n_bytes})
    monkeypatch.setattr(batches, "_MAX_TOGETHER", 4)
    assert max(len(chunk.parts) for chunk in _make()) == expected


def test_all_chunks_of_an_epoch_share_the_same_memory(gathering):
    batches = _make(weight=WEIGHT)
    pointers = {
        tuple(tensor.data_ptr() for tensor in (chunk.X, chunk.target, chunk.scale))
        for _ in range(2)
        for chunk in batches
    }
    assert len(pointers) == 1


# --------------------------------------------------------------------------------------
# the rows


def _memmap(X, folder, mode="r"):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode=mode)


def _readonly(X):
    X = X.copy()
    X.flags.writeable = False
    return X


LAYOUTS = {
    "C order": lambda X, _: X.copy(),
    "F order": lambda X, _: np.asfortranarray(X),
    "columns": lambda X, _: ColumnRows([np.asfortranarray(X).T], X.dtype),
    "every other row": lambda X, _: np.repeat(X, 2, axis=0)[::2],
    "every other column": lambda X, _: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X, _: X[::-1, ::-1].copy()[::-1, ::-1],
    "read only": lambda X, _: _readonly(X),
    "memory map": _memmap,
    "memory map in F order": lambda X, folder: _memmap(np.asfortranarray(X), folder),
    "CSR matrix": lambda X, _: sp.csr_matrix(X),
    "CSR array": lambda X, _: sp.csr_array(X),
    "CSR of CSC": lambda X, _: sp.csc_matrix(X).tocsr(),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_plain_array_is_a_tensor_in_the_same_memory(dtype):
    X = VALUES.astype(dtype)
    tensor = as_tensor(X)
    X[2, 1] = 7
    assert tensor.numpy().dtype == dtype
    assert_array_equal(tensor, X)


NO_TENSORS = {
    **{name: make for name, make in LAYOUTS.items() if name not in ("C order", "CSR of CSC")},
    "list": lambda X, _: X.tolist(),
    "integers": lambda X, _: X.astype(int),
    "other order of bytes": lambda X, _: X.astype(">f8"),
    "one column backwards": lambda X, _: X[:, :1].copy()[:, ::-1],
    "one row backwards": lambda X, _: X[:1].copy()[::-1],
    "one row of records": lambda X, _: np.zeros(
        1, dtype=[("x", np.float64, (3,)), ("flag", np.int8)]
    )["x"],
}


@pytest.mark.parametrize("make", NO_TENSORS.values(), ids=NO_TENSORS)
def test_what_torch_does_not_know_is_no_tensor(make, tmp_path):
    assert as_tensor(make(VALUES, tmp_path)) is None


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [None, np.arange(3, N_ROWS, 2)], ids=["all", "subset"])
def test_batches_hold_the_right_rows_and_targets(layout, dtype, rows, gathering, tmp_path):
    X = layout(VALUES.astype(dtype), tmp_path)
    targets = VALUES[:, :2].astype(dtype) + 0.5
    batches = _make(X, targets, dtype=torch.from_numpy(targets).dtype, rows=rows)
    random_state = np.random.RandomState(0)
    for _ in range(2):
        batches.shuffle(random_state)
        epoch = _epoch(batches)
        numbers = _row_numbers(batches)
        for (X_batch, target, scale, _), batch in zip(epoch, numbers, strict=True):
            assert X_batch.numpy().dtype == target.numpy().dtype == dtype
            assert_array_equal(X_batch, VALUES[batch])
            assert_array_equal(target, VALUES[batch, :2] + 0.5)
            assert scale is None
        expected = np.arange(N_ROWS) if rows is None else rows
        assert sorted(np.concatenate(numbers)) == expected.tolist()


@pytest.mark.parametrize(
    "targets",
    [LABELS, LABELS.astype(np.float64)[:, None], _readonly(LABELS), VALUES[:, ::-1], None],
    ids=["classes", "one column", "read only", "backwards", "the rows themselves"],
)
def test_targets_go_with_their_rows(targets, gathering):
    batches = _make(targets=targets)
    batches.shuffle(np.random.RandomState(0))
    expected = VALUES if targets is None else targets
    for (_, target, *_), numbers in zip(_epoch(batches), _row_numbers(batches), strict=True):
        assert_array_equal(target, expected[numbers])
        assert target.numpy().dtype == expected.dtype


def test_the_rows_are_their_own_target_without_a_copy():
    chunk = next(iter(_make(targets=None)))
    assert chunk.target is chunk.X


def test_data_are_only_read(gathering):
    X, targets, weight = VALUES.copy(), LABELS.copy(), WEIGHT.copy()
    for chunk in _make(X, targets, weight):
        chunk.X.zero_()
        chunk.target.zero_()
        chunk.scale.zero_()
    assert_array_equal(X, VALUES)
    assert_array_equal(targets, LABELS)
    assert_array_equal(weight, WEIGHT)


def test_buffers_are_those_of_the_batches_however_many_rows_there_are(monkeypatch):
    sizes = []
    empty = torch.empty
    monkeypatch.setattr(
        torch,
        "empty",
        lambda shape, **options: sizes.append(np.prod(shape)) or empty(shape, **options),
    )
    X = np.zeros((20_000, 100))
    samples = Samples(features_of(X), None, None, None)
    batches = Batches(samples, batch_size=500, device=CPU, dtype=torch.float64)
    assert sum(1 for _ in batches) == 4
    assert sum(sizes) <= 2**22 / 8
    assert batches.X is X


@pytest.mark.parametrize("rows", [None, np.array([4, 2, 9])], ids=["all", "subset"])
def test_data_of_the_set_are_at_hand_for_scores(rows):
    batches = _make(rows=rows)
    expected = np.arange(N_ROWS) if rows is None else rows
    assert len(batches) == len(expected)
    assert_array_equal(batches.X, VALUES[expected])
    assert_array_equal(batches.y, LABELS[expected])


def test_samples_taken_are_a_copy_of_all_their_parts():
    samples = Samples(features_of(VALUES.copy()), LABELS, None, WEIGHT, WEIGHT / 2)
    taken = samples.take(np.array([5, 1]))
    assert_array_equal(taken.X, VALUES[[5, 1]])
    assert_array_equal(taken.y, LABELS[[5, 1]])
    assert taken.targets is None
    assert_array_equal(taken.given_weight, WEIGHT[[5, 1]] / 2)
    taken.X.unwrapped()[:] = 0
    assert_array_equal(samples.X, VALUES)


# --------------------------------------------------------------------------------------
# the lengths


@pytest.mark.parametrize(
    ("batch_size", "min_batch_size"),
    [(1, 0), (1, 1), (6, 0), (6, 1), (6, 2), (6, 6), (7, 5), (52, 2), (53, 2), (60, 1)],
)
@pytest.mark.parametrize("n_samples", [1, 2, 6, 7, 12, 13, 53])
def test_slices_are_scikit_learns(n_samples, batch_size, min_batch_size):
    expected = list(gen_batches(n_samples, batch_size, min_batch_size=min_batch_size))
    if n_samples < min_batch_size:  # there is no batch before that this one could join
        expected = [slice(0, n_samples)]
    assert batch_slices(n_samples, batch_size, min_batch_size) == expected


@pytest.mark.parametrize(
    ("batch_size", "min_batch_size", "expected"),
    [
        (8, 0, [8, 8, 8, 8, 8, 8, 5]),
        (8, 5, [8, 8, 8, 8, 8, 8, 5]),
        (8, 6, [8, 8, 8, 8, 8, 13]),
        (26, 2, [26, 27]),
        (53, 2, [53]),
        (52, 1, [52, 1]),
    ],
)
def test_last_batch_is_short_or_joins_the_one_before(
    batch_size, min_batch_size, expected, gathering
):
    batches = _make(batch_size=batch_size, min_batch_size=min_batch_size)
    lengths = [len(X) for X, *_ in _epoch(batches)]
    assert lengths == expected
    assert batches.n_batches == len(expected)


# --------------------------------------------------------------------------------------
# the weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [None, np.arange(3, N_ROWS, 2)], ids=["all", "subset"])
def test_scale_is_each_weight_over_the_sum_of_its_batch(dtype, rows, gathering):
    X = VALUES.astype({torch.float32: np.float32, torch.float64: np.float64}[dtype])
    batches = _make(X, weight=WEIGHT, dtype=dtype, rows=rows)
    batches.shuffle(np.random.RandomState(0))
    for (_, _, scale, weight_sum), numbers in zip(
        _epoch(batches), _row_numbers(batches), strict=True
    ):
        assert (scale.shape, scale.dtype) == ((len(numbers), 1), dtype)
        assert weight_sum == pytest.approx(WEIGHT[numbers].sum())
        assert_allclose(scale[:, 0], WEIGHT[numbers] / WEIGHT[numbers].sum(), rtol=1e-6)
        assert scale.sum().item() == pytest.approx(1)


def test_without_weights_their_sum_is_the_number_of_rows(gathering):
    assert [weight_sum for *_, weight_sum in _epoch(_make())] == [8.0] * 6 + [5.0]


def test_batch_of_zero_weights_has_a_scale_of_zero(gathering):
    weight = WEIGHT.copy()
    weight[8:16] = 0.0
    epoch = _epoch(_make(weight=weight))
    assert [weight_sum > 0 for *_, weight_sum in epoch] == [
        True,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert not epoch[1][2].any()
    assert epoch[1][3] == 0.0


@pytest.mark.parametrize("rows", [None, np.arange(10)], ids=["all", "subset"])
def test_set_without_any_weight_is_refused(rows):
    weight = np.zeros(N_ROWS)
    weight[10:] = 0.0 if rows is None else 1.0
    n_rows = N_ROWS if rows is None else 10
    with pytest.raises(ValueError, match=f"All sample weights of {n_rows} rows? .* are zero"):
        _make(weight=weight, rows=rows)


# --------------------------------------------------------------------------------------
# all rows at once


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_whole_is_one_batch_in_order(layout, tmp_path):
    chunk = whole(
        Samples(features_of(layout(VALUES, tmp_path)), LABELS, LABELS, WEIGHT),
        device=CPU,
        dtype=torch.float64,
    )
    assert_array_equal(chunk.X, VALUES)
    assert_array_equal(chunk.target, LABELS)
    assert_allclose(chunk.scale[:, 0], WEIGHT / WEIGHT.sum(), rtol=1e-12)
    assert chunk.weight_sums == [pytest.approx(WEIGHT.sum())]
    assert chunk.parts == [slice(0, N_ROWS)]


def test_the_whole_without_weights_or_targets():
    samples = Samples(features_of(VALUES), None, None, None)
    chunk = whole(samples, device=CPU, dtype=torch.float64)
    assert chunk.target is chunk.X
    assert chunk.scale is None
    assert chunk.weight_sums == [float(N_ROWS)]


@pytest.mark.parametrize("rows", [None, np.arange(10)], ids=["all", "subset"])
def test_weights_whose_sum_is_no_number_are_refused(rows):
    n_rows = N_ROWS if rows is None else 10
    with pytest.raises(ValueError, match=f"sum of the {n_rows} sample weights is too large"):
        _make(weight=np.full(N_ROWS, 1e308), rows=rows)


def test_the_whole_without_any_weight_is_refused():
    samples = Samples(features_of(VALUES), None, None, np.zeros(N_ROWS))
    with pytest.raises(ValueError, match="All sample weights of 53 rows"):
        whole(samples, device=CPU, dtype=torch.float64)


# --------------------------------------------------------------------------------------
# memory, and the way to a GPU


@pytest.mark.parametrize(("n_outputs", "expected"), [(1, 7), (5, 7), (50, 2), (5000, 1)])
def test_many_outputs_count_for_how_many_batches_are_gathered_together(
    n_outputs, expected, monkeypatch
):
    """What the loss compares them with is as wide as they are."""
    monkeypatch.setattr(batches, "_GATHER_BYTES", {"cpu": 2 * 8 * 50 * 8})
    assert max(len(chunk.parts) for chunk in _make(n_outputs=n_outputs)) == expected


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class GivesUp(skorch.callbacks.Callback):
    """Fails after an epoch."""

    def on_epoch_end(self, net, **kwargs):
        raise RuntimeError("this callback gives up")


@needs_cuda
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_rows_that_a_failed_fit_left_on_a_gpu_are_not_found_again():
    X = np.random.default_rng(0).random((60, 4))
    options = {"max_iter": 2, "random_state": 0, "hidden_layer_sizes": (3,), "device": "cuda"}
    expected = DeepMLPRegressor(**options).fit(X, X[:, 0]).loss_curve_
    large = 255 * X
    try:
        DeepMLPRegressor(**options, callbacks=[GivesUp()]).fit(large, X[:, 0])
    except RuntimeError as error:
        kept = error  # as a notebook does, and with it all that the fit had
    large /= 255
    assert kept.__traceback__ is not None
    losses = DeepMLPRegressor(**options).fit(large, X[:, 0]).loss_curve_
    assert_allclose(losses, expected, rtol=1e-5)
