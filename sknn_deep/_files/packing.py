"""Nested values as one JSON text and arrays, which pickle and skops store without torch classes.

skops writes a few hundred bytes per item of a container, but a JSON text is a single item: so a
history of many epochs stays small, and a checkpoint is written fast.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A JSON object with this key represents a type that JSON lacks; its value names the type.
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
    """Convert a value to a text and parts.

    Parameters
    ----------
    value : object
        Composed of scalars, arrays, tensors and Python containers.
    strict : bool, default=False
        Whether to raise an error for any other object. Otherwise it is added to the parts.

    Returns
    -------
    packed : dict
        ``text``, which is JSON, and ``parts``, the arrays in the order of the text.

    Raises
    ------
    TypeError
        If ``strict`` and an object is not supported. The message names it.

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
    """Return the JSON form of a value, whose path is in ``where``, innermost name first."""

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
    """Return the path of a value as names joined by dots, outermost first."""
    names = []
    while where:
        name, where = where
        names.append(str(name))
    return ".".join(reversed(names)) or "it"


def _is_kept(array: np.ndarray) -> bool:
    """Return whether skops restores an array unchanged."""
    if array.dtype == object:
        is_shape = 1 <= array.ndim <= 2 and array.size > 0
        return is_shape and all(isinstance(item, (*_SCALARS, np.generic)) for item in array.flat)
    return array.dtype.kind == "U" or (array.dtype.kind in "biuf" and array.dtype.itemsize <= 8)


def unpack(packed: dict[str, Any], *, strict: bool = False) -> Any:
    """Reverse :func:`pack`; the memory of arrays is shared.

    Raises
    ------
    IndexError, KeyError, TypeError, ValueError
        If the input does not come from ``pack``.
    """
    if strict and not all(isinstance(part, np.ndarray) for part in packed["parts"]):
        raise ValueError("it holds other parts than arrays.")
    if f'"{_KIND}"' not in packed["text"]:
        return json.loads(packed["text"])
    parts = packed["parts"][::-1]  # each is used once, in order

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
            return _DICTS[kind](dict(items))  # Counter would count pairs
        return (_SEQUENCES.get(kind) or _NUMBERS[kind])(items)

    return json.loads(packed["text"], object_hook=restored)
