"""The bridge from the training loop to scikit-learn's callbacks.

A fit is a task. Its parts are the epochs of a network, the candidates of a search, or the networks
of an ensemble, whose own parts are their epochs. Networks of an ensemble may be trained in joblib's
workers, so the objects that report their epochs can be pickled; the end of each network's task is
reported by the process that collects them all.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from skorch.callbacks import Callback


class StopTraining(KeyboardInterrupt):
    """Raised by a callback to end the training after the current epoch.

    skorch's own callbacks raise a plain ``KeyboardInterrupt`` for this.
    """


class SklearnCallbacks(Callback):
    """Notifies scikit-learn's callbacks of a task and of each of its parts.

    Parameters
    ----------
    context : CallbackContext
        Context of the task.
    task : dict
        Passed to the callbacks: ``estimator``, ``X``, ``y`` and ``metadata``.
    learned : callable
        Returns the fitted attributes so far, except the weights, by name; None for nothing.
    part_name : str, default="epoch"
    """

    def __init__(
        self,
        context: Any,
        task: dict[str, Any],
        learned: Callable[[], dict[str, Any] | None],
        part_name: str = "epoch",
    ):
        self._context, self._task, self._learned = context, task, learned
        self._part_name = part_name
        self._part: Any = None

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Begin the task."""
        self._context.call_on_fit_task_begin(**self._task)

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """Begin a part."""
        self._part = self._context.subcontext(task_name=self._part_name)
        self._part.call_on_fit_task_begin(**self._task)

    def on_epoch_end(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """End the part, and the training if a callback asks for it."""
        part, self._part = self._part, None
        if net is not None:  # the part is an epoch, not a candidate
            row = net.history[-1]
            part.figures = {"epoch": row["epoch"], "loss": row["train_loss"]}
            if "valid_score" in row:
                part.figures["score"] = row["valid_score"]
        stop = part.call_on_fit_task_end(
            **self._task,
            # copied only when a callback asks for them
            reconstruction_attributes=lambda: self._of_copy(self._learned_with_weights(net)),
        )
        if stop:
            raise StopTraining

    def _of_copy(self, learned: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the attributes that scikit-learn sets on a copy to make it a fitted estimator."""
        if learned is None:
            return None
        # replace all attributes: those of an earlier fit, such as an ensemble, would remain
        estimator = self._task["estimator"]
        names = vars(estimator).keys() - estimator._fitted_state.keys()
        return {"__dict__": {name: vars(estimator)[name] for name in names} | learned}

    def _learned_with_weights(self, net: Any) -> dict[str, Any] | None:
        """Return the fitted attributes, with the current weights of a single network."""
        learned = self._learned()
        if learned is None or net is None:
            return learned
        return {**learned, "module_": copy.deepcopy(net.module_)}

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """End the task, and its part if that was interrupted."""
        if self._part is not None:
            self._part.call_on_fit_task_end(**self._task)
        self._end(self._learned)

    def _end(self, learned: Callable[[], dict[str, Any] | None]) -> None:
        self._context.call_on_fit_task_end(
            **self._task, reconstruction_attributes=lambda: self._of_copy(learned())
        )

    def of_networks(
        self,
        networks: Sequence[Any],
        names: Sequence[str],
        n_epochs: int,
        as_ensemble: Callable[[Any, dict[str, Any]], dict[str, Any]],
    ) -> list["NetworkCallbacks"]:
        """Return the callbacks for each network of the ensemble that is fitted in this task.

        Parameters
        ----------
        networks : sequence of estimator
        names : sequence of str
        n_epochs : int
            Maximum number of epochs of each network.
        as_ensemble : callable
            Takes a network and its fitted state; returns the state of an ensemble with this single
            network. It must be picklable.
        """
        return [
            NetworkCallbacks(
                self._context.subcontext(name, task_id=number, max_subtasks=n_epochs),
                self._task,
                network,
                partial(as_ensemble, network),
            )
            for number, (network, name) in enumerate(zip(networks, names, strict=True))
        ]


class NetworkCallbacks(SklearnCallbacks):
    """Notifies scikit-learn's callbacks of one network of an ensemble, and of its epochs.

    A stack that fails is trained again from its first epoch. Callbacks are then notified only of
    epochs after those that they already know.

    Parameters
    ----------
    context : CallbackContext
        Context of the network.
    task : dict
        See :class:`SklearnCallbacks`.
    network : estimator
        The network that is trained.
    as_ensemble : callable
        Takes its fitted state; returns the state of an ensemble with this single network.
    """

    def __init__(
        self,
        context: Any,
        task: dict[str, Any],
        network: Any,
        as_ensemble: Callable[[dict[str, Any]], dict[str, Any]],
    ):
        super().__init__(context, task, dict)
        self.network, self._as_ensemble = network, as_ensemble
        self._is_begun, self._n_told, self._n_epochs = False, 0, 0
        self._error: Exception | None = None

    def of_training(self, learned: Callable[[], dict[str, Any]]) -> "NetworkCallbacks":
        """Prepare for a training, whose fitted attributes ``learned`` returns; return self."""
        self._learned, self._n_epochs = learned, 0
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Begin the network's task."""
        if not self._is_begun:
            super().on_train_begin(net)
        self._is_begun = True

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """Begin a task for the epoch."""
        self._n_epochs += 1
        if self._n_epochs <= self._n_told:
            return
        self._n_told += 1
        try:
            super().on_epoch_begin(net)
        except Exception as error:  # a stack attributes errors to a network only at an epoch's end
            self._error = error

    def on_epoch_end(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """End the epoch's task, and the training of the network if a callback asks for it."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self._n_epochs == self._n_told and self._part is not None:
            super().on_epoch_end(net)

    def _learned_with_weights(self, net: Any) -> dict[str, Any] | None:
        learned = super()._learned_with_weights(net)
        return None if learned is None else self._as_ensemble(learned)

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Release the training; :meth:`end` reports the end of the network's task."""
        self._learned = dict

    def end(self, learned: Callable[[], dict[str, Any]]) -> None:
        """End the network's task, with the fitted attributes of the ensemble so far."""
        part, self._part = self._part, None
        if part is not None:  # from a stack that failed, and ran fewer epochs when repeated
            part.call_on_fit_task_end(**self._task)
        self._end(learned)


_present: ContextVar[NetworkCallbacks | None] = ContextVar("_present", default=None)


@contextmanager
def told(callbacks: NetworkCallbacks | None) -> Iterator[None]:
    """Report the epochs of the network that a block fits."""
    token = _present.set(callbacks)
    try:
        yield
    finally:
        _present.reset(token)


def told_of(estimator: Any) -> NetworkCallbacks | None:
    """Return the callbacks that report the epochs of an ensemble's network, or None."""
    callbacks = _present.get()
    # a user's own code may fit other estimators within the fit
    return callbacks if callbacks is not None and callbacks.network is estimator else None
