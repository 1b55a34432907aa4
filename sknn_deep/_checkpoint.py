"""The file from which a training goes on, and the call of ``fit`` that it belongs to.

The file is a safetensors container: arrays, and one JSON text beside them. Reading it
executes nothing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import joblib
import numpy as np
import scipy.sparse as sp
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from sknn_deep._atomic import atomic_write, remove_temporaries
from sknn_deep._mapped import Mapped
from sknn_deep._threads import allowed_threads

_FORMAT = "1"
_TEXT = "state"  # the name of the JSON text among the arrays, which have numbers


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
        self._path, self.every = os.fspath(path), every
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
            self._first = random_state_dict(present)
            return present
        self._first = self._saved["first_random_state"]
        return load_random_state_dict(np.random.RandomState(0), self._first)

    def belongs_to(self, call: dict[str, Any]) -> None:
        """Refuse to go on where the checkpoint is of another call.

        Parameters
        ----------
        call : dict
            As of :func:`described_call`.
        """
        self._call = call
        if self._saved is None:
            return
        found = _differences(self._saved["call"], json.loads(json.dumps(call)))
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
        kept = (
            "no checkpoint was written before" if self._seen is None else "the one before is kept"
        )
        try:
            write_state(
                self._path,
                {
                    "call": self._call,
                    "first_random_state": self._first,
                    "n_threads": self.n_threads,
                    "training": state,
                },
            )
        except TypeError as error:
            raise ValueError(f"TrainingCheckpoint cannot keep this training: {error}.") from error
        except OSError as error:
            message = f"the checkpoint could not be written ({error.strerror}); {kept}"
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
    """Write numbers, texts, arrays and tensors, in nested dicts and lists, to a file.

    Raises
    ------
    TypeError
        If there is anything else among them.
    """
    arrays: dict[str, np.ndarray] = {}

    def stand_in(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        name, kind = str(len(arrays)), "$array"
        if isinstance(value, Tensor):
            value, kind = value.detach().cpu().numpy(), "$tensor"
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(f"a checkpoint holds no {type(value).__name__}, such as {value!r}")
        arrays[name] = np.asarray(value, order="C")  # safetensors takes the memory as it lies
        return {kind: name}

    text = json.dumps(state, default=stand_in)
    arrays[_TEXT] = np.frombuffer(text.encode(), dtype=np.uint8)
    metadata = {"sknn_deep checkpoint": _FORMAT, "sha256": _checksum(arrays)}
    content = save(arrays, metadata)
    atomic_write(path, lambda file: file.write(content))


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
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise ValueError(_damaged(path, str(error))) from error
    found = metadata.get("sknn_deep checkpoint")
    if found != _FORMAT:
        reason = "it is no checkpoint" if found is None else f"its format is {found}, not {_FORMAT}"
        raise ValueError(_damaged(path, reason))
    if metadata.get("sha256") != _checksum(arrays):
        raise ValueError(_damaged(path, "its checksum is wrong"))

    def restored(value: dict[str, Any]) -> Any:
        if "$array" in value:
            return arrays[value["$array"]]
        if "$tensor" in value:
            return torch.from_numpy(arrays[value["$tensor"]])
        return dict(value["$pairs"]) if "$pairs" in value else value

    return json.loads(arrays.pop(_TEXT).tobytes(), object_hook=restored)


def _damaged(path: str, reason: str) -> str:
    return (
        f"The file {path!r} cannot be read as a checkpoint of a training: {reason}. Delete it to "
        "train anew, or name another path."
    )


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(_bytes_of(array))
    return digest.hexdigest()


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def as_pairs(value: Any) -> Any:
    """Return nested containers whose dicts survive JSON, which knows no keys but texts."""
    if isinstance(value, dict):
        items = [(key, as_pairs(item)) for key, item in value.items()]
        return dict(items) if all(isinstance(key, str) for key in value) else {"$pairs": items}
    if isinstance(value, list | tuple):
        return [as_pairs(item) for item in value]
    return value


def is_plain(value: Any) -> bool:
    """Return whether a checkpoint can hold a value."""
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str | np.generic | Tensor)


def random_state_dict(random_state: np.random.RandomState) -> dict[str, Any]:
    """Return the state of NumPy's generator."""
    return random_state.get_state(legacy=False)


def load_random_state_dict(
    random_state: np.random.RandomState, state: dict[str, Any]
) -> np.random.RandomState:
    """Put a generator into a state that was read, and return it."""
    random_state.set_state(state)
    return random_state


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
    parameters = estimator.get_params(deep=False)
    # they decide on what is printed, and where
    for name in ("verbose", "callbacks"):
        parameters.pop(name)
    parameters |= more
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
        return value
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return [[_described(key), _described(item)] for key, item in value.items()]
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # the checkpoint has its state
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    try:
        return f"{type(value).__qualname__} {joblib.hash(value)}"
    except Exception:  # what does not pickle
        return type(value).__qualname__


def _digest(value: Any) -> str | None:
    """Return type, shape and a hash of the numbers of an array or a CSR matrix."""
    if value is None:
        return None
    kind = ""
    if sp.issparse(value):
        parts, kind = (value.data, value.indices, value.indptr), "sparse "
    else:
        parts = value.pieces() if isinstance(value, Mapped) else (np.asarray(value),)
    digest = hashlib.sha256()
    for part in parts:
        if part.dtype.hasobject:
            digest.update(joblib.hash(part.tolist()).encode())
        else:
            digest.update(_bytes_of(part))
    return f"{kind}{value.dtype} of shape {value.shape}, sha256 {digest.hexdigest()}"


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
