"""The file from which a training goes on, and the call of ``fit`` that it belongs to.

It is a file of skops, as a saved estimator is, but holds plain data only: no type is to be trusted.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from skorch.callbacks import Callback

from sknn_deep._files import archive
from sknn_deep._files.atomic import atomic_write, remove_orphans
from sknn_deep._files.packing import pack, unpack
from sknn_deep._hardware.threads import allowed_threads
from sknn_deep._training.fingerprint import differences

# More than any machine has; a forged file may ask for more.
_MAX_THREADS = 4096


class CheckpointFile:
    """Where one training is kept, and from where it goes on.

    Parameters
    ----------
    path : str or path-like
    every : int
        Epochs between two checkpoints.

    Attributes
    ----------
    every : int
    n_threads : int
        On how many threads the training computes: as many as when it began.

    Raises
    ------
    ValueError
        If the file is damaged, or no checkpoint.
    """

    def __init__(self, path: str | os.PathLike, every: int):
        # a callback may change the directory
        self._path, self.every = os.path.abspath(path), every
        remove_orphans(self._path)
        self._seen = self._identity()
        self._saved = None if self._seen is None else read_state(self._path)
        self.n_threads = self._saved["n_threads"] if self._saved else allowed_threads()
        self._call: dict[str, Any] = {}

    def first_random_state(self, present: np.random.RandomState) -> np.random.RandomState:
        """Return the generator that the training begins with.

        A new one where there is a checkpoint, so that one that is not asked to go on from it
        leaves the present generator alone.
        """
        if self._saved is None:
            self._first = present.get_state(legacy=False)
            return present
        self._first = self._saved["first_random_state"]
        random_state = np.random.RandomState(0)
        with self.readable():
            random_state.set_state(self._first)
        return random_state

    def belongs_to(self, call: dict[str, Any]) -> None:
        """Refuse to go on where the checkpoint is of another call.

        Parameters
        ----------
        call : dict
            As of :func:`described_call`.
        """
        self._call = json.loads(json.dumps(call))  # as plain values
        if self._saved is None:
            return
        with self.readable():
            found = differences(json.loads(self._saved["call"]), self._call)
        if found:
            raise ValueError(
                f"The checkpoint {self._path!r} is of another training: {'; '.join(found)}. Pass "
                "what was passed then to go on with it, name another path, or delete the file to "
                "train anew."
            )

    def take_state(self) -> dict[str, Any] | None:
        """Return the state to go on from, if there is one, and forget it."""
        saved, self._saved = self._saved, None
        return None if saved is None else saved["training"]

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Name the file if a block meets content that no training has written."""
        try:
            yield
        except Exception as error:  # whatever forged numbers bring about
            raise ValueError(_unreadable(self._path, error)) from error

    def save(self, state: dict[str, Any]) -> None:
        """Put the state of the training in the place of the one before.

        Raises
        ------
        OSError
            If it cannot be written, for want of space for example; the one before is kept.
        ValueError
            If another training has written to the path meanwhile.
        """
        if self._identity() not in (None, self._seen):
            raise ValueError(
                f"Another training has written to the checkpoint {self._path!r} while this one "
                "ran; give each a path of its own."
            )
        state = {
            "call": json.dumps(self._call),
            "first_random_state": self._first,
            "n_threads": self.n_threads,
            "training": state,
        }
        try:
            write_state(self._path, state)
        except (TypeError, RecursionError) as error:
            raise ValueError(
                f"TrainingCheckpoint cannot keep this training: {error}. It keeps numbers, texts, "
                "arrays and tensors, and dicts, lists, tuples and sets of them."
            ) from error
        except OSError as error:
            kept = "no checkpoint was written before"
            if self._seen is not None:
                kept = "the one before is kept" if self._identity() else "the one before is gone"
            message = f"the checkpoint could not be written ({error.strerror or error}); {kept}"
            raise OSError(error.errno, message, self._path) from error
        self._seen = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells this file from any that takes its place; None where there is none."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def write_state(path: str, state: dict[str, Any]) -> None:
    """Write a state, made of what :func:`pack` knows, to a file.

    Raises
    ------
    TypeError
        If there is anything else in it.
    """
    import skops.io

    packed = {name: pack(value, strict=True, where=name) for name, value in state.items()}
    atomic_write(path, lambda file: skops.io.dump(packed, file))


def read_state(path: str) -> dict[str, Any]:
    """Read what :func:`write_state` has written.

    Raises
    ------
    ValueError
        If the file is damaged, or of another kind.
    """
    try:
        archive.check_regular(path)
    except ValueError as error:
        raise ValueError(f"No training can be kept in {path!r}: {error} Name a file.") from error
    try:
        packed = archive.read(path, {})
        if not isinstance(packed, dict):
            raise ValueError(f"it holds a {type(packed).__name__}.")
        return _checked(unpack(packed, strict=True))
    except archive.UntrustedError as error:
        other = ValueError("it is another file, such as a saved estimator.")
        raise ValueError(_unreadable(path, other)) from error
    except OSError:
        raise
    except Exception as error:
        raise ValueError(_unreadable(path, error)) from error


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state, if what stands around that of the training is valid."""
    archive.check_generator(state["first_random_state"])
    if state.keys() != {"call", "first_random_state", "n_threads", "training"}:
        raise ValueError(f"it holds {list(state)}.")
    if not (type(state["n_threads"]) is int and 1 <= state["n_threads"] <= _MAX_THREADS):
        raise ValueError(f"{state['n_threads']!r} is no number of threads.")
    return state


def _unreadable(path: str, error: Exception) -> str:
    reason = error if isinstance(error, ValueError) else repr(error)
    return (
        f"The file {path!r} cannot be read as a checkpoint of a training: {reason} Delete it to "
        "train anew, or name another path."
    )


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
    >>> from sknn_deep._training.checkpoint import TrainingCheckpoint
    >>> X, y = load_digits(return_X_y=True)
    >>> path = Path(tempfile.mkdtemp()) / "digits.checkpoint"
    >>> classifier = DeepMLPClassifier(
    ...     early_stopping=True, random_state=0, callbacks=[TrainingCheckpoint(path, every=5)]
    ... ).fit(X / 16, y)
    >>> path.exists()
    True
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1):
        self.path = path
        self.every = every

    def __repr__(self) -> str:
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
