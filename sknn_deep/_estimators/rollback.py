"""Rolls back a call that has trained in place."""

from typing import Any

from sknn_deep._engine.solvers import copied_state, load_state


class Rollback:
    """Restores what a call trains in place: the network, its optimiser and its records.

    Parameters
    ----------
    estimator : estimator
        Fitted, with one network.
    """

    def __init__(self, estimator: Any):
        own = vars(estimator)
        self._network, self._progress = own["module_"], own["_progress"]
        self._history, self._optimizer = own["history_"], own.get("_optimizer")
        self._weights, self._mark = self._network.snapshot(), self._progress.mark()
        self._rows = list(self._history)
        self._moments = None if self._optimizer is None else copied_state(self._optimizer)

    def __exit__(self, error_type: type[BaseException] | None, *details: Any) -> None:
        """Restore if a block, or an ``ExitStack`` to which this was pushed, ends with an error."""
        if error_type is not None:
            self.restore()

    def restore(self) -> None:
        """Restore their state at construction."""
        self._network.restore(self._weights)
        self._network.leave_training()
        self._progress.back_to(self._mark)
        self._history[:] = self._rows
        if self._moments is not None:
            load_state(self._optimizer, self._moments)
