"""Rows that are read in chunks: which order an epoch has, and that each part is read once."""

import threading

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sknn_deep._engine.streamed_rows import StreamedRows
from sknn_deep._engine.streamed_table import StreamedTable

VALUES = np.arange(600.0).reshape(300, 2)


class Counted:
    """A source of 300 rows in parts, which come in chunks of some rows each."""

    def __init__(self, n_parts=10, chunk=11):
        self.lengths, self._chunk, self.opened = [300 // n_parts] * n_parts, chunk, []

    def open(self, part):
        self.opened.append(part)
        rows = np.split(VALUES, np.cumsum(self.lengths))[part]
        yield from (rows[start : start + self._chunk] for start in range(0, len(rows), self._chunk))


def features(source, window, rows=None):
    table = StreamedTable(source, window=window, rows=rows)
    source.opened.clear()
    return StreamedRows(table, lambda chunk: chunk, np.float64)


def shuffled(own, rows=None, seed=0):
    order = np.arange(len(own) if rows is None else len(rows))
    own.shuffle(order, rows, np.random.RandomState(seed))
    return order


def read_epoch(own, order, batch=23):
    """Return the rows that batches of an epoch are given, one after the other."""
    out, read = torch.empty((len(order), 2), dtype=torch.float64), own.reader(order)
    for start in range(0, len(order), batch):
        part = slice(start, min(start + batch, len(order)))
        read(part, out[part])
    return out.numpy()


@pytest.mark.parametrize("n_parts", [1, 10])
@pytest.mark.parametrize("window", [45, 100, 299])
def test_an_epoch_reads_every_part_once_but_for_what_its_threads_begin(n_parts, window):
    source = Counted(n_parts)
    own = features(source, window)
    order = shuffled(own)
    assert_array_equal(np.sort(order), np.arange(300))
    assert_array_equal(read_epoch(own, order), VALUES[order])
    assert sorted(source.opened) == list(range(n_parts))


def test_parts_come_in_a_drawn_order_and_rows_are_mixed_within_a_window():
    own = features(Counted(), window=60)
    orders = [shuffled(own, seed=seed) for seed in (0, 0, 1)]
    assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    parts = [np.unique(order[:60] // 30) for order in orders]
    assert all(len(found) == 2 for found in parts)  # a window of 60 rows has two parts
    assert (parts[0] != parts[2]).any()
    assert (np.diff(orders[0][:60] // 30) != 0).sum() > 10


def test_chunks_without_numbers_keep_their_order_but_for_the_window():
    order = shuffled(features(Counted(n_parts=1), window=50))
    assert_array_equal(order // 50, np.repeat(np.arange(6), 50))
    assert (np.diff(order) != 1).any()


def test_some_of_the_rows_are_shuffled_and_read_alike():
    source, rows = Counted(), np.arange(1, 300, 3)
    whole = features(source, window=40)
    order = shuffled(whole, rows)
    assert_array_equal(read_epoch(whole, rows[order]), VALUES[rows[order]])
    assert sorted(source.opened) == list(range(10))
    some = whole.take(rows)
    assert isinstance(some, StreamedRows)
    assert_array_equal(np.asarray(some), VALUES[rows])
    assert_array_equal(shuffled(some), order)
    assert_array_equal(some.take(np.array([5, 2])), VALUES[rows[[5, 2]]])


def test_an_order_that_no_window_was_drawn_for_is_read_all_the_same():
    own, order = features(Counted(), window=40), np.random.default_rng(0).permutation(300)
    assert_array_equal(read_epoch(own, order), VALUES[order])
    read, out = own.reader(order), torch.empty((9, 2), dtype=torch.float64)
    for start in (250, 3, 120):  # and from anywhere
        read(slice(start, start + 9), out)
        assert_array_equal(out, VALUES[order[start : start + 9]])


@pytest.mark.parametrize(
    "rows", [np.arange(11), np.repeat([0, 4, 10], [2, 8, 1]), [9, 9, 3]], ids=str
)
def test_rows_may_be_asked_for_more_than_once(rows):
    """As many, even, as the first chunk has."""
    rows = np.asarray(rows)
    assert_array_equal(features(Counted(), window=40).take(rows), VALUES[rows])


def test_rows_are_read_in_a_thread_whose_error_is_raised():
    class Broken(Counted):
        def open(self, part):
            if part == 7 and self.opened:
                raise OSError(f"no disk in {threading.current_thread().name}")
            return super().open(part)

    own = features(Broken(), window=60)
    own.read(slice(0, 1))
    with pytest.raises(OSError, match="no disk in ThreadPoolExecutor"):
        read_epoch(own, np.arange(300))


def test_a_source_that_has_become_shorter_is_refused():
    source = Counted()
    own = features(source, window=60)
    source.open = lambda part: iter([VALUES[:20]])
    with pytest.raises(ValueError, match="had 30 rows when it was first read, and 20 now"):
        own.read(slice(None))


def test_rows_without_order_are_refused():
    table = StreamedTable(Counted(), window=60)
    assert table[np.arange(300) % 2 == 0].shape == (150, 2)
    assert table[10:20, ...].shape == (10, 2)
    with pytest.raises(ValueError, match="ascending numbers, each once"):
        table[np.array([3, 1])]
    with pytest.raises(TypeError, match="Others need an array"):
        np.asarray(table)
