"""Callbacks: checkpoints of a training, and the bridge from skorch's to scikit-learn's.

skorch callbacks go into an estimator's ``callbacks`` parameter. scikit-learn's own
(``sklearn.callback.ProgressBar``, ``ScoringMonitor``, …) are registered with
``estimator.set_callbacks(...)``; a skorch callback, :class:`SklearnCallbacks`, hands the
events of the training loop on to them.
"""

import copy
import os
from numbers import Integral
from typing import Any

from skorch.callbacks import Callback

from sknn_deep._checkpoint import CheckpointFile

__all__ = ["StopTraining", "TrainingCheckpoint"]


class TrainingCheckpoint(Callback):
    """Keep a training in a file, so that a ``fit`` that was killed goes on from there.

    Pass it in the ``callbacks`` of an estimator. When the process ends, however it ends, and
    the same program is started again, the same call of ``fit`` continues after the last epoch
    that was kept. On a CPU it ends with the same bits as a training that nobody
    disturbed.

    Parameters
    ----------
    path : str or path-like
        The file. It belongs to one training: another call finds it and is refused. A relative
        path is of the directory in which ``fit`` begins.

    every : int, default=1
        Epochs between two checkpoints. The last epoch is always kept. Raise it where writing
        takes a noticeable part of an epoch: the file has three to four times the size of the
        weights and, with ``shuffle``, eight bytes for each row. It grows with the history: by
        some tens of bytes for each epoch, and with other callbacks for each batch.

    Notes
    -----
    A checkpoint holds the weights and the best ones so far, the state of the optimiser with its
    learning rate, of the stopping rule and of all random generators, which parameters are frozen,
    the order of the rows and the history. It is written to a new file, which takes the place of
    the one before once it is on the disk. Reading it executes nothing.

    The file names the call that it belongs to: the parameters but ``verbose``, and hashes (SHA-256)
    of the data. Where one differs, ``fit`` raises a ``ValueError`` that names it. So in a
    search the fits of the other folds are refused: give every training a path of its own.
    Of ``random_state`` as None or as a ``RandomState`` the state is taken from the
    checkpoint. Functions and classes are compared by name only, what does not pickle by its
    type, and an estimator such as ``init_from`` by its parameters and weights.

    A training that has ended leaves its file behind, and the same call of ``fit`` then returns at
    once with what came out. Delete the file, or name another, to train anew. Ctrl-C leaves
    the file of the last epoch: the same call goes on from there.

    While it is kept, a training computes on as many threads as it began with, and does not
    try whether fewer are faster, because the last digits depend on their number.

    Other callbacks go on with what they have learned, by skorch's convention the attributes
    whose names end in an underscore: numbers, texts, arrays, containers of them, and what has
    ``state_dict`` and ``load_state_dict``. Where such an attribute is anything else, ``fit`` raises
    a ``ValueError`` that names it; skorch's own callbacks make theirs anew.

    It is for ``fit`` with a stochastic solver and one network: ``partial_fit``, ``solver="lbfgs"``
    and ``n_networks`` above 1 refuse it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.callbacks import TrainingCheckpoint
    >>> X, y = load_digits(return_X_y=True)
    >>> path = Path(tempfile.mkdtemp()) / "digits.checkpoint"
    >>> classifier = DeepMLPClassifier(
    ...     early_stopping=True, random_state=0, callbacks=[TrainingCheckpoint(path, every=5)]
    ... ).fit(X / 16, y)
    >>> path.exists()
    True
    """

    def __init__(self, path, every=1):
        self.path = path
        self.every = every

    def __repr__(self):
        return f"TrainingCheckpoint(path={self.path!r}, every={self.every!r})"

    def open(self) -> CheckpointFile:
        """Return the file, read.

        Raises
        ------
        TypeError, ValueError
            If a parameter is not valid, or the file is damaged.
        """
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"TrainingCheckpoint needs the path of a file, got path={self.path!r}.")
        if not os.fspath(self.path):
            raise ValueError("TrainingCheckpoint needs the path of a file, got path=''.")
        is_number = isinstance(self.every, Integral) and not isinstance(self.every, bool)
        if not is_number or self.every < 1:
            raise ValueError(
                f"TrainingCheckpoint needs a number of epochs of at least 1, got "
                f"every={self.every!r}."
            )
        return CheckpointFile(self.path, self.every)


class StopTraining(KeyboardInterrupt):
    """Raised by a callback to end the training after the present epoch.

    skorch's own callbacks raise a plain ``KeyboardInterrupt`` for this.
    """


class SklearnCallbacks(Callback):
    """Tell scikit-learn's callbacks of the training: one task per epoch.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted, with its callbacks registered.
    max_iter : int
        Number of epochs that may come.
    X, y : array-like
        The training data as the user gave them, handed to the callbacks.
    sample_weight : ndarray or None
        Handed on as metadata, so that monitors can weight their scores.
    """

    def __init__(self, estimator, max_iter: int, X, y, sample_weight=None):
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self._task: dict[str, Any] = {
            "estimator": estimator, "X": X, "y": y, "metadata": metadata,
        }  # fmt: skip
        self._root = estimator._init_callback_context(max_subtasks=max_iter)
        self._epoch = None

    def on_train_begin(self, net, **kwargs):
        """Begin the root task."""
        self._root.call_on_fit_task_begin(**self._task)

    def on_epoch_begin(self, net, **kwargs):
        """Begin a task for the epoch."""
        self._epoch = self._root.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._task)

    def on_epoch_end(self, net, **kwargs):
        """End the epoch's task, and the training if a callback asks for it."""
        epoch, self._epoch = self._epoch, None
        stop = epoch.call_on_fit_task_end(
            **self._task,
            # the weights of this epoch, copied only when a callback asks for them
            reconstruction_attributes=lambda: {"module_": copy.deepcopy(net.module_)},
        )
        if stop:
            raise StopTraining

    def on_train_end(self, net, **kwargs):
        """End the root task, and the epoch's where it was interrupted."""
        if self._epoch is not None:
            self._epoch.call_on_fit_task_end(**self._task)
        self._root.call_on_fit_task_end(**self._task, reconstruction_attributes={})
