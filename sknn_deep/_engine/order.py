"""The order in which an epoch goes through its rows, drawn ahead while a device works."""

from typing import Any

import numpy as np

# Fewer rows are shuffled in the time that it takes to look after the states of generators.
_FEWEST_ROWS = 10_000


class Lookahead:
    """Shuffles an order, sometimes ahead of time.

    While a device trains, the host has time; later the device would have to wait. A twin of the
    generator draws. If the generator is then as it was, it takes over the twin's state, as if it
    had drawn; if somebody else has drawn meanwhile, or the order was changed, the twin's work is
    discarded.
    """

    def __init__(self) -> None:
        self._random_state: np.random.RandomState | None = None
        self._drawn: tuple[Any, np.ndarray, np.ndarray, Any] | None = None

    def draw(self, order: np.ndarray) -> None:
        """Shuffle a copy of an order that was shuffled before."""
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
    """Return whether two states of a generator are the same."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(one[k], other[k]) for k in one)
    return bool(np.array_equal(one, other))
