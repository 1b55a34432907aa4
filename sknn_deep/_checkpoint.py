"""The file from which a training goes on, and the call of ``fit`` that it belongs to.

The file is a container of the kind that a saved estimator has. A header is limited and a history
is not, so the JSON is a tensor, and single numbers are put together in one for each type.
"""

import hashlib
import json
import os
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
import scipy.sparse as sp

from sknn_deep import _container
from sknn_deep._atomic import atomic_write, remove_temporaries
from sknn_deep._threads import allowed_threads
from sknn_deep._values import Decoder, Encoder

_TEXT = "json"  # the name of the tensor that holds it
# What the states of torch's modules and schedulers, and of callbacks, are made of beside values
# that a saved estimator has, and what each is made from.
_CONTAINERS = {
    "counter": (Counter, dict),
    "ordered": (OrderedDict, dict),
    "set": (set, list),
    "frozenset": (frozenset, list),
}
# Of an array so many bytes are hashed at once.
_BYTES_AT_ONCE = 2**23


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
        self._seen = self._identity()
        self._saved = read_state(self._path)
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
        found = _differences(self._saved["call"], self._call)
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
        """Return what tells this file from any that takes its place; None where there is none."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def write_state(path: str, state: dict[str, Any]) -> None:
    """Write what :class:`Encoder` knows, by names that are identifiers, to a file.

    Raises
    ------
    TypeError
        If there is anything else among it.
    """
    encoder = _encoder()
    coded = {name: encoder.encode(value, name) for name, value in state.items()}
    tensors, singles = _put_together(encoder.tensors)
    text = _container.to_json({"state": coded, "singles": singles})
    tensors[_TEXT] = np.frombuffer(text.encode(), np.uint8)
    atomic_write(path, lambda file: _container.write(file, {"checkpoint": _TEXT}, tensors))


def read_state(path: str) -> dict[str, Any] | None:
    """Read what :func:`write_state` has written; None where there is no file.

    What a killed process has left of its last attempt is removed.

    Raises
    ------
    ValueError
        If the file is damaged, or of another kind.
    """
    remove_temporaries(path)
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):  # a pipe would never end
        what = "a directory" if stat.S_ISDIR(about.st_mode) else "no regular file"
        raise ValueError(f"No training can be kept in {path!r}: it is {what}. Name a file.")
    try:
        with open(path, "rb") as file:
            document, tensors = _container.read_file(file, about.st_size)
        if list(document) != ["checkpoint"]:
            raise ValueError("it is a saved estimator.")
        text = _container.from_json(tensors.pop(document["checkpoint"]).tobytes())
        decoder = _decoder(_take_apart(tensors, text["singles"]))
        return {name: decoder.decode(value, name) for name, value in text["state"].items()}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The file {path!r} cannot be read as a checkpoint of a training: {error} Delete it to "
            "train anew, or name another path."
        ) from error


def check_can_be_kept(value: Any, name: str) -> None:
    """Raise a TypeError that names a value, or its part, if no checkpoint can hold it."""
    _encoder().encode(value, name)


def _put_together(
    tensors: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return tensors with those that hold one number in one of each type, and their names by it."""
    singles: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 0:
            singles.setdefault(tensor.dtype.name, []).append(name)
    others = {name: tensor for name, tensor in tensors.items() if tensor.ndim > 0}
    for type_name, names in singles.items():
        others[f"{_TEXT}.{type_name}"] = np.array([tensors[name] for name in names])
    return others, singles


def _take_apart(
    tensors: dict[str, np.ndarray], singles: dict[str, list[str]]
) -> dict[str, np.ndarray]:
    """Undo :func:`_put_together`."""
    for type_name, names in singles.items():
        together = tensors.pop(f"{_TEXT}.{type_name}")
        numbers = (part.reshape(()).copy() for part in np.split(together, len(together)))
        tensors |= dict(zip(names, numbers, strict=True))
    return tensors


def _encoder() -> Encoder:
    def encode_other(value: Any, name: str) -> tuple[str, Any] | None:
        for kind, (container, plain) in _CONTAINERS.items():
            if type(value) is container:
                return kind, encoder.encode(plain(value), name)
        return None

    encoder = Encoder(encode_other)
    return encoder


