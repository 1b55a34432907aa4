"""Values as JSON and tensors: what parameters and fitted attributes are made of.

JSON's own values stand for themselves, all else for an object with one key, the value's kind.
Both ways know the same closed list of kinds; what is not on it is refused.
"""

import inspect
import math
import reprlib
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from skorch.history import History

# Longer lists of numbers are tensors.
_SHORT = 32
# An array of strings has the width of its longest, or more. A file's may take so many times the
# characters that there are; what is above that is limited for the file as a whole.
_MAX_WIDTH = 8
_MAX_PADDING = 2**20
_STORED_KINDS = "biuf"
_TORCH_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_TENSOR_DTYPES = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.float32, torch.float64,
}  # fmt: skip
_OPTIMIZERS = {
    name: member
    for name, member in vars(torch.optim).items()
    if inspect.isclass(member)
    and issubclass(member, torch.optim.Optimizer)
    and member is not torch.optim.Optimizer
}


class Encoder:
    """Takes values apart.

    Parameters
    ----------
    encode_other : callable
        Given what is not on the list of kinds, and its name; returns a pair of a kind and
        JSON, or None.

    Attributes
    ----------
    tensors : dict of str to ndarray
        What is no JSON, by names that say where it belongs.
    """

    def __init__(self, encode_other: Callable[[Any, str], tuple[str, Any] | None]):
        self.tensors: dict[str, np.ndarray] = {}
        self._encode_other = encode_other
        self._padding = _Padding()

    def encode(self, value: Any, name: str) -> Any:
        """Return JSON for a value.

        Raises
        ------
        TypeError
            If the value, or a part of it, is not on the list of kinds.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if type(value) is list:
            return self._encode_list(value, name)
        kind, content = self._encode_kind(value, name)
        return {kind: content}

    def _encode_kind(self, value: Any, name: str) -> tuple[str, Any]:
        if type(value) is tuple:
            return "tuple", [self.encode(item, f"{name}.{i}") for i, item in enumerate(value)]
        if type(value) is dict and all(isinstance(key, _KEYS) for key in value):
            return "dict", [
                [self.encode(key, f"{name}.key"), self.encode(item, f"{name}.{_as_name(key, i)}")]
                for i, (key, item) in enumerate(value.items())
            ]
        if isinstance(value, np.generic) and _is_stored(value.dtype):
            return "number", self._tensor(np.asarray(value), name)
        if type(value) is np.ndarray:
            return self._encode_array(value, name)
        if isinstance(value, torch.Tensor) and value.dtype in _TENSOR_DTYPES:
            return "torch", self._tensor(value.detach().cpu().numpy(), name)
        if isinstance(value, History):
            return "history", self._encode_list(list(value), name)
        if isinstance(value, np.random.RandomState):
            return "random_state", self._encode_random_state(value, name)
        if isinstance(value, torch.device):
            return "device", str(value)
        if isinstance(value, torch.dtype) and value in _TORCH_DTYPES.values():
            return "dtype", str(value).removeprefix("torch.")
        if isinstance(value, type) and _OPTIMIZERS.get(value.__name__) is value:
            return "optimizer", value.__name__
        if isinstance(value, str | np.str_):  # a subclass
            return "text", str(value)
        other = self._encode_other(value, name)
        if other is None:
            raise TypeError(f"{name}={reprlib.repr(value)} is of a type that no file can hold")
        return other

    def _tensor(self, array: np.ndarray, name: str) -> str:
        while name in self.tensors:
            name += "_"
        self.tensors[name] = array
        return name

    def _encode_array(self, array: np.ndarray, name: str) -> tuple[str, Any]:
        if _is_stored(array.dtype):
            return "array", self._tensor(
                array.astype(array.dtype.newbyteorder("="), copy=False), name
            )
        items = array.ravel().tolist()
        is_labels = array.dtype.kind in "UO" and all(isinstance(item, _LABELS) for item in items)
        if is_labels and array.ndim <= 2:
            return "strings", self._encode_strings(array, items, name)
        raise TypeError(
            f"{name} is an array of the type {array.dtype} and the shape {array.shape}, which no "
            "file can hold"
        )

    def _encode_strings(self, array: np.ndarray, items: list, name: str) -> dict[str, Any]:
        """Return JSON for an array of strings and other labels; many strings as two tensors."""
        dtype = "O" if array.dtype == object else array.dtype.newbyteorder("<").str
        if dtype != "O" and not self._padding.take(dtype, items):
            raise TypeError(
                f"{name} is an array of the type {array.dtype}, which is so much wider than its "
                "strings that no file can hold it"
            )
        if len(items) >= _SHORT and set(map(type, items)) == {str}:
            text = "".join(items).encode("utf-8", "surrogatepass")
            lengths = np.array([len(item) for item in items], np.int64)
            coded = {
                "text": self._tensor(np.frombuffer(text, np.uint8), f"{name}.text"),
                "lengths": self._tensor(lengths, f"{name}.lengths"),
            }
        else:
            coded = [self.encode(item, f"{name}.{i}") for i, item in enumerate(items)]
        return {"dtype": dtype, "shape": list(array.shape), "items": coded}

    def _encode_list(self, values: list, name: str) -> Any:
        """Return JSON for a list; many numbers as a tensor, many alike dictionaries by column."""
        if len(values) >= _SHORT:
            types = set(map(type, values))
            if types == {float}:
                return {"floats": self._tensor(np.array(values), name)}
            if types == {int} and max(map(abs, values)) < 2**63:
                return {"integers": self._tensor(np.array(values, np.int64), name)}
            if len(types) == 1 and _is_number_type(*types):
                return {"numbers": self._tensor(np.array(values), name)}
            if types == {dict} and len(set(map(tuple, values))) == 1 and _is_row(values[0]):
                columns = {
                    key: self._encode_list([row[key] for row in values], f"{name}.{key}")
                    for key in values[0]
                }
                return {"table": [[key, column] for key, column in columns.items()]}
        return [self.encode(value, f"{name}.{i}") for i, value in enumerate(values)]

    def _encode_random_state(self, random_state: np.random.RandomState, name: str) -> Any:
        state = random_state.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            raise TypeError(
                f"{name}={random_state!r} draws from {state['bit_generator']}, and only MT19937 "
                "can be stored"
            )
        return {
            "key": self._tensor(state["state"]["key"], name),
            "position": state["state"]["pos"],
            "normal": state["gauss"] if state["has_gauss"] else None,
        }


class Decoder:
    """Puts values together again.

    Parameters
    ----------
    tensors : dict of str to ndarray
    decode_other : callable
        Given a kind that is not on the list, its JSON, and where it stands; returns the value,
        or raises a ValueError.

    Attributes
    ----------
    unused : set of str
        Names of the tensors that no value has asked for.
    """

    def __init__(
        self, tensors: dict[str, np.ndarray], decode_other: Callable[[str, Any, str], Any]
    ):
        self._tensors, self._decode_other = tensors, decode_other
        self._padding = _Padding()
        self.unused = set(tensors)

    def decode(self, coded: Any, where: str) -> Any:
        """Return the value that JSON stands for.

        Raises
        ------
        ValueError
            If it stands for none.
        """
        if isinstance(coded, list):
            return [self.decode(item, f"{where}[{i}]") for i, item in enumerate(coded)]
        if isinstance(coded, float):
            check(math.isfinite(coded), where, coded, "a finite number")  # 1e999 is none
        if not isinstance(coded, dict):
            return coded
        check(len(coded) == 1, where, coded, "an object with one key")
        ((kind, content),) = coded.items()
        decode = getattr(self, f"_decode_{kind}") if kind in _KINDS else None
        if decode is None:
            return self._decode_other(kind, content, where)
        return decode(content, where)

    def array(self, name: Any, where: str) -> np.ndarray:
        """Return a tensor of the file, once."""
        is_new = isinstance(name, str) and name in self.unused
        check(is_new, where, name, "the name of a tensor that is used nowhere else")
        self.unused.remove(name)
        return self._tensors[name]

    def _decode_float(self, content, where: str) -> float:
        check(content in ("nan", "inf", "-inf"), where, content, "nan, inf or -inf")
        return float(content)

    def _decode_tuple(self, content, where: str) -> tuple:
        return tuple(self.decode(check_list(content, where), where))

    def _decode_dict(self, content, where: str) -> dict:
        decoded = {}
        for pair in check_list(content, where):
            check(isinstance(pair, list) and len(pair) == 2, where, pair, "a key and a value")
            key = self.decode(pair[0], where)
            check(isinstance(key, _KEYS), where, key, "a key that is a string or a number")
            decoded[key] = self.decode(pair[1], f"{where}[{reprlib.repr(key)}]")
        return decoded

    def _decode_number(self, content, where: str) -> np.generic:
        array = self.array(content, where)
        check(array.ndim == 0, where, array.shape, "a tensor without dimensions")
        return array[()]

    def _decode_array(self, content, where: str) -> np.ndarray:
        return self.array(content, where)

    def _decode_torch(self, content, where: str) -> torch.Tensor:
        array = self.array(content, where)
        is_known = array.dtype.kind in "bif" or array.dtype == np.uint8
        check(is_known, where, array.dtype, "a type that torch has")
        return torch.from_numpy(array)

    def _decode_floats(self, content, where: str) -> list[float]:
        return self._numbers(content, where, np.float64)

    def _decode_integers(self, content, where: str) -> list[int]:
        return self._numbers(content, where, np.int64)

    def _decode_numbers(self, content, where: str) -> list[np.generic]:
        array = self.array(content, where)
        check(array.ndim == 1, where, array.shape, "a vector")
        return list(array)

    def _numbers(self, name, where: str, dtype: type) -> list:
        array = self.array(name, where)
        check(array.dtype == dtype and array.ndim == 1, where, array.dtype, "a vector")
        return array.tolist()

    def _decode_table(self, content, where: str) -> list[dict]:
        columns = {}
        for pair in check_list(content, where):
            is_column = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
            check(is_column, where, pair, "a name and a column")
            columns[pair[0]] = self.decode(pair[1], f"{where}[{pair[0]!r}]")
        lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
        check(len(lengths) == 1 and -1 not in lengths, where, lengths, "columns of one length")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _decode_history(self, content, where: str) -> History:
        rows = self.decode(content, where)
        check(isinstance(rows, list), where, rows, "a list")
        for row in rows:
            check(isinstance(row, dict) and _has_names(row), where, row, "a row by name")
            check(
                _is_history_row(row), where, row, "losses that are numbers, and rows as 'batches'"
            )
        return History(rows)

    def _decode_strings(self, content, where: str) -> np.ndarray:
        check_keys(content, {"dtype", "shape", "items"}, where)
        dtype, shape = content["dtype"], content["shape"]
        items = self._items(content["items"], where)
        check(all(isinstance(item, _LABELS) for item in items), where, items, "strings or numbers")
        shape = check_list(shape, where)
        is_shape = all(type(n) is int and n >= 0 for n in shape) and math.prod(shape) == len(items)
        check(is_shape and len(shape) <= 2, where, shape, f"the shape of {len(items)} items")
        if dtype == "O":
            array = np.empty(len(items), dtype=object)
            array[:] = items
            return array.reshape(shape)
        check(all(isinstance(item, str) for item in items), where, items, "strings")
        is_width = isinstance(dtype, str) and _is_width(dtype) and self._padding.take(dtype, items)
        check(is_width, where, dtype, "a type as wide as its strings")
        return np.array(items, dtype=dtype).reshape(shape)

    def _items(self, content, where: str) -> list:
        if isinstance(content, list):
            return self.decode(content, where)
        check_keys(content, {"text", "lengths"}, where)
        text = self.array(content["text"], where)
        check(text.dtype == np.uint8, where, text.dtype, "a tensor of bytes")
        text = text.tobytes().decode("utf-8", "surrogatepass")
        lengths = self._numbers(content["lengths"], where, np.int64)
        fits = min(lengths, default=0) >= 0 and sum(lengths) == len(text)
        check(fits, where, lengths, f"the lengths of {len(text)} characters")
        ends = list(accumulate(lengths))
        return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def _decode_random_state(self, content, where: str) -> np.random.RandomState:
        check_keys(content, {"key", "position", "normal"}, where)
        key, position, normal = (content[name] for name in ("key", "position", "normal"))
        key = self.array(key, where)
        is_key = key.dtype == np.uint32 and key.shape == (624,) and key[1:].any()
        check(is_key, where, key, "the 624 words of a generator's state")
        check(type(position) is int and 0 <= position <= 624, where, position, "0 to 624")
        if normal is not None:
            check(isinstance(normal, float) and math.isfinite(normal), where, normal, "a number")
        random_state = np.random.RandomState()
        random_state.set_state(("MT19937", key, position, normal is not None, normal or 0.0))
        return random_state

    def _decode_device(self, content, where: str) -> torch.device:
        check(isinstance(content, str), where, content, "the name of a device")
        try:
            return torch.device(content)
        except RuntimeError as error:
            raise ValueError(f"{where} is no device: {reprlib.repr(content)}.") from error

    def _decode_dtype(self, content, where: str) -> torch.dtype:
        check(isinstance(content, str) and content in _TORCH_DTYPES, where, content, "a dtype")
        return _TORCH_DTYPES[content]

    def _decode_optimizer(self, content, where: str) -> type[torch.optim.Optimizer]:
        is_known = isinstance(content, str) and content in _OPTIMIZERS
        check(is_known, where, content, "a class of torch.optim")
        return _OPTIMIZERS[content]

    def _decode_text(self, content, where: str) -> str:
        check(isinstance(content, str), where, content, "a string")
        return content


_KINDS = {name.removeprefix("_decode_") for name in vars(Decoder) if name.startswith("_decode_")}
_LABELS = (str, int, float, bool, np.generic)
_KEYS = (*_LABELS, type(None))


def check(is_right: bool, where: str, value: Any, what: str) -> None:
    """Raise a ValueError unless a value of a file is right."""
    if not is_right:
        raise ValueError(f"{where} should be {what}, got {reprlib.repr(value)}.")


def check_list(value: Any, where: str) -> list:
    """Return a list, or raise a ValueError."""
    check(isinstance(value, list), where, value, "a list")
    return value


def check_keys(value: Any, keys: set[str], where: str) -> None:
    """Raise a ValueError unless a value is a JSON object with these keys."""
    check(isinstance(value, dict) and set(value) == keys, where, value, f"{sorted(keys)} by name")


def _as_name(key: Any, number: int) -> str:
    return key if isinstance(key, str) and key.isidentifier() else str(number)


def _is_stored(dtype: np.dtype) -> bool:
    return dtype.kind in _STORED_KINDS and dtype.itemsize <= 8


def _is_number_type(type_: type) -> bool:
    return issubclass(type_, np.bool_ | np.number) and _is_stored(np.dtype(type_))


def _is_row(value: dict) -> bool:
    return bool(value) and _has_names(value)


def _has_names(row: dict) -> bool:
    return all(type(key) is str for key in row)


def _is_history_row(row: dict) -> bool:
    """Return whether a row has what this package reads of it; callbacks record what they like."""
    batches = row.get("batches", [])
    return (
        all(isinstance(row[key], int | float | np.number) for key in _LOSSES & row.keys())
        and isinstance(batches, list)
        and all(isinstance(batch, dict) and _has_names(batch) for batch in batches)
    )


_LOSSES = {"train_loss", "valid_loss"}


class _Padding:
    """What arrays of strings may be wider than their strings, in a file as a whole."""

    def __init__(self):
        self._n_left = _MAX_PADDING

    def take(self, dtype: str, strings: list[str]) -> bool:
        """Return whether strings fit a type, and its width what the file may still take."""
        width, lengths = int(dtype[2:]), list(map(len, strings))
        n_characters = width * max(1, len(strings))  # an array of none has memory for one
        self._n_left -= max(0, n_characters - _MAX_WIDTH * sum(lengths))
        return self._n_left >= 0 and max(lengths, default=0) <= width


def _is_width(dtype: str) -> bool:
    is_number = dtype[2:].isascii() and dtype[2:].isdecimal()
    return dtype[:2] == "<U" and is_number and len(dtype) < 12
