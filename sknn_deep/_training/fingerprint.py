"""Fingerprints of calls of ``fit``, and their differences."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np

from sknn_deep._engine.features import Features

# Bytes of an array that are hashed at a time.
_BYTES_AT_ONCE = 2**23


def described_call(estimator: Any, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a description that identifies a call of ``fit``.

    Parameters
    ----------
    estimator : estimator
    data : dict of {Features, ndarray, None}
        The validated arguments by name.
    **more
        Anything else that affects the result.

    Returns
    -------
    call : dict
        ``parameters`` as JSON types, and ``data`` as digests.
    """
    parameters = _parameters(estimator) | more
    return {
        "estimator": type(estimator).__name__,
        "parameters": {name: _described(value) for name, value in parameters.items()},
        "data": {name: _digest(value) for name, value in data.items()},
    }


def _described(value: Any) -> Any:
    """Return a parameter's value as JSON types, or a string that identifies any other object."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value if value == value else "nan"  # as NaN is not equal to itself
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
    except Exception:  # objects that cannot be pickled
        return type(value).__qualname__


def _parameters(estimator: Any) -> dict[str, Any]:
    """Return all parameters except those for output and callbacks."""
    parameters = estimator.get_params(deep=False)
    return {
        name: value for name, value in parameters.items() if name not in ("verbose", "callbacks")
    }


def _described_estimator(estimator: Any) -> list:
    """Describe an estimator by its class, parameters and weights.

    Other fitted state is left out: its history holds durations, which differ between fits.
    """
    learned = estimator.module_.snapshot() if hasattr(estimator, "module_") else []
    weights = [_digest(tensor.cpu().numpy()) for tensor in learned]
    return [type(estimator).__qualname__, _described(_parameters(estimator)), weights]


def _digest(value: Any) -> str | None:
    """Return type, shape and hash of features or of an array."""
    if value is None:
        return None
    is_features = isinstance(value, Features)
    parts, kind = (value.stored(), value.kind) if is_features else ((value,), "")
    digest = hashlib.sha256()
    for part in parts:
        if part.dtype.hasobject:
            digest.update(joblib.hash(part.tolist()).encode())
        else:
            for rows in _slices(part):
                buffer = np.asarray(rows, order="C").reshape(-1).view(np.uint8)
                digest.update(buffer)  # type: ignore[arg-type]  # typed as one from Python 3.12 on
    return f"{kind}{value.dtype} of shape {value.shape}, sha256 {digest.hexdigest()}"


def _slices(array: Any) -> Iterator[Any]:
    """Yield an array's rows in pieces, so that a large file is never in memory as a whole."""
    if array.ndim == 0:
        yield array
        return
    n_rows = len(array)
    at_once = max(1, _BYTES_AT_ONCE * n_rows // max(1, array.size * array.dtype.itemsize))
    for start in range(0, n_rows, at_once):
        yield array[start : start + at_once]


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return descriptions of the differences between two calls."""
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