def _decoder(tensors: dict[str, np.ndarray]) -> Decoder:
    def decode_other(kind: str, content: Any, where: str) -> Any:
        if kind not in _CONTAINERS:
            raise ValueError(f"{where} is of the unknown kind {kind!r}.")
        return _CONTAINERS[kind][0](decoder.decode(content, where))

    decoder = Decoder(tensors, decode_other)
    return decoder


def described_call(estimator, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what tells one call of ``fit`` from another.

    Parameters
    ----------
    estimator : estimator
    data : dict of {ndarray, CSR matrix, None}
        What was passed, by the name of the argument, validated.
    **more
        What else decides on the result.

    Returns
    -------
    call : dict
        ``parameters``, as JSON knows them, and ``data``, as digests.
    """
    parameters = _parameters(estimator) | more
    return {
        "estimator": type(estimator).__name__,
        "parameters": {name: _described(value) for name, value in parameters.items()},
        "data": {name: _digest(value) for name, value in data.items()},
    }


def _described(value: Any) -> Any:
    """Return a parameter's value as JSON knows it, and another object as a text that tells it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value if value == value else "nan"  # which is not equal to itself
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return [[_described(key), _described(item)] for key, item in value.items()]
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # the checkpoint has its state
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "get_params") and hasattr(value, "fit"):
        return _described_estimator(value)
    try:
        return f"{type(value).__qualname__} {joblib.hash(value)}"
    except Exception:  # what does not pickle
        return type(value).__qualname__


def _parameters(estimator) -> dict[str, Any]:
    """Return the parameters but those that decide on what is printed, and where."""
    parameters = estimator.get_params(deep=False)
    return {
        name: value for name, value in parameters.items() if name not in ("verbose", "callbacks")
    }


def _described_estimator(estimator) -> list:
    """Return what tells an estimator from others: of what it has learned the weights alone.

    Its history holds durations, which are others each time it is fitted.
    """
    learned = estimator.module_.snapshot() if hasattr(estimator, "module_") else []
    weights = [_digest(tensor.cpu().numpy()) for tensor in learned]
    return [type(estimator).__qualname__, _described(_parameters(estimator)), weights]


def _digest(value: Any) -> str | None:
    """Return type, shape and a hash of the numbers of an array or a CSR matrix."""
    if value is None:
        return None
    if sp.issparse(value):
        parts, kind = (value.data, value.indices, value.indptr), "sparse "
    else:
        parts, kind = (value,), ""
    digest = hashlib.sha256()
    for part in parts:
        if part.dtype.hasobject:
            digest.update(joblib.hash(part.tolist()).encode())
        else:
            for rows in _slices(part):
                digest.update(np.asarray(rows, order="C").reshape(-1).view(np.uint8))
    return f"{kind}{value.dtype} of shape {value.shape}, sha256 {digest.hexdigest()}"


def _slices(array: Any) -> Iterator[Any]:
    """Yield an array's rows, some at a time: those of a large file shall not be there at once."""
    if array.ndim == 0:
        yield array
        return
    n_rows = len(array)
    at_once = max(1, _BYTES_AT_ONCE * n_rows // max(1, array.size * array.dtype.itemsize))
    for start in range(0, n_rows, at_once):
        yield array[start : start + at_once]


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two calls, in words."""
    found = []
    if then["estimator"] != now["estimator"]:
        found.append(f"it is of a {then['estimator']}, not of a {now['estimator']}")
    found += _changes(
        then["parameters"],
        now["parameters"],
        lambda name, *values: f"{name} was {values[0]!r} and is {values[1]!r}",
    )
    return found + _changes(then["data"], now["data"], _changed_data)


def _changes(then: dict, now: dict, describe: Callable[[str, Any, Any], str]) -> list[str]:
    names = [*then, *(name for name in now if name not in then)]
    values = {name: (then.get(name), now.get(name)) for name in names}
    return [describe(name, *pair) for name, pair in values.items() if pair[0] != pair[1]]


def _changed_data(name: str, then: str | None, now: str | None) -> str:
    kinds = [None if text is None else text.partition(", sha256")[0] for text in (then, now)]
    if kinds[0] == kinds[1]:
        return f"{name} differs in its values"
    return f"{name} differs: it was {kinds[0] or 'not passed'} and is {kinds[1] or 'not passed'}"
