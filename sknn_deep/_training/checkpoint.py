"""The file from which a training resumes, and the call of ``fit`` that it belongs to.

Like a saved estimator, it is a skops file, but it holds only plain data: no types need be trusted.

A checkpoint is the state of a training (``Training.state_dict``), not of an estimator. The file
does not contain the network's structure, the split or the batches: the same call recreates them
from the initial state of the generator, and then loads the state. So any other call has to be
refused. The state includes the engine's step count, because it determines when negligible weights
are set to zero. The batches of all epochs are one list, stored by column, because there are many.

``Training.run`` writes it between two epochs, after all callbacks have run: a callback that wrote
it on one of skorch's events would miss the effects of the callbacks after it. So
:class:`TrainingCheckpoint` is a callback only in form, and handles no events.
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

# Upper limit for files: more than any machine has, but a forged file may ask for more.
_MAX_THREADS = 4096


class CheckpointFile:
    """The file to which a training is saved, and from which it resumes.

    Parameters
    ----------
    path : str or path-like
    every : int
        Epochs between two checkpoints.

    Attributes
    ----------
    n_threads : int
        Number of threads of the training: as many as when it began.
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
        """Return the generator that the training starts with.

        If there is a checkpoint, this is a new generator, so that the present one is unchanged if
        the checkpoint turns out to belong to another call.
        """
        if self._saved is None:
            self._first = present.get_state(legacy=False)
            return present
        self._first, random_state = self._saved["first_random_state"], np.random.RandomState(0)
        with understood(self._path):
            random_state.set_state(self._first)
        return random_state

    def belongs_to(self, call: dict[str, Any]) -> None:
        """Raise a ValueError if the checkpoint is from another call; see :func:`described_call`."""
        self._call = json.loads(json.dumps(call))  # convert to plain values
        if self._saved is None:
            return
        with understood(self._path):
            found = differences(self._saved["call"], self._call)
        if found:
            raise ValueError(
                f"The checkpoint {self._path!r} belongs to another training: {'; '.join(found)}. "
                "Pass what was passed then to go on with it, name another path, or delete the file "
                "to train anew."
            )

    @contextmanager
    def state_to_go_on_from(self) -> Iterator[dict[str, Any] | None]:
        """Provide the state to resume from, or None, and release it."""
        saved, self._saved = self._saved, None
        with understood(self._path):
            yield None if saved is None else saved["training"]

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state by the current state of the training.

        Raises an OSError if it cannot be written, and a ValueError if another training has written
        to the path meanwhile, or if a value cannot be stored in a file.
        """
        if self._identity() not in (None, self._seen):
            raise ValueError(
                f"Another training has written to the checkpoint {self._path!r} while this one "
                "ran; give each a path of its own."
            )
        state = {
            "call": self._call,
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
        """Return a key that changes if the file is replaced; None if there is no file."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def write_state(path: str, state: dict[str, Any]) -> None:
    """Write a state to a file; a TypeError names values that :func:`pack` does not support."""
    import skops.io

    packed = pack(state, strict=True)
    atomic_write(path, lambda file: skops.io.dump(packed, file))


def read_state(path: str) -> dict[str, Any]:
    """Return the state written by :func:`write_state`; a ValueError names other kinds of files."""
    try:
        archive.check_regular(path)
    except ValueError as error:
        raise ValueError(f"No training can be kept in {path!r}: {error} Name a file.") from error
    with understood(path):
        try:
            state = unpack(archive.read(path, {}), strict=True)
        except archive.UntrustedError as error:
            raise ValueError("it is another file, such as a saved estimator.") from error
        if state.keys() != {"call", "first_random_state", "n_threads", "training"}:
            raise ValueError(f"it holds {list(state)}.")
        archive.check_generator(state["first_random_state"])
        if not (type(state["n_threads"]) is int and 1 <= state["n_threads"] <= _MAX_THREADS):
            raise ValueError(f"{state['n_threads']!r} is no number of threads.")
    return state


@contextmanager
def understood(path: str) -> Iterator[None]:
    """Convert errors of a block, caused by invalid content, to a ValueError that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # forged content may cause any error
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f"The file {path!r} cannot be read as a checkpoint of a training: {reason} Name "
            "another path, or delete it to train anew."
        ) from error


class TrainingCheckpoint(Callback):
    """Save a training to a file, so that a ``fit`` that was killed resumes from there.

    Pass it in the ``callbacks`` of an estimator. If the process ends for any reason and the same
    program is started again, the same call of ``fit`` continues after the last saved epoch. On a
    CPU the result is bit for bit that of an uninterrupted training.

    Parameters
    ----------
    path : str or path-like
        The file, a separate one for each training: any other call is refused. A relative path
        refers to the directory in which ``fit`` begins.

    every : int, default=1
        Epochs between two checkpoints. The last epoch is always saved. Raise it if writing
        takes a noticeable part of an epoch: the file has three to four times the size of the
        weights, plus eight bytes per row with ``shuffle``, and tens of bytes per epoch (and, with
        other callbacks, per batch).

    Notes
    -----
    A checkpoint holds the weights and the best ones so far, the state of the optimiser, of the
    stopping rule and of all random generators, which parameters are frozen, the order of the rows
    and the history. It is written to a new file, which replaces the old one once it is complete on
    disk. Reading it executes no code.

    It also holds the parameters of the call, except ``verbose``, and hashes (SHA-256) of the data.
    If one differs, ``fit`` raises a ``ValueError`` that names it; so give every fit of a search its
    own path. Functions and classes are compared by name only, objects that cannot be pickled by
    type, and an estimator such as ``init_from`` by its parameters and weights. If ``random_state``
    is None or a ``RandomState``, its state is taken from the checkpoint.

    The file remains after training has finished, and the same call then returns its result at
    once. Delete the file, or pass another path, to train anew. After Ctrl-C the same call resumes
    after the last epoch.

    A training with a checkpoint always uses as many threads as it started with, because the last
    digits depend on their number.

    For other callbacks, attributes whose names end in an underscore (skorch's convention) are
    saved: numbers, strings, arrays, containers of them, and objects with ``state_dict`` and
    ``load_state_dict``. For one of another type ``fit`` raises a ``ValueError`` that names it.

    ``partial_fit``, ``solver="lbfgs"`` and ``n_networks`` above 1 do not support checkpoints.

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

    def __init__(self, path: str | os.PathLike[str], every: int = 1):
        self.path = path
        self.every = every

    def __repr__(self) -> str:
        return f"TrainingCheckpoint(path={self.path!r}, every={self.every!r})"

    def open(self) -> CheckpointFile:
        """Read and return the file; raises an error if a parameter or the file is invalid."""
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"TrainingCheckpoint needs the path of a file, got path={self.path!r}.")
        if not os.fspath(self.path):
            raise ValueError("TrainingCheckpoint needs the path of a file, got path=''.")
        is_number = isinstance(self.every, Integral) and not isinstance(self.every, bool)
        if not is_number or self.every < 1:
            raise ValueError(
                f"TrainingCheckpoint needs an integer of at least 1, got every={self.every!r}."
            )
        return CheckpointFile(self.path, self.every)
