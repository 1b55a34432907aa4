"""What an estimator was before a call, to go back to."""

from collections.abc import Iterator
from contextlib import contextmanager

from sknn_deep._engine.solvers import copied_state, load_state

# What ``sklearn.callback`` sets when a fit begins, and takes away when it is left.
_CALLBACK_STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


class Before:
    """What an estimator was before a call, to go back to where the call comes to nothing.

    Parameters
    ----------
    estimator : estimator
    goes_on : bool
        Whether the call goes on with the network of an earlier one, in its place.
    """

    def __init__(self, estimator, goes_on: bool):
        self._estimator, self._attributes = estimator, dict(vars(estimator))
        self._network = self._attributes.get("module_") if goes_on else None
        members = self._attributes.get("estimators_", []) if goes_on else []
        self._members = [Before(member, goes_on) for member in members]
        if self._network is None:
            return
        self._snapshot, self._progress = self._network.snapshot(), estimator._progress.mark()
        self._n_rows = len(estimator.history_ or ())
        optimizer = self._attributes.get("_optimizer")
        self._optimizer = None if optimizer is None else copied_state(optimizer)

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Go back to it where a block raises."""
        try:
            yield
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Make the estimator what it was."""
        estimator = self._estimator
        present = {name: vars(estimator).get(name) for name in _CALLBACK_STATE}
        vars(estimator).clear()
        vars(estimator).update(self._attributes)
        vars(estimator).update(
            (name, value) for name, value in present.items() if value is not None
        )
        for member in self._members:
            member.restore()
        if self._network is None:
            return
        self._network.restore(self._snapshot)
        self._network.eval()
        self._network.set_generator(None)
        estimator._progress.back_to(self._progress)
        if estimator.history_ is not None:
            del estimator.history_[self._n_rows :]
        if self._optimizer is not None:
            load_state(estimator._optimizer, self._optimizer)
