"""Values as plain data: JSON's values, and arrays.

skops and pickle then need nothing of torch. Long lists of numbers become arrays, lists of similar
dicts columns, so that a history takes a few arrays however many epochs it has.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A dict with this key stands for what plain data does not have; it names which.
_KIND = "packed as"
# Shorter lists stay lists.
_SHORT = 8
_SCALARS = (type(None), bool, int, float, str)
_KEYS = (*_SCALARS, np.generic)
_DICTS = {cls.__name__: cls for cls in (dict, OrderedDict, Counter)}
_SEQUENCES = {cls.__name__: cls for cls in (tuple, set, frozenset)}
_COLUMNS = {
    "floats": (float, np.float64),
    "integers": (int, np.int64),
    "booleans": (bool, np.bool_),
}


def pack(value: Any, *, strict: bool = False, where: str = "it") -> Any:
    """Return a value as plain data; arrays share their memory with it.

    Parameters
    ----------
    value : object
        Made of scalars, arrays, CPU or GPU tensors and Python's containers.
    strict : bool, default=False
        Whether to refuse any other part. Otherwise it is left as it is.
    where : str, default="it"
        How an error calls the value.

    Raises
    ------
    TypeError
        If a part is refused. The message names it.

    Examples
    --------
    >>> from sknn_deep._files.packing import pack, unpack
    >>> pack({1: 0.5, None: "a"})
    {'packed as': 'dict', 'keys': [1, None], 'values': [0.5, 'a']}
    >>> unpack(pack({1: 0.5, None: "a"}))
    {1: 0.5, None: 'a'}
    """

    def inner(part: Any, name: Any) -> Any:
        return pack(part, strict=strict, where=f"{where}.{name}")

    cls = type(value)
    if cls in _SCALARS or (isinstance(value, np.ndarray) and _is_plain(value)):
        return value
    if isinstance(value, np.generic) and _is_plain(value):
        return {_KIND: "number", "values": np.asarray(value)}
    if cls is list:
        packed = _pack_alike(value, inner)
        return packed or [inner(item, i) for i, item in enumerate(value)]
    if cls in _DICTS.values() and _are_keys(value):
        values = [inner(item, key) for key, item in value.items()]
        if cls is dict and all(type(key) is str for key in value) and _KIND not in value:
            return dict(zip(value, values, strict=True))
        return {_KIND: cls.__name__, "keys": [inner(key, key) for key in value], "values": values}
    if cls in _SEQUENCES.values():
        return {_KIND: cls.__name__, "values": [inner(item, i) for i, item in enumerate(value)]}
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bfloat16:
        return {_KIND: "Tensor", "values": value.detach().cpu().numpy()}
    if strict:
        raise TypeError(f"{where}={value!r} is of a type that no file can hold")
    return value


def _pack_alike(values: list, inner: Callable[[Any, Any], Any]) -> dict[str, Any] | None:
    """Return a long list whose items are of one type in few arrays, if it can be."""
    if len(values) < _SHORT or len(set(map(type, values))) > 1:
        return None
    cls = type(values[0])
    for kind, (scalar, dtype) in _COLUMNS.items():
        if cls is scalar and not (cls is int and max(map(abs, values)) >= 2**63):
            return {_KIND: kind, "values": np.array(values, dtype)}
    if issubclass(cls, np.generic) and _is_plain(values[0]) and cls is not np.str_:
        return {_KIND: "numbers", "values": np.array(values)}
    if cls is list:
        lengths = np.array([len(value) for value in values])
        items = [item for value in values for item in value]
        return {_KIND: "lists", "lengths": lengths, "values": inner(items, "items")}
    return _pack_rows(values, inner) if cls is dict else None


def _pack_rows(rows: list[dict], inner: Callable[[Any, Any], Any]) -> dict[str, Any] | None:
    """Return dicts column by column, if few combinations of names come up among their keys."""
    layouts: dict[tuple, int] = {}
    numbers = [layouts.setdefault(tuple(row), len(layouts)) for row in rows]
    keys = list(dict.fromkeys(key for layout in layouts for key in layout))
    if len(layouts) > _SHORT or () in layouts or not all(type(key) is str for key in keys):
        return None
    return {
        _KIND: "table",
        "layouts": [list(layout) for layout in layouts],
        "rows": np.array(numbers),
        "keys": keys,
        "values": [inner([row[key] for row in rows if key in row], key) for key in keys],
    }


def _are_keys(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, _KEYS) for key in keys)


def _is_plain(value: np.generic | np.ndarray) -> bool:
    """Return whether skops restores an array, or a NumPy scalar, as it is."""
    if value.dtype == object:
        return (
            1 <= value.ndim <= 2
            and value.size > 0
            and all(isinstance(item, _KEYS) for item in value.flat)
        )
    return value.dtype.kind == "U" or (value.dtype.kind in "biuf" and value.dtype.itemsize <= 8)


def to_text(value: Any) -> tuple[str, list[np.ndarray]]:
    """Return a packed value as JSON, and its arrays in order; skops is slow for many parts."""
    arrays: list[np.ndarray] = []

    def placeholder(array: np.ndarray) -> dict[str, str]:
        arrays.append(array)
        return {_KIND: "array"}

    return json.dumps(value, default=placeholder), arrays


def from_text(text: str, arrays: list[np.ndarray]) -> Any:
    """Undo :func:`to_text`; each array is used once."""
    left = iter(arrays)
    return json.loads(
        text, object_hook=lambda part: next(left) if part == {_KIND: "array"} else part
    )


def unpack(value: Any, *, strict: bool = False) -> Any:
    """Undo :func:`pack`.

    Raises
    ------
    TypeError, ValueError, KeyError
        If ``pack`` has not made the value.
    """
    cls = type(value)
    if cls is list:
        return [unpack(item, strict=strict) for item in value]
    if cls is dict and _KIND not in value:
        return {key: unpack(item, strict=strict) for key, item in value.items()}
    if cls is dict:
        return _unpack_kind(value[_KIND], value, strict)
    if strict and not isinstance(value, (*_SCALARS, np.ndarray)):
        raise ValueError(f"a {cls.__name__} is not what it may hold.")
    return value


def _unpack_kind(kind: str, packed: dict[str, Any], strict: bool) -> Any:
    if kind in ("Tensor", "number", "numbers", *_COLUMNS):
        return _unpack_array(kind, packed["values"])
    values = unpack(packed["values"], strict=strict)
    if kind in _DICTS:
        keys = unpack(packed["keys"], strict=strict)
        return _DICTS[kind](dict(zip(keys, values, strict=True)))  # pairs would be counted
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](values)
    if kind == "table":
        columns = dict(zip(packed["keys"], map(iter, values), strict=True))
        layouts = [
            packed["layouts"][number] for number in _unpack_array("integers", packed["rows"])
        ]
        return [{key: next(columns[key]) for key in layout} for layout in layouts]
    if kind == "lists":
        items, lengths = iter(values), _unpack_array("integers", packed["lengths"])
        lists = [list(islice(items, n)) for n in lengths]
        if [len(part) for part in lists] != lengths or sum(lengths) != len(values):
            raise ValueError("its lists do not have the lengths that it states.")
        return lists
    raise ValueError(f"{kind!r} is no kind of value.")


def _unpack_array(kind: str, array: np.ndarray) -> Any:
    if kind == "Tensor":
        return torch.from_numpy(np.require(array, requirements="W"))
    if kind == "number":
        return array[()]
    if array.ndim != 1 or (kind in _COLUMNS and array.dtype != _COLUMNS[kind][1]):
        raise ValueError(f"{array.dtype} of shape {array.shape} is no list of {kind}.")
    return list(array) if kind == "numbers" else array.tolist()
