"""Orders that are drawn ahead are those that would have been drawn."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sknn_deep._engine import order
from sknn_deep._engine.order import Lookahead


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch):
    monkeypatch.setattr(order, "_FEWEST_ROWS", 10)


def _epochs(rows, between=lambda epoch, random_state, rows: None, ahead=True):
    """Return the order of each of five epochs, and what the generator draws next."""
    random_state, lookahead, orders = np.random.RandomState(3), Lookahead(), []
    for epoch in range(5):
        lookahead.shuffle(random_state, rows)
        orders.append(rows.copy())
        if ahead:
            lookahead.draw(rows)
        between(epoch, random_state, rows)
    return orders, random_state.random_sample(3)


def _draw_normal(epoch, random_state, rows):
    if epoch == 1:  # leaves half a pair of numbers behind
        random_state.standard_normal()


def _put_back(epoch, random_state, rows):
    if epoch == 2:
        rows[:] = np.arange(len(rows))


@pytest.mark.parametrize("between", [lambda *_: None, _draw_normal, _put_back])
def test_orders_and_what_is_drawn_after_them_are_the_same(between):
    orders, then = _epochs(np.arange(30), between)
    expected, expected_then = _epochs(np.arange(30), between, ahead=False)
    assert_array_equal(orders, expected)
    assert_array_equal(then, expected_then)


def test_an_order_that_was_drawn_ahead_is_not_drawn_again(monkeypatch):
    class Counting(np.random.RandomState):
        n_shuffles = 0

        def shuffle(self, rows):
            self.n_shuffles += 1
            super().shuffle(rows)

    random_state, lookahead, rows = Counting(0), Lookahead(), np.arange(30)
    for _ in range(4):
        lookahead.shuffle(random_state, rows)
        lookahead.draw(rows)
    assert random_state.n_shuffles == 1


def test_few_rows_are_drawn_when_they_are_asked_for():
    lookahead, rows = Lookahead(), np.arange(9)
    lookahead.shuffle(np.random.RandomState(0), rows)
    lookahead.draw(rows)
    assert lookahead._drawn is None
