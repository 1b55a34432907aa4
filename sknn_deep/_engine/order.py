"""The order of an epoch's rows, drawn ahead while a device works."""

from typing import Any

import numpy as np

# Fewer rows are shuffled in less time than copying the generators' states takes.
_FEWEST_ROWS = 10_000


class Lookahead:
    """Shuffles an order, sometimes ahead of time.

    While a device trains, the host is idle; later the device would have to wait. A copy of the
    generator draws the permutation. If the generator's state is unchanged when the permutation is
    needed, it takes the copy's state, as if it had drawn itself; if anything else has drawn from it
    meanwhile, or the order has changed, the permutation is discarded.
    """

    def __init__(self) -> None:
        self._random_state: np.random.RandomState | None = None
        self._drawn: tuple[Any, np.ndarray, np.ndarray, Any] | None = None

    def draw(self, order: np.ndarray) -> None:
        """Shuffle a copy of the order for the next epoch, if it was shuffled before."""
        if self._random_state is None or len(order) < _FEWEST_ROWS:
            return
        state, ahead = self._random_state.get_state(legacy=False), order.copy()
        twin = np.random.RandomState(0)
        twin.set_state(state)
        twin.shuffle(ahead)
        self._drawn = state, order.copy(), ahead, twin.get_state(legacy=False)

    def shuffle(self, random_state: np.random.RandomState, order: np.ndarray) -> None:
        """Shuffle an order in place."""
        drawn, self._drawn, self._random_state = self._drawn, None, random_state
        if drawn is not None:
            state, before, ahead, state_then = drawn
            present = random_state.get_state(legacy=False)
            if np.array_equal(order, before) and _are_equal(present, state):
                order[:] = ahead
                random_state.set_state(state_then)
                return
        random_state.shuffle(order)


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two generator states are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(one[k], other[k]) for k in one)
    return bool(np.array_equal(one, other))
