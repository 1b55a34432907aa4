"""The file format: safetensors, with one JSON document and a checksum in its header.

A safetensors file [1]_ is the length of a header, the header, and the bytes of tensors. The
header's ``__metadata__`` holds strings; here one string, a JSON document that begins with the
number of the format and the SHA-256 of the file. The sum is taken with zeros where it stands
itself, so it covers every other byte. It finds damage; it is no signature.

References
----------
.. [1] https://huggingface.co/docs/safetensors
"""

import hashlib
import json
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

FORMAT = 1
_KEY = "sknn_deep"
_NO_SUM = "0" * 64
_LENGTH_BYTES = 8
# What is long is in tensors; the rest becomes Python's objects, which take many times its bytes.
_MAX_HEADER = 2**20
_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64,
    "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip


def write(file: BinaryIO, document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write a document of JSON values, and tensors by name.

    Raises
    ------
    ValueError
        If the document is too long.
    """
    text = to_json({"format": FORMAT, "sha256": _NO_SUM, **document})
    in_order = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    blob = memoryview(safetensors.numpy.save(in_order, {_KEY: text}))
    header = bytes(blob[: _LENGTH_BYTES + int.from_bytes(blob[:_LENGTH_BYTES], "little")])
    if len(header) > _MAX_HEADER:
        raise ValueError(
            f"what is stored beside arrays takes {len(header)} bytes, more than the {_MAX_HEADER} "
            "that a file may have. Shorten long lists among the parameters."
        )
    start = header.index(_NO_SUM.encode())
    file.write(blob[:start])
    file.write(hashlib.sha256(blob).hexdigest().encode())
    file.write(blob[start + len(_NO_SUM) :])


def read_file(file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the document and the tensors of a file of so many bytes, as :func:`read`.

    A file of another kind is refused before all of it is read.
    """
    header = _header(file.read(min(size, _LENGTH_BYTES + _MAX_HEADER)), size)
    document = _document(header)
    file.seek(0)
    return document, _tensors(file.read(), header, document)


def read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the document and the tensors of a file's content.

    Raises
    ------
    ValueError
        If the content is not what :func:`write` has written, byte for byte.
    """
    header = _header(data, len(data))
    document = _document(header)
    return document, _tensors(data, header, document)


def _tensors(data: bytes, header: bytes, document: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors; take what the container adds out of the document, and check it."""
    number = document.pop("format", None)
    if type(number) is not int or number < 1:
        raise ValueError(f"its format should be a number, got {number!r}.")
    if number > FORMAT:
        raise ValueError(
            f"it was written in format {number} by sknn_deep {document.get('written_by')}, and "
            f"this release reads formats up to {FORMAT}; install a newer sknn_deep."
        )
    _check_sum(data, len(header), document.pop("sha256", None))
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"safetensors refuses it: {error}.") from error
    return {name: _to_array(name, entry) for name, entry in entries}


def to_json(value: Any) -> str:
    """Return one and the same text for the same value; numbers are read back exactly."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))


def from_json(text: bytes | str) -> Any:
    """Undo :func:`to_json`, raising a ValueError for whatever is no JSON."""
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply.") from error


def _refuse_constant(name: str):
    raise ValueError(f"its JSON holds {name}, which is none.")


def _header(data: bytes, size: int) -> bytes:
    if size < _LENGTH_BYTES:
        raise ValueError(f"it is {size} bytes long, which is too short.")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(_MAX_HEADER, size - _LENGTH_BYTES):
        raise ValueError(
            f"it is no safetensors file, or cut off: its first bytes announce a header of {length} "
            f"bytes; {size - _LENGTH_BYTES} follow, and {_MAX_HEADER} are allowed."
        )
    return data[_LENGTH_BYTES : _LENGTH_BYTES + length]


def _document(header: bytes) -> dict[str, Any]:
    try:
        fields = from_json(header)
    except ValueError as error:
        raise ValueError(f"it is no safetensors file: its header is no JSON ({error}).") from error
    metadata = fields.get("__metadata__") if isinstance(fields, dict) else None
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"its header has no metadata {_KEY!r}: sknn_deep.save did not write it.")
    document = from_json(text)
    if not isinstance(document, dict):
        raise ValueError(f"its metadata {_KEY!r} are no JSON object.")
    return document


def _check_sum(data: bytes, header_length: int, digest: Any) -> None:
    if not isinstance(digest, str) or len(digest) != len(_NO_SUM) or not digest.isascii():
        raise ValueError("it has no checksum.")
    start = data.find(digest.encode(), 0, _LENGTH_BYTES + header_length)
    if start < 0:
        raise ValueError("its checksum is not in its header.")
    view = memoryview(data)
    actual = hashlib.sha256(view[:start])
    actual.update(_NO_SUM.encode())
    actual.update(view[start + len(_NO_SUM) :])
    if actual.hexdigest() != digest:
        raise ValueError("it is damaged: its content does not have the checksum that it states.")


def _to_array(name: str, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"its tensor {name!r} is of the unknown type {entry['dtype']!r}.")
    dtype = _DTYPES[entry["dtype"]]
    if dtype is np.bool_ and max(entry["data"], default=0) > 1:
        raise ValueError(f"its tensor {name!r} holds numbers that are neither true nor false.")
    return np.ndarray(entry["shape"], dtype, buffer=entry["data"])
