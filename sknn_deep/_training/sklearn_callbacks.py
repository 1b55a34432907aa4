"""The bridge from the training loop to scikit-learn's callbacks."""

import copy
from collections.abc import Callable
from typing import Any

from skorch.callbacks import Callback


class StopTraining(KeyboardInterrupt):
    """Raised by a callback to end the training after the present epoch.

    skorch's own callbacks raise a plain ``KeyboardInterrupt`` for this.
    """


class SklearnCallbacks(Callback):
    """Tell scikit-learn's callbacks of the training: one task per epoch, or per candidate.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted, with its callbacks registered.
    max_iter : int
        Number of epochs, or of candidates, that may come.
    X, y : array-like
        The training data as the user gave them, handed to the callbacks.
    sample_weight : ndarray or None
        Handed on as metadata, so that monitors can weight their scores.
    learned : callable
        Returns what the fit has learned so far beside the weights, by name; None for nothing.
    task_name : str, default="epoch"
    """

    def __init__(
        self,
        estimator: Any,
        max_iter: int,
        X: Any,
        y: Any,
        sample_weight: Any,
        learned: Callable[[], dict[str, Any] | None],
        task_name: str = "epoch",
    ):
        self._learned, self._task_name = learned, task_name
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self._task: dict[str, Any] = {
            "estimator": estimator, "X": X, "y": y, "metadata": metadata,
        }  # fmt: skip
        self._root = estimator._init_callback_context(max_subtasks=max_iter)
        self._epoch: Any = None

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Begin the root task."""
        self._root.call_on_fit_task_begin(**self._task)

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """Begin a task for the epoch."""
        self._epoch = self._root.subcontext(task_name=self._task_name)
        self._epoch.call_on_fit_task_begin(**self._task)

    def on_epoch_end(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """End the epoch's task, and the training if a callback asks for it."""
        epoch, self._epoch = self._epoch, None
        if net is not None:  # a candidate is no epoch
            row = net.history[-1]
            epoch.figures = {"epoch": row["epoch"], "loss": row["train_loss"]}
            if "valid_score" in row:
                epoch.figures["score"] = row["valid_score"]
        stop = epoch.call_on_fit_task_end(
            **self._task,
            # copied only when a callback asks for them
            reconstruction_attributes=lambda: self._learned_with_weights(net),
        )
        if stop:
            raise StopTraining

    def _learned_with_weights(self, net: Any) -> dict[str, Any] | None:
        """Return what is learned, with the present weights of the one network that is trained."""
        learned = self._learned()
        if learned is None or net is None:
            return learned
        return {**learned, "module_": copy.deepcopy(net.module_)}

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """End the root task, and the epoch's where it was interrupted."""
        if self._epoch is not None:
            self._epoch.call_on_fit_task_end(**self._task)
        self._root.call_on_fit_task_end(**self._task, reconstruction_attributes=self._learned)
