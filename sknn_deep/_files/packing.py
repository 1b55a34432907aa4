"""Nested values as one text and arrays, which pickle and skops keep without a class of torch.

skops writes a few hundred bytes for each item of a container, and nothing for what JSON has in a
string: so a history of many epochs stays small, and a checkpoint is written fast.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A JSON object with this key stands for what JSON does not have; it names which.
_KIND = "packed as"
_SCALARS = {type(None), bool, int, float, str}
_NUMBERS = {
    cls.__name__: cls
    for cls in np.sctypeDict.values()
    if issubclass(cls, np.bool_ | np.integer | np.floating) and np.dtype(cls).itemsize <= 8
}
_DICTS = {cls.__name__: cls for cls in (dict, OrderedDict, Counter)}
_SEQUENCES = {cls.__name__: cls for cls in (tuple, set, frozenset)}


def pack(value: Any, *, strict: bool = False) -> dict[str, Any]:
    """Return a value as a text and parts.

    Parameters
    ----------
    value : object
        Made of scalars, arrays, tensors and Python's containers.
    strict : bool, default=False
        Whether to refuse any other part. Otherwise it is among the parts.

    Returns
    -------
    packed : dict
        ``text``, which is JSON, and ``parts``, the arrays in their order in it.

    Raises
    ------
    TypeError
        If a part is refused. The message names it.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._files.packing import pack, unpack
    >>> packed = pack({1: 0.5, "a": (True, np.zeros(2))})
    >>> packed["parts"]
    [array([0., 0.])]
    >>> unpack(packed)
    {1: 0.5, 'a': (True, array([0., 0.]))}
    """
    parts: list[Any] = []
    return {"text": json.dumps(_as_json(value, parts, strict, ())), "parts": parts}


def _as_json(value: Any, parts: list[Any], strict: bool, where: tuple) -> Any:
    """Return what stands for a value in JSON, which has its place in ``where``, inside out."""

    def each(items: Iterable[tuple[Any, Any]]) -> list[Any]:
        return [
            item if type(item) in _SCALARS else _as_json(item, parts, strict, (name, where))
            for name, item in items
        ]

    cls = type(value)
    if cls in _SCALARS:
        return value
    if cls is list:
        return each(enumerate(value))
    if cls is dict and set(map(type, value)) <= {str} and _KIND not in value:
        return dict(zip(value, each(value.items()), strict=True))
    if cls in _DICTS.values():
        keys, values = each(zip(value, value, strict=True)), each(value.items())
        return {_KIND: cls.__name__, "items": list(zip(keys, values, strict=True))}
    if cls in _SEQUENCES.values():
        return {_KIND: cls.__name__, "items": each(enumerate(value))}
    if cls in _NUMBERS.values():
        return {_KIND: cls.__name__, "items": value.item()}
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bfloat16:
        parts.append(value.detach().cpu().numpy())
        return {_KIND: "Tensor"}
    if strict and not (isinstance(value, np.ndarray) and _is_kept(value)):
        raise TypeError(f"{_place(where)}={value!r} is of a type that no file can hold")
    parts.append(value)
    return {_KIND: "part"}


def _place(where: tuple) -> str:
    """Return names from outside in, joined by dots."""
    names = []
    while where:
        name, where = where
        names.append(str(name))
    return ".".join(reversed(names)) or "it"


def _is_kept(array: np.ndarray) -> bool:
    """Return whether skops restores an array as it is."""
    if array.dtype == object:
        is_shape = 1 <= array.ndim <= 2 and array.size > 0
        return is_shape and all(isinstance(item, (*_SCALARS, np.generic)) for item in array.flat)
    return array.dtype.kind == "U" or (array.dtype.kind in "biuf" and array.dtype.itemsize <= 8)


def unpack(packed: dict[str, Any], *, strict: bool = False) -> Any:
    """Undo :func:`pack`; the memory of arrays is shared.

    Raises
    ------
    IndexError, KeyError, TypeError, ValueError
        If ``pack`` has not made it.
    """
    if strict and not all(isinstance(part, np.ndarray) for part in packed["parts"]):
        raise ValueError("it holds other parts than arrays.")
    if f'"{_KIND}"' not in packed["text"]:
        return json.loads(packed["text"])
    parts = packed["parts"][::-1]  # each stands once, in its order

    def restored(coded: dict[str, Any]) -> Any:
        if _KIND not in coded:
            return coded
        kind = coded[_KIND]
        items: Any = coded.get("items")
        if kind == "part":
            return parts.pop()
        if kind == "Tensor":
            return torch.from_numpy(np.require(parts.pop(), requirements="W"))
        if kind in _DICTS:
            return _DICTS[kind](dict(items))  # pairs would be counted
        return (_SEQUENCES.get(kind) or _NUMBERS[kind])(items)

    return json.loads(packed["text"], object_hook=restored)
